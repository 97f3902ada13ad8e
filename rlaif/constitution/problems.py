"""What is wrong with a constitution file: every problem with its line, principle and field, told in one error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from rlaif.constitution.format import (
    ConstitutionFile,
    ContrastEntry,
    ExampleEntry,
    OverrideEntry,
    PrincipleEntry,
    StrictTable,
    TestEntry,
    slug,
)
from rlaif.core.errors import ConstitutionError
from rlaif.core.shipped import shipped
from rlaif.core.wrong_value import wrong_value
from rlaif.core.yaml import Document, Lines

Location = tuple[str | int, ...]
ProblemCode = Literal["C001", "C002", "C003", "C004", "C005"]
MOST_TOLD = 20
PRINCIPLES = 'write a list, each with an id and a statement: "- {id: be-kind, statement: Be kind.}"'
MOST_HINTED = 5
"""Problems of a file for which a like name is looked up among all principles: with thousands of both it takes long."""


class Problem(NamedTuple):
    """1-based line, the linter's code, the sentence about it, what to write instead where that is special, and the id
    of the principle that it is about."""

    line: int
    code: ProblemCode
    text: str
    remedy: str | None = None
    principle: str | None = None


class FileProblems(ConstitutionError):
    """All problems of one file, pointing at the line of the first."""

    def __init__(self, path: Path, problems: Iterable[Problem]) -> None:
        self.path = path
        self.problems = sorted(problems, key=lambda problem: problem.line)
        first, rest = self.problems[0], self.problems[1:]
        told = [first.text, *(f"line {problem.line}: {problem.text}" for problem in rest[: MOST_TOLD - 1])]
        if len(self.problems) > MOST_TOLD:
            told.append(f"and {len(self.problems) - MOST_TOLD} more")
        super().__init__("; ".join(told), where=f"{path}:{first.line}", remedy=first.remedy or default_remedy())


def default_remedy() -> str:
    return f"{shipped('constitutions')['example']} explains every field"


def line_of(lines: Lines, location: Location) -> int:
    """The line of the key at `location`, or of the innermost table around it that the file has."""
    return next(lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines)


def field_problems(error: ValidationError, found: Document) -> list[Problem]:
    """Every problem pydantic found, but none that follows from another one: a field that is only missing because its
    name is misspelt, or because YAML could not be read there."""
    data = found.data
    items = [(item, without_branch(item["loc"])) for item in error.errors()]
    meant = {(*loc[:-1], _nearest(loc, data)) for item, loc in items if item["type"] == "extra_forbidden"}
    unread = [mistake.keys for mistake in found.mistakes if mistake.keys]
    return [
        Problem(
            line_of(found.lines, loc),
            "C002",
            f"{_place(loc, data)}: {_sentence(item, loc, data)}",
            _remedy(item, loc, data),
            principle_at(loc, data),
        )
        for item, loc in items
        if not (item["type"] == "missing" and loc in meant)
        and not any(loc[: len(keys)] == keys for keys in unread)
        and (found.whole or not (item["type"] == "missing" or item["input"] is None))
    ]


def without_branch(loc: Sequence[str | int]) -> Location:
    """Pydantic's location without the name of the branch (a principle, or an override) behind the entry's number."""
    return (*loc[:2], *loc[3:]) if loc[:1] == ("principles",) else tuple(loc)


def principle_at(location: Location, data: dict[Any, Any]) -> str | None:
    """The id of the principle that a location lies in, as far as it is a text."""
    if len(location) < 2 or location[0] != "principles":
        return None
    entry = data["principles"][location[1]]
    name = entry.get("id") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and name else None


def _remedy(item: Any, location: Location, data: dict[Any, Any]) -> str | None:
    """What to write where that can be said of one key; None where only an example explains it."""
    field = _table(location, data).model_fields.get(str(location[-1])) if location else None
    meaning = None if field is None else field.description
    if item["type"] == "missing":
        return f"add {location[-1]}: {meaning or 'a text'}"
    if item["type"] == "extra_forbidden":
        nearest = _nearest(location, data)
        known = ", ".join(_table(location, data).model_fields)
        return f"write {nearest}:" if nearest else f"leave it out; there may stand: {known}"
    if item["type"] == "string_too_short":
        return "write a text, or leave the key out if it is optional"
    if item["type"] == "string_pattern_mismatch":
        return f"write {slug(str(item['input'])) or 'no-harm'}"
    if location == ("principles",):
        return PRINCIPLES
    if item["type"] in ("model_type", "model_attributes_type"):
        return PRINCIPLES if location[:1] == ("principles",) and len(location) == 2 else None
    return f"{location[-1]}: {meaning}" if meaning else None


def _sentence(item: Any, location: Location, data: dict[Any, Any]) -> str:
    kind, given = item["type"], item["input"]
    if kind == "extra_forbidden":
        nearest = _nearest(location, data)
        return "unknown key" + (f", did you mean {nearest!r}?" if nearest else "")
    if kind == "missing":
        return "this field is required"
    if kind == "string_too_short" and location[-1] != "id":
        return "is empty"
    if kind == "string_type" and not isinstance(given, list | dict | set | bytes):
        return _unquoted(given)
    if kind == "string_pattern_mismatch":
        return f"{given!r} may only have small letters, digits and single hyphens"
    if location[-1:] == ("override",):
        return f"is true or false (given: {given!r})"
    short = "" if isinstance(given, dict | list) else f" (given: {given!r})"
    if kind == "model_type" or kind == "model_attributes_type":
        return f"a table of fields belongs here{short}"
    sentence = wrong_value(item)
    return f"{sentence[0].lower()}{sentence[1:]}{short}"


def _unquoted(given: Any) -> str:
    """A value that YAML takes for something else than text, as it might be written."""
    if given is None:
        return 'is empty; if the word is meant, write it in quotes: "null"'
    if isinstance(given, bool):
        return f'is true or false to YAML, write it in quotes: "{str(given).lower()}"'
    if isinstance(given, int | float):
        return f'is a number, write it in quotes: "{given}"'
    return f'is a date to YAML, write it in quotes: "{given}"'


def _place(location: Location, data: dict[Any, Any]) -> str:
    """ "principle 'no-harm', contrast.followed" for the place of an error; by number where the id is not usable."""
    if len(location) < 2 or location[0] != "principles":
        return ".".join(map(str, location)) or "the file"
    name = principle_at(location, data)
    which = f"principle number {int(location[1]) + 1}" if name is None else f"principle {name!r}"
    return ", ".join([which, ".".join(map(str, location[2:]))] if len(location) > 2 else [which])


def _nearest(location: Location, data: dict[Any, Any]) -> str | None:
    """The known key that looks most like the unknown one at the end of `location`."""
    return _nearest_key(str(location[-1]), _table(location, data))


@lru_cache(maxsize=1000)
def _nearest_key(name: str, table: type[StrictTable]) -> str | None:
    return next(iter(difflib.get_close_matches(name, table.model_fields, n=1, cutoff=0.5)), None)


def _table(location: Location, data: dict[Any, Any]) -> type[StrictTable]:
    """The table that the last part of `location` stands in."""
    if len(location) < 3:
        return ConstitutionFile
    if location[2:4] == ("contrast", "examples") and len(location) > 5:
        return ExampleEntry
    if len(location) > 3 and location[2] in ("contrast", "tests"):
        return ContrastEntry if location[2] == "contrast" else TestEntry
    return OverrideEntry if data["principles"][location[1]].get("override") is True else PrincipleEntry
