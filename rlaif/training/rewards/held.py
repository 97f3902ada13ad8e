"""Weights of sources that are held: a floor under the responses, and no goal.

A source with a fixed weight is one more thing to maximise: what it is worth to the policy, more of it or less, differs
from run to run. A held one is a constraint, that its mean does not fall below what the first step found. Its weight is
the constraint's price, moved after every step against the mean's deviation, as the multiplier of Safe RLHF (arXiv
2310.12773) is; but not below the weight that it began with. One that had fallen while there was more than enough came
too late when there was not (docs/evidence.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

RATE = 1.5
"""How far a mean that is a deviation (of the first step's responses) too low raises the logarithm of the weight."""
BOUND = 4.0
"""The weight is at most so many times the one that it began with."""


class HeldWeights:
    """Source -> its weight in the step to come, from the config's weight of each on."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights, self.begun = dict(weights), dict(weights)
        self.targets: dict[str, tuple[float, float]] = {}
        """Source -> mean and deviation of its scores in the first step that had any."""

    def update(self, row: Mapping[str, Any]) -> None:
        """Takes a step's row of metrics; a source that scored nothing there keeps its weight."""
        for name, weight in self.weights.items():
            mean, std = row.get(f"score_{name}"), row.get(f"score_{name}_std")
            if mean is None or std is None:
                continue
            target, spread = self.targets.setdefault(name, (mean, std))
            if spread > 0:
                moved = weight * math.exp(min(max(RATE * (target - mean) / spread, -1.0), 1.0))
                self.weights[name] = min(max(moved, self.begun[name]), self.begun[name] * BOUND)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"weights": self.weights, "targets": self.targets}

    def take_up(self, facts: Mapping[str, Any]) -> None:
        """Goes on from what `facts` gave."""
        self.weights |= facts["weights"]
        self.targets = {name: (float(mean), float(std)) for name, (mean, std) in facts["targets"].items()}
