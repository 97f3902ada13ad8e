"""Text and numbers as a reader sees them: nothing invisible, nothing that looks measured and is not."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TypeGuard

MISSING = "not measured"
FOLD_CHARACTERS, FOLD_LINES = 700, 12
MAX_CHARACTERS = 20_000


def is_known(value: float | None) -> TypeGuard[float]:
    """True for a number that can be shown: not None, not NaN, not infinite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, decimals: int | None = None) -> str:
    """The number with about three digits that matter, a true minus sign and thousands separators."""
    if not is_known(value):
        return MISSING
    if decimals is None:
        if float(value).is_integer():
            decimals = 0
        elif abs(value) < 0.001:
            return f"{value:.1e}".replace("-", "\u2212")
        else:
            decimals = common_decimals(value)
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "\u2212") if text.strip("-0.") else text.lstrip("-")


def common_decimals(*values: float | None) -> int:
    """Decimals that suit all the values together; more where one that is not 0 would be rounded to 0."""
    known = [abs(value) for value in values if is_known(value)]
    largest = max(known, default=0.0)
    decimals = 0 if largest >= 100 else 1 if largest >= 10 else 2 if largest >= 1 else 3
    while decimals < 6 and any(value > 0 and round(value, decimals) == 0 for value in known):
        decimals += 1
    return decimals


def plain_decimals(*values: float | None) -> int:
    """Two decimals, as a sentence has them; three where all are below 0.1, four where one would be rounded to 0."""
    known = [abs(value) for value in values if is_known(value) and abs(value) > 1e-9]
    decimals = 2 if max(known, default=1.0) >= 0.1 else 3
    while decimals < 4 and any(round(value, decimals) == 0 for value in known):
        decimals += 1
    return decimals


def signed(value: float | None, decimals: int | None = None) -> str:
    """The number with its sign, "+0.47"; 0 has none."""
    text = number(value, decimals)
    return f"+{text}" if is_known(value) and value > 0 and text.strip("0.") else text


def brackets(low: float | None, high: float | None, decimals: int | None = None) -> str:
    """ "[low, high]", or "[not measured]" if either bound is missing."""
    if not (is_known(low) and is_known(high)):
        return f"[{MISSING}]"
    places = common_decimals(low, high) if decimals is None else decimals
    return f"[{number(low, places)}, {number(high, places)}]"


def interval(low: float | None, high: float | None, decimals: int | None = None) -> str:
    """ "low to high", or "not measured" if either bound is missing."""
    if not (is_known(low) and is_known(high)):
        return MISSING
    places = common_decimals(low, high) if decimals is None else decimals
    return f"{number(low, places)} to {number(high, places)}"


def percent(value: float | None) -> str:
    """A share 0..1 as "43.1 %", which no line end parts."""
    return f"{value:.1%}".replace("%", "\u00a0%") if is_known(value) else MISSING


def percents(low: float | None, high: float | None) -> str:
    """ "34.0 % to 48.0 %", or "not measured" if either bound is missing."""
    return f"{percent(low)} to {percent(high)}" if is_known(low) and is_known(high) else MISSING


def duration(seconds: float | None) -> str:
    """Seconds as "4.2 s", "3 min 05 s" or "2:03:04"."""
    if not is_known(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return str(timedelta(seconds=int(seconds)))


def is_long(text: str) -> bool:
    """True for a text that is folded away behind its beginning."""
    return len(text) > FOLD_CHARACTERS or text.count("\n") >= FOLD_LINES


def beginning(text: str) -> str:
    """The first words of a long text, on one line."""
    return " ".join(text[:400].split())[:180]


def shown(text: str) -> str:
    """The text, cut at 20,000 characters with a note of how much is left out."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}\n[{len(text) - MAX_CHARACTERS:,} more characters are in the run folder]"


def capital(text: str) -> str:
    """The text with a capital at its start."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """The text with a capital at its start and a full stop."""
    return f"{capital(text).rstrip('.')}."
