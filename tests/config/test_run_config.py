"""The tables of a run config: every stage has one, and what the reward of PPO may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.config import STAGES, PpoConfig, RunConfig
from rlaif.judge.load import load, parse
from tests.config.files import MINIMAL, fails


def test_every_stage_has_a_table() -> None:
    config = parse({"prompts": {"mine": {"source": "everyday"}}}, where="test")
    for stage in STAGES:
        assert config.table(stage) is getattr(config, stage)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert RunConfig.model_fields.keys() >= set(STAGES)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("label.answers=contrast", "ppo.reward=judge"),
            "label.answers: contrast samples none: write label.answers: b",
        ),
        (("label.balance=true",), "label: balance is for pairs by contrast, and answers: policy makes none"),
        (("label.contrast_prob=0.5",), "label.contrast_prob"),
        (("label.answers=contrasts",), "label.answers"),
    ],
)
def test_label_fields_that_cannot_work_are_told(file: Path, changes: tuple[str, ...], message: str) -> None:
    assert message in fails(file, MINIMAL, *changes)


def test_both_kinds_of_answers_go_with_the_judge_as_the_reward(file: Path) -> None:
    label = load(file, ["label.answers=both", "ppo.reward=judge", "label.balance=true"]).label
    assert (label.by_policy, label.by_contrast) == (True, True)
