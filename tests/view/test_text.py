"""Words and numbers for people: what is unseen, what is missing, how many digits."""

from __future__ import annotations

from rlaif.view import text


def test_visible_leaves_ordinary_writing_alone() -> None:
    plain = "naïve 日本語 עברית می‌خواهم 👩‍🚀\n\tend"
    assert text.visible(plain) == plain
    assert text.visible("a\r\nb\rc") == "a\nb⟦U+000D⟧c"


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
