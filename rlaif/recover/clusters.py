"""Which candidates are near-duplicates of one another: in their wording, or in what the judge says under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlaif.constitution.wording import near_duplicates
from rlaif.recover.candidates import Candidate

SAME_VERDICTS = 0.05
"""Mean |P - P'| over the training pairs up to which two candidates behave alike."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One candidate was kept of several that are alike in wording or behaviour."""

    kept: str
    dropped: tuple[str, ...]
    alike: Literal["wording", "behaviour"]


def by_wording(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Cluster]]:
    """The candidates without those whose statement is nearly that of another one, and what was dropped."""
    pairs = [(later, earlier) for later, earlier, _ in near_duplicates([c.principle.statement for c in candidates])]
    return _grouped(candidates, pairs, "wording")


def by_behaviour(candidates: Sequence[Candidate], probs: np.ndarray) -> tuple[list[Candidate], list[Cluster]]:
    """The same by `probs` (candidates, pairs), P(A is better), NaN = no verdict.

    A candidate joins the first one that is like it, never one that joined another: likeness is not passed on.
    """
    pairs: list[tuple[int, int]] = []
    heads: list[int] = []
    for place, row in enumerate(probs):
        head = next((other for other in heads if _alike(row, probs[other])), None)
        if head is None:
            heads.append(place)
        else:
            pairs.append((place, head))
    return _grouped(candidates, pairs, "behaviour")


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    silent = np.isnan(one)
    if (silent != np.isnan(other)).any() or silent.all():
        return False
    return float(np.abs(one - other)[~silent].mean()) <= SAME_VERDICTS


def _grouped(
    candidates: Sequence[Candidate], pairs: Sequence[tuple[int, int]], alike: Literal["wording", "behaviour"]
) -> tuple[list[Candidate], list[Cluster]]:
    """One candidate for each group linked by `pairs`: the first whose contrast pair somebody wrote, else the first."""
    head = list(range(len(candidates)))
    for later, earlier in pairs:
        head[later] = head[earlier]
    groups: dict[int, list[int]] = {}
    for place, first in enumerate(head):
        groups.setdefault(first, []).append(place)
    kept, clusters = [], []
    for members in groups.values():
        best = min(members, key=lambda place: (candidates[place].contrast_made, place))
        kept.append(best)
        if len(members) > 1:
            dropped = tuple(candidates[place].principle.id for place in members if place != best)
            clusters.append(Cluster(candidates[best].principle.id, dropped, alike))
    return [candidates[place] for place in sorted(kept)], clusters
