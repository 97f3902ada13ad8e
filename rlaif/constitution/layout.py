"""Values as lines of YAML to read: long texts folded, texts of several lines line by line, short lists on one line."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any

from rlaif.core.errors import ConstitutionError
from rlaif.core.yaml import dump_yaml, one_line, parse_yaml

WIDTH = 118
_SIMPLE = re.compile(r"[A-Za-z][\w,.;!?'()-]*(?: [\w,.;!?'()-]+)+", re.ASCII)
"""Texts of several plain words, which YAML reads as they stand: no colon, "#", quote at the start, number or date."""


def entry_lines(entry: Mapping[str, Any], dash: int, space: int = 1) -> list[str]:
    """The lines of a list entry with these fields: the column of its dash, and how many spaces follow it."""
    fields = [line for name, value in entry.items() for line in field_lines(name, value, dash + 1 + space)]
    return [f"{' ' * dash}-{' ' * space}{fields[0].lstrip()}", *fields[1:]]


def field_lines(name: str, value: Any, column: int) -> list[str]:
    """The lines of a field in block style, its key in `column`."""
    first, rest = behind_colon(value, column, len(name) + 2)
    return [f"{' ' * column}{name}:{' ' if first else ''}{first}", *rest]


def behind_colon(value: Any, column: int, used: int) -> tuple[str, list[str]]:
    """(what stands behind the colon, the lines below) of a value whose key stands in `column`, with `used` characters
    taken by the key."""
    if isinstance(value, str):
        return _text(value, column, used)
    if isinstance(value, dict) and value:
        return "", [line for name, part in value.items() for line in field_lines(name, part, column + 2)]
    if isinstance(value, list) and any(isinstance(part, dict | list) for part in value):
        lines = []
        for part in value:
            inner = behind_colon(part, column + 2, 2)
            whole = [one_line(part)] if not isinstance(part, dict) or not part else inner[1]
            lines += [f"{' ' * (column + 2)}- {whole[0].strip()}", *whole[1:]]
        return "", lines
    return one_line(value), []


def _text(value: str, column: int, used: int) -> tuple[str, list[str]]:
    """A text on its key's line if it fits, else folded or line by line below it, else in double quotes."""
    indent, room = " " * (column + 2), max(WIDTH - column - 2, 40)
    simple = _SIMPLE.fullmatch(value) is not None
    plain = value if simple else dump_yaml({"k": value}, width=1 << 30).removeprefix("k:").strip()
    if plain.startswith("'") and not {'"', "\\"} & set(value):
        plain = one_line(value)  # with the quotes that our files have
    choices: list[tuple[str, list[str]]] = []
    if "\n" not in plain and column + used + len(plain) <= WIDTH:
        choices.append((plain, []))
    if value and value.isprintable() and " ".join(value.split()) == value:
        lines = textwrap.wrap(value, room, break_long_words=False, break_on_hyphens=False)
        choices.append((">-", [indent + line for line in lines]))
    elif "\n" in value and value == value.strip() and all(line.isprintable() for line in value.split("\n")):
        choices.append(("|-", [indent + line if line else "" for line in value.split("\n")]))
    for first, rest in choices:
        if simple:  # reading thousands of texts again takes minutes
            return first, rest
        try:
            read = parse_yaml("\n".join([f"{' ' * column}k: {first}", *rest, ""]), "", ConstitutionError)[0]
        except ConstitutionError:
            continue
        if read == {"k": value}:
            return first, rest
    return one_line(value), []
