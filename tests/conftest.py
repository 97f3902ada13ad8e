"""Offline, one thread, and a tiny model for everybody."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import stub_stages, tiny
from tests.projects import write_project

if TYPE_CHECKING:
    from tests.training.planted_labels import Trained

# Read by the libraries when they are first imported, so set before any test imports one. One thread: two that wait
# for each other are slower on a shared machine, and the sums would come out in another order.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["NO_PROXY"] = "127.0.0.1"

# A shell's background job and some runners start their processes with SIGINT ignored; the tests of Ctrl-C need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


FEW_TOKENS = (
    "model.dtype=float32",  # so that what is computed again in another way is the same
    "card.required=false",
    "judge.principles=one",
    "revise.gate=0",
    "revise.few_shots=0",
    "revise.max_new_tokens=6",
    "revise.critique_tokens=6",
    "label.samples=2",
    "label.max_new_tokens=6",
    "reward.members=2",
    "ppo.steps=1",
    "ppo.batch_size=4",
    "ppo.max_new_tokens=6",
    "evaluate.samples=1",
    "evaluate.max_new_tokens=6",
    "evaluate.gold=[]",
    "evaluate.bootstrap=100",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what needs vLLM, which nothing here installs, unless it is asked for by its mark."""
    if "vllm" in config.getoption("-m"):
        return
    left_out = [item for item in items if item.get_closest_marker("vllm")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("vllm")]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Llama with its tokenizer."""
    return tiny.make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def sft_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a LoRA adapter with an effect on the tiny model."""

    import torch
    from peft import get_peft_model

    from rlaif.config import LoraTable, ModelConfig
    from rlaif.lm.local.load import load_model, lora_config

    folder = tmp_path_factory.mktemp("sft") / "adapter"
    model = load_model(ModelConfig(source=str(tiny_model), dtype="float32", device="cpu")).model
    torch.manual_seed(1)
    peft_model = get_peft_model(model, lora_config(LoraTable()))  # type: ignore[call-arg]
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    peft_model.save_pretrained(str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a project with the tiny model, and the stub in the place of every stage."""
    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    file = write_project(tmp_path)
    file.write_text(file.read_text().replace("source: embedded", f"source: {tiny_model}"))
    return file


@pytest.fixture(scope="session")
def trained(tiny_model: Path, sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run whose reward stage has learnt that "kind" wins, and what the stage counted."""
    from rlaif.stages import reward
    from tests.training.planted_labels import label, planted, reward_context

    labels = planted(60)
    labels.append(label(labels[0].comparison.b, labels[0].comparison.a, labels[0].comparison.prompt, None))
    table = {"epochs": 5, "batch_size": 8, "learning_rate": 1e-2, "held_out": 0.2, "save_steps": 1000}
    context = reward_context(tmp_path_factory.mktemp("run"), tiny_model, sft_adapter, labels, **table)
    return context, reward.run(context)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of every stage in runs/my, on a tiny model."""
    from rlaif.core.progress import Silent
    from rlaif.run import pipeline
    from rlaif.stages.table import of_run
    from tests.projects import tiny_project

    folder = tmp_path_factory.mktemp("finished")
    config = tiny_project(folder, FEW_TOKENS)
    names = [name for name in of_run(config) if name != "card"]
    pipeline.run_stages(config, folder / "runs" / "my", names, mode="new", limit=4, progress=Silent())
    return folder
