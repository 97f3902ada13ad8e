"""Greedy forward selection: which few principles together reconstruct the labels.

What is minimised is the mean log-loss of the soft labels, in nats a pair. A judge may be far too sure of itself, or too
modest, and that is not what a principle is chosen for: so the log-odds of the prediction are multiplied by one number
first, the best one of SHARPNESS, 0 (predict one half) among them. A principle must gain MIN_SHARE of what there is to
explain, and more than chance would: turning its verdicts round for random prompts gives candidates that know nothing,
and the gain that the best of those has is exceeded in one of twenty draws only. That accounts for how many candidates
were tried, and for pairs of one prompt being alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import entr, logit

MIN_SHARE = 0.02
"""Of what the labels leave to explain: ln 2, the loss of knowing nothing, less their own entropy."""
DRAWS, LEVEL = 200, 0.95
SHARPNESS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class SelectionStep:
    """One principle taken in: the log-loss with it, what that gains, and the gain that was needed. Nats a pair."""

    id: str
    loss: float
    gain: float
    needed: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The principles in the order of their choice; `refused` is the best one that was not taken, None where `keep` or
    the candidates ended the search. `alone`: id -> the gain of that principle alone; `inverted` has those that gain as
    much as the first one has to when their verdicts are turned round, with that gain."""

    steps: tuple[SelectionStep, ...]
    refused: SelectionStep | None
    alone: dict[str, float]
    inverted: dict[str, float]


def forward(
    ids: Sequence[str], probs: np.ndarray, labels: np.ndarray, prompts: Sequence[str], *, keep: int, seed: int
) -> Selection:
    """The selection from `probs` (candidates, pairs), P(A is better), NaN = no verdict, for the soft `labels` (pairs,).

    The prediction of several is their mean, as `rlaif.judge.aggregate` makes it of equal principles. A pair without any
    verdict is predicted as one half: nothing is known of it. `prompts` names the prompt of each pair.
    """
    flips = _flips(prompts, seed)
    total, count = np.zeros_like(labels), np.zeros_like(labels)
    loss = float(log_loss(np.full((1, len(labels)), 0.5), labels)[0])
    least = MIN_SHARE * (loss - _entropy(labels))
    left = list(range(len(ids)))
    steps: list[SelectionStep] = []
    refused: SelectionStep | None = None
    alone: dict[str, float] = {}
    inverted: dict[str, float] = {}
    while left and len(steps) < keep:
        as_said, turned = _joined(total, count, probs[left]), _joined(total, count, 1 - probs[left])
        losses = log_loss(as_said, labels)
        by_chance = loss - _turned_losses(as_said, turned, labels, flips).min(axis=1)
        needed = max(least, float(np.quantile(by_chance, LEVEL)))
        if not steps:
            alone = {ids[place]: loss - float(value) for place, value in zip(left, losses, strict=True)}
            against = loss - log_loss(turned, labels)
            inverted = {ids[place]: float(gain) for place, gain in enumerate(against) if gain > needed}
        best = int(losses.argmin())
        step = SelectionStep(ids[left[best]], float(losses[best]), loss - float(losses[best]), needed)
        if step.gain <= needed:
            refused = step
            break
        chosen = left.pop(best)
        known = ~np.isnan(probs[chosen])
        total, count, loss = total + np.where(known, probs[chosen], 0.0), count + known, step.loss
        steps.append(step)
    return Selection(tuple(steps), refused, alone, inverted)


def log_loss(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(candidates,) mean log-loss in nats of `predicted` (candidates, pairs), each at its best sharpness."""
    best: np.ndarray = np.min([losses.mean(axis=1) for losses in _pair_losses(predicted, labels)], axis=0)
    return best


def _turned_losses(said: np.ndarray, turned: np.ndarray, labels: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """(flips, candidates) the log-loss where each of `flips` (flips, pairs) takes the prediction from `turned` for some
    pairs and from `said` for the others. The loss of every pair is computed once either way."""
    best = np.full((len(flips), len(said)), np.inf)
    for kept, other in zip(_pair_losses(said, labels), _pair_losses(turned, labels), strict=True):
        np.minimum(best, kept.mean(axis=1) + flips @ (other - kept).T / len(labels), out=best)
    return best


def _pair_losses(predicted: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """(candidates, pairs) log-losses in nats, at each sharpness in turn."""
    odds = logit(np.clip(predicted, _EDGE, 1 - _EDGE))
    for sharp in SHARPNESS:
        yield np.logaddexp(0.0, sharp * odds) - sharp * labels * odds


def _entropy(labels: np.ndarray) -> float:
    """Mean entropy of the soft labels in nats: the loss of predicting each one as it is."""
    p = np.clip(labels, _EDGE, 1 - _EDGE)
    return float((entr(p) + entr(1 - p)).mean())


def _joined(total: np.ndarray, count: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(candidates, pairs) the mean prediction with each candidate added; 0.5 where nobody has a verdict."""
    known = ~np.isnan(rows)
    number = count + known
    return np.where(number > 0, (total + np.where(known, rows, 0.0)) / np.maximum(number, 1), 0.5)


def _flips(prompts: Sequence[str], seed: int) -> np.ndarray:
    """(DRAWS, pairs) ones and zeros, each row one for all pairs of about half the prompts."""
    _, number = np.unique(np.asarray(prompts), return_inverse=True)
    coins = np.random.default_rng(seed).random((DRAWS, int(number.max()) + 1)) < 0.5
    flips: np.ndarray = coins[:, number].astype(float)
    return flips
