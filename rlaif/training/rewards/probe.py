"""A linear probe: what the labels teach a logistic regression on frozen hidden states, before anything is trained.

It chooses where the reward model reads (`reward.pooling: auto`), and is the floor beside the reward model: what can be
learnt of these labels without touching the model. Folds are by prompt, since pairs of one prompt share their answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlaif.config import Pooling
from rlaif.training.rewards.predictors import logistic

FOLDS = 5
STRENGTH = 0.01
"""Inverse of the ridge penalty on standardised states: there are more dimensions than pairs."""


def cross_validated(differences: np.ndarray[Any, Any], prefers_a: Sequence[bool], prompts: Sequence[str]) -> float:
    """The share of pairs whose side a probe tells that saw none of their prompt. `differences` (pairs, H), A less B.

    Raises ValueError for fewer than two prompts.
    """
    from sklearn.model_selection import GroupKFold

    side = np.asarray(prefers_a, bool)
    right = np.zeros(len(side))
    folds = GroupKFold(min(FOLDS, len(set(prompts))))
    for train, test in folds.split(differences, groups=np.asarray(prompts)):
        right[test] = _margins(differences[train], side[train], differences[test]) > 0
    return float((right == side).mean())


def held_out_margins(
    differences: np.ndarray[Any, Any], prefers_a: Sequence[bool], held_out: np.ndarray[Any, Any]
) -> list[float]:
    """The margins of A over B of the held-out pairs by a probe fitted on the others; none of none."""
    if not len(held_out):
        return []
    found: list[float] = _margins(differences, np.asarray(prefers_a, bool), held_out).tolist()
    return found


def chosen(accuracies: Mapping[Pooling, float], pairs: int) -> Pooling:
    """The pooling with the best accuracy; the mean where the best is within one standard error of it."""
    best = max(accuracies, key=lambda way: accuracies[way])
    high = accuracies[best]
    error = (high * (1 - high) / pairs) ** 0.5
    return "mean" if "mean" in accuracies and accuracies["mean"] >= high - error else best


def _margins(
    differences: np.ndarray[Any, Any], side: np.ndarray[Any, Any], asked: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    # Not the deviation from the mean: where A is mostly preferred the mean is what is to be learnt, and which answer
    # stands as A must change nothing.
    scale = np.sqrt(np.square(differences).mean(0)) + 1e-6
    found: np.ndarray[Any, Any] = logistic(differences / scale, side.tolist(), strength=STRENGTH).decision_function(
        asked / scale
    )
    return found
