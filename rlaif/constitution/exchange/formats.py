"""Every format that constitutions come in from and go out to: how to know a file of it, read it, and write one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rlaif.constitution.compose import compose_text
from rlaif.constitution.exchange import anthropic, handbook, icai, markdown, records
from rlaif.constitution.exchange.draft import OPTIONAL, Draft, broken_characters, default
from rlaif.constitution.exchange.source import SourceFile, read_source, shown
from rlaif.constitution.format import slug
from rlaif.constitution.load import as_record
from rlaif.constitution.starter import refuse_place
from rlaif.core.errors import ConstitutionError, near
from rlaif.core.files import refuse_existing_file, write_atomic
from rlaif.core.records import Constitution

FORMATS = {
    format.name: format
    for format in (
        anthropic.CRITIQUES,
        anthropic.COMPARISONS,
        handbook.HANDBOOK,
        icai.ICAI,
        markdown.MARKDOWN,
        records.RECORDS,
    )
}
"""Name on the command line -> format; docs/reference/constitution-format.md says what each is."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import wrote, and from what. `renamed`: the source's id -> the one here."""

    file: str
    source: str
    format: str
    constitution: Constitution
    left_out: dict[str, int]
    notes: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]


def import_file(path: Path, out: Path, *, name: str | None = None, format: str | None = None) -> ImportResult:
    """Writes the constitution of a file of another format to `out`, which must not exist yet and end in .yaml."""
    refuse_place(out)
    source = read_source(path)
    kind = detect(source) if format is None else _named(format)
    draft = Draft(kind)
    FORMATS[kind].read(source, draft)
    draft.note_duplicates()
    if broken := broken_characters(json.dumps([draft.description, draft.principles], ensure_ascii=False)):
        draft.notes.append(f"{broken} broken characters (halves of surrogate pairs) were replaced by U+FFFD")
    draft.name = (name if name is not None else slug(draft.name or "") or slug(path.stem)) or "imported"
    text = draft.text(source)
    try:
        constitution = as_record(compose_text(text, out))
    except ConstitutionError as error:
        raise ConstitutionError(
            f"makes no constitution that loads: {error.what}", where=str(path), remedy=error.remedy
        ) from None
    write_atomic(out, text)
    renamed = tuple((old, new) for old, new in draft.renamed if old)
    return ImportResult(str(out), str(path), kind, constitution, dict(draft.left_out), tuple(draft.notes), renamed)


def export_file(constitution: Constitution, out: Path, format: str) -> dict[str, int]:
    """Writes the constitution to `out`, which must not exist yet, and gives what the format cannot hold: what -> how
    many."""
    kind = FORMATS[_named(format)]
    refuse_existing_file(out)
    lost: Counter[str] = Counter()
    text = kind.write(constitution, lost)
    for field in ("name", "version", "description"):
        if field not in kind.holds and getattr(constitution, field):
            lost[field] += 1
    for principle in constitution.principles:
        given = {name for name in OPTIONAL if getattr(principle, name) != default(name)}
        lost.update({"tests": len(principle.tests)} if "tests" in given - kind.holds else {})
        lost.update(name for name in OPTIONAL if name in given - kind.holds - {"tests"})
        lost.update(["id"] if "id" not in kind.holds else [])
    write_atomic(out, text)
    return dict(lost)


def detect(source: SourceFile) -> str:
    """The format of a file by its ending and its shape. Raises ConstitutionError with the candidates if unsure."""
    suffix = source.path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        remedy = f"use it as it is, or build on it with include: [{source.path.name}]"
        raise ConstitutionError("is YAML, as our own constitutions are", where=str(source.path), remedy=remedy)
    if suffix in (".md", ".markdown", ".txt"):
        return "markdown"
    if suffix != ".json" and source.text.lstrip()[0] not in '[{"':
        return "markdown"
    data = source.json()
    found = [name for name, kind in FORMATS.items() if kind.knows is not None and kind.knows(data)]
    if len(found) == 1:
        return found[0]
    likely = [name for name, kind in FORMATS.items() if kind.may_be is not None and kind.may_be(data)]
    shape = f"a {type(data).__name__}" if not isinstance(data, dict) else f"keys {shown(', '.join(map(str, data)))}"
    raise ConstitutionError(
        f"may be of the format {' or '.join(likely)}" if likely else f"has the shape of no known format ({shape})",
        where=str(source.path),
        remedy=f"name it: {' or '.join(f'--from {name}' for name in likely or FORMATS)}",
    )


def _named(format: str) -> str:
    if format not in FORMATS:
        raise ConstitutionError(
            f"there is no format {format!r}{near(format, FORMATS)}", remedy=f"there are: {', '.join(FORMATS)}"
        )
    return format
