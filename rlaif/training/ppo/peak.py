"""Which validation was the best one, and whether the training has left it behind. Plain numbers, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlaif.core.statistics import mean_difference
from rlaif.gold.scorers import Better


@dataclass(frozen=True, slots=True)
class Validated:
    """One validation: after how many steps, and the value of each prompt's answer, by prompt id."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better a validation is than the best one before it: the mean over the prompts that both measured, with
    its 95 % interval, above 0 = better. Without numbers where there is nothing to compare with."""

    best: bool
    mean: float | None = None
    low: float | None = None
    high: float | None = None


class Peak:
    """The best validation so far and how many came after it. `by` is what they are compared by, and `better` its good
    direction."""

    def __init__(self, by: str, better: Better = "higher") -> None:
        self.by, self.sign = by, -1 if better == "lower" else 1
        self.best: Validated | None = None
        self.since = 0

    def take(self, found: Validated) -> Gain:
        """Compares the next validation with the best one. It becomes the best if its mean is better at all, be that
        by chance or not: the interval says which; one without a value becomes it never."""
        if not found.values:
            self.since += 1
            return Gain(False)
        if self.best is None:
            self.best, self.since = found, 0
            return Gain(True)
        before = self.best.values
        common = [self.sign * (value - before[key]) for key, value in found.values.items() if key in before]
        if not common:
            self.since += 1
            return Gain(False)
        mean, low, high = mean_difference(common)
        if mean > 0:
            self.best, self.since = found, 0
        else:
            self.since += 1
        return Gain(mean > 0, mean, low, high)
