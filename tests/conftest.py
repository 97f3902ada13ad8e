"""Offline, one thread, and a tiny model for everybody."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.tiny import make_tiny_model

# Read by the libraries when they are first imported, so set before any test imports one. One thread: two that wait
# for each other are slower on a shared machine, and the sums would come out in another order.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A shell's background job and some runners start their processes with SIGINT ignored; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with its tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
