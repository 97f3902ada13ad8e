"""How far judges agree with each other, beyond chance, and whether they err on the same pairs.

A preference counts as the answer it is for, and one half as half of each. Every prompt counts alike, however many pairs
it has. Which answer stands as A is drawn by hash, so a judge that is right throughout says A on half of the pairs, and
agreement by chance is that of two judges who know nothing of each other's answers.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from rlaif.core.statistics import Draw, Estimate, Keyed, agree, preferred
from rlaif.judge.card.figures import JudgedPair, share_of


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Of the `pairs` that both `one` and `other` have a label on: `agree`, the share with the same preference; `kappa`,
    Cohen's, of that share. `both_wrong`: of the pairs on which one of them is wrong, the share on which both are;
    `both_wrong_by_chance`: what that share would be if their errors had nothing to do with each other. None where there
    is nothing to divide by."""

    one: str
    other: str
    pairs: int
    agree: Estimate | None
    kappa: float | None
    both_wrong: float | None
    both_wrong_by_chance: float | None


def agreements(judged: Sequence[tuple[str, Sequence[JudgedPair]]], draw: Draw) -> list[JudgeAgreement]:
    """One for every two judges; `judged` are their names with the same pairs in the same order."""
    return [_agreement(one, other, draw) for one, other in combinations(judged, 2)]


def _agreement(
    one: tuple[str, Sequence[JudgedPair]], other: tuple[str, Sequence[JudgedPair]], draw: Draw
) -> JudgeAgreement:
    same: list[Keyed] = []
    places: list[tuple[str, float, float]] = []
    wrongs: list[tuple[str, float, float]] = []
    for this, that in zip(one[1], other[1], strict=True):
        first, second = this.label.prob_a, that.label.prob_a
        if first is None or second is None:
            continue
        prompt, a, b = this.pair.prompt_id, preferred(first), preferred(second)
        same.append((prompt, agree(first, second)))
        places.append((prompt, a, b))
        right = float(this.pair.a_is_better)
        wrongs.append((prompt, abs(right - a), abs(right - b)))
    weights = _weights([prompt for prompt, _, _ in places])
    seen, by_chance = (_both(places, weights, agree, independent=independent) for independent in (False, True))
    return JudgeAgreement(
        one[0],
        other[0],
        pairs=len(same),
        agree=share_of(draw, same),
        kappa=_ratio(seen - by_chance, 1 - by_chance) if same else None,
        both_wrong=_overlap(wrongs, weights, independent=False),
        both_wrong_by_chance=_overlap(wrongs, weights, independent=True),
    )


def _weights(prompts: Sequence[str]) -> list[float]:
    """The weight of each pair: alike for every prompt, shared by its pairs, and 1 in all."""
    own = Counter(prompts)
    return [1 / (own[prompt] * len(own)) for prompt in prompts]


def _both(
    values: Sequence[tuple[str, float, float]],
    weights: Sequence[float],
    measure: Callable[[float, float], float],
    *,
    independent: bool,
) -> float:
    """The mean of `measure` over the pairs as they are, or with the two columns drawn independently of each other."""
    if not independent:
        return math.fsum(w * measure(x, y) for w, (_, x, y) in zip(weights, values, strict=True))
    first, second = defaultdict[float, float](float), defaultdict[float, float](float)
    for weight, (_, x, y) in zip(weights, values, strict=True):
        first[x] += weight
        second[y] += weight
    return math.fsum(p * q * measure(x, y) for x, p in first.items() for y, q in second.items())


def _overlap(
    wrongs: Sequence[tuple[str, float, float]], weights: Sequence[float], *, independent: bool
) -> float | None:
    """How often both are wrong, of how often one of them is."""
    both, either = (_both(wrongs, weights, measure, independent=independent) for measure in (min, max))
    return _ratio(both, either)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 1e-12 else None
