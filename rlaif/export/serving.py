"""`rlaif serve`: a policy of a run behind an OpenAI-compatible address, by an engine that is installed.

The engine serves an export of the policy, a whole model that is written to a temporary folder and removed at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from rlaif.config import PolicyName
from rlaif.config.load import load as read_config
from rlaif.core.errors import ConfigError, ModelError, near
from rlaif.core.files import RunFolder
from rlaif.export.server import no_port
from rlaif.export.source import EVALUATED, Policy

EngineName = Literal["vllm", "transformers"]
POLL_SECONDS = 0.2
"""How often a starting engine is asked whether it listens yet."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What serves a folder. `missing()`: what it lacks here; `install`: how to get that; `command`: what starts it, of
    the folder, the name of the model, host and port. `named`: whether it answers to a name of ours; else the folder is
    the name."""

    missing: Callable[[], list[str]]
    install: str
    command: Callable[[str, str, str, int], list[str]]
    named: bool


def _vllm_command() -> str | None:
    """The command `vllm`, beside this Python or on the PATH: it may live in an environment of its own, for it wants
    other versions of transformers than we do."""
    return shutil.which("vllm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def _vllm(folder: str, name: str, host: str, port: int) -> list[str]:
    """The dtype is said, for vLLM would make float32 smaller."""
    dtype = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["dtype"]
    serve = ["serve", folder, "--served-model-name", name, "--dtype", dtype, "--host", host, "--port", str(port)]
    return [_vllm_command() or "vllm", *serve]


def _transformers(folder: str, name: str, host: str, port: int) -> list[str]:
    serve = ["-m", "transformers.cli.transformers", "serve", folder, "--host", host, "--port", str(port)]
    return [sys.executable, *serve]


ENGINES: dict[EngineName, Engine] = {
    "vllm": Engine(
        lambda: [] if _vllm_command() else ["the command vllm"],
        "install vLLM, in an environment of its own, and put its `vllm` on the PATH",
        _vllm,
        named=True,
    ),
    "transformers": Engine(
        lambda: [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None],
        'pip install "transformers[serving]"',
        _transformers,
        named=False,
    ),
}
"""The fastest first."""


def choose_engine(asked: str | None = None) -> EngineName:
    """The engine that is asked for, or the fastest one that is installed; ConfigError where that is none."""
    if asked is not None and asked not in ENGINES:
        raise ConfigError(
            f"{asked!r} is no engine{near(asked, ENGINES)}",
            where="--engine",
            remedy=f"write one of {', '.join(ENGINES)}, or leave it out",
        )
    names: list[EngineName] = [name for name in get_args(EngineName) if asked in (None, name)]
    found = next((name for name in names if not ENGINES[name].missing()), None)
    if found is None:
        lacking = "; ".join(f"{name} lacks {', '.join(ENGINES[name].missing())}" for name in names)
        raise ConfigError(
            f"nothing is installed that serves a model: {lacking}",
            where="--engine",
            remedy=" or ".join(ENGINES[name].install for name in names),
        )
    return found


def choose_policy(run: RunFolder, asked: str | None = None) -> Policy:
    """The export that serves the policy of that name; without one the last that the run has trained. ConfigError where
    it is none of the run's."""
    config = read_config(run.config_path)
    exports: dict[PolicyName, Policy] = {name: export for export, name in EVALUATED.items()}
    known = [name for name, stages in config.policies.items() if name in exports and stages]
    if asked is None:
        trained = [name for name in reversed(known) if run.record(config.policies[name][-1]) is not None]
        asked = next(iter(trained), known[-1] if known else "base")
    if asked not in known:
        if asked == "base":
            what, remedy = "the base model is not the run's own", f"serve it by its name: {config.model.source}"
        else:
            what = f"this run has no policy {asked!r}{near(asked, known)}"
            remedy = f"write one of {', '.join(known)}" if known else "train one first"
        raise ConfigError(what, where="--model", remedy=remedy)
    return exports[asked]


def port_to_take(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises ConfigError where nothing can listen there, before a model is written."""
    try:
        with socket.create_server((host, port)) as tried:
            return int(tried.getsockname()[1])
    except OSError as problem:
        raise no_port(host, port, problem, where="rlaif serve") from None


def serve(
    run: RunFolder,
    which: Policy,
    *,
    engine: EngineName,
    host: str,
    port: int,
    ready: Callable[[str, str], None] = lambda url, model: None,
) -> None:
    """Serves the policy until the engine ends; `ready` is told its address and the name of the model in requests.

    Raises ModelError where the engine ends by itself, and as `export_policy` does before anything is started.
    """
    from rlaif.export.policy import export_policy  # with torch, which a wrong option does not wait for

    port = port_to_take(host, port)
    with tempfile.TemporaryDirectory(prefix="rlaif-serve-") as beside:
        folder = Path(beside) / EVALUATED[which]
        export_policy(run, which, folder)
        spec = ENGINES[engine]
        name = folder.name if spec.named else str(folder)
        process = subprocess.Popen(spec.command(str(folder), name, host, port))
        try:
            if _listens(process, host, port):
                ready(f"http://{host}:{port}/v1", name)
            code = process.wait()
        except KeyboardInterrupt:  # which the engine got too
            return
        finally:
            process.terminate()
            process.wait()
    if code:
        raise ModelError(
            f"{engine} ended with exit code {code}",
            where=str(run.root),
            remedy="its own words stand above; another --engine may serve this model",
        )


def _listens(process: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Waits until something listens at the address; False where the engine ended before."""
    while process.poll() is None:
        with socket.socket() as asked:
            asked.settimeout(POLL_SECONDS)
            if asked.connect_ex((host, port)) == 0:
                return True
        time.sleep(POLL_SECONDS)
    return False
