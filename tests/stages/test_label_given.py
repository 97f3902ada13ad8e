"""Labels of the user's own: which of a file's pairs are learnt from, and what is told of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.errors import DataError
from rlaif.core.records import Prompt, to_json
from rlaif.stages.label_given import GivenLabels, read_given
from tests.inputs.lines import our_label

HUMAN, BOT = "\n\nHuman: ", "\n\nAssistant: "


def read(tmp_path: Path, rows: list[dict[str, Any]], *held_out: str) -> GivenLabels:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_given(str(path), [Prompt.of_text(text) for text in held_out])


def test_every_shape_of_a_pair_becomes_a_label(tmp_path: Path) -> None:
    rows = [
        {"prompt": "One", "chosen": "good", "rejected": "bad"},
        {"prompt": [{"role": "user", "content": "Two"}], "chosen": "good", "rejected": "bad", "prob_chosen": 0.75},
        {"chosen": f"{HUMAN}Three{BOT}good", "rejected": f"{HUMAN}Three{BOT}bad"},
        {"prompt": "Four", "response_a": "good", "response_b": "bad", "prob_a": 0.6, "slice": "hard"},
        to_json(our_label()),
        to_json(our_label(None)),
    ]
    found = read(tmp_path, rows[:-1])
    better = [
        (label.comparison.a.text, label.prob_a)
        if (label.prob_a or 0) > 0.5
        else (label.comparison.b.text, 1 - (label.prob_a or 0))
        for label in found.labels
    ]
    assert better == [("good", 1.0), ("good", 0.75), ("good", 1.0), ("good", 0.6), ("Welcome!", 0.8)]
    assert [label.comparison.prompt.slice for label in found.labels] == ["given", "given", "given", "hard", "plain"]
    assert {label.answers for label in found.labels} == {"given"}
    assert found.labels[4].verdicts == our_label().verdicts
    assert (found.prompts, found.answers, found.notes) == (5, 10, ())
    assert read(tmp_path, rows[4:]).labels[0].failure is None


def test_what_is_held_out_and_what_has_no_label_is_left_out_and_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": "Held out!", "chosen": "good", "rejected": "bad"},
        {"prompt": "One", "response_a": "x", "response_b": "y", "prob_a": None},
        {"prompt": "One", "chosen": "same", "rejected": "same"},
    ]
    found = read(tmp_path, rows, "held  OUT")
    assert [label.comparison.prompt.text for label in found.labels] == ["What is 2 + 2?"]
    assert (found.held_out, found.unlabelled) == (1, 1)
    assert [note.partition(":")[0] for note in found.notes] == [
        "left out, as they compare nothing, 1 of the lines",
        "left out, as they say nothing of which answer is better, 1 pairs",
        "left out, as their prompts are held out for evaluate, 1 pairs",
    ]
    with pytest.raises(DataError, match=r"holds no label to train on \(left out.*held out for evaluate, 2 pairs"):
        read(tmp_path, rows, "Held out!", "What is 2 + 2?")


def test_a_hash_tells_whether_labels_changed_and_a_limit_takes_prompts_of_each_slice(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Q{n // 2}", "chosen": f"good {n}", "rejected": "bad", "slice": f"s{n % 4 // 2}"} for n in range(8)
    ]
    found = read(tmp_path, rows)
    assert found.hash == read(tmp_path, [*rows]).hash
    assert found.hash != read(tmp_path, rows, "Q3").hash
    assert found.hash != read(tmp_path, [{**rows[0], "prob_chosen": 0.9}, *rows[1:]]).hash
    assert [label.comparison.prompt.text for label in found.limited(1)] == ["Q0", "Q0", "Q1", "Q1"]
    assert found.limited(None) == found.labels
