"""Maps from what the votes say to how often it is right, fitted on pairs whose better answer is known.

temperature  P -> sigmoid(logit(P) / T): one number, for when there is little gold (Guo et al., arXiv 1706.04599).
isotonic     the rising step function that fits best, straight lines between its steps (Zadrozny and Elkan, 2002).

Both are fitted with every pair shown both ways round, so that the calibrated P(B is better) is 1 - P(A is better).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlaif.core.statistics import logit, sigmoid, softplus

Kind = Literal["temperature", "isotonic"]
LEAST: dict[Kind, int] = {"temperature": 20, "isotonic": 100}
"""Fewest pairs that a map is fitted on."""
COLDEST, HOTTEST = 0.05, 100.0
NEAREST = 1e-6
"""A probability is taken to be at least this far from 0 and 1: letters may come out as exactly certain."""


@dataclass(frozen=True, slots=True)
class CalibrationMap:
    """A rising map of [0, 1] with f(1 - p) = 1 - f(p). `points` of an isotonic one: (P, calibrated P), from 0.5 on."""

    kind: Kind
    temperature: float | None = None
    points: tuple[tuple[float, float], ...] = ()

    def __call__(self, prob_a: float) -> float:
        """The calibrated P(A is better)."""
        if prob_a < 0.5:
            return 1.0 - self(1.0 - prob_a)
        if self.temperature is not None:
            return sigmoid(logit(prob_a, least=NEAREST) / self.temperature)
        (left, low), *rest = self.points
        for right, high in rest:
            if prob_a <= right:
                return low + (high - low) * (prob_a - left) / (right - left) if right > left else high
            left, low = right, high
        return low


def fit(kind: Kind, right: Sequence[float]) -> CalibrationMap:
    """The map fitted on `right`, the judge's probability of the better answer of each pair (one at least)."""
    return _temperature(right) if kind == "temperature" else _isotonic(right)


def _temperature(right: Sequence[float]) -> CalibrationMap:
    """The T of the highest likelihood; HOTTEST, where all is near one half, for a judge no better than a coin."""
    from scipy.optimize import minimize_scalar

    odds = [logit(p, least=NEAREST) for p in right]

    def loss(log_temperature: float) -> float:
        scale = math.exp(log_temperature)
        return math.fsum(softplus(-value / scale) for value in odds)

    found = minimize_scalar(loss, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return CalibrationMap("temperature", temperature=math.exp(float(found.x)))


def _isotonic(right: Sequence[float]) -> CalibrationMap:
    """Values stay 1 / (n + 2) away from 0 and 1: n pairs cannot show more certainty."""
    from scipy.optimize import isotonic_regression

    counts: dict[float, list[int]] = {}
    for p in right:
        for value, better in ((p, 1), (1.0 - p, 0)):
            here = counts.setdefault(value, [0, 0])
            here[0] += better
            here[1] += 1
    values = sorted(counts)
    shares = [counts[value][0] / counts[value][1] for value in values]
    fitted = isotonic_regression(shares, weights=[counts[value][1] for value in values]).x
    edge = 1 / (len(right) + 2)
    upper = [(v, min(max(float(y), 0.5), 1 - edge)) for v, y in zip(values, fitted, strict=True) if v > 0.5]
    points = [(0.5, 0.5), *upper]
    # of a step its two ends are enough
    kept = [
        p for i, p in enumerate(points) if i in (0, len(points) - 1) or not points[i - 1][1] == p[1] == points[i + 1][1]
    ]
    return CalibrationMap("isotonic", points=tuple(kept))
