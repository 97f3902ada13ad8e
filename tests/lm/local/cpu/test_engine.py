"""The switch of the CPU engine: off, transformers does everything itself and says the same."""

from __future__ import annotations

import pytest
import torch

from rlaif.config import ModelConfig, PpoConfig
from rlaif.core.records import Message
from rlaif.lm.local.cpu.engine import SWITCH, WORTH_PACKING
from rlaif.lm.local.load import load_model
from rlaif.lm.local.model import LocalModel
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, ScoreRequest
from rlaif.training.ppo.policy_model import PolicyModel
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    folder = make_tiny_model(tmp_path_factory.mktemp("engine") / "llama")
    return ModelConfig.model_validate({"source": str(folder), "dtype": "float32", "device": "cpu"})


def test_without_the_engine_answers_are_the_same(settings: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    chats = [(Message("user", text),) for text in ("Hi", "How are you today?", "No")]
    long = [GenerateRequest(chat, WORTH_PACKING + 8, 1.0, seed) for seed, chat in enumerate(chats)]
    scored = [ScoreRequest(chat, text) for chat in chats for text in ("Yes, thank you.", "Not at all")]
    chosen = [ChoiceRequest(chat, ("A", "B")) for chat in chats]
    loaded = load_model(settings)
    with_engine = LocalModel(loaded)
    said, scores, choices = with_engine.ask(long), with_engine.ask(scored), with_engine.ask(chosen)
    assert with_engine.walker is not None
    assert with_engine.decoder is not None

    monkeypatch.setenv(SWITCH, "0")
    alone = LocalModel(loaded)
    assert alone.ask(long) == said
    for mine, theirs in zip(scores, alone.ask(scored), strict=True):
        assert mine.token_logprobs == pytest.approx(theirs.token_logprobs, abs=1e-4)
    for mine, theirs in zip(choices, alone.ask(chosen), strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    assert alone.walker is None
    assert alone.decoder is None


def test_without_the_engine_lora_layers_are_pefts_own(settings: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def logits() -> tuple[PolicyModel, torch.Tensor]:
        model = PolicyModel(load_model(settings), PpoConfig.model_validate({}), seed=0, longest=32)
        with torch.no_grad():
            return model, model.peft(torch.arange(1, 9)[None]).logits

    fast, wanted = logits()
    monkeypatch.setenv(SWITCH, "0")
    plain, found = logits()
    assert all("forward" in vars(layer) for layer in fast.layers)
    assert not any("forward" in vars(layer) for layer in plain.layers)
    assert (fast.attention, plain.attention) == ("eager", "sdpa")
    assert torch.allclose(found, wanted, atol=1e-5)
