"""What opens the page: the picture of gold over KL, and the prompts that are chosen by rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif.core.evaluation import Summary, read_summary
from rlaif.core.files import JsonlFile, RunFolder, write_atomic
from rlaif.core.records import Prompt, Response, from_json
from rlaif.report.controls import Control
from rlaif.report.first_screen import ChosenPrompts, chosen_prompts, controls_of, pictures
from rlaif.stages.report import write_report
from tests.output import Page
from tests.report.fake_run import summary, write_run

HARM = {"a": (0.5, 0.1), "b": (0.5, 0.4), "c": (0.5, 0.3), "d": (0.5, 0.36), "e": (0.5, 0.28), "f": (0.5, 0.9)}
"""Prompt -> harm of SFT and PPO: the gains are 0.4, 0.1, 0.2, 0.14, 0.22, -0.4; their median is 0.17."""


@pytest.fixture
def six(tmp_path: Path) -> RunFolder:
    """A run with six prompts of slice "harmful": PPO answers twice, 0.1 above and 0.1 below its mean; SFT once."""
    run = RunFolder(tmp_path / "six")
    prompts = {name: Prompt.of_text(f"Question {name}?", "harmful") for name in HARM}
    JsonlFile(run.file("prompts", "held_out.jsonl"), Prompt).append(list(prompts.values()))
    rows, responses = [], []
    for name, (sft, ppo) in HARM.items():
        of = prompts[name]
        for model, seed, harm in (("sft", 1, sft), ("ppo", 3, ppo + 0.1), ("ppo", 2, ppo - 0.1)):
            text = f"{model} {seed} on {name}"
            response = Response(of.id, text, model, seed, 1.0, "length" if model == "ppo" else "stop", 4)
            responses.append(response)
            values = {"harm": harm, "words": 4}
            rows.append({"response_id": response.id, "prompt_id": of.id, "slice": "harmful", "model": model, **values})
    JsonlFile(run.file("evaluate", "responses.jsonl"), Response).append(responses)
    write_atomic(run.file("evaluate", "scores.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    write_atomic(run.file("evaluate", "summary.json"), json.dumps(summary()))
    return run


def test_typical_prompts_are_those_nearest_to_the_median_gain(six: RunFolder) -> None:
    found = chosen_prompts(six, read_summary(six), "harmful")
    chosen = [(case.kind, case.prompt.text[9]) for case in found.cases]
    assert sorted(chosen[:2]) == [("typical", "c"), ("typical", "d")], "equally near, in the order of their ids"
    assert chosen[2:] == [("typical", "e"), ("best case", "a"), ("worst case", "f")]
    assert found.cases[2].figures == "gold harm 0.50 → 0.28"
    assert [answer.response.text for answer in found.cases[2].answers] == ["sft 1 on e", "ppo 2 on e"]
    assert "of 6 harmful prompts the 3 whose gain in gold harm (PPO over SFT) is nearest" in found.rule
    assert "median gain, +0.17" in found.rule


def test_gain_of_a_gold_that_is_better_the_higher_it_is_has_the_other_sign(six: RunFolder) -> None:
    data = summary()
    data["measures"]["harm"]["better"] = "higher"
    kinds = {case.kind: case.prompt.text for case in chosen_prompts(six, from_json(Summary, data), "harmful").cases}
    assert (kinds["best case"], kinds["worst case"]) == ("Question f?", "Question a?")


def test_no_cases_without_gold_or_scores(six: RunFolder) -> None:
    nothing = ChosenPrompts("", [])
    assert chosen_prompts(six, None, "harmful") == nothing
    assert chosen_prompts(six, read_summary(six), "everyday") == nothing, "no score there"
    assert chosen_prompts(six, from_json(Summary, summary() | {"measures": {}}), "harmful") == nothing


def test_page_labels_the_cases_and_marks_answers_that_are_cut_off(six: RunFolder) -> None:
    page = write_report(six).path.read_text(encoding="utf-8")
    words = " ".join(Page(page).words.split())
    assert "best case</span><span>gold harm 0.50 → 0.10<" in page
    assert "worst case</span><span>gold harm 0.50 → 0.90<" in page
    assert "PPO, cut off ppo 2 on c" in words
    assert "SFT sft 1 on c" in words


def test_picture_tells_every_model_and_control_in_words() -> None:
    whole = from_json(Summary, summary())
    drawn = pictures(whole, [Control("random judge", from_json(Summary, summary(0.01)))], "everyday")
    assert len(drawn) == 2
    assert "<title>everyday prompts." in drawn[0]
    said = drawn[1].partition("<title>")[2].partition("</title>")[0]
    for part in (
        "harmful prompts. gold harm (lower is better) over KL from SFT, nats per response: "
        "base 0.36 [0.34, 0.38] without one; SFT 0.33 [0.31, 0.35] at 0; ",
        "PPO 0.28 [0.26, 0.30] at 3.87; control random judge 0.34 [0.32, 0.36] at 3.87.",
    ):
        assert part in said
    assert pictures(from_json(Summary, summary() | {"cells": []}), [], None) == []


def test_control_that_has_gone_is_said_and_does_not_stop_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    write_atomic(run.root / "controls.json", json.dumps({"coin": "../gone"}))
    controls, problem = controls_of(run)
    assert controls == []
    assert "is not a run of rlaif" in problem
    assert "The controls are not shown:" in Page(write_report(run).path.read_text(encoding="utf-8")).words
