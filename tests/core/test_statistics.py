"""Hand-worked means and differences, and the coverage of the intervals on simulated data."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

from rlaif.core import statistics
from rlaif.core.statistics import (
    MIN_PROMPTS,
    Estimate,
    agree,
    by_prompt,
    intercept,
    is_share,
    logit,
    mean,
    mean_difference,
    mean_share,
    paired_difference,
    pooled_share,
    pooled_share_difference,
    preferred,
    share_difference,
    sigmoid,
    slope,
    softplus,
    wilson,
    win_rate,
)


def test_values_are_averaged_per_prompt_first() -> None:
    values = [("p", 1.0), ("p", 3.0), ("p", None), ("q", 8.0), ("r", None)]
    assert by_prompt(values) == {"p": 2.0, "q": 8.0}
    found = mean(values, seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.n, found.prompts) == (5.0, 3, 2)


def test_nothing_measured_and_a_single_prompt_have_no_interval() -> None:
    assert mean([("p", None)], seed=1, resamples=200) is None
    alone = mean([("p", 0.0), ("p", 1.0)], seed=1, resamples=200)
    assert alone is not None
    assert (alone.mean, alone.low, alone.high) == (0.5, None, None)
    two = mean([("p", 0.0), ("q", 4.0)], seed=1, resamples=200)
    assert two is not None
    assert (two.mean, two.low, two.high) == (2.0, 0.0, 4.0)


def test_equal_prompts_give_an_interval_without_width() -> None:
    found = mean([("p", 0.0), ("q", 0.0), ("r", 0.0)], seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_seed_decides_the_interval() -> None:
    values = [(str(n), float(n * n)) for n in range(20)]
    one, again, other = (mean(values, seed=seed, resamples=300) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_constant_shift_is_found_without_doubt_however_different_the_prompts() -> None:
    base = [(str(n), 100.0 * n) for n in range(10)]
    better = [(key, value - 1.0) for key, value in base] + [("only here", 5.0)]
    found = paired_difference(better, base, seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.low, found.high, found.n) == (-1.0, -1.0, -1.0, 10)


def test_equal_differences_of_shares_still_have_an_interval() -> None:
    """Wilson's share of 0 of 16 ends at z^2 / (16 + z^2) = 0.19361."""
    none = [(str(n), 0.0) for n in range(16)]
    every = [(str(n), 1.0) for n in range(16)]
    same, gained, lost = (
        share_difference(values, against, seed=1, resamples=200)
        for values, against in ((none, none), (every, none), (none, every))
    )
    assert same is not None
    assert gained is not None
    assert lost is not None
    assert (same.mean, same.low, same.high) == (
        0.0,
        pytest.approx(-0.19361, abs=1e-5),
        pytest.approx(0.19361, abs=1e-5),
    )
    # none lost and all gained, each 0.19361 at most from what it is: the root of the two squares
    assert (gained.mean, gained.low, gained.high) == (1.0, pytest.approx(1 - 0.27381, abs=1e-5), 1.0)
    assert (lost.mean, lost.low, lost.high) == (-1.0, -1.0, pytest.approx(0.27381 - 1, abs=1e-5))


def test_equal_shares_still_have_an_interval() -> None:
    none, halves = [(str(n), 0.0) for n in range(16)], [(str(n // 2), float(n % 2)) for n in range(8)]
    found, half = (mean_share(values, seed=1, resamples=200) for values in (none, halves))
    assert found is not None
    assert half is not None
    assert (found.mean, found.low, found.high) == (0.0, 0.0, pytest.approx(0.19361, abs=1e-5))
    # four prompts of one half each
    assert (half.mean, half.low, half.high) == (0.5, *wilson(2, 4))
    different = [("p", 1.0), ("q", 0.0), ("r", 1.0)]
    assert mean_share(different, seed=1, resamples=200) == mean(different, seed=1, resamples=200)
    assert mean_share([("p", None)], seed=1, resamples=200) is None


def test_wilsons_interval_by_hand() -> None:
    """z^2 = 3.841459. 2 of 4: 0.5 +- 1.959964 / 1.960365 * sqrt(1/16 + 3.841459/64); 1 of 4: of 0.730182 / 1.9604."""
    assert wilson(2, 4) == (pytest.approx(0.150036, abs=1e-5), pytest.approx(0.849964, abs=1e-5))
    assert wilson(1, 4) == (pytest.approx(0.045587, abs=1e-5), pytest.approx(0.699358, abs=1e-5))
    assert wilson(0, 0) == (None, None)


def test_the_mean_of_differences_with_students_interval() -> None:
    """Mean 3, variance 14 / 2; Student's 97.5 % point with two degrees of freedom is 4.302653."""
    half = 4.302653 * (7 / 3) ** 0.5
    assert mean_difference([1.0, 2.0, 6.0]) == (3.0, pytest.approx(3 - half), pytest.approx(3 + half))
    assert mean_difference([1.0, 3.0])[0] == 2.0
    assert mean_difference([1.0, 3.0])[2] == pytest.approx(2 + 12.706205)
    assert mean_difference([5.0]) == (5.0, None, None)


def test_who_is_preferred_and_whether_two_agree() -> None:
    assert [preferred(p) for p in (0.0, 0.4, 0.5, 0.6, 1.0)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert [agree(0.6, other) for other in (0.9, 0.5, 0.4)] == [1.0, 0.5, 0.0]
    assert [agree(0.5, other) for other in (0.5, 0.1)] == [1.0, 0.5]
    assert agree(0.1, 0.2) == 1.0


def test_odds_by_hand() -> None:
    assert sigmoid(math.log(3)) == pytest.approx(0.75)
    assert sigmoid(-math.log(3)) == pytest.approx(0.25)
    assert [logit(p) for p in (0.25, 0.5, 0.75)] == pytest.approx([-math.log(3), 0.0, math.log(3)])
    assert [logit(p, least=0.1) for p in (0.0, 1.0, 0.2)] == pytest.approx([-math.log(9), math.log(9), -math.log(4)])
    assert [softplus(x) for x in (-1000.0, 0.0, 1000.0)] == [0.0, pytest.approx(math.log(2)), 1000.0]
    assert [softplus(x) for x in (-math.log(3), math.log(3))] == pytest.approx([math.log(4 / 3), math.log(4)])


def test_a_share_is_a_mean_of_zeros_and_ones() -> None:
    assert is_share([0.0, 1, True, None])
    assert not is_share([0.0, 0.5])
    assert not is_share([0, 2])


def test_zeros_alone_may_be_of_any_measure_and_truth_values_are_of_a_share() -> None:
    assert not is_share([0.0, 0.0])
    assert not is_share([1.0, 1.0])
    assert not is_share([])
    assert is_share([False, False, None])
    assert is_share([True])


def test_the_interval_of_none_and_of_all_ends_there_exactly() -> None:
    for n in range(1, 60):
        assert (wilson(0, n)[0], wilson(n, n)[1]) == (0.0, 1.0)


def test_differences_of_shares_that_differ_are_those_of_any_values() -> None:
    values, against = [("p", 1.0), ("q", 0.0), ("r", 1.0)], [("p", 0.0), ("q", 0.0), ("r", 0.5)]
    found = share_difference(values, against, seed=1, resamples=200)
    assert found == paired_difference(values, against, seed=1, resamples=200)
    assert share_difference(values, [("other", 1.0)], seed=1, resamples=200) is None


def test_the_interval_of_a_rare_difference_of_shares_covers_it() -> None:
    draw = np.random.default_rng(8)
    covered = 0
    for trial in range(60):
        one, other = ([(str(n), float(draw.random() < 0.04)) for n in range(16)] for _ in range(2))
        found = share_difference(one, other, seed=trial, resamples=100)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
    assert covered >= 55


def test_a_slope_by_hand_and_its_interval_over_prompts() -> None:
    # (1 * 0.1 + 2 * 0.4) / (1 + 4); the third prompt has no x and bears on no line
    points = [("p", 1.0, 0.1), ("q", -2.0, -0.4), ("r", 0.0, 5.0)]
    found = slope(points, seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.n, found.prompts) == (pytest.approx(0.18), 2, 2)
    assert (found.low, found.high) == (pytest.approx(0.1), pytest.approx(0.2))
    alone = slope(points[1:], seed=1, resamples=200)
    assert alone is not None
    assert (alone.mean, alone.low, alone.high) == (pytest.approx(0.2), None, None)
    assert slope(points[2:], seed=1, resamples=200) is None
    exact = slope([(str(n), float(n), 2.0 * n) for n in range(9)], seed=1, resamples=200)
    assert exact is not None
    assert (exact.low, exact.high) == (pytest.approx(2.0), pytest.approx(2.0))


def test_all_points_of_a_prompt_bear_on_the_slope_and_are_resampled_together() -> None:
    # p: products 0.1 + 0.8 + 0.3, squares 1 + 4 + 9; q: 0.5 and 1
    points = [("p", 1.0, 0.1), ("q", -1.0, -0.5), ("p", 2.0, 0.4), ("p", -3.0, -0.1)]
    found = slope(points, seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.n, found.prompts) == (pytest.approx(1.7 / 15), 4, 2)
    # resamples: p twice, both, q twice
    assert (found.low, found.high) == (pytest.approx(1.2 / 14), pytest.approx(0.5))


def test_what_is_linear_in_x_leaves_nothing_at_zero() -> None:
    found = intercept([(str(n), float(n), 0.2 * n) for n in range(1, 9)], seed=1, resamples=200)
    assert found is not None
    assert (found.mean, found.low, found.high) == (pytest.approx(0), pytest.approx(0), pytest.approx(0))
    assert (found.n, found.prompts) == (8, 8)


def test_an_intercept_by_hand() -> None:
    """The line through (0, 1), (1, 3), (2, 2), (3, 4): means 1.5 and 2.5, slope 4 / 5, so 2.5 - 0.8 * 1.5 = 1.3."""
    found = intercept([("p", 0.0, 1.0), ("q", 1.0, 3.0), ("r", 2.0, 2.0), ("s", 3.0, 4.0)], seed=1, resamples=200)
    assert found is not None
    assert found.mean == pytest.approx(1.3)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.3 < found.high


def test_an_intercept_where_x_hardly_or_never_differs() -> None:
    level = intercept([(str(n), 0.0, float(n)) for n in range(3)], seed=1, resamples=200)
    assert level is not None
    assert level.mean == 1.0, "without any x the mean"
    assert level.low is not None
    assert level.high is not None
    assert level.low < 1.0 < level.high
    assert intercept([(str(n), 2.0, float(n)) for n in range(3)], seed=1, resamples=200) is None, "0 was never near"
    assert intercept([("p", 0.0, 1.0), ("q", 1.0, 3.0)], seed=1, resamples=200) is None, "two always lie on a line"
    # most resamples lack the one prompt with another x: they take the slope of all
    lone = intercept([("p", 1.0, 2.5), *((str(n), 0.0, 0.5) for n in range(4))], seed=1, resamples=200)
    assert lone is not None
    assert (lone.mean, lone.low, lone.high) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5))
    same = intercept([(str(n), 0.0, 0.25) for n in range(4)], seed=1, resamples=200)
    assert same is not None
    assert (same.mean, same.low, same.high) == (0.25, 0.25, 0.25)


def test_the_interval_of_an_intercept_covers_it() -> None:
    draw = np.random.default_rng(6)
    covered = 0
    for trial in range(60):
        x = draw.normal(0.5, 1.0, size=40)
        y = 0.3 + 0.7 * x + draw.normal(size=40)
        points = [(str(n), float(x[n]), float(y[n])) for n in range(40)]
        found = intercept(points, seed=trial, resamples=200)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert covered >= 50


def test_the_interval_of_a_slope_covers_it() -> None:
    draw = np.random.default_rng(5)
    covered = 0
    for trial in range(60):
        x = draw.normal(size=40)
        y = 0.3 * x + draw.normal(size=40)
        points = [(str(n // 2), float(x[n]), float(y[n])) for n in range(40)]
        found = slope(points, seed=trial, resamples=200)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert covered >= 50  # about 55 of 60 with so few prompts


def test_difference_needs_a_common_prompt() -> None:
    assert paired_difference([("p", 1.0)], [("q", 1.0)], seed=1, resamples=200) is None


def test_more_answers_per_prompt_do_not_narrow_the_interval() -> None:
    values = [(str(n), float(n % 2)) for n in range(20)]
    once = mean(values, seed=3, resamples=500)
    ten_times = mean(values * 10, seed=3, resamples=500)
    assert once is not None
    assert ten_times is not None
    assert (once.low, once.high) == (ten_times.low, ten_times.high)
    assert once.low is not None
    assert once.high is not None
    assert 0.2 < once.low < 0.5 < once.high < 0.8
    assert ten_times.n == 200


def test_win_rate_counts_settled_preferences_and_the_unscored_apart() -> None:
    found = win_rate("ppo", "sft", "harmful", [("p", 0.6), ("p", 0.5), ("q", 0.25), ("q", None)], seed=1, resamples=200)
    assert found.rate == pytest.approx((0.75 + 0.0) / 2)
    assert (found.scored, found.unscored) == (3, 1)
    assert found.low is not None
    assert 0.0 <= found.low <= 0.375


def test_win_rate_of_nothing_is_none_not_a_tie() -> None:
    found = win_rate("ppo", "sft", "harmful", [("p", None), ("q", None)], seed=1, resamples=200)
    assert (found.rate, found.low, found.high, found.scored, found.unscored) == (None, None, None, 0, 2)


def test_interval_covers_the_truth_about_95_times_of_100() -> None:
    rng = np.random.default_rng(7)
    simulations, prompts, answers, covered = 200, 40, 3, 0
    for _ in range(simulations):
        levels = rng.exponential(1.0, prompts)  # skewed between prompts, true mean 1
        values = [(str(p), float(levels[p] + rng.normal(0.0, 0.3))) for p in range(prompts) for _ in range(answers)]
        found = mean(values, seed=int(rng.integers(1 << 30)), resamples=300)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.0 <= found.high
    assert 0.90 <= covered / simulations <= 0.99


@pytest.mark.parametrize("x", [-1000.0, -3.0, 0.0, 3.0, 1000.0])
def test_sigmoid_neither_overflows_nor_loses_symmetry(x: float) -> None:
    assert sigmoid(x) + sigmoid(-x) == pytest.approx(1.0)
    assert 0 <= sigmoid(x) <= 1


# --- what may be said in words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "prompts", "line", "side"),
    [
        (0.1, 0.3, 10, 0.0, 1),
        (-0.3, -0.1, 10, 0.0, -1),
        (-0.1, 0.1, 10, 0.0, 0),
        (0.0, 0.1, 10, 0.0, 0),
        (0.6, 0.9, 10, 0.5, 1),
        (0.6, 0.9, 9, 0.5, 0),
        (None, None, 40, 0.5, 0),
    ],
)
def test_an_estimate_lies_on_a_side_of_a_line_by_the_interval_of_enough_prompts(
    low: float | None, high: float | None, prompts: int, line: float, side: int
) -> None:
    assert Estimate(0.5, low, high, 99, prompts).side(line) == side


def test_the_intervals_of_few_prompts_hold_the_truth_too_seldom() -> None:
    """What MIN_PROMPTS stands on, on 300 draws of 12 shares each (benchmarks/intervals.py has more)."""
    random = np.random.default_rng(0)

    def held(prompts: int) -> float:
        found = 0
        for draw in range(300):
            levels = random.random(prompts)
            rows = [(str(n), float(v)) for n, level in enumerate(levels) for v in random.random(6) < level]
            estimate = mean_share(rows, seed=draw, resamples=200)
            assert estimate is not None
            assert estimate.low is not None
            assert estimate.high is not None
            found += estimate.low <= 0.5 <= estimate.high
        return found / 300

    assert held(4) < 0.9
    assert held(MIN_PROMPTS) > 0.92


def _by_scipy(columns: tuple[Any, ...], statistic: Any, seed: int) -> tuple[float, float]:
    """scipy's own BCa interval, which leaves out each row by itself; its percentiles where that has none."""
    from scipy.stats import bootstrap

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = bootstrap(
                columns, statistic, n_resamples=499, batch=100, method=method, paired=len(columns) > 1,
                random_state=np.random.default_rng(seed),
            ).confidence_interval  # fmt: skip
        if math.isfinite(found.low) and math.isfinite(found.high):
            break
    return found.low, found.high


@pytest.mark.parametrize("n", [2, 3, 4, 7, 20, 200])
@pytest.mark.parametrize("seed", range(4))
def test_intervals_are_scipys_bca(n: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    skewed = random.exponential(size=n)
    found = mean([(str(i), value) for i, value in enumerate(skewed)], seed=seed, resamples=499)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(_by_scipy((skewed,), np.mean, seed), abs=1e-9)
    x, y = random.normal(size=n), random.normal(size=n)
    if seed == 2:  # all but one at one place
        x[:] = 1.0
        x[0] = 3.0
    points = [(str(i), float(a), float(b)) for i, (a, b) in enumerate(zip(x, y, strict=True))]
    line = slope(points, seed=seed, resamples=499)
    assert line is not None
    through = lambda xy, xx, axis=-1: xy.sum(axis) / xx.sum(axis)  # noqa: E731
    assert (line.low, line.high) == pytest.approx(_by_scipy((x * y, x * x), through, seed), abs=1e-9)
    at = intercept(points, seed=seed, resamples=499)
    if at is not None:
        whole = statistics._steepness(x, y, 0.0)
        zero = lambda x, y, axis=-1: y.mean(axis) - statistics._steepness(x, y, whole) * x.mean(axis)  # noqa: E731
        assert (at.low, at.high) == pytest.approx(_by_scipy((x, y), zero, seed), abs=1e-9)


def test_an_interval_takes_time_in_proportion_to_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in numbers, not in seconds: leaving out each of n prompts by itself would look at n * n."""
    looked: list[int] = []
    usual = np.mean

    def counting(values: Any, axis: Any = None) -> Any:
        looked.append(np.size(values))
        return usual(values, axis=axis)

    monkeypatch.setattr(statistics.np, "mean", counting)
    n = 3000
    mean([(str(i), float(i % 7)) for i in range(n)], seed=0, resamples=100)
    assert sum(looked) <= 110 * n


def test_a_pooled_share_counts_every_value_alike_and_resamples_prompts() -> None:
    values = [("p", 1.0), ("p", 1.0), ("p", 0.0), ("q", 0.0), ("r", None)]
    found = pooled_share(values, seed=0, resamples=500)
    assert found is not None
    assert (found.mean, found.n, found.prompts) == (0.5, 4, 2)  # by prompts it would be a third
    assert (found.low, found.high) == (0.0, pytest.approx(2 / 3))  # the one prompt or the other alone
    alike = pooled_share([("p", 1.0), ("p", 1.0), ("q", 1.0)], seed=0, resamples=500)
    assert alike is not None
    assert (alike.low, alike.high) == wilson(2, 2)
    assert pooled_share([("p", None)], seed=0, resamples=500) is None


def test_a_pooled_difference_is_that_of_the_two_pooled_shares() -> None:
    ours = [("p", 1.0), ("p", 1.0), ("p", 0.0), ("q", 0.0)]
    theirs = [("p", 0.0), ("p", 1.0), ("p", 0.0), ("q", 1.0)]
    found = pooled_share_difference(ours, theirs, seed=0, resamples=500)
    assert found is not None
    assert (found.mean, found.n, found.prompts) == (0.0, 4, 2)
    assert (found.low, found.high) == (-1.0, pytest.approx(1 / 3))
    same = pooled_share_difference(ours, ours, seed=0, resamples=500)
    assert same is not None
    assert same.low is not None
    assert same.high is not None
    assert same.low < same.mean == 0 < same.high
