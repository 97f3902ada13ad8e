"""The statistics of a run's report again, in plain numpy: they share no line with rlaif.core.statistics.

Intervals come from resamples of their own, so an end is compared with the quantiles a little to either side of its
level.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
import pytest

Row = dict[str, Any]
Keyed = list[tuple[str, float]]
MODELS = ("base", "sft", "ppo", "best-of-2")
SAMPLES, PER_SLICE = 3, 4


def records(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def is_about(value: float | None) -> Any:
    return None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)


# --- means and intervals ---

Z = 1.959964


def by_prompt(values: Keyed) -> dict[str, float]:
    return {name: fmean(v for n, v in values if n == name) for name in dict.fromkeys(n for n, _ in values)}


class Interval:
    """The 95 % BCa interval (Efron and Tibshirani 1993, eq. 14.9 to 14.15) of a statistic of prompts, from resamples of
    its own, with what lies three hundredths of all resamples to either side of each end."""

    def __init__(self, statistic: Callable[..., np.ndarray], *columns: Sequence[float]) -> None:
        given = [np.asarray(column, float) for column in columns]
        n = len(given[0])
        chosen = np.random.default_rng(1).integers(n, size=(20_000, n))
        drawn = np.sort(np.round(statistic(*(column[chosen] for column in given)), 11))
        whole = round(float(statistic(*given)), 11)
        without = np.array([float(statistic(*(np.delete(column, i) for column in given))) for i in range(n)])
        usual, off = NormalDist(), without.mean() - without
        below = (np.count_nonzero(drawn < whole) + np.count_nonzero(drawn <= whole)) / 2 / len(drawn)
        levels = [0.025, 0.975]
        if 0 < below < 1 and (off**2).sum() > 0:
            pull = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
            shift = usual.inv_cdf(below)
            sides = [shift + sign * Z for sign in (-1, 1)]
            levels = [usual.cdf(shift + side / (1 - pull * side)) for side in sides]
        near = [[min(max(level + step, 0.0), 1.0) for step in (-0.03, 0.03)] for level in levels]
        self.low, self.high = ([float(np.quantile(drawn, level)) for level in pair] for pair in near)

    def holds(self, low: float, high: float) -> bool:
        return all(a - 1e-9 <= end <= b + 1e-9 for end, (a, b) in ((low, self.low), (high, self.high)))


def wilson(share: float, n: int) -> tuple[float, float]:
    """The two shares from which the measured one is 1.96 standard errors away."""
    a, b, c = 1 + Z**2 / n, -(2 * share + Z**2 / n), share**2
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def check(found: tuple[float | None, float | None], wanted: Any) -> None:
    low, high = found
    if wanted is None:
        assert (low, high) == (None, None)
    elif isinstance(wanted, Interval):
        assert low is not None
        assert high is not None
        assert wanted.holds(low, high), (low, high, wanted.low, wanted.high)
    else:
        assert (low, high) == (pytest.approx(wanted[0], abs=1e-6), pytest.approx(wanted[1], abs=1e-6))


def interval(values: Sequence[float], *, share: bool = False) -> Any:
    """Of the mean of the prompts' means."""
    return ends(lambda v: v.mean(-1), fmean(values), len(values), [values], share=share)


def ends(statistic: Any, whole: float, prompts: int, columns: Sequence[Sequence[float]], *, share: bool) -> Any:
    drawn = {round(float(statistic(*(np.asarray(c, float)[[i]] for c in columns))), 11) for i in range(prompts)}
    if len(drawn) == 1:  # all prompts alike
        return wilson(whole, prompts) if share else None if prompts == 1 else (whole, whole)
    return Interval(statistic, *columns)


def gap_interval(values: Sequence[float], *, share: bool) -> Any:
    """Of the mean of paired differences; Newcombe's where all are alike and of shares."""
    if not share or len({round(value, 11) for value in values}) > 1:
        return interval(values)
    whole, n = fmean(values), len(values)
    gained, lost = max(whole, 0.0), max(-whole, 0.0)
    (gl, gh), (ll, lh) = wilson(gained, n), wilson(lost, n)
    return whole - math.hypot(gained - gl, lh - lost), whole + math.hypot(gh - gained, lost - ll)


# --- what evaluate wrote ---


class Evaluation:
    """What `evaluate` wrote, record by record."""

    def __init__(self, run: Path) -> None:
        folder = run / "evaluate"
        self.summary = read(folder / "summary.json")
        self.scores = {row["response_id"]: row for row in records(folder / "scores.jsonl")}
        chosen = self.scores.keys()
        drawn = [*records(folder / "responses.jsonl"), *records(folder / "best_of.jsonl")]
        self.responses = {row["id"]: row for row in drawn if row["id"] in chosen}
        self.logprobs = records(folder / "logprobs.jsonl")
        self.labels = records(folder / "labels.jsonl")
        prompts = records(run / "prompts" / "held_out.jsonl")
        self.slices = list(dict.fromkeys(row["slice"] for row in prompts))
        self.prompts = {
            row["id"]: name for name in self.slices for row in [p for p in prompts if p["slice"] == name][:PER_SLICE]
        }

    def values(self, model: str, part: str, measure: str) -> Keyed:
        rows = [row for row in self.scores.values() if (row["model"], row["slice"]) == (model, part)]
        return [(row["prompt_id"], float(row[measure])) for row in rows if row[measure] is not None]

    def is_share(self, measure: str) -> bool:
        seen = [row[measure] for row in self.scores.values() if row[measure] is not None]
        declared = self.summary["measures"].get(measure, {}).get("share", False)
        return declared or {0.0, 1.0} == set(map(float, seen))


def words(text: str) -> list[str]:
    """Runs of letters and digits, with apostrophes that stand within one."""
    lower, found, start = text.lower(), [], None
    for place, letter in enumerate(lower + " "):
        inner = letter in "'’" and start is not None and lower[place + 1 : place + 2].isalnum()
        if letter.isalnum() or inner:
            start = place if start is None else start
        elif start is not None:
            found.append(lower[start:place])
            start = None
    return found


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    own = words(text)
    return [tuple(own[i : i + n]) for i in range(len(own) - n + 1)]


def side(label: Row) -> float:
    return float(np.sign(label["prob_a"] - 0.5))


# --- as it is printed ---

NUMBER = re.compile(r"(?<![\w.])[−+-]?\d[\d,]*(?:\.\d+)?(?:e[−-]?\d+)?")


def numbers(text: str) -> list[tuple[float, float]]:
    """Every number of a text, with half a unit of its last digit."""
    found = []
    for written in NUMBER.findall(text):
        plain = written.replace("−", "-").replace(",", "").rstrip(".")
        mantissa, _, power = plain.partition("e")
        unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
        found.append((float(plain), unit / 2))
    return found


def printed_as(text: str, wanted: Sequence[float | None]) -> bool:
    """Whether the first numbers of the text are the wanted ones, each rounded; a None has no number."""
    known, found = [w for w in wanted if w is not None], numbers(text)
    near = [abs(v - w) <= unit * 1.001 for (v, unit), w in zip(found, known, strict=False)]
    assert len(found) >= len(known) and all(near), (text, known)  # noqa: PT018
    return True
