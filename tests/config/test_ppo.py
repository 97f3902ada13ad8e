"""What the reward of PPO may be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.config import PpoConfig
from rlaif.judge.load import load
from tests.config.files import MINIMAL, fails


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("mine:shorter", "mine:shorter"),
        ("[judge]", "judge"),
        ('[model, {source: "mine:shorter", weight: 0.5}]', ["model", {"source": "mine:shorter", "weight": 0.5}]),
        ('{source: "mine:shorter", name: brief}', [{"source": "mine:shorter", "weight": 1.0, "name": "brief"}]),
    ],
)
def test_the_reward_is_one_source_or_a_list_and_is_written_back_as_it_was(file: Path, given: str, kept: Any) -> None:
    ppo = load(file, [f"ppo.reward={given}"]).ppo
    assert ppo.model_dump(mode="json")["reward"] == kept
    assert PpoConfig.model_validate(ppo.model_dump()) == ppo
    assert ppo.scored_by("model") == (given.startswith("[model"))


def test_a_weight_can_be_set_by_the_place_of_its_source(file: Path) -> None:
    found = load(file, ["ppo.reward=[model, {source: judge}]", "ppo.reward.1.weight=0.5"]).ppo.reward
    assert [(part.called, part.weight) for part in found] == [("model", 1.0), ("judge", 0.5)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shorter", "ppo.reward.0: 'shorter' is neither model, judge, on_topic nor \"module:function\""),
        ("[]", "no source has a weight"),
        ("[{source: model, weight: 0}]", "no source has a weight"),
        ("[model, model]", "model stands there twice"),
        ('["a:f", "b:f"]', "two figures would be logged as score_f"),
        ('["a:std"]', "two figures would be logged as score_std"),
        ('["a:f", "b:f_std"]', "two figures would be logged as score_f_std"),
        ("[model, {source: judge, wieght: 1}]", "ppo.reward.1.wieght: unknown key, did you mean 'weight'?"),
        ("[{source: judge, name: a b}]", "ppo.reward.0.name"),
    ],
)
def test_a_reward_that_cannot_be_is_told(file: Path, given: str, message: str) -> None:
    assert message in fails(file, MINIMAL, f"ppo.reward={given}")
