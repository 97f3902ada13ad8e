"""Intervals in closed form: of a share of independent trials, and of the mean of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959964
"""The normal quantile of a two-sided 95 % interval."""


def wilson(passed: float, n: int) -> tuple[float | None, float | None]:
    """The 95 % interval of a share, which stays within 0..1 and has a width at 0 and 1 too; (None, None) for n = 0.

    Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if n == 0:
        return None, None
    share, z2 = passed / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_difference(differences: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of paired differences, one at least, with Student's 95 % interval; no interval for a single one."""
    n = len(differences)
    mean = math.fsum(differences) / n
    if n == 1:
        return mean, None, None
    from scipy.special import stdtrit

    variance = math.fsum((value - mean) ** 2 for value in differences) / (n - 1)
    half = float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)
    return mean, mean - half, mean + half
