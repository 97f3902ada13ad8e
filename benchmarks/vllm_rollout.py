"""Tokens per second of CPU of PPO's two samplers, rlaif's own and vLLM with the policy's adapter, on a CPU.

    bash scripts/vllm.sh
    OMP_NUM_THREADS=1 python benchmarks/vllm_rollout.py [--vllm .venv-vllm/bin/vllm] [--responses 16] [--tokens 64]

The same prompts under the same adapter, one thread each; the ways take turns. Every round has other weights in the
adapter, as every step of PPO has: ours are merged into the model, vLLM's are written, loaded and hot-swapped. What is
counted is the CPU time of all processes of a way (of vLLM's server and of our client), since a machine that others use
too tells little by the clock; the clock is printed beside it. The first round of each does not count.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from machine import machine

from rlaif.config import ModelConfig, PpoConfig
from rlaif.core.errors import BackendError
from rlaif.core.progress import Silent
from rlaif.core.records import Prompt
from rlaif.inputs.prompt_sets import load_prompts
from rlaif.lm.local.load import load_model
from rlaif.training.ppo.local_sampler import LocalSampler, Sampler
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.server_sampler import ServerSampler, open_server

MOVED = 0.01
"""Standard deviation of what is added to every weight of the adapter in a round."""


def main() -> None:
    given = _arguments()
    print(f"{machine()}; {torch.get_num_threads()} thread(s) each; {given.model}; {given.responses} responses\n")
    print("| dtype | way | tokens/s of CPU (median) | spread | tokens/s by the clock | x vLLM |")
    print("|---|---|---|---|---|---|", flush=True)
    for dtype in given.dtypes.split(","):
        _measure(dtype, given)


def _measure(dtype: str, given: argparse.Namespace) -> None:
    """Prints the rows of one dtype."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = PpoConfig(
        batch_size=given.responses,
        samples_per_prompt=2,
        max_new_tokens=given.tokens,
        rollouts="server",
        server_url=f"http://127.0.0.1:{port}/v1",
        server_timeout=600,
        algorithm="reinforce",
    )  # type: ignore[call-arg]
    prompts = load_prompts("everyday", "everyday")[: given.responses // 2]
    asked = [prompt for prompt in prompts for _ in range(2)]
    loaded = load_model(ModelConfig(source=given.model, dtype=dtype, device="cpu"))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        server = _start(lambda: open_server(loaded, config, files, Silent()), given.vllm, files / "log")
        try:
            client = open_server(loaded, config, files, Silent())
            model = PolicyModel(loaded, config, seed=0)
            ours = LocalSampler(model, config, seed=0, batch_size=given.responses)
            theirs = ServerSampler(model, client, config, files, seed=0)
            _rows(dtype, model, {"vLLM": theirs, "rlaif": ours}, asked, server, given.rounds)
            theirs.close()
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _start(ask: Callable[[], object], vllm: str, log: Path) -> subprocess.Popen[bytes]:
    """The server of the command that PPO asks for where there is none, once it listens."""
    try:
        ask()
        raise SystemExit("something listens there already")
    except BackendError as problem:
        words = shlex.split(str(problem).splitlines()[-1])
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment = {**os.environ, **cpu, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as file:
        server = subprocess.Popen(
            [vllm, *words[2:], "--enforce-eager"], stdout=file, stderr=file, env=environment, start_new_session=True
        )
    while server.poll() is None:
        try:
            ask()
            return server
        except BackendError:
            time.sleep(5)
    raise SystemExit(log.read_text(errors="replace")[-2000:])


def _rows(
    dtype: str,
    model: PolicyModel,
    ways: dict[str, Sampler],
    asked: list[Prompt],
    server: subprocess.Popen[bytes],
    rounds: int,
) -> None:
    generator = torch.Generator().manual_seed(1)
    by_cpu: dict[str, list[float]] = {name: [] for name in ways}
    by_clock: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        with torch.no_grad():
            for weight in model.trained.values():
                weight.add_(torch.randn(weight.shape, generator=generator) * MOVED)
        for name, sampler in ways.items():
            cpu, clock = _cpu_seconds(server), time.perf_counter()
            tokens = sum(map(len, sampler.sample(asked, turn).responses))
            if turn:
                by_cpu[name].append(tokens / (_cpu_seconds(server) - cpu))
                by_clock[name].append(tokens / (time.perf_counter() - clock))
    base = statistics.median(by_cpu["vLLM"])
    for name, found in by_cpu.items():
        rate, clock = statistics.median(found), statistics.median(by_clock[name])
        spread = f"{min(found):.1f}-{max(found):.1f}"
        print(f"| {dtype} | {name} | {rate:.1f} | {spread} | {clock:.1f} | {rate / base:.1f} |", flush=True)


def _cpu_seconds(server: subprocess.Popen[bytes]) -> float:
    """Of this process, the server and all that it started."""
    whole = psutil.Process(server.pid)
    times = [process.cpu_times() for process in (whole, *whole.children(recursive=True))]
    return time.process_time() + sum(each.user + each.system for each in times)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", default=".venv-vllm/bin/vllm", help="its command")
    parser.add_argument("--model", default="embedded", help="as in model.source")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--responses", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a response")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    return parser.parse_args()


if __name__ == "__main__":
    main()
