"""Calibration maps on numbers that can be worked by hand, and what must hold of any."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.config import JudgeConfig
from rlaif.core.errors import DataError, StageError
from rlaif.core.files import RunFolder, write_atomic
from rlaif.judge.calibration import HOTTEST, CalibrationMap, Kind, fit
from rlaif.judge.card.records import card_file
from rlaif.judge.gate import calibration_of
from tests.fakes import judge_card

KINDS: tuple[Kind, ...] = ("temperature", "isotonic")


def said(probability: float, *, right: int, wrong: int) -> list[float]:
    """The judge's P of the better answer, where it is this sure of an answer that is `right` and `wrong` so often."""
    return [probability] * right + [1 - probability] * wrong


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(("right", "wrong"), [(9, 1), (7, 3), (19, 1)])
def test_a_temperature_makes_one_confidence_as_high_as_it_is_right(right: int, wrong: int) -> None:
    found = fit("temperature", said(0.9, right=right, wrong=wrong))
    share = right / (right + wrong)
    assert found.temperature == pytest.approx(logit(0.9) / logit(share), rel=1e-4)
    assert found(0.9) == pytest.approx(share, abs=1e-4)


def test_a_judge_that_is_right_half_of_the_time_is_left_no_confidence() -> None:
    found = fit("temperature", said(0.9, right=5, wrong=5))
    assert found.temperature == pytest.approx(HOTTEST, rel=0.01)
    assert found(0.9) == pytest.approx(0.5, abs=0.01)


def test_certain_letters_have_a_temperature_too() -> None:
    found = fit("temperature", said(1.0, right=9, wrong=1))
    assert found(1.0) == pytest.approx(0.9, abs=1e-3)
    assert found(0.0) == pytest.approx(0.1, abs=1e-3)


def test_an_isotonic_map_is_the_share_right_where_that_rises() -> None:
    found = fit(
        "isotonic", [*said(0.6, right=11, wrong=9), *said(0.8, right=15, wrong=5), *said(0.9, right=18, wrong=2)]
    )
    assert [found(p) for p in (0.6, 0.8, 0.9)] == pytest.approx([0.55, 0.75, 0.9])
    assert found(0.7) == pytest.approx((0.55 + 0.75) / 2)
    assert found(0.99) == pytest.approx(0.9)  # nothing was seen there: no more certainty than at the end


def test_an_isotonic_map_pools_what_does_not_rise() -> None:
    found = fit(
        "isotonic", [*said(0.6, right=16, wrong=4), *said(0.7, right=12, wrong=8), *said(0.9, right=18, wrong=2)]
    )
    assert [found(p) for p in (0.6, 0.65, 0.7, 0.9)] == pytest.approx([0.7, 0.7, 0.7, 0.9])


def test_an_isotonic_map_is_never_surer_than_its_pairs_allow() -> None:
    found = fit("isotonic", said(0.9, right=98, wrong=0))
    assert found(0.9) == pytest.approx(0.99)
    assert found(0.1) == pytest.approx(0.01)


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_every_map_rises_and_treats_both_answers_alike(kind: Kind, right: list[float], p: float, q: float) -> None:
    found = fit(kind, right)
    low, high = sorted((p, q))
    assert 0 <= found(low) <= found(high) + 1e-12 <= 1 + 1e-12
    assert found(1 - p) == pytest.approx(1 - found(p), abs=1e-9)
    assert found(0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_a_calibrated_judge_changes_little(kind: Kind) -> None:
    draw = random.Random(1)
    right = []
    for _ in range(4000):
        p = draw.uniform(0.5, 1)
        right.append(p if draw.random() < p else 1 - p)
    found = fit(kind, right)
    for p in (0.55, 0.7, 0.85, 0.95):
        assert found(p) == pytest.approx(p, abs=0.06)


def write_card(run: RunFolder, *maps: CalibrationMap) -> Path:
    write_atomic(card_file(run), json.dumps(judge_card(maps=maps).as_json()))
    return card_file(run)


def read(run: RunFolder, kind: str) -> CalibrationMap | None:
    return calibration_of(JudgeConfig.model_validate({"calibration": kind}), run)


def test_a_map_is_read_from_a_card_as_it_was(tmp_path: Path) -> None:
    maps = [fit(kind, said(0.8, right=14, wrong=6)) for kind in KINDS]
    run = RunFolder(tmp_path)
    write_card(run, *maps)
    assert [read(run, kind) for kind in KINDS] == maps
    assert read(run, "none") is None


def test_a_map_that_is_not_there_names_what_it_takes(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    card = write_card(run, CalibrationMap("temperature", temperature=2.0))
    with pytest.raises(StageError, match=r"no isotonic map, which needs 100 pairs.*\n.*card\.pairs"):
        read(run, "isotonic")
    card.write_text('{"maps": [{"map": {"kind": "warm"}}]}')
    with pytest.raises(DataError, match="no judge card"):
        read(run, "isotonic")
    with pytest.raises((DataError, OSError)):
        read(RunFolder(tmp_path / "absent"), "isotonic")
