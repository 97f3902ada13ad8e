"""YAML written by program: the library's settings keep our files, a changed value keeps all other lines, and whatever
the layout, reading gives the value back."""

from __future__ import annotations

import json
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.core.errors import ConstitutionError
from rlaif.core.shipped import shipped
from rlaif.core.yaml import (
    REMOVED,
    ROOM,
    _dumped,
    _writer,
    change_yaml,
    comments,
    dump_styled,
    dump_yaml,
    parse_yaml,
    survey_yaml,
)

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
NASTY = ["#", "a:", ":", "- a", '"', "'", "[", "{", "&a", "*a", "%", "@", "\t", "\n", "|", ">", "\u00e9", "\u2028", "~"]
NASTY += ["=", "<<"]


def data(text: str) -> object:
    return parse_yaml(text, "", ConstitutionError)[0]


@pytest.mark.parametrize("name", shipped("constitutions"))
def test_the_library_writes_our_files_as_they_are(name: str) -> None:
    text = shipped("constitutions")[name].read_text("utf-8")
    assert _dumped(_writer(), _writer().load(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(WORDS + NASTY), min_size=1, max_size=60))
def test_reading_gives_the_text_back(words: list[str]) -> None:
    text = " ".join(words)
    for value in (text, [text], {"a": [{"b": text}, text]}):
        assert data(dump_styled({"k": value})) == {"k": value}
    assert data(change_yaml("- {k: v, l: [1]}\n", (0, "l", 0), text)) == [{"k": "v", "l": [text]}]


@settings(max_examples=200, deadline=None)
@given(st.text("?:-,[]{}#&*!|>'\"%@`a0 .", min_size=1, max_size=5))
def test_every_reader_of_yaml_reads_texts_in_brackets_as_they_are(text: str) -> None:
    wanted = {"tags": ["b", text], "text": text}
    for written in (dump_styled(wanted), change_yaml(f"tags: [b, c]\ntext: {json.dumps(text)}\n", ("tags", 1), text)):
        assert data(written) == wanted
        assert yaml.safe_load(written) == wanted
        assert yaml.load(written, yaml.CSafeLoader) == wanted


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12))
def test_a_short_text_stands_as_the_yaml_library_writes_it_where_that_is_plain(words: list[str]) -> None:
    text = " ".join(["Be", *words])
    if dump_yaml({"k": text}, width=1 << 30) == f"k: {text}\n" and len(text) <= ROOM:
        assert dump_styled({"k": text}) == f"k: {text}\n"


def test_thousands_of_plain_texts_take_no_minute() -> None:
    text = "Be kind to people, whatever they say. "
    start = time.process_time()
    assert dump_styled([{"statement": (text * (1 + n % 5)).strip()} for n in range(1, 2001)])
    assert time.process_time() - start < 4


def test_long_texts_are_folded_and_texts_of_several_lines_stand_line_by_line() -> None:
    text = " ".join(["Say it plainly: what it costs."] * 6)
    written = dump_styled({"k": text, "l": "one\n\ntwo", "m": ["a", "b c"]})
    assert written.startswith("k: >-\n  Say it plainly: what")
    assert max(map(len, written.splitlines())) <= ROOM + 2
    assert written.endswith("l: |-\n  one\n\n  two\nm: [a, b c]\n")


ODD = """\
# Head
a:   1   # one
list:
- x: 'plain
    text'
  # about y
  y:    2   # two

# about the next
- x: >   # folded
    long
    text
- {x: 1,   y: 2}
"""


@pytest.mark.parametrize(
    ("keys", "value", "line", "new"),
    [
        (("a",), 2, "a:   1   # one", "a: 2     # one"),
        (("list", 0, "y"), REMOVED, "  y:    2   # two\n", ""),
        (("list", 0, "z"), 3, "  y:    2   # two\n", "  y:    2   # two\n  z: 3\n"),
        (("list", 1), REMOVED, "- x: >   # folded\n    long\n    text\n", ""),
        (("list", 3), {"x": "new"}, "- {x: 1,   y: 2}\n", "- {x: 1,   y: 2}\n- x: new\n"),
        (("list", 2, "y"), 3, "- {x: 1,   y: 2}\n", "- {x: 1, y: 3}\n"),
        (("b",), "text", "- {x: 1,   y: 2}\n", "- {x: 1,   y: 2}\nb: text\n"),
    ],
)
def test_only_the_lines_of_the_value_change(keys: tuple[str | int, ...], value: object, line: str, new: str) -> None:
    assert line in ODD
    assert change_yaml(ODD, keys, value) == ODD.replace(line, new)


def test_null_is_a_word_in_what_is_edited_and_stays_empty_in_what_is_recorded() -> None:
    assert change_yaml("a: 1\n", ("a",), None) == "a: null\n"
    assert dump_styled({"a": None}) == "a: null\n"
    assert dump_yaml({"a": None}) == "a:\n"


def test_comments_are_found_and_hashes_in_texts_are_none() -> None:
    assert comments(ODD) == ["# Head", "# one", "# about y", "# two", "# about the next", "# folded"]
    assert comments("a: 'x # y'\nb: |  # c\n  # d\ne: f#g\n") == ["# c"]


def test_what_stands_above_a_mistake_in_the_syntax_is_read() -> None:
    found = survey_yaml("a: 1\nb: x\na: 2\nc: 'open\nd: 3\n")
    assert (found.data, found.whole) == ({"a": 1, "b": "x"}, False)
    assert [(mistake.line, mistake.what) for mistake in found.mistakes] == [
        (3, "the key 'a' stands twice"),
        (4, "this quote is never closed"),
    ]
