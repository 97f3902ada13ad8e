"""Which candidates are near-duplicates of one another: in their wording, or in what the judge says under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, logit

from rlaif.analysis.recover.candidates import Candidate, bare
from rlaif.constitution.wording import near_duplicates

SAME_VERDICTS = 0.05
"""Mean |P - P'| over the training pairs up to which two candidates behave alike, once the log-odds of either have 1 as
the mean of their absolute values: a cautious judge says nearly one half under all rules, whatever they ask for."""
SAME_PREFERENCE = 0.9
"""Share of the training pairs on which two candidates that behave alike prefer the same answer at least."""
_EDGE = 1e-6


@dataclass(frozen=True, slots=True)
class AlikeCandidates:
    """One candidate was kept of several that are alike in wording or behaviour."""

    kept: str
    dropped: tuple[str, ...]
    alike: Literal["wording", "behaviour"]


def by_wording(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[AlikeCandidates]]:
    """The candidates without those whose statement is nearly that of another one, and what was dropped."""
    pairs = [
        (later, earlier) for later, earlier, _ in near_duplicates([bare(c.principle.statement) for c in candidates])
    ]
    return _grouped(candidates, pairs, "wording")


def by_behaviour(candidates: Sequence[Candidate], probs: np.ndarray) -> tuple[list[Candidate], list[AlikeCandidates]]:
    """The same by `probs` (candidates, pairs), P(A is better), NaN = no verdict.

    A candidate joins the first one that is like it, never one that joined another: likeness is not passed on.
    """
    scaled, preferred, silent = _at_one_scale(probs), np.sign(probs - 0.5), np.isnan(probs)
    pairs: list[tuple[int, int]] = []
    heads: list[int] = []
    for place in range(len(probs)):
        heard, others = ~silent[place], np.asarray(heads, dtype=int)
        others = others[(silent[others] == silent[place]).all(axis=1)] if heard.any() else others[:0]
        apart = np.abs(scaled[others] - scaled[place]).sum(axis=1, where=heard)
        differ = np.abs(preferred[others] - preferred[place]).sum(axis=1, where=heard) / 2
        like = (apart <= SAME_VERDICTS * heard.sum()) & (differ <= (1 - SAME_PREFERENCE) * heard.sum())
        if like.any():
            pairs.append((place, int(others[like.argmax()])))
        else:
            heads.append(place)
    return _grouped(candidates, pairs, "behaviour")


def _at_one_scale(probs: np.ndarray) -> np.ndarray:
    """The same shape: each row as a judge would say it whose log-odds are 1 in the mean of their absolute values."""
    odds = logit(np.clip(probs, _EDGE, 1 - _EDGE))
    spread = np.nansum(np.abs(odds), axis=1) / np.maximum((~np.isnan(odds)).sum(axis=1), 1)
    scaled: np.ndarray = expit(odds / np.where(spread > 0, spread, 1.0)[:, None])
    return scaled


def _grouped(
    candidates: Sequence[Candidate], pairs: Sequence[tuple[int, int]], alike: Literal["wording", "behaviour"]
) -> tuple[list[Candidate], list[AlikeCandidates]]:
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
            clusters.append(AlikeCandidates(candidates[best].principle.id, dropped, alike))
    return [candidates[place] for place in sorted(kept)], clusters
