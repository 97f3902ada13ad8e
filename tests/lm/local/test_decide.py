"""Typed questions to a model of this machine: the letters' probabilities as its own logits give them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlaif.config import ModelConfig
from rlaif.core.records import Message
from rlaif.lm.backends import open_local
from rlaif.lm.cache import CachedModel
from rlaif.lm.local.load import encode_chat
from rlaif.lm.local.model import LocalModel
from rlaif.lm.protocol import ChoiceRequest, DecisionRequest, Question

ASKED = DecisionRequest(
    "It rains.", (Question("wet", "Is it wet?", ("yes", "no")), Question("dry", "Is it dry?", ("yes", "no", "both")))
)


def opened(source: Path | str) -> LocalModel:
    model = open_local(ModelConfig(source=str(source), dtype="float32", device="cpu"))
    assert isinstance(model, LocalModel)
    return model


@pytest.mark.slow
def test_probabilities_are_those_of_the_letters_as_the_next_token() -> None:
    model = opened("embedded")
    before = len(model.tokenizer)
    found = model.ask([ASKED])[0]
    assert found.probabilities is not None
    shown = "It rains.\n\nIs it wet?\nA. yes\nB. no\nAnswer with the letter of the option that fits best (A to B) only."
    ids = encode_chat(model.tokenizer, (Message("user", shown),))
    with torch.no_grad():
        assert model.loaded is not None
        logits = model.loaded.model(torch.tensor([ids])).logits[0, -1]
    letters = [model.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "AB"]
    assert found.probabilities[0] == pytest.approx(logits[letters].softmax(-1).tolist(), abs=1e-4)
    assert [len(options) for options in found.probabilities if options is not None] == [2, 3]
    assert all(sum(options) == pytest.approx(1) for options in found.probabilities if options is not None)
    assert (model.usage.calls, len(model.tokenizer)) == (1, before), "its marks are not put into the shared tokenizer"
    assert model.usage.prompt_tokens > 2 * len(ids) - 20
    model.close()


@pytest.mark.slow
def test_what_does_not_fit_or_has_too_many_options_is_a_failure() -> None:
    model = opened("embedded")
    long, many = (
        DecisionRequest("word " * 9000, ASKED.questions),
        DecisionRequest("x", (Question("q", "Which?", tuple(f"option {n}" for n in range(27))),)),
    )
    kinds = [found.failure.kind for found in model.ask([long, many]) if found.failure is not None]
    assert kinds == ["context_overflow", "off_menu"]
    model.close()


@pytest.mark.slow
def test_decisions_are_kept_and_asked_beside_other_requests(tmp_path: Path) -> None:
    model = CachedModel(opened("embedded"), tmp_path / "cache.sqlite")
    choice = ChoiceRequest((Message("user", "A or B?"),), ("A", "B"))
    first = model.ask([choice, ASKED])
    again = CachedModel(opened("embedded"), tmp_path / "cache.sqlite")
    assert again.ask([choice, ASKED]) == first
    assert (again.usage.calls, again.usage.cached) == (0, 2)
    model.close()
    again.close()
