"""Which candidates are alike in behaviour does not depend on how sure of itself the judge is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rlaif.analysis.recover.candidates import Candidate
from rlaif.analysis.recover.clusters import by_behaviour
from tests.analysis.recover.cases import POOL


def heads(*odds: Sequence[float] | np.ndarray) -> list[int]:
    """The numbers of the rows of log-odds that stay."""
    rows = np.stack([np.asarray(row, dtype=float) for row in odds])
    kept, _ = by_behaviour([Candidate(p, "pool") for p in POOL[: len(rows)]], 1 / (1 + np.exp(-rows)))
    return [POOL.index(candidate.principle) for candidate in kept]


ROW = np.random.default_rng(0).normal(size=400)
OTHER = np.random.default_rng(1).normal(size=400)


@pytest.mark.parametrize("scale", [0.001, 0.02, 1.0, 3.0])
def test_a_modest_judge_tells_rules_apart_as_well_as_a_sure_one(scale: float) -> None:
    assert heads(scale * ROW, -scale * ROW, scale * OTHER) == [0, 1, 2]


@pytest.mark.parametrize("scale", [0.001, 0.02, 1.0, 3.0])
def test_rows_that_differ_a_little_are_alike(scale: float) -> None:
    """Noise of a tenth turns round one pair in thirty, noise of six tenths one in six."""
    near = ROW + 0.1 * OTHER
    assert heads(scale * ROW, scale * near) == [0]
    assert heads(scale * ROW, 2 * scale * near) == [0]
    assert heads(scale * ROW, scale * (ROW + 0.6 * OTHER)) == [0, 1]


def test_the_same_answers_must_be_preferred() -> None:
    """Two thirds of the pairs are near-ties under both rules; what they prefer there is the other answer."""
    sure, tie = np.tile([1.0, -1.0], 50), np.full(200, 0.01)
    assert heads(np.concatenate([sure, tie]), np.concatenate([sure, -tie])) == [0, 1]
    assert heads(np.concatenate([sure, tie]), np.concatenate([sure, tie / 2])) == [0]


def test_silence_is_like_nothing_and_the_same_silence_may_be_alike() -> None:
    gaps = np.where(np.arange(400) < 40, np.nan, ROW)
    nothing = np.full(400, np.nan)
    assert heads(ROW, gaps, nothing, nothing, gaps, np.zeros(400), np.zeros(400)) == [0, 1, 2, 3, 5]
