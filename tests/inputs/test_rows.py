"""Rows of JSON lines, JSON, CSV and parquet are the same rows; what cannot be read is named by line or record."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow.parquet import write_table

from rlaif.core.errors import DataError
from rlaif.inputs.rows import as_json, place, read_rows

ROWS: list[dict[str, Any]] = [
    {"prompt": 'Say "hi", please', "reference": "hi", "messages": [{"role": "user", "content": "Q"}]},
    {"prompt": "Two\nlines", "reference": None, "messages": None},
    {"prompt": "Ünï", "reference": "007", "messages": None},
]


def as_csv(rows: list[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        return '"' + text.replace('"', '""') + '"'

    return "\r\n".join([",".join(rows[0]), *(",".join(map(cell, row.values())) for row in rows)])


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "rows.json": lambda path: path.write_text("\ufeff " + json.dumps(ROWS, indent=1)),
    "lines.json": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in ROWS)),
    "rows.csv": lambda path: path.write_text("\ufeff" + as_csv(ROWS)),
    "rows.parquet": lambda path: parquet(path, ROWS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    found = list(read_rows(tmp_path / name))
    assert [row for _, row in found] == ROWS
    assert [number for number, _ in found] == ([2, 3, 5] if name == "rows.csv" else [1, 2, 3])


def test_a_cell_of_csv_is_text_unless_the_column_is_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id, p ,q\n1,0.25,[a]\n2,high,\n")
    assert [row for _, row in read_rows(path, numbers=["p"])] == [
        {"id": "1", "p": 0.25, "q": "[a]"},
        {"id": "2", "p": "high", "q": None},
    ]
    path.write_text("prompt\n" + "long " * 50_000 + "\n")
    assert len(next(read_rows(path))[1]["prompt"]) == 250_000


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "prompt,id\nA,1\nB, C,2\n", ["x.csv:3", "3 cells", "2 columns", "in quotes"]),
        ("x.csv", 'prompt,id\n"A\nB"x,2\n', ["x.csv:3", "is not CSV"]),
        ("x.csv", "prompt,prompt\n", ["x.csv:1", "'prompt' twice"]),
        ("x.csv", "prompt,\nA,\n", ["x.csv:1", "with nothing"]),
        ("x.json", '[{"prompt": "a"},\n {"prompt": }]', ["x.json:2", "is not JSON"]),
        ("x.json", '[{"prompt": "a"}, "b"]', ["x.json: record 2", "object"]),
        ("x.parquet", "PAR1", ["x.parquet", "is not parquet"]),
        ("x.jsonl", "[]\n", ["x.jsonl:1", "object"]),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str, text: str, words: list[str]) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


@pytest.mark.parametrize("name", ["no.jsonl", "no.json", "no.csv", "no.parquet"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"(?i)no such file"):
        list(read_rows(tmp_path / name))


def test_a_row_is_called_by_its_line_or_its_place(tmp_path: Path) -> None:
    WRITERS["rows.json"](tmp_path / "a.json")
    WRITERS["lines.json"](tmp_path / "b.json")
    assert place(tmp_path / "a.json", 3) == f"{tmp_path}/a.json: record 3"
    assert place(tmp_path / "b.json", 3) == f"{tmp_path}/b.json:3"
    assert place(Path("x.csv"), 3) == "x.csv:3"
    assert place(Path("x.parquet"), 3) == "x.parquet: record 3"


def test_what_json_has_no_word_for() -> None:
    given = {
        "day": date(2026, 1, 2),
        "sum": Decimal("1.5"),
        "none": float("nan"),
        "list": (1, {"b": True}),
        "t": "\ud800",
    }
    assert as_json(given, "x") == {
        "day": "2026-01-02",
        "sum": 1.5,
        "none": None,
        "list": [1, {"b": True}],
        "t": "\\ud800",
    }
    with pytest.raises(DataError, match=r"x\.image: holds bytes"):
        as_json({"image": b"..."}, "x")
