"""The records of an evaluation: what is written is read back, and files of older runs open."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.core.errors import DataError
from rlaif.core.evaluation import (
    Cell,
    Divergence,
    HeldOut,
    HeldOutAccuracy,
    HeldOutBin,
    Measure,
    Probe,
    SetDistinct,
    Summary,
    read_held_out,
    read_scores,
    read_summary,
)
from rlaif.core.files import RunFolder, write_atomic
from rlaif.core.records import WinRate, from_json
from tests.report.fake_run import summary

SUMMARY = Summary(
    models=("sft", "ppo"),
    slices=("hard",),
    measures={"harm": Measure("gold harm (lower is better)", "lower", "a", {"pairs": 3}), "words": Measure("words")},
    cells=(Cell("ppo", "hard", "harm", 4, 0.25, 0.125, 0.5, -0.5, -0.75, -0.25), Cell("sft", "hard", "words", 4, 9.0)),
    win_rates=(WinRate("sft", "ppo", "hard", 0.25, 0.125, 0.5, 4, 1),),
    kl=(Divergence("ppo", "sft", "hard", 4, 2.0, 1.0, 3.0, 0.25),),
    set_distinct_2=(SetDistinct("ppo", "hard", 0.5, 10),),
    notes=("a note",),
)


def test_a_summary_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_summary(run) is None
    SUMMARY.write(run.file("evaluate", "summary.json"))
    assert read_summary(run) == SUMMARY
    data = json.loads(run.file("evaluate", "summary.json").read_text())
    assert data["measures"]["harm"]["quality"] == {"pairs": 3}
    assert "quality" not in data["measures"]["words"], "only gold has a quality"
    assert list(data["kl"][0])[:5] == ["model", "against", "slice", "n", "mean"]


def test_a_summary_of_an_older_run_opens_and_a_wrong_one_names_the_field(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    old = {
        "models": ["sft"], "slices": [], "measures": {"x": {"label": "x", "better": "none"}}, "cells": [],
        "kl": [{"model": "ppo", "against": "sft", "slice": "hard", "mean": 1.0}],
    }  # fmt: skip
    write_atomic(run.file("evaluate", "summary.json"), json.dumps(old))
    found = read_summary(run)
    assert found is not None
    assert (found.kl[0].mean, found.kl[0].n, found.notes) == (1.0, 0, ())
    write_atomic(run.file("evaluate", "summary.json"), json.dumps({**old, "cells": 3}))
    with pytest.raises(DataError, match="cells"):
        read_summary(run)


def test_questions_to_a_summary() -> None:
    cell = SUMMARY.cell("ppo", "hard", "harm")
    assert cell is not None
    assert cell.differs
    assert not replace(cell, difference_high=0.25).differs
    assert SUMMARY.unmeasured() == []
    turned = SUMMARY.win_rate("ppo", "hard")
    assert turned is not None
    assert (turned.model, turned.rate, turned.low, turned.high) == ("ppo", 0.75, 0.5, 0.875)


def test_rows_of_scores_keep_numbers_alone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert list(read_scores(run)) == []
    row = {"response_id": "r", "prompt_id": "p", "slice": "s", "model": "ppo", "harm": None, "finished": True, "x": "y"}
    write_atomic(run.file("evaluate", "scores.jsonl"), json.dumps(row) + "\n")
    (found,) = read_scores(run)
    assert found.values == {"harm": None, "finished": True}
    assert found.as_json() == {name: value for name, value in row.items() if name != "x"}


def test_a_held_out_result_says_more_of_an_ensemble(tmp_path: Path) -> None:
    one = HeldOut(0.75, 0.5, 0.25, 0.125, 8, 0.5, (HeldOutBin(0.0, 0.1, 0.05, 0.0, 8),), 0.5, 4)
    several = replace(one, disagreement=0.5, members=(one, one))
    assert not {"disagreement", "members"} & one.as_json().keys()
    for record in (one, several):
        write_atomic(RunFolder(tmp_path).file("reward", "held_out.json"), json.dumps(record.as_json()))
        assert read_held_out(RunFolder(tmp_path)) == record


def test_a_held_out_result_says_what_stands_beside_the_model_and_old_ones_still_read(tmp_path: Path) -> None:
    model, bag = (HeldOutAccuracy(name, 0.75, 0.5, 0.9, 8) for name in ("harmful", "bag of words"))
    silent = HeldOutAccuracy("source", None, None, None, 0)
    found = HeldOut(
        accuracy=0.75,
        pairs=8,
        accuracy_low=0.5,
        accuracy_high=0.9,
        parts={"slice": (model,), "principle": (), "answers": (model, silent)},
        predictors=(bag, silent),
        probe=Probe("mean", {"mean": 0.7, "last": 0.6, "end": 0.5}, bag),
        beats_trivial=False,
        verdict="It does not.",
    )
    path = RunFolder(tmp_path).file("reward", "held_out.json")
    write_atomic(path, json.dumps(found.as_json()))
    assert read_held_out(RunFolder(tmp_path)) == found
    old = {"accuracy": 0.75, "log_loss": 0.5, "pairs": 8, "bins": [], "length_accuracy": 0.5, "prompts": 4}
    write_atomic(path, json.dumps(old))
    read = read_held_out(RunFolder(tmp_path))
    assert read is not None
    assert (read.accuracy, read.predictors, read.parts, read.probe, read.verdict) == (0.75, (), {}, None, "")
    assert read.beats_trivial is None
    write_atomic(path, json.dumps(old | {"predictors": [{"name": "length", "accuracy": "high"}]}))
    with pytest.raises(DataError, match="predictors"):
        read_held_out(RunFolder(tmp_path))


def test_win_rate_against_sft_can_be_read_from_either_side() -> None:
    base = from_json(Summary, summary()).win_rate("base", "harmful")
    assert base is not None
    assert base.rate is not None
    assert round(base.rate, 6) == 0.41
    assert base.low is not None
    assert base.high is not None
    assert base.low < base.rate < base.high
