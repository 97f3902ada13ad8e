"""What the judge does with the opposite of a principle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaif.analysis.principles.negation import inverse
from rlaif.core.records import Constitution
from rlaif.core.statistics import sigmoid
from rlaif.judge.methods.table import METHODS
from tests.analysis.principles.runs import (
    CONSTITUTION,
    ask,
    by_examples,
    by_words,
    letter_lover,
    letter_only,
    reader,
    words_run,
)


@pytest.mark.parametrize(
    ("score", "verdict", "turned"),
    [
        (reader, "turns: the judge notices", 1.0),
        (letter_lover, "stays: the judge does not notice", 0.0),
        (letter_only, "one half on every pair: nothing to turn", None),
    ],
)
def test_a_judge_that_reads_turns_with_the_rule(tmp_path: Path, score: Any, verdict: str, turned: float | None) -> None:
    run = words_run(tmp_path / "run", score, principles="all")
    found, _ = ask(run, score, negate=72)
    assert found.negations is not None
    rows = {row.id: row for row in found.negations}
    assert list(rows) == [principle.id for principle in CONSTITUTION.principles]
    row = rows["yes"]
    assert (row.pairs, row.compared + row.ties, row.verdict) == (72, 72, verdict)
    if turned is None:
        assert (row.turned, row.stayed) == (None, None)
        return
    assert row.turned is not None
    assert row.stayed is not None
    assert row.turned.mean == turned
    # the letter lover gives 3.2 nats to the liked answer shown first and 2.8 to the other one, whatever the rule
    expected = 0 if score is reader else sigmoid(3.2) - sigmoid(2.8)
    assert row.stayed.mean == pytest.approx(expected)


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(by_words, "turns: the words outweigh the examples"), (by_examples, "stays: the examples decide")],
)
def test_contrast_shows_whether_words_or_examples_decide(tmp_path: Path, score: Any, verdict: str) -> None:
    run = words_run(tmp_path / "run", score, method="contrast", principles="all")
    few, _ = ask(run, score, negate=9)
    assert few.negations is not None
    assert few.negations[0].verdict == "too few prompts"
    found, _ = ask(run, score, negate=30)
    assert found.negations is not None
    assert found.negations[0].verdict == verdict
    assert found.negations[0].compared > 0


def test_contrast_without_examples_tests_nothing_and_says_so(tmp_path: Path) -> None:
    bare = Constitution(
        "bare",
        "1",
        "",
        tuple(
            replace(p, contrast=None if p.contrast is None else replace(p.contrast, examples=()))
            for p in CONSTITUTION.principles
        ),
    )
    run = words_run(tmp_path / "run", by_words, bare, method="contrast")
    found, _ = ask(run, by_words, negate=8)
    assert found.negations is not None
    for row in found.negations:
        assert row.by_construction
        assert "tests nothing" in row.verdict
        assert row.turned is None or row.turned.mean == 1
        assert row.stayed is None or row.stayed.mean == pytest.approx(0)


def test_the_inverse_keeps_what_it_does_not_turn() -> None:
    principle = CONSTITUTION.principles[0]
    pair = principle.contrast
    assert pair is not None
    turned = inverse(principle, [METHODS["contrast"]])
    assert turned.contrast is not None
    assert (turned.contrast.followed, turned.contrast.violated) == (pair.violated, pair.followed)
    assert turned.contrast.examples == pair.examples
    assert inverse(turned, [METHODS["contrast"]]) == principle
    asked = inverse(principle, [METHODS["pairwise"]])
    assert (asked.id, asked.contrast) == (principle.id, pair)
    assert '"Say yes."' in asked.statement
    assert asked.comparison == 'Which answer should lose if one asks "Which one does it better?"'
    assert inverse(principle, [METHODS["cot"]]) == inverse(principle, [METHODS["rating"]]) == asked
    assert inverse(replace(principle, comparison=None), [METHODS["pairwise"]]).comparison not in (
        None,
        asked.comparison,
    )
