"""The tables of a run config: every stage has one, and fields that exclude each other are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.config import STAGES, RunConfig
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
