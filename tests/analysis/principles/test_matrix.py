"""Principles two by two, by hand: copies, opposites, and what too few pairs say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlaif.analysis.principles.matrix import Matrix, clusters, matrix, most_opposed, twosomes
from rlaif.analysis.principles.measure import about_zero
from tests.analysis.principles.pairs import pair, rules


def test_two_by_two_by_hand() -> None:
    three = rules("a", "b", "c")
    pairs = [pair(0, three, (0.9, 0.8, 0.1)), pair(1, three, (0.3, 0.5, 0.6)), pair(2, three, (0.2, None, 0.9))]
    found = matrix([*pairs, replace(pairs[0], lengths=(1, 9))])
    a, b, c = (found.ids.index(name) for name in "abc")
    assert (found.pairs[a][b], found.pairs[a][c], found.pairs[a][a]) == (3, 4, 4)
    assert found.agreement[a][b] == pytest.approx((1 + 0.5 + 1) / 3)
    assert found.agreement[a][c] == 0
    assert found.matched_agreement[a][b] == 0.75
    assert found.conflict[a][c] == pytest.approx(3 / 4), "pair 1 is not clear"
    assert found.conflict[a][b] == 0
    xs, ys = (0.4, -0.2, -0.3, 0.4), (-0.4, 0.1, 0.4, -0.4)
    expected = (
        sum(x * y for x, y in zip(xs, ys, strict=True)) / (sum(x * x for x in xs) * sum(y * y for y in ys)) ** 0.5
    )
    assert found.correlation[a][c] == pytest.approx(expected)
    assert abs(a - b) == 1, "the two that agree stand beside each other"
    assert (twosomes(found), clusters(found), most_opposed(found, 3)) == ([], [], []), "too few pairs in common"


def test_copies_are_a_cluster_and_opposites_a_conflict() -> None:
    four = rules("copy", "lone", "same", "turned")
    votes = [0.1, 0.9, 0.8, 0.2, 0.7, 0.1, 0.9, 0.3, 0.2, 0.6] * 3
    pairs = [pair(n, four, (p, 0.9 if n % 2 else 0.1, p, 1 - p)) for n, p in enumerate(votes)]
    found = matrix(pairs)
    (group,) = clusters(found)
    assert (group.ids, group.agreement, group.pairs) in [(["copy", "same"], 1.0, 30), (["same", "copy"], 1.0, 30)]
    opposed = most_opposed(found, 2)
    assert {(*sorted((row.first, row.second)), row.conflict) for row in opposed} == {
        ("copy", "turned", 0.7),
        ("same", "turned", 0.7),
    }
    assert all(row.correlation == pytest.approx(-1) and row.agreement == 0 for row in opposed)
    assert abs(found.ids.index("copy") - found.ids.index("same")) == 1


def test_few_pairs_make_no_cluster() -> None:
    two = rules("kind", "safe")
    same = [pair(n, two, (0.9, 0.8)) for n in range(20)]
    assert [len(clusters(matrix(same[:n]))) for n in (19, 20)] == [0, 1]


def test_principles_that_share_no_pair_have_no_cell() -> None:
    two = rules("kind", "safe")
    found = matrix([pair(0, two, (0.9, None)), pair(1, two, (None, 0.9)), pair(2, two, (0.5, None))])
    first, second = found.ids.index("kind"), found.ids.index("safe")
    assert (found.agreement[first][second], found.correlation[first][second], found.conflict[first][second]) == (
        None, None, None,
    )  # fmt: skip
    assert matrix([]) == Matrix([], [], [], [], [], [])
    assert about_zero([(0.0, 3.0)]) is None
