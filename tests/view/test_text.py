"""Words and numbers for people: what is unseen, what is missing, how many digits."""

from __future__ import annotations

import pytest

from rlaif.view import text
from rlaif.view.text import brackets, plain_decimals, signed


def test_numbers_that_are_missing_say_so() -> None:
    assert {text.number(value) for value in (None, float("nan"), float("inf"))} == {"not measured"}
    assert text.percent(None) == text.duration(float("nan")) == text.interval(0.1, None) == "not measured"
    assert text.number(0) == text.number(-0.0) == "0"


def test_numbers_keep_what_matters() -> None:
    assert text.number(-0.0512) == "−0.051"
    assert text.number(12345) == "12,345"
    assert text.number(0.00012) == "1.2e−04"
    assert text.interval(-0.00004, 0.5) == "−0.00004 to 0.50000"
    assert text.duration(185) == "3 min 05 s"
    assert text.percent(0.4321) == "43.2\u00a0%"


@pytest.mark.parametrize(
    ("values", "decimals"),
    [
        ((0.47, 0.39, 0.55), 2),
        ((12.5, 0.7), 2),
        ((-0.05, 0.02), 3),
        ((0.5, 0.0004), 4),
        ((0.5, 1e-12), 2),
        ((None,), 2),
    ],
)
def test_plain_decimals_are_two_unless_that_hides_something(values: tuple[float | None, ...], decimals: int) -> None:
    assert plain_decimals(*values) == decimals


def test_differences_have_their_sign_and_intervals_their_brackets() -> None:
    assert [signed(value, 2) for value in (0.472, -0.472, 0.0, 0.001, None)] == [
        "+0.47",
        "\u22120.47",
        "0.00",
        "0.00",
        "not measured",
    ]
    assert brackets(-0.394, 0.549, 2) == "[\u22120.39, 0.55]"
    assert brackets(-0.394, None) == "[not measured]"
