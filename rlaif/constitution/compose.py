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
from rlaif.constitution.problems import MOST_HINTED, FileProblems, Problem, field_problems, line_of, principle_at
from rlaif.core.errors import ConstitutionError, near
from rlaif.core.files import read_text
from rlaif.core.shipped import shipped
from rlaif.core.yaml import MAX_BYTES, Document, Keys, Lines, survey_yaml

MAX_DEPTH = 16
VERSION: tuple[Keys, ...] = (("version",),)
"""What may be written without quotes: `version: 1.10` is the text "1.10"."""


@dataclass(frozen=True, slots=True)
class EntryPlace:
    """An entry of `principles`: its file, its number there (from 0), and the lines of that file."""

    path: Path
    number: int
    lines: Lines

    def line(self, *keys: str | int) -> int:
        """The 1-based line of a field of the entry, or of the entry itself."""
        return line_of(self.lines, ("principles", self.number, *keys))


@dataclass(frozen=True, slots=True)
class ComposedPrinciple:
    """A principle after composition. `sources`: field -> the entry that gave it; "id" -> the one that defined it."""

    entry: PrincipleEntry
    sources: Mapping[str, EntryPlace]

    def place(self, *keys: str | int) -> str:
        """ "file:line" of a field, for example ("contrast", "followed"); of the id without one."""
        source = self.sources.get(str(keys[0]) if keys else "id", self.sources["id"])
        return f"{source.path}:{source.line(*(keys or ('id',)))}"

    @property
    def paths(self) -> list[Path]:
        """The files it is from: where it was defined, then those that override something."""
        return list(dict.fromkeys(source.path for source in (self.sources["id"], *self.sources.values())))


@dataclass(frozen=True, slots=True)
class ComposedConstitution:
    """A constitution file with everything it includes put together."""

    path: Path
    file: ConstitutionFile
    lines: Lines
    principles: tuple[ComposedPrinciple, ...]


def compose(name_or_path: str | Path) -> ComposedConstitution:
    """The composed constitution of a file (anything with a "/" or ending in .yaml) or of a shipped one of that name.

    Raises ConstitutionError: FileProblems with all problems of the first file that has any, or what made a file
    unreadable.
    """
    return _compose(find(name_or_path), (), {})


def compose_text(text: str, path: Path) -> ComposedConstitution:
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


def _compose(
    path: Path, above: tuple[Path, ...], done: dict[str, ComposedConstitution], text: str | None = None
) -> ComposedConstitution:
    """`above`: the files whose includes lead here, outermost first. `done`: what was composed already. `text`: what to
    take in place of what stands in the file."""
    found = survey_yaml(read_text(path, ConstitutionError, most=MAX_BYTES) if text is None else text, as_text=VERSION)
    file, numbers, problems = _read(path, found)
    lines = found.lines
    problems += _contradictions(found)
    parts: list[ComposedConstitution] = []
    inner: ConstitutionError | None = None
    for number, name in enumerate(file.include):
        line = line_of(lines, ("include", number))
        try:
            part = _included(name, path, (*above, path), done)
        except ConstitutionError as error:
            inner, part = inner or error, None
            if problems:
                problems.append(Problem(line, "C004", f"include {name!r} does not load", f"mend {error.where} too"))
        if isinstance(part, ComposedConstitution):
            parts.append(part)
        elif part is not None:
            problems.append(Problem(line, "C004", f"include {name!r}: {part.what}", part.remedy))
    if len(parts) == len(file.include):
        kept, more = _merge(path, file, numbers, lines, parts, sound=not problems)
        problems += more
    if problems:
        raise FileProblems(path, problems)
    if inner is not None:
        raise inner
    done[os.path.realpath(path)] = composed = ComposedConstitution(path, file, lines, kept)
    return composed


def _read(path: Path, found: Document) -> tuple[ConstitutionFile, list[int], list[Problem]]:
    """What of the file is right, the numbers of its principles that are, and every problem of a single key or value."""
    data = found.data
    problems = [Problem(line or 1, "C001", what, remedy) for line, _, what, remedy in found.mistakes]
    if not isinstance(data, dict):
        if problems:
            raise FileProblems(path, problems)
        raise ConstitutionError(
            "a constitution is a mapping with name, version and principles",
            where=str(path),
            remedy="begin with one that is commented: rlaif constitution new mine.yaml",
        )
    if "prompts" in data and "principles" not in data:
        what = "is a run config, not a constitution"
        raise ConstitutionError(what, where=str(path), remedy="name the file that its field constitution names")
    try:
        file = ConstitutionFile.model_validate(data)
        return file, list(range(len(file.principles))), problems
    except ValidationError as error:
        problems += field_problems(error, found)
        wrong = {tuple(item["loc"][: 2 if item["loc"][:1] == ("principles",) else 1]) for item in error.errors()}
    sound = {key: value for key, value in data.items() if (key,) not in wrong and key in ConstitutionFile.model_fields}
    entries = sound.get("principles") or []
    numbers = [number for number in range(len(entries)) if ("principles", number) not in wrong]
    sound["principles"] = [entries[number] for number in numbers]
    try:
        return ConstitutionFile.model_validate({"name": "x", "version": "x", **sound}), numbers, problems
    except ValidationError:  # a key that is no text hides what else is wrong
        return ConstitutionFile.model_validate({"name": "x", "version": "x"}), [], problems


def _included(
    name: str, path: Path, chain: tuple[Path, ...], done: dict[str, ComposedConstitution]
) -> ComposedConstitution | ConstitutionError:
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
    path: Path,
    file: ConstitutionFile,
    numbers: list[int],
    lines: Lines,
    parts: list[ComposedConstitution],
    *,
    sound: bool,
) -> tuple[tuple[ComposedPrinciple, ...], list[Problem]]:
    """The principles of the parts and then of the file, and what is wrong with putting them together. `numbers`: where
    the file's principles stand in its list. `sound`: nothing else is wrong, so what is missing is missing."""
    problems: list[Problem] = []
    included: dict[str, ComposedPrinciple] = {}
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
    own: list[ComposedPrinciple] = []
    for number, entry in zip(numbers, file.principles, strict=True):
        source = EntryPlace(path, number, lines)
        if isinstance(entry, PrincipleEntry) and entry.id not in included:
            own.append(ComposedPrinciple(entry, dict.fromkeys(_given(entry), source)))
        elif isinstance(entry, OverrideEntry) and entry.id in included:
            included[entry.id] = _overridden(included[entry.id], entry, source)
        else:
            problems.append(_clash(entry, source, included, entry.id in disabled, len(problems) < MOST_HINTED))
    principles = (*included.values(), *own)
    sound = sound and not problems
    if not principles and sound:
        what = "every included principle is disabled" if file.include else "this field is required"
        problems.append(
            Problem(line_of(lines, ("principles",)), "C002", f"principles: {what}, a list with at least one")
        )
    elif sound and not any(written.entry.weight for written in principles):
        text = "principles: every weight is 0, so none would ever be used"
        problems.append(Problem(line_of(lines, ("principles",)), "C005", text))
    return principles, problems


def _origin(written: ComposedPrinciple) -> str:
    """Where it was defined and, if so, in which files it was changed."""
    changed = ", ".join(map(str, written.paths[1:]))
    return f"{written.place()}{f', changed in {changed}' if changed else ''}"


def _overridden(written: ComposedPrinciple, change: OverrideEntry, source: EntryPlace) -> ComposedPrinciple:
    given = [name for name in _given(change) if name not in ("id", "override")]
    entry = written.entry.model_copy(update={name: getattr(change, name) for name in given})
    return ComposedPrinciple(entry, {**written.sources, **dict.fromkeys(given, source)})


def _given(entry: PrincipleEntry | OverrideEntry) -> list[str]:
    """The fields that the file gives, in the order of the format: `model_fields_set` has another in every process."""
    return [name for name in type(entry).model_fields if name in entry.model_fields_set]


def _clash(
    entry: PrincipleEntry | OverrideEntry,
    source: EntryPlace,
    included: Mapping[str, ComposedPrinciple],
    disabled: bool,
    hinted: bool,
) -> Problem:
    """An id that is taken, or an override of something that is not there."""
    if isinstance(entry, PrincipleEntry):
        text = f"principle {entry.id!r}: this id is already taken in {included[entry.id].place()}, which is included"
        remedy = f"add `override: true` to change that one, `disable: [{entry.id}]` to drop it, or choose another id"
        return Problem(source.line("id"), "C003", text, remedy, entry.id)
    why = "it is disabled" if disabled else f"no include has it{near(entry.id, included) if hinted else ''}"
    remedy = "override an included principle, or leave out `override` and write a whole one"
    text = f"principle {entry.id!r} has nothing to override: {why}"
    return Problem(source.line("id"), "C004", text, remedy, entry.id)


def _contradictions(found: Document) -> Iterator[Problem]:
    """What no single field shows: an id that stands twice, two texts that must differ and do not. Looked for also in
    principles that have other mistakes."""
    remedy = "only what the principle is about should differ: write two texts"
    first: dict[str, int] = {}
    entries = found.data.get("principles")
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        at = ("principles", number)
        id = principle_at(at, found.data)
        if id is None:
            continue
        line = line_of(found.lines, (*at, "id"))
        if id in first:
            text = f"principle {id!r}: this id is already taken in line {first[id]}"
            yield Problem(line, "C003", text, "choose another id", id)
        first.setdefault(id, line)
        if _same(entry.get("contrast"), "followed", "violated"):
            text = f"principle {id!r}, contrast: followed and violated are the same text"
            yield Problem(line_of(found.lines, (*at, "contrast")), "C005", text, remedy, id)
        tests = entry.get("tests")
        for place, test in enumerate(tests if isinstance(tests, list) else ()):
            if _same(test, "better", "worse"):
                text = f"principle {id!r}, tests.{place}: better and worse are the same text"
                yield Problem(line_of(found.lines, (*at, "tests", place)), "C005", text, remedy, id)


def _same(table: object, one: str, other: str) -> bool:
    """Whether a table has the same text under two keys."""
    texts = [table.get(one), table.get(other)] if isinstance(table, dict) else []
    stripped = {text.strip() for text in texts if isinstance(text, str)}
    return len(texts) == 2 and all(isinstance(text, str) for text in texts) and len(stripped) == 1 and stripped != {""}
