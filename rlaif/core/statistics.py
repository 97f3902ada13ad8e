"""The statistics that every room uses: means, differences and win rates with 95 % intervals; odds and probabilities.

Answers to the same prompt are alike, so the prompt is what is resampled, never the answer: values are averaged per
prompt first, and scipy's bootstrap resamples those means (BCa; percentile where BCa has no value). Few prompts give
intervals that are somewhat too narrow, as with any bootstrap.

Three formulas are written out here although scipy has them: Wilson's interval, because `binomtest` takes whole counts
only and a share of prompts has halves in it; `sigmoid` and `logit`, because scipy's `expit` and `logit` differ from
them in the last bit in a quarter of all cases, and probabilities that are already stored would no longer come out the
same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlaif.core.records import WinRate

Statistic = Callable[..., np.ndarray]
"""Of columns of numbers, one of each prompt."""
Keyed = tuple[str, float | None]
"""(prompt id, value); None = not measured."""
MIN_PROMPTS = 10
"""With fewer prompts nothing is said in words that rests on an interval: the bootstrap's 95 % intervals of 4 prompts
hold the truth in 75 to 84 of 100 cases where a prompt's values are graded, those of 10 in 88 to 94
(`python benchmarks/intervals.py`, docs/read-a-report.md)."""
Z95 = 1.959964
"""The normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean of per-prompt means with its 95 % interval; `low` and `high` are None for a single prompt.

    `n` counts the values behind it, `prompts` the clusters.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    prompts: int

    def side(self, line: float = 0.0) -> int:
        """1 where the interval lies above the line, -1 where it lies below; 0 where it holds it, where there is none,
        and where the prompts are too few for it."""
        if self.low is None or self.high is None or self.prompts < MIN_PROMPTS:
            return 0
        return int(self.low > line) - int(self.high < line)


def by_prompt(values: Sequence[Keyed]) -> dict[str, float]:
    """Mean value of every prompt that has at least one; values of None are left out."""
    groups: dict[str, list[float]] = {}
    for prompt_id, value in values:
        if value is not None:
            groups.setdefault(prompt_id, []).append(float(value))
    return {prompt_id: math.fsum(group) / len(group) for prompt_id, group in groups.items()}


def mean(values: Sequence[Keyed], *, seed: int, resamples: int) -> Estimate | None:
    """The mean over prompts of each prompt's mean, with interval; None where nothing was measured."""
    measured = sum(value is not None for _, value in values)
    return _estimate(by_prompt(values), measured, seed, resamples)


def mean_share(values: Sequence[Keyed], *, seed: int, resamples: int) -> Estimate | None:
    """As `mean`, of values from 0 to 1. Where all prompts have one share, a bootstrap has no width, and the interval
    is Wilson's, of prompts."""
    return _share_with_width(mean(values, seed=seed, resamples=resamples))


def pooled_share(values: Sequence[Keyed], *, seed: int, resamples: int) -> Estimate | None:
    """The mean over all values, from 0 to 1, whosever prompt they are, with interval over prompts.

    A prompt counts by how many values it has, in the mean and in every resample of the prompts. Where those are all
    alike the interval is Wilson's, of prompts.
    """
    return _share_with_width(_pooled(values, seed, resamples))


def pooled_share_difference(
    values: Sequence[Keyed], against: Sequence[Keyed], *, seed: int, resamples: int
) -> Estimate | None:
    """The pooled share of the one less that of the other, which has a value for the same things in the same order, with
    interval over prompts: the difference of two `pooled_share`."""
    differences = [
        (prompt_id, None if this is None or that is None else this - that)
        for (prompt_id, this), (_, that) in zip(values, against, strict=True)
    ]
    return _difference_with_width(_pooled(differences, seed, resamples))


def is_share(values: Iterable[float | None]) -> bool:
    """Whether the values are seen to say of each answer that it is what is counted or is not: all are True or False, or
    both 0 and 1 are there and nothing else. Numbers that are all 0 may be of any measure."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool | np.bool_) for value in known):
        return bool(known)
    return set(known) == {0, 1}


def paired(values: Sequence[Keyed], against: Sequence[Keyed]) -> dict[str, float]:
    """Prompt id -> this less that, each a mean over the prompt's values, for the prompts that both have."""
    this, that = by_prompt(values), by_prompt(against)
    return {prompt_id: this[prompt_id] - that[prompt_id] for prompt_id in this if prompt_id in that}


def paired_difference(
    values: Sequence[Keyed], against: Sequence[Keyed], *, seed: int, resamples: int
) -> Estimate | None:
    """Mean over prompts of (this - that), with interval, on the prompts that both have; None where there are none.

    The difference is taken per prompt first: what makes one prompt harder than another drops out. `n` = prompts.
    """
    differences = paired(values, against)
    return _estimate(differences, len(differences), seed, resamples)


def share_difference(
    values: Sequence[Keyed], against: Sequence[Keyed], *, seed: int, resamples: int
) -> Estimate | None:
    """As `paired_difference`, of values from 0 to 1. Where all prompts have one difference, a bootstrap has no width.

    Then it is the share that was gained less the share that was lost, and the Wilson intervals of the two, of prompts,
    are joined by adding squares (Newcombe, Stat. Med. 17 (1998) 2635).
    """
    return _difference_with_width(paired_difference(values, against, seed=seed, resamples=resamples))


def _pooled(values: Sequence[Keyed], seed: int, resamples: int) -> Estimate | None:
    """The mean over all values: the line through the origin that they lie on where every x is 1."""
    return slope([(prompt_id, 1.0, y) for prompt_id, y in values if y is not None], seed=seed, resamples=resamples)


def _share_with_width(found: Estimate | None) -> Estimate | None:
    if found is None or found.low != found.high:
        return found
    low, high = wilson(found.mean * found.prompts, found.prompts)
    return replace(found, low=low, high=high)


def _difference_with_width(found: Estimate | None) -> Estimate | None:
    if found is None or found.low != found.high:
        return found
    gained, lost = max(found.mean, 0.0), max(-found.mean, 0.0)
    (gained_low, gained_high), (lost_low, lost_high) = (_wilson(share, found.prompts) for share in (gained, lost))
    return replace(
        found,
        low=found.mean - math.hypot(gained - gained_low, lost_high - lost),
        high=found.mean + math.hypot(gained_high - gained, lost - lost_low),
    )


def preferred(probability: float) -> float:
    """1 where the first of two is preferred, 0 where the other is, 0.5 on the line."""
    return float(probability > 0.5) + 0.5 * (probability == 0.5)


def agree(one: float, other: float) -> float:
    """1 where two probabilities prefer the same answer, 0.5 where one of them is exactly one half, else 0; 1 where
    both are one half."""
    return 1 - abs(preferred(one) - preferred(other))


def win_rate(
    model: str, against: str, slice_name: str, probabilities: Sequence[Keyed], *, seed: int, resamples: int
) -> WinRate:
    """Share of comparisons that `model` wins, with interval over prompts.

    `probabilities`: (prompt id, P(model's response is better)); above 0.5 is a win, exactly 0.5 half a one, so that
    the scale of a judge's soft labels does not shrink the rate. None is counted as unscored, never as a tie.
    """
    wins = [(prompt, None if p is None else preferred(p)) for prompt, p in probabilities]
    estimate = mean_share(wins, seed=seed, resamples=resamples)
    if estimate is None:
        return WinRate(model, against, slice_name, None, None, None, 0, len(probabilities), 0)
    mean, low, high, scored = estimate.mean, estimate.low, estimate.high, estimate.n
    return WinRate(model, against, slice_name, mean, low, high, scored, len(probabilities) - scored, estimate.prompts)


def slope(points: Sequence[tuple[str, float, float]], *, seed: int, resamples: int) -> Estimate | None:
    """Slope of the least-squares line through the origin, with interval over prompts; None where every x is 0.

    `points`: (prompt id, x, y). Through the origin, since it is drawn which answer stands as A: to swap a pair turns
    the signs of both its x and its y, and must change nothing.
    """
    sums: dict[str, tuple[float, float]] = {}
    for prompt_id, x, y in points:
        xy, xx = sums.get(prompt_id, (0.0, 0.0))
        sums[prompt_id] = (xy + x * y, xx + x * x)
    known = [(xy, xx) for xy, xx in sums.values() if xx > 0]  # the others bear on no line
    if not known:
        return None
    products, squares = (np.asarray(column, dtype=float) for column in zip(*known, strict=True))

    def through_origin(xy: np.ndarray, xx: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(np.sum(xy, axis=axis) / np.sum(xx, axis=axis))

    def left_out(xy: np.ndarray, xx: np.ndarray) -> np.ndarray:
        return np.asarray((xy.sum() - xy) / (xx.sum() - xx))

    low, high = (None, None)
    if len(known) > 1:
        low, high = _bounds((products, squares), through_origin, left_out, seed, resamples)
    used = sum(x != 0 for _, x, _ in points)
    return Estimate(math.fsum(products) / math.fsum(squares), low, high, used, len(known))


def intercept(points: Sequence[tuple[str, float, float]], *, seed: int, resamples: int) -> Estimate | None:
    """What the least-squares line is at x = 0, with interval over prompts. `points`: (prompt id, x, y), one a prompt.

    None for fewer than three prompts, since any two lie on a line, and where all x are one value other than 0, so that
    nothing says what y would be at 0.
    """
    x, y = (np.asarray([point[place] for point in points], dtype=float) for place in (1, 2))
    if len(points) < 3 or (np.ptp(x) == 0 and x[0] != 0):
        return None
    whole = _steepness(x, y, 0.0)

    def at_zero(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(y.mean(axis) - _steepness(x, y, whole) * x.mean(axis))

    def left_out(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # of what lies around the means, so that sums of squares lose no digits
        off_x, off_y, others = x - x.mean(), y - y.mean(), len(x) - 1
        squares = (off_x**2).sum() - off_x**2 * len(x) / others
        products = (off_x * off_y).sum() - off_x * off_y * len(x) / others
        level = squares <= 1e-12 * (off_x**2).sum()  # all but this one are at one place
        steep = np.where(level, whole, products / np.where(level, 1.0, squares))
        return np.asarray(y.mean() - off_y / others - steep * (x.mean() - off_x / others))

    at = float(at_zero(x, y))
    low, high = (at, at) if np.ptp(y) == 0 and np.ptp(x) == 0 else _bounds((x, y), at_zero, left_out, seed, resamples)
    return Estimate(at, low, high, len(points), len(points))


def _steepness(x: np.ndarray, y: np.ndarray, otherwise: np.ndarray | float) -> np.ndarray:
    """Slope of the least-squares line over the last axis; `otherwise` where all x are one value, as a resample's may
    be."""
    off_x, off_y = (part - part.mean(-1, keepdims=True) for part in (x, y))
    squares, level = (off_x**2).sum(-1), np.ptp(x, axis=-1) == 0
    return np.asarray(np.where(level, otherwise, (off_x * off_y).sum(-1) / np.where(level, 1.0, squares)))


def wilson(passed: float, n: int) -> tuple[float | None, float | None]:
    """The 95 % interval of a share, which stays within 0..1 and has a width at 0 and 1 too; (None, None) for n = 0.

    Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    return (None, None) if n == 0 else _wilson(passed / n, n)


def _wilson(share: float, n: int) -> tuple[float, float]:
    z2 = Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # at 0 and 1 it ends there, which rounding would miss
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


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


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit(p: float, *, least: float = 0.0) -> float:
    """The log-odds of a probability, in nats; `p` is first moved to at least `least` away from 0 and 1."""
    p = min(max(p, least), 1 - least)
    return math.log(p) - math.log1p(-p)


def softplus(x: float) -> float:
    """log(1 + exp(x)) without overflow: the log-loss at log-odds of -x."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@dataclass(frozen=True, slots=True)
class Draw:
    """The bootstrap's seed and its number of resamples, for many estimates of one kind of answer."""

    seed: int
    resamples: int

    def mean(self, values: Sequence[Keyed]) -> Estimate | None:
        return mean(values, seed=self.seed, resamples=self.resamples)

    def share(self, values: Sequence[Keyed]) -> Estimate | None:
        return mean_share(values, seed=self.seed, resamples=self.resamples)

    def difference(self, values: Sequence[Keyed], against: Sequence[Keyed]) -> Estimate | None:
        return paired_difference(values, against, seed=self.seed, resamples=self.resamples)

    def share_difference(self, values: Sequence[Keyed], against: Sequence[Keyed]) -> Estimate | None:
        return share_difference(values, against, seed=self.seed, resamples=self.resamples)

    def win_rate(self, model: str, against: str, slice_name: str, probabilities: Sequence[Keyed]) -> WinRate:
        return win_rate(model, against, slice_name, probabilities, seed=self.seed, resamples=self.resamples)


def _estimate(clusters: Mapping[str, float], n: int, seed: int, resamples: int) -> Estimate | None:
    if not clusters:
        return None
    data = np.asarray(list(clusters.values()), dtype=float)
    low, high = _interval(data, seed, resamples)
    return Estimate(math.fsum(data) / len(data), low, high, n, len(data))


def _interval(data: np.ndarray, seed: int, resamples: int) -> tuple[float | None, float | None]:
    """95 % bootstrap interval of the mean of `data` (prompts,); (None, None) for a single value."""
    if len(data) < 2:
        return None, None
    if np.ptp(data) == 0.0:  # every prompt the same: scipy has no interval there, and the resampled mean is constant
        return float(data[0]), float(data[0])
    return _bounds((data,), np.mean, _mean_left_out, seed, resamples)


def _bounds(
    columns: tuple[np.ndarray, ...], statistic: Statistic, left_out: Statistic, seed: int, resamples: int
) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of columns (prompts,) that are resampled together. `left_out` is the
    statistic without each prompt in turn, (prompts,).

    scipy resamples. Its BCa would take the statistic of n - 1 prompts n times; from sums it is linear (Efron and
    Tibshirani, An Introduction to the Bootstrap (1993), eq. 14.9 to 14.15).
    """
    from scipy.stats import bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            columns,
            statistic,
            n_resamples=resamples,
            batch=100,
            method="percentile",
            paired=len(columns) > 1,
            random_state=np.random.default_rng(seed),
        )
    drawn = found.bootstrap_distribution
    low, high = np.quantile(drawn, _bca_levels(drawn, float(statistic(*columns)), left_out(*columns)))
    if not (math.isfinite(low) and math.isfinite(high)):
        low, high = found.confidence_interval
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ArithmeticError("the values are not finite")
    return float(low), float(high)


def _bca_levels(drawn: np.ndarray, whole: float, without: np.ndarray) -> np.ndarray:
    """The quantiles of the resampled statistic that are the ends of a 95 % BCa interval; 0.025 and 0.975 where that has
    no value: all resamples on one side, or nothing that skews."""
    from scipy.special import ndtr, ndtri

    usual = np.asarray([0.025, 0.975])
    below = (np.count_nonzero(drawn < whole) + np.count_nonzero(drawn <= whole)) / (2 * len(drawn))
    off = without.mean() - without
    spread = float((off**2).sum())
    if not (0 < below < 1 and 0 < spread < math.inf):
        return usual
    acceleration = float((off**3).sum()) / (6 * spread**1.5)
    shift = float(ndtri(below))
    levels = shift + ndtri(usual)
    return np.asarray(ndtr(shift + levels / (1 - acceleration * levels)))


def _mean_left_out(data: np.ndarray) -> np.ndarray:
    return np.asarray((data.sum() - data) / (len(data) - 1))
