"""Values as lines of YAML: whatever the layout, reading gives the value back."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.constitution.layout import WIDTH, field_lines
from rlaif.core.errors import ConstitutionError
from rlaif.core.yaml import dump_yaml, parse_yaml

WORDS = [
    "a",
    "No",
    "null",
    "yes",
    "don't",
    "(kind)",
    "x-",
    "-",
    "--",
    "---",
    "?",
    "!",
    "!!int",
    "1",
    "1.5",
    "2024-01-01",
    ",",
]
NASTY = [
    "#",
    "a:",
    ":",
    "- a",
    '"',
    "'",
    "[",
    "{",
    "&a",
    "*a",
    "%",
    "@",
    "\t",
    "\n",
    "|",
    ">",
    "\u00e9",
    "\u2028",
    "~",
    "=",
    "<<",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(WORDS + NASTY), min_size=1, max_size=60), st.sampled_from([0, 4]))
def test_reading_gives_the_text_back(words: list[str], column: int) -> None:
    text = " ".join(words)
    lines = field_lines("k", text, column)
    assert parse_yaml("\n".join([*lines, ""]), "", ConstitutionError)[0] == {"k": text}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_a_short_text_stands_as_the_yaml_library_writes_it_where_that_is_plain(words: list[str]) -> None:
    text = " ".join(["Be", *words])
    if dump_yaml({"k": text}, width=1 << 30) == f"k: {text}\n" and len(text) < WIDTH - 3:
        assert field_lines("k", text, 0) == [f"k: {text}"]


def test_thousands_of_plain_texts_take_no_minute() -> None:
    text = "Be kind to people, whatever they say. "
    start = time.process_time()
    for n in range(1, 2001):
        assert field_lines("statement", (text * (1 + n % 5)).strip(), 4)
    assert time.process_time() - start < 2
