"""Agreement of gold with labels, by hand: per kind of answers and slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaif.core.files import RunFolder
from rlaif.core.records import AnswerSource, Comparison, Message, PreferenceLabel, Prompt, Response
from rlaif.core.statistics import Draw
from rlaif.gold.scorers import Better, Entry, GoldScorer
from rlaif.judge.gold_agreement import PAIRS, agreements, gold_agreement, read_agreement

DRAW = Draw(0, 200)


class Length:
    about, quality = "length", dict[str, float | None]()

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        return [None if text == "?" else float(len(text)) for text in responses]


def scorer(better: Better = "higher") -> GoldScorer:
    return GoldScorer("length", Entry("length", better, lambda _: Length()), Length())


def label(
    number: int, a: str, b: str, prob_a: float | None, answers: AnswerSource, part: str = "one"
) -> PreferenceLabel:
    prompt = Prompt((Message("user", f"Question {number}"),), slice=part)
    first, second = (Response(prompt.id, text, "sft", place, 1.0, "stop", 1) for place, text in enumerate((a, b)))
    return PreferenceLabel(Comparison(prompt, first, second), prob_a, (), answers=answers)


def test_a_vote_says_whether_gold_prefers_the_answer_of_the_label() -> None:
    rows: list[tuple[str, str, float | None]] = [
        ("long", "no", 0.9), ("no", "long", 0.9), ("no", "long", 0.2), ("yes", "yep", 0.9), ("?", "long", 0.1),
        ("long", "no", None), ("long", "no", 0.5),
    ]  # fmt: skip
    labels = [label(n, *row, "policy") for n, row in enumerate(rows)]
    assert [vote for _, vote in agreements(labels, scorer())] == [1.0, 0.0, 1.0, None, None, None, 0.5]
    assert [vote for _, vote in agreements(labels, scorer("lower"))] == [0.0, 1.0, 0.0, None, None, None, 0.5]


def test_shares_are_told_by_kind_and_slice(tmp_path: Path) -> None:
    labels = [label(n, "long", "no", 0.9 if n < 3 else 0.1, "contrast") for n in range(4)]
    labels += [label(9, "long", "no", 0.9, "contrast", "two")]
    labels += [label(n, "long", "no", 0.9 if n == 20 else 0.1, "policy") for n in range(20, 22)]
    found = gold_agreement(labels, [scorer()], DRAW, ["harm not measured"])
    shares = {(row.answers, row.slice, row.gold): (row.share.mean, row.share.n) for row in found.rows}
    assert shares == {
        ("policy", "", "length"): (0.5, 2),
        ("contrast", "", "length"): (4 / 5, 5),
        ("contrast", "one", "length"): (3 / 4, 4),
        ("contrast", "two", "length"): (1.0, 1),
    }
    assert found.rows[0].answers == "policy"
    run = RunFolder(tmp_path)
    assert read_agreement(run) is None
    run.stage("evaluate")
    found.write(run)
    assert read_agreement(run) == found


def test_of_many_pairs_a_part_is_scored_that_no_order_chooses() -> None:
    labels = [label(n, "long", "no", 0.9 if n % 3 else 0.1, "policy") for n in range(PAIRS + 50)]
    found, turned = (gold_agreement(part, [scorer()], DRAW).rows for part in (labels, labels[::-1]))
    assert found[0].share.n == PAIRS
    assert found[0].share.mean == pytest.approx(turned[0].share.mean)
