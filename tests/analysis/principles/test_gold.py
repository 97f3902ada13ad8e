"""Gold preferences: rows by id and by text, either way round, and files that do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.analysis.principles.gold import GoldFacts, read_gold
from rlaif.core.errors import DataError
from rlaif.core.records import Comparison, Message, PreferenceLabel, Prompt, Response, to_json
from rlaif.gold import scorers

PROMPT = Prompt((Message("user", "how?"),))


def answer(text: str, seed: int = 0) -> Response:
    return Response(PROMPT.id, text, "sft", seed, 1.0, "stop", 3)


PAIRS = [
    Comparison(PROMPT, answer("good"), answer("bad")),
    Comparison(PROMPT, answer("bad"), answer("good")),
    Comparison(PROMPT, answer("good", 7), answer("bad", 7)),
    Comparison(PROMPT, answer("one"), answer("two")),
]
LABELS = [PreferenceLabel(pair, 0.5, ()) for pair in PAIRS]


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_by_id(tmp_path: Path) -> None:
    rows = [{"id": PAIRS[0].id, "prob_a": 0.9}, {"id": PAIRS[3].id, "prob_a": None}, {"id": "other", "prob_a": 1}]
    found = read_gold(write(tmp_path / "gold.jsonl", *rows, {"id": PAIRS[1].id, "prob_a": 0.5}), LABELS)
    assert found.prob_a == {PAIRS[0].id: 0.9}
    assert found.facts == GoldFacts("gold.jsonl", rows=4, matched=3, unmatched=1, silent=2)


def test_rows_by_text_find_every_pair_with_these_texts_either_way_round(tmp_path: Path) -> None:
    rows = [
        {"prompt": "how?", "chosen": "good", "rejected": "bad"},
        {"prompt": "how?", "chosen": "good", "rejected": "else"},
    ]
    found = read_gold(write(tmp_path / "gold.jsonl", *rows), LABELS)
    assert found.prob_a == {PAIRS[0].id: 1.0, PAIRS[1].id: 0.0, PAIRS[2].id: 1.0}
    assert found.facts is not None
    assert (found.facts.matched, found.facts.unmatched) == (1, 1)


def test_lines_that_were_left_out_are_told(tmp_path: Path) -> None:
    rows = [
        {"prompt": "how?", "chosen": "good", "rejected": "bad"},
        {"prompt": "how?", "chosen": "good", "rejected": "good"},
    ]
    (note,) = read_gold(write(tmp_path / "gold.jsonl", *rows), LABELS).notes
    assert "2" in note


def test_labels_of_another_run_are_gold_too(tmp_path: Path) -> None:
    label = PreferenceLabel(PAIRS[3], 0.2, ())
    assert read_gold(write(tmp_path / "labels.jsonl", to_json(label)), LABELS).prob_a == {PAIRS[3].id: 0.2}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "other", "prob_a": 1.0}], "none of its 1 rows is about a pair of the run"),
        ([{"prompt": "why?", "chosen": "good", "rejected": "bad"}], "none of its 1 rows"),
        (
            [{"id": "x", "prob_a": 1.5}, {"id": 3, "prob_a": 1}, {"id": "y"}, {"id": "z", "prob_a": True}],
            "line 1: prob_a must be .*line 2: id must be text.*line 3: prob_a must be.*line 4: prob_a",
        ),
        ([{"id": "x", "prob_a": 0.1}, {"id": "x", "prob_a": 0.9}], "line 2: the pair x stands twice"),
        ([{"prompt": "why?", "chosen": "good"}], "is no comparison"),
        ([], "none of its 0 rows|holds no comparison"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_gold(write(tmp_path / "gold.jsonl", *rows), LABELS)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_gold("nowhere.jsonl", LABELS)


def test_the_less_harmful_answer_is_the_golden_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Harm:
        about = "by hand"

        def score(self, prompts: list[str], responses: list[str]) -> list[float | None]:
            assert len(prompts) == len(responses)
            return [{"good": 0.1, "bad": 0.8, "one": 0.3, "two": None}[text] for text in responses]

    monkeypatch.setattr(scorers, "fit_harm", lambda embed: Harm())
    found = read_gold("harm", LABELS)
    assert found.prob_a == {PAIRS[0].id: 1.0, PAIRS[1].id: 0.0, PAIRS[2].id: 1.0}
    assert found.facts == GoldFacts("harm", 4, 4, 0, 1, "by hand")
