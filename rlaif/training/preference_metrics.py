"""How well predicted preferences agree with soft labels: accuracy, log loss, Brier score, calibration. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from rlaif.core.evaluation import HeldOut, HeldOutAccuracy, HeldOutBin
from rlaif.core.statistics import MIN_PROMPTS

BINS = 10


def agreement(margins: ArrayLike, prob_a: ArrayLike) -> float | None:
    """Share of pairs whose margin (A over B) has the sign of `prob_a` - 0.5; a margin of 0 counts one half.

    Pairs labelled exactly 0.5 have no side and are left out; None if no pair is left.
    """
    margin, label = np.asarray(margins, float), np.asarray(prob_a, float)
    sided = label != 0.5
    if not sided.any():
        return None
    right = np.sign(margin[sided]) * np.sign(label[sided] - 0.5)
    return float(np.mean((right + 1) / 2))


def label_entropy(prob_a: ArrayLike) -> float:
    """Mean entropy of the labels in nats: the log loss of a model that predicts every label exactly, its floor."""
    label = np.asarray(prob_a, float)
    return float(np.mean(_cross_entropy(label, label)))


def held_out_verdict(
    model: HeldOutAccuracy, predictors: Sequence[HeldOutAccuracy], prompts: int
) -> tuple[bool | None, str]:
    """(whether the model is right more often than the best trivial predictor, beyond chance; the sentence that says
    so); None where no label has a side. `prompts`: of the labels with one."""
    measured = [(found.accuracy, found) for found in predictors if found.accuracy is not None]
    if model.accuracy is None or not measured:
        return None, "No held-out label has a side, so the reward model was not measured."
    share, best = max(measured, key=lambda item: item[0])
    said = f"The reward model is right on {_percent(model)} of {model.pairs} held-out labels; "
    if model.accuracy <= share:
        said += f"{best.name} alone on {_percent(best)}: it does not beat that, and may have learnt nothing else."
        return False, said
    said += f"the best trivial predictor ({best.name}) on {_percent(best)}"
    if best.lead is None or best.lead_low is None or best.lead_high is None or prompts < MIN_PROMPTS:
        return False, f"{said}: {prompts} prompts are too few to say whether that is chance."
    lead = f"{100 * best.lead:+.0f} points [{100 * best.lead_low:+.0f}, {100 * best.lead_high:+.0f}]"
    beats = best.lead_low > 0
    return beats, f"{said}: {lead}, {'so it has learnt more than that' if beats else 'which may be chance'}."


def _percent(found: HeldOutAccuracy) -> str:
    if found.accuracy is None:
        return "-"
    interval = "" if found.low is None or found.high is None else f" [{found.low:.0%}, {found.high:.0%}]"
    return f"{found.accuracy:.0%}{interval}"


def held_out_report(
    margins: Sequence[float],
    prob_a: Sequence[float],
    lengths_a: Sequence[int],
    lengths_b: Sequence[int],
    prompts: int | None = None,
) -> HeldOut:
    """What `reward/held_out.json` says of pairs of so many prompts, with `margins` in log-odds."""
    label = np.asarray(prob_a, float)
    predicted = 1 / (1 + np.exp(-np.asarray(margins, float)))
    index = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins, off = [], 0.0
    for b in sorted(set(index.tolist())):
        inside = index == b
        mean, said, n = float(predicted[inside].mean()), float(label[inside].mean()), int(inside.sum())
        bins.append(HeldOutBin(b / BINS, (b + 1) / BINS, mean, said, n))
        off += n * abs(mean - said)
    return HeldOut(
        accuracy=agreement(margins, prob_a),
        log_loss=float(np.mean(_cross_entropy(label, predicted))),
        brier=float(np.mean((predicted - label) ** 2)),
        ece=off / len(label),
        pairs=len(label),
        label_entropy=label_entropy(prob_a),
        bins=tuple(bins),
        length_accuracy=agreement(np.subtract(lengths_b, lengths_a), prob_a),
        prompts=prompts,
    )


def _cross_entropy(label: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    tiny = np.finfo(float).tiny
    result: np.ndarray = -(
        label * np.log(np.maximum(predicted, tiny)) + (1 - label) * np.log(np.maximum(1 - predicted, tiny))
    )
    return result
