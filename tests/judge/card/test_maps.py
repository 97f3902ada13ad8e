"""The calibration maps of a card: what they are fitted on, and that they are measured on other pairs."""

from __future__ import annotations

import pytest

from rlaif.core.records import (
    Comparison,
    Constitution,
    Failure,
    Message,
    PreferenceLabel,
    Principle,
    Prompt,
    Response,
    Verdict,
)
from rlaif.core.statistics import Draw
from rlaif.gold.pairs import GoldPair
from rlaif.judge.aggregate import Settling
from rlaif.judge.calibration import CalibrationMap
from rlaif.judge.card.figures import JudgedPair
from rlaif.judge.card.maps import fitted_maps

RULE = Principle("good", "Be good.")
RULES = Constitution("rules", "1", "", (RULE,))
DRAW = Draw(seed=1, resamples=200)


def row(number: int, prob_a: float, *, right: bool, prompt: int | None = None) -> JudgedPair:
    """The judge says A with this probability, and is right or wrong with it."""
    asked = Prompt((Message("user", f"Question {number if prompt is None else prompt}?"),))
    a, b = (Response(asked.id, f"{name} {number}", "given", 0, 0.0, "stop", 2) for name in "ab")
    pair = Comparison(asked, a, b)
    verdict = Verdict(pair.id, RULE.id, RULE.hash, "contrast", "none", "test", prob_a)
    return JudgedPair(GoldPair(pair, right == (prob_a > 0.5)), PreferenceLabel(pair, prob_a, (verdict,)))


def overconfident(pairs: int) -> list[JudgedPair]:
    """Sure to 0.95, right on three of four."""
    return [row(n, 0.95 if n % 2 else 0.05, right=n % 4 < 3) for n in range(pairs)]


def test_an_overconfident_judge_is_cooled_and_that_shows_on_other_pairs() -> None:
    cooled, stepped = fitted_maps(overconfident(120), RULES, Settling(), DRAW)
    assert (cooled.map.kind, stepped.map.kind) == ("temperature", "isotonic")
    assert cooled.pairs == stepped.pairs == 120
    for found in (cooled, stepped):
        assert found.map(0.95) == pytest.approx(0.75, abs=0.01)
        assert found.brier.mean == pytest.approx(0.75 * 0.25, abs=0.005)
        assert found.change.high is not None
        assert found.change.high < 0


def test_a_map_is_not_measured_on_what_it_was_fitted_on() -> None:
    rows = [row(n, 0.5 + (n % 97 + 1) / 200, right=(n * 7919) % 13 < 7) for n in range(100)]
    stepped = fitted_maps(rows, RULES, Settling(), DRAW)[1]
    seen = sum((1 - _right(stepped.map, each)) ** 2 for each in rows) / len(rows)
    assert stepped.brier.mean > seen + 0.01


def _right(found: CalibrationMap, each: JudgedPair) -> float:
    assert each.label.prob_a is not None
    return found(each.label.prob_a) if each.pair.a_is_better else 1 - found(each.label.prob_a)


def test_too_few_pairs_have_no_map() -> None:
    assert fitted_maps(overconfident(19), RULES, Settling(), DRAW) == []
    assert [found.map.kind for found in fitted_maps(overconfident(99), RULES, Settling(), DRAW)] == ["temperature"]


def test_pairs_of_one_prompt_cannot_be_left_out_of_the_fit() -> None:
    rows = [row(n, 0.9, right=n % 4 > 0, prompt=1) for n in range(40)]
    assert fitted_maps(rows, RULES, Settling(), DRAW) == []


def test_a_map_comes_before_the_abstention_and_after_the_failures() -> None:
    rows = overconfident(40)
    silent = [JudgedPair(r.pair, PreferenceLabel(r.label.comparison, None, r.label.verdicts)) for r in rows]
    settling = Settling(abstain_below=0.49, calibration=CalibrationMap("temperature", temperature=9.0))
    (found,) = fitted_maps(silent, RULES, settling, DRAW)
    assert found.map == fitted_maps(rows, RULES, Settling(), DRAW)[0].map
    failed = PreferenceLabel(rows[0].label.comparison, None, (), failure=Failure("backend", "down"))
    assert fitted_maps([*silent, JudgedPair(rows[0].pair, failed)], RULES, settling, DRAW)[0].pairs == 40
