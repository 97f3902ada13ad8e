"""One list of principles out of a constitution file and those it includes; every text knows the line it stands in.

Included principles come first, in the order of `include`; one that comes from the same text in two ways, once.
`disable` drops some of them, an entry with `override: true` replaces those fields of one that it gives, in its place;
each field as a whole. All other entries follow.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from rlaif.constitution.format import ConstitutionFile, OverrideEntry, PrincipleEntry
from rlaif.constitution.problems import MOST_HINTED, FileProblems, Problem, field_problems, line_of, near
from rlaif.core.errors import ConstitutionError
from rlaif.core.shipped import shipped
from rlaif.core.yaml import MAX_BYTES, Lines, parse_yaml, read_yaml

MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Source:
    """An entry of `principles`: its file, its number there (from 0), and the lines of that file."""

    path: Path
    number: int
    lines: Lines

    def line(self, *keys: str | int) -> int:
        """The 1-based line of a field of the entry, or of the entry itself."""
        return line_of(self.lines, ("principles", self.number, *keys))


@dataclass(frozen=True, slots=True)
class Written:
    """A principle after composition. `sources`: field -> the entry that gave it; "id" -> the one that defined it."""

    entry: PrincipleEntry
    sources: Mapping[str, Source]

    def place(self, *keys: str | int) -> str:
        """ "file:line" of a field, for example ("contrast", "followed"); of the id without one."""
        source = self.sources.get(str(keys[0]) if keys else "id", self.sources["id"])
        return f"{source.path}:{source.line(*(keys or ('id',)))}"

    @property
    def paths(self) -> list[Path]:
        """The files it is from: where it was defined, then those that override something."""
        return list(dict.fromkeys(source.path for source in (self.sources["id"], *self.sources.values())))


@dataclass(frozen=True, slots=True)
class Composed:
    """A constitution file with everything it includes put together."""

    path: Path
    file: ConstitutionFile
    lines: Lines
    principles: tuple[Written, ...]


def compose(name_or_path: str | Path) -> Composed:
    """The composed constitution of a file (anything with a "/" or ending in .yaml) or of a shipped one of that name.

    Raises ConstitutionError: FileProblems with all problems of the first file that has any, or what made a file
    unreadable.
    """
    return _compose(find(name_or_path), (), {})


def compose_text(text: str, path: Path) -> Composed:
    """The composed constitution that the file at `path` would be with this text; same errors as `compose`."""
    if (size := len(text.encode("utf-8", "replace"))) > MAX_BYTES:
        raise ConstitutionError(f"{size:,} bytes is more than {MAX_BYTES:,}", where=str(path), remedy="split the file")
    return _compose(path, (), {}, text)


def find(name_or_path: str | Path, folder: Path | None = None) -> Path:
    """The file meant by a name of a shipped constitution or by a path, which may be relative to `folder`."""
    name = str(name_or_path)
    if not name.isprintable():
        raise ConstitutionError(f"{name!r} has characters that no file name has", remedy="check the name")
    if isinstance(name_or_path, Path) or "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name) if folder is None else folder / name
    known = shipped("constitutions")
    if name in known:
        return known[name]
    raise ConstitutionError(
        f"there is no shipped constitution {name!r}{near(name, known)}",
        remedy=f"shipped are: {', '.join(known)}; a file of your own ends in .yaml",
    )


def _compose(path: Path, above: tuple[Path, ...], done: dict[str, Composed], text: str | None = None) -> Composed:
    """`above`: the files whose includes lead here, outermost first. `done`: what was composed already. `text`: what to
    take in place of what stands in the file."""
    file, lines = _read(path, text)
    problems = list(_contradictions(file, lines))
    parts: list[Composed] = []
    for number, name in enumerate(file.include):
        found = _included(name, path, (*above, path), done)
        if isinstance(found, Composed):
            parts.append(found)
        else:
            line = line_of(lines, ("include", number))
            problems.append(Problem(line, "C004", f"include {name!r}: {found.what}", found.remedy))
    if len(parts) == len(file.include):
        kept, more = _merge(path, file, lines, parts)
        problems += more
    if problems:
        raise FileProblems(path, problems)
    done[os.path.realpath(path)] = composed = Composed(path, file, lines, kept)
    return composed


def _read(path: Path, text: str | None) -> tuple[ConstitutionFile, Lines]:
    read = read_yaml(path, ConstitutionError) if text is None else parse_yaml(text, str(path), ConstitutionError)
    data, lines = read
    if not isinstance(data, dict):
        raise ConstitutionError(
            "a constitution is a mapping with name, version and principles",
            where=str(path),
            remedy=f"copy {shipped('constitutions')['example']} and edit it",
        )
    try:
        return ConstitutionFile.model_validate(data), lines
    except ValidationError as error:
        raise FileProblems(path, field_problems(error, data, lines)) from None


def _included(
    name: str, path: Path, chain: tuple[Path, ...], done: dict[str, Composed]
) -> Composed | ConstitutionError:
    """The included constitution, or why the line that names it is wrong; problems inside of its file are raised."""
    try:
        target = find(name, path.parent)
    except ConstitutionError as error:
        return error
    real = os.path.realpath(target)
    if real in (trail := [os.path.realpath(file) for file in chain]):
        names = [file.name for file in chain[trail.index(real) :]]
        return ConstitutionError(
            f"the files include each other in a circle: {' -> '.join([*names, names[0]])}",
            remedy="move what both need into a file that includes neither",
        )
    if len(chain) >= MAX_DEPTH:
        return ConstitutionError(f"more than {MAX_DEPTH} files deep", remedy="include fewer files in a row")
    if not os.path.isfile(target):  # noqa: PTH113  (Path.is_file raises for a name that is too long)
        return ConstitutionError("no such file", remedy=f"a file is looked for beside this one: {target}")
    return done[real] if real in done else _compose(target, chain, done)


def _merge(
    path: Path, file: ConstitutionFile, lines: Lines, parts: list[Composed]
) -> tuple[tuple[Written, ...], list[Problem]]:
    """The principles of the parts and then of the file, and what is wrong with putting them together."""
    problems: list[Problem] = []
    included: dict[str, Written] = {}
    offered = {written.entry.id for part in parts for written in part.principles}
    disabled = set(file.disable)
    for number, name in enumerate(file.disable):
        if name not in offered:
            hint = near(name, offered) if len(problems) < MOST_HINTED else ""
            text = f"disable: no include has a principle {name!r}{hint}"
            problems.append(
                Problem(line_of(lines, ("disable", number)), "C004", text, "disable names ids of included ones")
            )
    for number, part in enumerate(parts):
        for written in part.principles:
            name = written.entry.id
            if name in disabled:
                continue
            if name in included and included[name] != written:
                text = f"principle {name!r} is in two includes: {_origin(included[name])} and {_origin(written)}"
                remedy = f"disable: [{name}] drops both, then write it below; or include only one of the two"
                problems.append(Problem(line_of(lines, ("include", number)), "C004", text, remedy))
            included[name] = written
    own: list[Written] = []
    for number, entry in enumerate(file.principles):
        source = Source(path, number, lines)
        if isinstance(entry, PrincipleEntry) and entry.id not in included:
            own.append(Written(entry, dict.fromkeys(_given(entry), source)))
        elif isinstance(entry, OverrideEntry) and entry.id in included:
            included[entry.id] = _overridden(included[entry.id], entry, source)
        else:
            problems.append(_clash(entry, source, included, entry.id in disabled, len(problems) < MOST_HINTED))
    principles = (*included.values(), *own)
    if not principles and not problems:
        what = "every included principle is disabled" if file.include else "this field is required"
        problems.append(
            Problem(line_of(lines, ("principles",)), "C002", f"principles: {what}, a list with at least one")
        )
    elif not problems and not any(written.entry.weight for written in principles):
        text = "principles: every weight is 0, so none would ever be used"
        problems.append(Problem(line_of(lines, ("principles",)), "C005", text))
    return principles, problems


def _origin(written: Written) -> str:
    """Where it was defined and, if so, in which files it was changed."""
    changed = ", ".join(map(str, written.paths[1:]))
    return f"{written.place()}{f', changed in {changed}' if changed else ''}"


def _overridden(written: Written, change: OverrideEntry, source: Source) -> Written:
    given = [name for name in _given(change) if name not in ("id", "override")]
    entry = written.entry.model_copy(update={name: getattr(change, name) for name in given})
    return Written(entry, {**written.sources, **dict.fromkeys(given, source)})


def _given(entry: PrincipleEntry | OverrideEntry) -> list[str]:
    """The fields that the file gives, in the order of the format: `model_fields_set` has another in every process."""
    return [name for name in type(entry).model_fields if name in entry.model_fields_set]


def _clash(
    entry: PrincipleEntry | OverrideEntry, source: Source, included: Mapping[str, Written], disabled: bool, hinted: bool
) -> Problem:
    """An id that is taken, or an override of something that is not there."""
    if isinstance(entry, PrincipleEntry):
        text = f"principle {entry.id!r}: this id is already taken in {included[entry.id].place()}, which is included"
        remedy = f"add `override: true` to change that one, `disable: [{entry.id}]` to drop it, or choose another id"
        return Problem(source.line("id"), "C003", text, remedy)
    why = "it is disabled" if disabled else f"no include has it{near(entry.id, included) if hinted else ''}"
    remedy = "override an included principle, or leave out `override` and write a whole one"
    return Problem(source.line("id"), "C004", f"principle {entry.id!r} has nothing to override: {why}", remedy)


def _contradictions(file: ConstitutionFile, lines: Lines) -> Iterator[Problem]:
    """What no single field shows: duplicate ids, two texts that must differ and do not."""
    first: dict[str, int] = {}
    for index, p in enumerate(file.principles):
        at = ("principles", index)
        line = line_of(lines, (*at, "id"))
        if p.id in first:
            yield Problem(line, "C003", f"principle {p.id!r}: this id is already taken in line {first[p.id]}")
        first.setdefault(p.id, line)
        if p.contrast is not None and p.contrast.followed == p.contrast.violated:
            text = f"principle {p.id!r}, contrast: followed and violated are the same text"
            yield Problem(line_of(lines, (*at, "contrast")), "C005", text)
        for number, test in enumerate(p.tests):
            if test.better == test.worse:
                text = f"principle {p.id!r}, tests.{number}: better and worse are the same text"
                yield Problem(line_of(lines, (*at, "tests", number)), "C005", text)
