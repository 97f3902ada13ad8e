"""Rows of a file, in the formats in which people keep data: JSON lines, a JSON array, CSV, parquet.

A row is an object: column -> value. A cell of a CSV file is text, null where it is empty, and a list where it holds one
as JSON, such as messages; parquet has types of its own, of which dates become text.
"""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Collection, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from rlaif.core.errors import DataError
from rlaif.core.files import parse_json, read_json_lines, read_text

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
"""Of files with rows. One with any other ending is read as JSON lines."""

_QUOTED = 'put a text with a comma, a quote or a line end in quotes, "" for a quote in it'

NumberedRow = tuple[int, dict[str, Any]]
"""The number of a row, from 1, and the row: in JSON lines and CSV the line in which it begins, else its place."""


def read_rows(path: Path, *, numbers: Collection[str] = ()) -> Iterator[NumberedRow]:
    """Every row of the file. `numbers`: columns that hold numbers where they hold anything, which CSV does not say.

    Raises DataError, with line or record, for a file or a row that cannot be read.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            yield from _csv(path, numbers)
        elif suffix == ".parquet":
            yield from _parquet(path)
        elif suffix == ".json" and _is_array(path):
            yield from _array(path)
        else:
            yield from read_json_lines(path)
    except OSError as problem:
        raise DataError(f"cannot be read: {problem.strerror or problem}", where=str(path)) from None


def place(path: Path, number: int) -> str:
    """ "file:line", or "file: record 3" where rows are no lines."""
    return f"{path}:{number}" if unit(path) == "line" else f"{path}: record {number}"


def unit(path: Path) -> str:
    """What a row of the file is called: line or record."""
    lines = path.suffix.lower() not in (".json", ".parquet")
    return "line" if lines or (path.suffix.lower() == ".json" and not _is_array(path)) else "record"


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["


def _array(path: Path) -> Iterator[NumberedRow]:
    text = read_text(path, DataError)
    try:
        items = parse_json(text)
    except ValueError as problem:
        line = f":{problem.lineno}" if hasattr(problem, "lineno") else ""
        what = f"is not JSON ({getattr(problem, 'msg', problem)})"
        raise DataError(what, where=f"{path}{line}", remedy="mend it, or write one object on each line") from None
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError("is not a JSON object", where=f"{path}: record {number}", remedy='write {"prompt": "..."}')
        yield number, item


def _csv(path: Path, numbers: Collection[str]) -> Iterator[NumberedRow]:
    csv.field_size_limit(sys.maxsize)  # a transcript may be longer than what the module takes for a slip
    reader = csv.reader(io.StringIO(read_text(path, DataError), newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            line = reader.line_num - sum(cell.count("\n") for cell in cells)
            if header is None:
                header = [cell.strip() for cell in cells]
                _refuse_header(header, f"{path}:{line}")
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"has {len(cells)} cells, and the first line names {len(header)} columns",
                    where=f"{path}:{line}",
                    remedy=_QUOTED,
                )
            yield line, {name: _cell(cell, name in numbers) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as problem:
        raise DataError(f"is not CSV ({problem})", where=f"{path}:{reader.line_num}", remedy=_QUOTED) from None


def _refuse_header(names: list[str], where: str) -> None:
    bad = next((name for name in names if not name or names.count(name) > 1), None)
    if bad is not None:
        what = f"names the column {bad!r} twice" if bad else "names a column with nothing"
        raise DataError(what, where=where, remedy="the first line names each column, once")


def _cell(text: str, is_number: bool) -> Any:
    if not text.strip():
        return None
    if is_number:
        try:
            return float(text)
        except ValueError:
            return text  # what reads the column says what belongs there
    if text.lstrip().startswith("["):
        try:
            return parse_json(text)
        except ValueError:
            return text
    return text


def _parquet(path: Path) -> Iterator[NumberedRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except ArrowException as problem:
        first = str(problem).splitlines()[0]
        raise DataError(f"is not parquet ({first})", where=str(path), remedy="write the file again") from None


def as_json(value: Any, where: str) -> Any:
    """The value as JSON can hold it: dates as text, what is no number as null. DataError, pointing at `where`, for
    bytes."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case datetime() | date() | time():
            return value.isoformat()
        case list() | tuple():
            return [as_json(item, f"{where}.{index}") for index, item in enumerate(value)]
        case dict():
            return {str(key): as_json(item, f"{where}.{key}") for key, item in value.items()}
        case bytes():
            raise DataError("holds bytes, which no record of text can", where=where, remedy="leave the column out")
    return str(value)
