"""What reading a judge card's file can meet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlaif.core.errors import DataError


@contextmanager
def reading_card(path: Path) -> Iterator[None]:
    """Turns what goes wrong while the file is read and taken apart into a DataError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataError(
            f"is no judge card ({type(problem).__name__})", where=str(path), remedy="make it again: rlaif card --force"
        ) from None
