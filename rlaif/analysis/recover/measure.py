"""How well labels are reconstructed, and how near recovered principles come to those of another constitution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif.analysis.recover.candidates import bare
from rlaif.analysis.recover.evidence import Evidence
from rlaif.constitution.wording import ALIKE, likeness
from rlaif.core.records import Comparison
from rlaif.core.statistics import Estimate, Keyed, agree, by_prompt, mean_share, preferred
from rlaif.inputs.comparisons import GivenPair

COVERED = 0.9
"""Share of pairs on which a recovered principle prefers the same answer as another from which on it covers that one."""

Predicted = Sequence[float | None]
"""P(A is better) of each pair, None = not known."""


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracy of one way to predict labels, on training and on held-out prompts; None = not measured."""

    name: str
    training: Estimate | None
    held_out: Estimate | None


@dataclass(frozen=True, slots=True)
class Nearest:
    """A principle of the other constitution, and how near it is, 0 to 1."""

    id: str
    likeness: float


@dataclass(frozen=True, slots=True)
class Match:
    """The nearest principles to `id`, by wording (Jaccard of word pairs) and by behaviour (share of held-out pairs on
    which both prefer the same answer); None where nothing can be compared. `same_wording_agrees`: that share for the
    one nearest by wording."""

    id: str
    wording: Nearest | None
    behaviour: Nearest | None
    same_wording_agrees: float | None = None

    @property
    def near(self) -> bool:
        """Whether either is near enough to call the two principles the same; one in nearly the same words that mostly
        prefers the other answer is an opposite ("be kind", "be rude"), and is not."""
        by_wording = self.wording is not None and self.wording.likeness >= ALIKE
        opposite = self.same_wording_agrees is not None and self.same_wording_agrees < 0.5
        by_behaviour = self.behaviour is not None and self.behaviour.likeness >= COVERED
        return (by_wording and not opposite) or by_behaviour


def accuracy(predicted: Predicted, pairs: Sequence[GivenPair], *, seed: int, resamples: int) -> Estimate | None:
    """Share of pairs where the prediction prefers the same answer as the label (one half: half a one), over prompts.

    Pairs without a prediction are left out. The interval is a bootstrap over prompts, Wilson's where all prompts are
    alike; None where nothing is predicted.
    """
    return mean_share(_right(predicted, pairs), seed=seed, resamples=resamples)


def share(predicted: Predicted, pairs: Sequence[GivenPair]) -> float | None:
    """The same without an interval."""
    prompts = by_prompt(_right(predicted, pairs))
    return math.fsum(prompts.values()) / len(prompts) if prompts else None


def _right(predicted: Predicted, pairs: Sequence[GivenPair]) -> list[Keyed]:
    """(prompt, 1 where the prediction prefers what the label does, 0 where the other answer) of each pair."""
    return [
        (pair.group, None if p is None else agree(p, pair.prob_a))
        for pair, p in zip(pairs, predicted, strict=True)
        if pair.prob_a is not None
    ]


def by_length(pairs: Sequence[GivenPair], *, shorter: bool) -> list[float | None]:
    """What somebody says of each pair who sees the number of characters alone."""

    def prefers_a(pair: Comparison) -> float:
        more = preferred(0.5 + len(pair.a.text) - len(pair.b.text))
        return 1 - more if shorter else more

    return [prefers_a(pair.comparison) for pair in pairs]


def predictions(row: np.ndarray) -> list[float | None]:
    """The row of an Evidence as plain numbers."""
    return [None if np.isnan(value) else float(value) for value in row]


def matches(ours: Evidence, theirs: Evidence) -> list[Match]:
    """For each principle of `ours` the nearest ones of `theirs`; both were heard on the same pairs."""
    found = []
    for principle in ours.principles:
        row, statement = ours.row(principle.id), bare(principle.statement)
        by_wording = _nearest(theirs, lambda p, s=statement: likeness(s, bare(p.statement)))
        by_behaviour = _nearest(theirs, lambda p, r=row: agreement(r, theirs.row(p.id)))
        agrees = None if by_wording is None else agreement(row, theirs.row(by_wording.id))
        found.append(Match(principle.id, by_wording, by_behaviour, agrees))
    return found


def agreement(one: np.ndarray, other: np.ndarray) -> float | None:
    """Share of pairs with a verdict in both on which both prefer the same answer, one half being half a one."""
    values = [
        agree(p, q)
        for p, q in zip(predictions(one), predictions(other), strict=True)
        if p is not None and q is not None
    ]
    return sum(values) / len(values) if values else None


def _nearest(theirs: Evidence, near: Callable[..., float | None]) -> Nearest | None:
    found = [(principle.id, near(principle)) for principle in theirs.principles]
    known = [Nearest(name, value) for name, value in found if value is not None]
    return max(known, key=lambda item: item.likeness, default=None)
