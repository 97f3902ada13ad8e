"""How far gold agrees with labels, apart for labels of the policy's own answers and of pairs by contrast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.core.files import RunFolder, read_record, write_atomic
from rlaif.core.records import AnswerSource, PreferenceLabel, content_id, to_json
from rlaif.core.statistics import Draw, Estimate, Keyed, agree, preferred
from rlaif.gold.scorers import GoldScorer

PAIRS = 400
"""Labelled pairs of either kind of answers that are scored, drawn by hash: more would narrow no interval that
counts."""


@dataclass(frozen=True, slots=True)
class GoldAgreement:
    """Share of the labelled pairs of a kind and slice ("" = all) on which the scorer `gold` prefers the label's answer.

    Pairs that gold scores alike are in no share."""

    answers: AnswerSource
    slice: str
    gold: str
    share: Estimate


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """Every share that could be measured; `notes` say which scorers are missing."""

    rows: tuple[GoldAgreement, ...]
    notes: tuple[str, ...] = ()

    def write(self, run: RunFolder) -> None:
        write_atomic(_file(run), json.dumps(to_json(self), indent=1))


def read_agreement(run: RunFolder) -> LabelAgreement | None:
    """What the run's evaluation measured of its labels; None where there is nothing yet."""
    path = _file(run)
    return read_record(path, LabelAgreement, "an agreement of labels with gold", "evaluate") if path.exists() else None


def _file(run: RunFolder) -> Path:
    return run.file("evaluate", "label_agreement.json")


def gold_agreement(
    labels: Sequence[PreferenceLabel], scorers: Sequence[GoldScorer], draw: Draw, notes: Sequence[str] = ()
) -> LabelAgreement:
    """The shares of each scorer over each kind of answers, all slices together first."""
    rows: list[GoldAgreement] = []
    kinds: dict[AnswerSource, list[PreferenceLabel]] = {}
    for label in sorted(labels, key=lambda label: content_id("gold agreement", label.id)):
        if label.prob_a is not None:
            kinds.setdefault(label.answers, []).append(label)
    for kind in sorted(kinds, reverse=True):  # the policy's first
        chosen = kinds[kind][:PAIRS]
        slices = sorted({label.comparison.prompt.slice for label in chosen})
        for scorer in scorers:
            votes = agreements(chosen, scorer)
            for name in ["", *(slices if len(slices) > 1 else [])]:
                part = [vote for label, vote in zip(chosen, votes, strict=True)
                        if name in ("", label.comparison.prompt.slice)]  # fmt: skip
                share = draw.share(part)
                if share is not None:
                    rows.append(GoldAgreement(kind, name, scorer.name, share))
    return LabelAgreement(tuple(rows), tuple(notes))


def agreements(labels: Sequence[PreferenceLabel], scorer: GoldScorer) -> list[Keyed]:
    """Per label its prompt's id, and 1 where the scorer prefers the same answer, 0 where the other, 0.5 where the label
    prefers none; None where there is no label or the scorer has the two alike."""
    sides = {side.id: (label.comparison.prompt, side.text)
             for label in labels for side in (label.comparison.a, label.comparison.b)}  # fmt: skip
    found = scorer.score([prompt for prompt, _ in sides.values()], [text for _, text in sides.values()])
    score = dict(zip(sides, found, strict=True))
    votes: list[Keyed] = []
    for label in labels:
        pair = label.comparison
        a, b = score[pair.a.id], score[pair.b.id]
        vote = None
        if label.prob_a is not None and a is not None and b is not None and a != b:
            higher = preferred(0.5 + a - b)
            vote = agree(label.prob_a, higher if scorer.better == "higher" else 1 - higher)
        votes.append((pair.prompt.id, vote))
    return votes
