"""The calibration maps of a card: fitted on all its pairs, and measured on pairs that they were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from rlaif.core.records import Constitution, content_id
from rlaif.core.statistics import Draw, paired_difference
from rlaif.judge.aggregate import Settling, aggregate
from rlaif.judge.calibration import LEAST, Kind, fit
from rlaif.judge.card.figures import JudgedPair, calibration
from rlaif.judge.card.records import FittedMap

FOLDS = 5


def fitted_maps(
    rows: Sequence[JudgedPair], constitution: Constitution, settling: Settling, draw: Draw
) -> list[FittedMap]:
    """One per kind that there are pairs enough for.

    Pairs that the judge abstains on count with what their votes say: a map comes before the abstention.
    """
    plain = replace(settling, calibration=None, abstain_below=0.0)
    known = []
    for row in rows:
        prob_a = aggregate(row.label.verdicts, constitution.principles, plain).prob_a
        if prob_a is not None:
            known.append(JudgedPair(row.pair, replace(row.label, prob_a=prob_a)))
    found = (_fitted(kind, known, draw) for kind in get_args(Kind) if len(known) >= LEAST[kind])
    return [entry for entry in found if entry is not None]


def _fitted(kind: Kind, rows: Sequence[JudgedPair], draw: Draw) -> FittedMap | None:
    parts: list[list[JudgedPair]] = [[] for _ in range(FOLDS)]
    for row in rows:
        parts[int(content_id("calibration fold", row.pair.prompt_id), 16) % FOLDS].append(row)
    held_out, before = [], []
    for place, part in enumerate(parts):
        others = [row for other in (*parts[:place], *parts[place + 1 :]) for row in other]
        if not others:
            return None  # all pairs are of prompts of one part: nothing is left to fit on
        calibrated = fit(kind, _right(others))
        for row in part:
            assert row.label.prob_a is not None
            held_out.append(JudgedPair(row.pair, replace(row.label, prob_a=calibrated(row.label.prob_a))))
            before.append(row)
    figures = calibration(held_out, draw)
    change = paired_difference(_loss(held_out), _loss(before), seed=draw.seed, resamples=draw.resamples)
    if figures is None or change is None:
        return None
    return FittedMap(fit(kind, _right(rows)), len(rows), figures.brier, figures.ece, change)


def _right(rows: Sequence[JudgedPair]) -> list[float]:
    return [p for row in rows if (p := row.prob_right) is not None]


def _loss(rows: Sequence[JudgedPair]) -> list[tuple[str, float]]:
    return [(row.pair.prompt_id, (1 - p) ** 2) for row in rows if (p := row.prob_right) is not None]
