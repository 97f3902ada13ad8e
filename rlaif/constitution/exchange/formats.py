"""Every format that constitutions come in from and go out to: how to know a file of it, read it, and write one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.constitution.compose import compose_text
from rlaif.constitution.exchange import anthropic, handbook, icai, markdown
from rlaif.constitution.exchange.draft import Draft, broken_characters
from rlaif.constitution.exchange.source import Source, read_source, refuse, shown
from rlaif.constitution.format import PrincipleEntry, slug
from rlaif.constitution.load import as_record
from rlaif.constitution.problems import near
from rlaif.constitution.starter import refuse_place
from rlaif.core.errors import ConstitutionError
from rlaif.core.files import refuse_existing_file, write_atomic
from rlaif.core.records import Constitution, to_json

OPTIONAL = ("rationale", "priority", "weight", "tags", "critique", "revision", "comparison", "contrast", "tests")


@dataclass(frozen=True, slots=True)
class Format:
    """`knows` tells from the JSON data whether a file is surely of this format; None: not a JSON format.
    `holds`: the fields that a file of it can hold, besides the statement; those of the file without a dot."""

    knows: Callable[[Any], bool] | None
    read: Callable[[Source, Draft], None]
    write: Callable[[Constitution, Counter[str]], str]
    holds: frozenset[str]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import wrote, and from what. `renamed`: the source's id -> the one here."""

    file: str
    source: str
    format: str
    constitution: Constitution
    left_out: dict[str, int]
    notes: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]


def import_file(path: Path, out: Path, *, name: str | None = None, format: str | None = None) -> Imported:
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
    return Imported(str(out), str(path), kind, constitution, dict(draft.left_out), tuple(draft.notes), renamed)


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
        given = {name for name in OPTIONAL if getattr(principle, name) != _default(name)}
        lost.update({"tests": len(principle.tests)} if "tests" in given - kind.holds else {})
        lost.update(name for name in OPTIONAL if name in given - kind.holds - {"tests"})
        lost.update(["id"] if "id" not in kind.holds else [])
    write_atomic(out, text)
    return dict(lost)


def detect(source: Source) -> str:
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
    likely = _likely(data)
    shape = f"a {type(data).__name__}" if not isinstance(data, dict) else f"keys {shown(', '.join(map(str, data)))}"
    raise ConstitutionError(
        f"may be of the format {' or '.join(likely)}" if likely else f"has the shape of no known format ({shape})",
        where=str(source.path),
        remedy=f"name it: {' or '.join(f'--from {name}' for name in likely or FORMATS)}",
    )


def _likely(data: Any) -> list[str]:
    """The formats that a list of texts can be of."""
    texts = isinstance(data, list) and bool(data) and all(isinstance(text, str) for text in data)
    return ["anthropic-comparisons", "icai"] if texts else []


def _named(format: str) -> str:
    if format not in FORMATS:
        raise ConstitutionError(
            f"there is no format {format!r}{near(format, FORMATS)}", remedy=f"there are: {', '.join(FORMATS)}"
        )
    return format


def _default(name: str) -> Any:
    default = PrincipleEntry.model_fields[name].get_default(call_default_factory=True)
    return tuple(default) if isinstance(default, list) else default


# --- writers: the text, and in `lost` what is special about a format --------------------------------------------------


def _wordings(constitution: Constitution, lost: Counter[str]) -> list[tuple[str, str]]:
    """(critique, revision) of each principle; in general words, with the rule, where it has none of its own."""
    found = []
    for p in constitution.principles:
        critique, revision = p.critique, p.revision
        if critique is None:
            critique = f"Name in one or two sentences what in the answer goes against this rule: {p.statement}"
        if revision is None:
            revision = f"Write the answer again so that it follows this rule: {p.statement}"
        general = [name for name in ("critique", "revision") if getattr(p, name) is None]
        lost.update(f"own {name}, for which general words with the statement stand" for name in general)
        lost.update(["statement"] if not general and p.statement != p.revision else [])
        found.append((critique, revision))
    return found


def _write_critiques(constitution: Constitution, lost: Counter[str]) -> str:
    return anthropic.write_critiques(constitution, _wordings(constitution, lost))


def _write_comparisons(constitution: Constitution, lost: Counter[str]) -> str:
    questions = []
    for p in constitution.principles:
        question = p.comparison
        if question is None:
            question = f"Choose the answer that follows this rule better: {p.statement}"
            lost["own comparison, for which general words with the statement stand"] += 1
        elif p.statement != question:
            lost["statement"] += 1
        questions.append(question)
    return anthropic.write_comparisons(questions)


def _write_handbook(constitution: Constitution, lost: Counter[str]) -> str:
    return handbook.write(_wordings(constitution, lost))


def _write_icai(constitution: Constitution, lost: Counter[str]) -> str:
    statements = [p.statement for p in constitution.principles]
    lost.update("line breaks of a statement" for text in statements if " ".join(text.split()) != text)
    return icai.write(statements)


def _write_markdown(constitution: Constitution, lost: Counter[str]) -> str:
    statements = [p.statement for p in constitution.principles]
    lost.update("line breaks of a statement" for text in statements if " ".join(text.split()) != text)
    return markdown.write(constitution)


def _write_json(constitution: Constitution, lost: Counter[str]) -> str:
    return json.dumps(to_json(constitution), indent=2, ensure_ascii=False) + "\n"


def _is_ours(data: Any) -> bool:
    return isinstance(data, dict) and "name" in data and isinstance(data.get("principles"), list)


def _read_json(source: Source, draft: Draft) -> None:
    """Our own records in JSON, as `export --to json` and `show --json` write them."""
    data = source.json()
    expected = '{"name": "...", "version": "...", "principles": [{"id": "...", "statement": "..."}]}'
    refuse(source, [] if _is_ours(data) and data["principles"] else ["has no name or no principles"], expected)
    entries = data["principles"]
    texts = [isinstance(e, dict) and all(isinstance(e.get(name), str) for name in ("id", "statement")) for e in entries]
    refuse(source, [f"principles.{n} lacks id or statement" for n, good in enumerate(texts) if not good], expected)
    for field, value in data.items():
        if field in ("name", "description") and isinstance(value, str):
            setattr(draft, field, value)
        elif field == "version" and isinstance(value, str | int | float):
            draft.version = str(value)
        elif field != "principles":
            draft.left_out[shown(field)] += 1
    for entry in entries:
        known = {name: part for name, part in entry.items() if name in OPTIONAL and part != _default(name)}
        draft.left_out.update(f"{shown(name)} of a principle" for name in entry.keys() - {"id", "statement", *OPTIONAL})
        draft.add(entry["id"], statement=entry["statement"], **known)


FORMATS: dict[str, Format] = {
    "anthropic": Format(
        anthropic.has_critiques, anthropic.read, _write_critiques, frozenset({"id", "critique", "revision"})
    ),
    "anthropic-comparisons": Format(
        anthropic.has_comparisons, anthropic.read, _write_comparisons, frozenset({"comparison"})
    ),
    "handbook": Format(handbook.is_handbook, handbook.read, _write_handbook, frozenset({"critique", "revision"})),
    "icai": Format(icai.is_icai, icai.read, _write_icai, frozenset()),
    "markdown": Format(
        None, markdown.read, _write_markdown, frozenset({"name", "version", "description", "id", "rationale"})
    ),
    "json": Format(_is_ours, _read_json, _write_json, frozenset({"name", "version", "description", "id", *OPTIONAL})),
}
"""Name on the command line -> format; docs/reference/constitution-format.md says what each is."""
