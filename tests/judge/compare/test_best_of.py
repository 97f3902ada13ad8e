"""How often a right answer is found among several, on prompts that have several."""

from __future__ import annotations

from rlaif.core.statistics import Draw
from rlaif.judge.card.figures import JudgedPair
from rlaif.judge.compare.measure import best_of
from tests.judge.card.cases import judged

DRAW = Draw(1, 200)


def share(rows: list[JudgedPair], gold: list[JudgedPair] | None = None) -> float | None:
    found = best_of(rows, [row.pair for row in gold or rows], DRAW)
    return None if found is None else found.mean


def four(prompt: str, *probabilities: float | None, right: str = "right") -> list[JudgedPair]:
    return [judged(prompt, p, a=right, b=f"wrong {n}") for n, p in enumerate(probabilities)]


def test_all_wrong_ones_must_be_beaten() -> None:
    assert share(four("p", 0.9, 0.8, 0.7)) == 1.0
    assert share(four("p", 0.9, 0.8, 0.4)) == 0.0
    assert share(four("p", 0.9, 0.8, 0.5)) == 0.5
    assert share([*four("p", 0.9, 0.8, 0.7), *four("q", 0.9, 0.1, 0.7)]) == 0.5


def test_one_of_several_right_ones_is_enough() -> None:
    assert share([*four("p", 0.9, 0.2), *four("p", 0.6, 0.7, right="also")]) == 1.0
    assert share([*four("p", 0.9, 0.2), *four("p", 0.2, 0.7, right="also")]) == 0.0, "each is beaten by another"


def test_only_prompts_with_several_wrong_answers_that_are_all_judged() -> None:
    assert share(four("p", 0.9)) is None, "a pair is no choice among several"
    assert share(four("p", 0.9, None)) is None
    assert share(four("p", 0.9, 0.9)[:1], gold=four("p", 0.9, 0.9)) is None, "the other pair was not drawn"
    chain = [judged("p", 0.9, a="x", b="y"), judged("p", 0.9, a="y", b="z"), judged("p", 0.9, a="x", b="z")]
    assert share(chain) is None, "an answer that is right here and wrong there is a rank, not right or wrong"
