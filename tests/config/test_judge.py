"""The judge's table of a run config, and its panel."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load
from tests.config.files import MINIMAL, fails

PANEL = f"{MINIMAL}judge: {{panel: [{{name: big, method: rating}}, {{name: a.b}}, {{name: '0'}}]}}\n"


@pytest.mark.parametrize(
    ("member", "place"), [("big", 0), ("a.b", 1), ("1", 1), ("2", 2), pytest.param("0", 2, id="a name before a place")]
)
def test_overrides_reach_a_member_of_a_panel_by_name_or_place(file: Path, member: str, place: int) -> None:
    file.write_text(PANEL)
    limits = [found.max_calls for found in load(file, [f"judge.panel.{member}.max_calls=7"]).judge.panel]
    assert limits == [7 if number == place else None for number in range(3)]


@pytest.mark.parametrize("keys", ["none.max_calls", "3.max_calls", "-1.max_calls", "big", "0"])
def test_overrides_of_a_member_that_is_not_there_are_errors(file: Path, keys: str) -> None:
    assert f"panel is a list, and {keys} is no field" in fails(file, PANEL, f"judge.panel.{keys}=7")


def test_a_server_that_completes_may_judge_by_contrast(file: Path) -> None:
    table = "judge: {backend: openai, source: m, api: completions, method: contrast}\n"
    file.write_text(MINIMAL + table)
    assert load(file).judge.method == "contrast"


@pytest.mark.parametrize("more", ["method: rating", "method: cot, clamp: null", "method: cot, clamp: [0.1, 0.9]"])
def test_without_a_narrow_clamp_a_label_may_be_far_from_one_half(file: Path, more: str) -> None:
    file.write_text(MINIMAL + f"judge: {{abstain_below: 0.2, {more}}}\nrevise: {{gate: 0.7}}\n")
    config = load(file)
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    assert load(file) == config
