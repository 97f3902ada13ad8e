"""`rlaif serve`: by the real engine of transformers, and what is said where nothing can serve."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import rlaif
from rlaif.core.errors import ConfigError
from rlaif.core.files import RunFolder
from rlaif.core.records import Message
from rlaif.export import serving
from rlaif.lm.protocol import GenerateRequest
from tests.output import rlaif as command


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sft", None])
def test_an_openai_client_asks_what_was_trained(finished: Path, tmp_path: Path, model: str | None) -> None:
    """Served until it is interrupted, by the likeliest tokens that the run's own model has; nothing stays behind."""
    run = finished / "runs" / "my"
    words = ["serve", str(run), "--port", "0", "--engine", "transformers", *(["--model", model] if model else [])]
    environment = {"TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rlaif", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("http"))
        url, name = line.split()[0], line.split()[-1]
        assert f"{model or 'ppo'} of" in line
        assert [folder.name.startswith("rlaif-serve-") for folder in tmp_path.iterdir()] == [True]
        body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "temperature": 0}
        found = post(f"{url}/chat/completions", body)["choices"][0]["message"]["content"]
        policy = rlaif.open_run(run).policy(model or "ppo")  # type: ignore[arg-type]
        (own,) = policy.ask([GenerateRequest((Message("user", "Hi"),), 5, 0.0, 0)])
        assert found.strip() == (own.text or "").strip()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    assert list(tmp_path.iterdir()) == []


def test_the_last_that_was_trained_is_served(finished: Path) -> None:
    run = RunFolder(finished / "runs" / "my")
    assert serving.choose_policy(run) == "policy"
    assert serving.choose_policy(run, "sft") == "sft"
    with pytest.raises(ConfigError, match=r"the base model is not the run's own\n.*serve it by its name"):
        serving.choose_policy(run, "base")
    with pytest.raises(ConfigError, match=r"no policy 'ppp', did you mean 'ppo'\?"):
        serving.choose_policy(run, "ppp")
    with pytest.raises(ConfigError, match="write one of sft, ppo"):
        serving.choose_policy(run, "dpo")


def test_an_engine_that_is_not_installed_is_named_with_its_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert serving.choose_engine() == serving.choose_engine("transformers") == "transformers"
    with pytest.raises(ConfigError, match=r"vllm lacks the command vllm\n.*environment of its own.*on the PATH"):
        serving.choose_engine("vllm")
    with pytest.raises(ConfigError, match="no engine, did you mean 'vllm'"):
        serving.choose_engine("vlm")
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="vllm lacks the command vllm; transformers lacks fastapi, uvicorn, openai"):
        serving.choose_engine()


def test_vllm_is_the_command_on_the_path_and_is_told_the_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM makes of the words: tests/test_vllm.py."""
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "config.json").write_text('{"dtype": "float32"}')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert serving.choose_engine() == "vllm", "the fastest one that is there"
    folder = str(tmp_path)
    wanted = [str(program), "serve", folder, "--served-model-name", "ppo", "--dtype", "float32"]
    assert serving.ENGINES["vllm"].command(folder, "ppo", "h", 7) == [*wanted, "--host", "h", "--port", "7"]


def test_a_port_that_is_taken_is_said_before_a_model_is_written(finished: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = command("serve", finished / "runs" / "my", "--port", str(port), "--engine", "transformers")
    assert result.exit_code != 0
    assert f"rlaif serve: port {port} of 127.0.0.1 is in use" in " ".join(result.output.split())
