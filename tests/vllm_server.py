"""vLLM itself, for the tests that are run on demand (`bash scripts/vllm.sh`, then `pytest -m vllm`): a server on
127.0.0.1, started by its own command."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

VENV = Path(os.environ.get("RLAIF_VLLM_VENV") or Path(__file__).parents[1] / ".venv-vllm")
PLACES = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
"""A PATH on which `vllm` is found."""
STARTS = 300.0
"""Seconds that a server has to load its model."""
SMALL = ("--enforce-eager", "--max-num-seqs", "16")
"""Options that make the start short: nothing is compiled for a test of some seconds."""


def command() -> str:
    found = shutil.which("vllm", path=PLACES)
    assert found is not None, "there is no vllm: bash scripts/vllm.sh"
    return found


def environment() -> dict[str, str]:
    """That of a vLLM on one or two cores of a CPU; it has its own packages, and not ours."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    return {**ours, **cpu, "PATH": PLACES, "HF_HUB_OFFLINE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Served:
    """A running server, in a process group of its own; `url` ends in /v1, and what it says goes to the file `log`."""

    def __init__(self, words: Sequence[str], port: int, log: Path) -> None:
        self.url, self.log = f"http://127.0.0.1:{port}/v1", log
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [command(), *words], stdout=file, stderr=file, env=environment(), start_new_session=True
            )
        start = time.monotonic()
        while not self._listens(port):
            said = log.read_text(errors="replace")[-3000:]
            assert self.process.poll() is None, f"vLLM ended with {self.process.returncode}:\n{said}"
            assert time.monotonic() - start < STARTS, f"vLLM does not listen after {STARTS:.0f} s:\n{said}"
            time.sleep(0.5)

    @staticmethod
    def _listens(port: int) -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", port)) == 0

    def kill(self) -> None:
        """As the kernel kills it: no word of farewell. Its engine is a process of the same group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serving(words: Sequence[str], log: Path, *, port: int | None = None) -> Iterator[Served]:
    """`vllm WORDS` on a port that is free, or on the one that the words name."""
    given = port is not None
    port = free_port() if port is None else port
    server = Served([*words, *SMALL, *([] if given else ["--port", str(port)])], port, log)
    try:
        yield server
    finally:
        server.kill()
