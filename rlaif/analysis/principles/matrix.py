"""How alike the principles are, two by two: agreement, correlation and conflict, an order, and groups that repeat.

The correlation is Pearson's of P - 0.5, about 0: these very numbers, times the weights, are what the label is the mean
of, and two principles with a correlation near 1 pull it as one. It is taken about 0 because it is drawn which answer
stands as A. Ranks (Spearman) would give the smallest leanings as much say as clear ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlaif.analysis.principles.pairs import VotedPair

CLEAR = 0.25
"""A vote this far from 0.5 is clear, as in the report; two clear ones on different sides are a conflict."""
REDUNDANT = 0.95
"""Principles repeat each other where every two of the group agree on at least this share of the pairs."""
MIN_PAIRS = 20
"""Two principles with fewer pairs in common are not called alike or opposed."""

Cells = list[list[float | None]]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Square tables over `ids`, which stand in the order of a clustering: alike ones beside each other.

    `pairs` counts the pairs that two principles both voted on; the other cells are None where there is none.
    `agreement`: share of these on which both prefer the same answer, a tie of one of them half, of both left out.
    `matched_agreement`: the same on pairs of answers of about the same length. `conflict`: share on which both are
    clear and opposed. `correlation` is None also where one of the two is one half on all of them.
    """

    ids: list[str]
    pairs: list[list[int]]
    agreement: Cells
    matched_agreement: Cells
    conflict: Cells
    correlation: Cells


@dataclass(frozen=True, slots=True)
class Twosome:
    """Two principles and their cells."""

    first: str
    second: str
    pairs: int
    agreement: float
    matched_agreement: float | None
    conflict: float
    correlation: float | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Principles of which every two agree on REDUNDANT of their pairs; `agreement` and `pairs` are the smallest."""

    ids: list[str]
    agreement: float
    pairs: int


def matrix(pairs: Sequence[VotedPair]) -> Matrix:
    """The tables over all principles with a vote; their order is that of a hierarchical clustering (average linkage
    on 1 - correlation, no correlation counting as 0), whatever order they come in."""
    ids = sorted({vote.principle.id for pair in pairs for vote in pair.votes if vote.prob_a is not None})
    pushes = _pushes(pairs, ids)
    known = ~np.isnan(pushes)
    matched = np.array([pair.length_matched for pair in pairs], dtype=bool)
    counts = known.T.astype(int) @ known.astype(int)
    sides = np.sign(pushes) / 2
    clear = np.where(np.abs(np.nan_to_num(pushes)) >= CLEAR, np.sign(np.nan_to_num(pushes)), 0.0)
    opposed = (np.abs(clear).T @ np.abs(clear) - clear.T @ clear) / 2
    correlation = _correlation(np.nan_to_num(pushes), known)
    order = _order(correlation)
    place = np.ix_(order, order)
    return Matrix(
        ids=[ids[index] for index in order],
        pairs=[[int(count) for count in row] for row in counts[place]],
        agreement=_cells(_agreement(sides)[place]),
        matched_agreement=_cells(_agreement(sides[matched])[place]),
        conflict=_cells(_ratio(opposed, counts)[place]),
        correlation=_cells(correlation[place]),
    )


def twosomes(found: Matrix) -> list[Twosome]:
    """Every two principles with at least MIN_PAIRS pairs in common, in the matrix's order."""
    rows = []
    for i, first in enumerate(found.ids):
        for j, second in enumerate(found.ids[:i]):
            agreement, conflict = found.agreement[i][j], found.conflict[i][j]
            if found.pairs[i][j] >= MIN_PAIRS and agreement is not None and conflict is not None:
                matched, correlation = found.matched_agreement[i][j], found.correlation[i][j]
                rows.append(Twosome(second, first, found.pairs[i][j], agreement, matched, conflict, correlation))
    return rows


def most_opposed(found: Matrix, limit: int) -> list[Twosome]:
    """The `limit` twosomes with the most conflict, then the least agreement; none without any conflict."""
    rows = [row for row in twosomes(found) if row.conflict > 0]
    return sorted(rows, key=lambda row: (-row.conflict, row.agreement, row.first, row.second))[:limit]


def clusters(found: Matrix) -> list[Cluster]:
    """Groups of two or more principles that repeat each other, the largest first; every two of a group agree (complete
    linkage)."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(found.ids) < 2:
        return []
    agreement = np.array([[0.0 if cell is None else cell for cell in row] for row in found.agreement])
    agreement[np.array(found.pairs) < MIN_PAIRS] = 0.0
    distance = np.maximum(1 - agreement, 0)
    groups = fcluster(linkage(_upper(distance), "complete"), 1 - REDUNDANT + 1e-9, "distance")
    rows = []
    for group in sorted(set(groups)):
        members = np.flatnonzero(groups == group)
        if len(members) > 1:
            inside = [(i, j) for i in members for j in members if i < j]
            rows.append(
                Cluster(
                    [found.ids[index] for index in members],
                    float(min(agreement[cell] for cell in inside)),
                    min(found.pairs[i][j] for i, j in inside),
                )
            )
    return sorted(rows, key=lambda row: (-len(row.ids), row.ids))


def _pushes(pairs: Sequence[VotedPair], ids: Sequence[str]) -> np.ndarray:
    """P - 0.5, (pairs, principles); NaN without a vote."""
    found = np.full((len(pairs), len(ids)), np.nan)
    column = {name: index for index, name in enumerate(ids)}
    for row, pair in enumerate(pairs):
        for vote in pair.votes:
            if vote.prob_a is not None:
                found[row, column[vote.principle.id]] = vote.prob_a - 0.5
    return found


def _agreement(sides: np.ndarray) -> np.ndarray:
    """Mean of `measure.agree` over the pairs that both voted on and one of them prefers an answer of, (principles,
    principles); `sides` is -0.5, 0 or 0.5 for the answer preferred, (pairs, principles)."""
    rows = []
    for column in sides.T:
        apart = np.abs(sides - column[:, None])
        apart[(sides == 0) & (column[:, None] == 0)] = np.nan
        rows.append(_ratio(np.nansum(1 - apart, axis=0), (~np.isnan(apart)).sum(axis=0)))
    return np.array(rows).reshape(sides.shape[1], sides.shape[1])


def _correlation(pushes: np.ndarray, known: np.ndarray) -> np.ndarray:
    squares = (pushes**2).T @ known
    return np.asarray(np.clip(_ratio(pushes.T @ pushes, np.sqrt(squares * squares.T)), -1, 1))


def _order(correlation: np.ndarray) -> list[int]:
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(correlation) < 2:
        return list(range(len(correlation)))
    distance = 1 - np.nan_to_num(correlation, nan=0.0)
    return [int(index) for index in leaves_list(linkage(_upper(distance), "average", optimal_ordering=True))]


def _upper(square: np.ndarray) -> np.ndarray:
    """The cells above the diagonal in one row, as scipy's clustering takes distances."""
    return np.asarray(square[np.triu_indices(len(square), 1)])


def _ratio(over: Any, under: Any) -> np.ndarray:
    """over / under, NaN where `under` is 0."""
    under = np.asarray(under, dtype=float)
    return np.asarray(np.divide(over, under, out=np.full(under.shape, np.nan), where=under > 0))


def _cells(square: np.ndarray) -> Cells:
    return [[None if np.isnan(value) else float(value) for value in row] for row in square]
