"""Agreement of judges, worked out by hand."""

from __future__ import annotations

import pytest

from rlaif.core.statistics import Draw
from rlaif.judge.card.figures import JudgedPair
from rlaif.judge.compare.agreement import JudgeAgreement, agreements
from tests.judge.card.cases import judged

DRAW = Draw(1, 200)


def both(one: list[JudgedPair], other: list[JudgedPair]) -> JudgeAgreement:
    (found,) = agreements([("one", one), ("other", other)], DRAW)
    return found


def rows(*probabilities: float | None, prompts: str = "abcdefgh", right: str = "AAAAAAAA") -> list[JudgedPair]:
    return [
        judged(prompt, p, a_is_better=side == "A")
        for prompt, p, side in zip(prompts, probabilities, right, strict=False)
    ]


def test_kappa_of_four_pairs() -> None:
    # Both say A A A B against A A B B: three of four alike; by chance 3/4 * 2/4 + 1/4 * 2/4 = 1/2.
    found = both(rows(0.9, 0.8, 0.7, 0.1), rows(0.6, 0.9, 0.3, 0.2))
    assert (found.one, found.other, found.pairs) == ("one", "other", 4)
    assert found.agree is not None
    assert found.agree.mean == pytest.approx(0.75)
    assert found.kappa == pytest.approx(0.5)
    # A is right throughout: one errs on the last, the other on the last two. Both on 1 of the 2 where either does.
    assert found.both_wrong == pytest.approx(0.5)
    # By chance both err on 1/4 * 2/4 = 1/8 and one of them on 1 - 3/4 * 2/4 = 5/8.
    assert found.both_wrong_by_chance == pytest.approx(0.2)


def test_one_half_is_half_of_each() -> None:
    # A against a tie is half alike. Marginals: always A; A and tie in equal parts, so 3/4 by chance too.
    found = both(rows(0.9, 0.9), rows(0.9, 0.5))
    assert found.agree is not None
    assert found.agree.mean == pytest.approx(0.75)
    assert found.kappa == pytest.approx(0.0)


def test_a_judge_and_itself_and_its_opposite() -> None:
    one = rows(0.9, 0.2, 0.8, 0.3, right="ABAB")
    same, opposite = both(one, one), both(one, rows(0.1, 0.8, 0.2, 0.7, right="ABAB"))
    assert (same.kappa, opposite.kappa) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert same.both_wrong is None, "nobody is wrong"
    assert opposite.both_wrong == 0.0


def test_what_cannot_be_measured_is_none_and_failures_are_left_out() -> None:
    found = both(rows(0.9, None, 0.9), rows(0.9, 0.9, None))
    assert (found.pairs, found.kappa) == (1, None), "two that say A to everything agree by chance alone"
    none = both(rows(None), rows(0.9))
    assert (none.pairs, none.agree, none.kappa, none.both_wrong) == (0, None, None, None)


def test_every_prompt_counts_alike() -> None:
    # Prompt a has three pairs, all alike; prompt b has one, which is not: one half, not three quarters.
    found = both(rows(0.9, 0.9, 0.9, 0.9, prompts="aaab"), rows(0.9, 0.9, 0.9, 0.1, prompts="aaab"))
    assert found.agree is not None
    assert found.agree.mean == pytest.approx(0.5)
    # Marginals: always A; A on one half: 1/2 by chance.
    assert found.kappa == pytest.approx(0.0)


def test_there_is_one_for_every_two() -> None:
    three = [(name, rows(0.9, 0.1)) for name in "xyz"]
    assert [(a.one, a.other) for a in agreements(three, DRAW)] == [("x", "y"), ("x", "z"), ("y", "z")]
