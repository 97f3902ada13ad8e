"""Reading a constitution: safe YAML, strict keys, errors that name file, line, principle and field."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from rlaif.errors import ConstitutionError
from rlaif.records import Constitution, Contrast, ContrastExample, Principle, PrincipleTest
from rlaif.resources import shipped
from rlaif.yaml_io import Lines, read_yaml

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Example(_Table):
    prompt: Text
    followed: Text
    violated: Text


class _Contrast(_Table):
    followed: Text
    violated: Text
    examples: list[_Example] = []


class _Test(_Table):
    prompt: Text
    better: Text
    worse: Text


class _Principle(_Table):
    id: Slug
    statement: Text
    rationale: str = ""
    priority: int = Field(1, ge=1)
    weight: float = Field(1.0, ge=0)
    tags: list[Text] = []
    critique: Text | None = None
    revision: Text | None = None
    comparison: Text | None = None
    contrast: _Contrast | None = None
    tests: list[_Test] = []


class _Constitution(_Table):
    name: Slug
    version: Text
    description: str = ""
    principles: list[_Principle] = Field(min_length=1)


def load_constitution(name_or_path: str | Path) -> Constitution:
    """The constitution in a YAML file (anything with a "/" or ending in .yaml), or the shipped one of that name.

    Raises ConstitutionError naming every problem of the file with its line. Texts are taken literally: Jinja in them
    stays as it stands, because they enter templates as values.
    """
    path = _find(name_or_path)
    data, lines = read_yaml(path, ConstitutionError)
    if not isinstance(data, dict):
        raise ConstitutionError(
            "a constitution is a mapping with name, version and principles",
            where=str(path),
            remedy=f"copy {shipped('constitutions')['example']} and edit it",
        )
    try:
        file = _Constitution.model_validate(data)
    except ValidationError as error:
        raise _error(path, _problems(error, data, lines)) from None
    problems = _contradictions(file, lines)
    if problems:
        raise _error(path, problems)
    return _record(file)


def constitution_text(name_or_path: str | Path) -> str:
    """The file of the constitution as it stands, comments and all, for copying into a run."""
    path = _find(name_or_path)
    read_yaml(path, ConstitutionError)  # its errors name file and line
    return path.read_text(encoding="utf-8-sig")


def check_constitution(constitution: Constitution, *, method: str, where: str) -> None:
    """Raises ConstitutionError, pointing at `where`, if a principle lacks the text that the judging method needs."""
    if method != "contrast":
        return  # every other method falls back on the statement
    missing = [principle.id for principle in constitution.principles if principle.contrast is None]
    if missing:
        raise ConstitutionError(
            f"the judging method contrast needs a contrast pair, which these principles lack: {', '.join(missing)}",
            where=where,
            remedy="add to each principle contrast: {followed: You ..., violated: You ...}, "
            "or choose another judge.method",
        )


def _find(name_or_path: str | Path) -> Path:
    if isinstance(name_or_path, Path) or "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    known = shipped("constitutions")
    if name_or_path in known:
        return known[name_or_path]
    near = difflib.get_close_matches(name_or_path, known, n=1, cutoff=0.5)
    raise ConstitutionError(
        f"there is no shipped constitution {name_or_path!r}" + (f", did you mean {near[0]!r}?" if near else ""),
        remedy=f"shipped are: {', '.join(known)}; a file of your own ends in .yaml",
    )


def _record(file: _Constitution) -> Constitution:
    principles = tuple(
        Principle(
            id=p.id,
            statement=p.statement,
            rationale=p.rationale.strip(),
            priority=p.priority,
            weight=p.weight,
            tags=tuple(p.tags),
            critique=p.critique,
            revision=p.revision,
            comparison=p.comparison,
            contrast=None if p.contrast is None else _contrast(p.contrast),
            tests=tuple(PrincipleTest(t.prompt, t.better, t.worse) for t in p.tests),
        )
        for p in file.principles
    )
    return Constitution(file.name, file.version, file.description.strip(), principles)


def _contrast(pair: _Contrast) -> Contrast:
    examples = tuple(ContrastExample(e.prompt, e.followed, e.violated) for e in pair.examples)
    return Contrast(pair.followed, pair.violated, examples)


Problem = tuple[int, str]
"""1-based line and the sentence about it."""


def _contradictions(file: _Constitution, lines: Lines) -> list[Problem]:
    """What no single field shows: duplicate ids, no weight at all, two texts that must differ and do not."""
    problems: list[Problem] = []
    first: dict[str, int] = {}
    for index, p in enumerate(file.principles):
        at = ("principles", index)
        line = lines[(*at, "id")]
        if p.id in first:
            problems.append((line, f"principle {p.id!r}: this id is already taken in line {first[p.id]}"))
        first.setdefault(p.id, line)
        if p.contrast is not None and p.contrast.followed == p.contrast.violated:
            line = lines[(*at, "contrast")]
            problems.append((line, f"principle {p.id!r}, contrast: followed and violated are the same text"))
        for number, test in enumerate(p.tests):
            if test.better == test.worse:
                line = lines[(*at, "tests", number)]
                problems.append((line, f"principle {p.id!r}, tests.{number}: better and worse are the same text"))
    if not any(p.weight for p in file.principles):
        problems.append((lines[("principles",)], "principles: every weight is 0, so none would ever be used"))
    return problems


def _error(path: Path, problems: list[Problem]) -> ConstitutionError:
    """One error for all problems, pointing at the line of the first."""
    problems = sorted(problems)
    (line, what), rest = problems[0], problems[1:]
    return ConstitutionError(
        "; ".join([what, *(f"line {n}: {text}" for n, text in rest)]),
        where=f"{path}:{line}",
        remedy=f"{shipped('constitutions')['example']} explains every field",
    )


def _problems(error: ValidationError, data: dict[Any, Any], lines: Lines) -> list[Problem]:
    """Every problem pydantic found, but a field that is only missing because its name is misspelt counts once."""
    meant = {(*item["loc"][:-1], _nearest(item["loc"])) for item in error.errors() if item["type"] == "extra_forbidden"}
    items = [item for item in error.errors() if item["type"] != "missing" or item["loc"] not in meant]
    return [_problem(item, data, lines) for item in items]


def _problem(item: Any, data: dict[Any, Any], lines: Lines) -> Problem:
    """Line and sentence of one pydantic error: the principle by its id, the field, the nearest key if unknown."""
    location: tuple[str | int, ...] = tuple(item["loc"])
    line = next(lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines)
    place = _place(location, data)
    kind, given = item["type"], item["input"]
    if kind == "extra_forbidden":
        near = _nearest(location)
        return line, f"{place}: unknown key" + (f", did you mean {near!r}?" if near else "")
    if kind == "missing":
        return line, f"{place}: this field is required"
    if kind == "string_too_short" and location[-1] != "id":
        return line, f"{place}: is empty"
    if kind == "string_type" and isinstance(given, int | float):
        return line, f'{place}: is a number, write it in quotes: "{given}"'
    if kind == "string_pattern_mismatch":
        slug = re.sub(r"[^a-z0-9]+", "-", str(given).lower()).strip("-") or "no-harm"
        return line, f"{place}: {given!r} may only have small letters, digits and single hyphens: {slug}"
    short = "" if isinstance(given, dict | list) else f" (given: {given!r})"
    return line, f"{place}: {item['msg'][0].lower()}{item['msg'][1:]}{short}"


def _place(location: tuple[str | int, ...], data: dict[Any, Any]) -> str:
    """ "principle 'no-harm', contrast.followed" for the place of an error; by number where the id is not usable."""
    if len(location) < 2 or location[0] != "principles":
        return ".".join(map(str, location))
    entry = data["principles"][location[1]]
    name = entry.get("id") if isinstance(entry, dict) else None
    which = f"principle {name!r}" if isinstance(name, str) and name else f"principle number {int(location[1]) + 1}"
    return ", ".join([which, ".".join(map(str, location[2:]))] if len(location) > 2 else [which])


def _nearest(location: tuple[str | int, ...]) -> str | None:
    """The known key that looks most like the unknown one at the end of `location`."""
    return next(iter(difflib.get_close_matches(str(location[-1]), _keys(location), n=1, cutoff=0.5)), None)


def _keys(location: tuple[str | int, ...]) -> list[str]:
    """The known keys of the table that the last part of `location` stands in."""
    if len(location) < 3:
        return list(_Constitution.model_fields)
    tables: dict[str | int, type[_Table]] = {"contrast": _Contrast, "tests": _Test} if len(location) > 3 else {}
    if location[2:4] == ("contrast", "examples"):
        return list(_Example.model_fields)
    return list(tables.get(location[2], _Principle).model_fields)
