"""A constitution, the difference of two, and what an import did, as plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterator, Sequence

from rlaif.constitution.compose import ComposedConstitution, ComposedPrinciple
from rlaif.constitution.diff import Change, FieldChange, JudgingMethod, diff, reading
from rlaif.constitution.exchange.formats import ImportResult
from rlaif.constitution.exchange.source import shown
from rlaif.core.records import Constitution, Contrast

MOST_RENAMED = 5
MARKS = {"added": "+", "dropped": "-", "renamed": "~", "changed": "~"}


def constitution_lines(composed: ComposedConstitution, width: int) -> Iterator[str]:
    """The lines of a whole constitution, with what it includes; no line is much longer than `width`."""
    file, principles = composed.file, composed.principles
    tests = sum(len(written.entry.tests) for written in principles)
    yield f"{file.name}, version {_line(file.version)}: {len(principles)} principles, {tests} tests"
    yield from _wrapped(file.description, width, "  ")
    total = sum(written.entry.weight for written in principles)
    for number, written in enumerate(principles, 1):
        yield ""
        yield from _principle(number, written, written.entry.weight / total, width)
        if written.paths != [composed.path]:
            yield f"   {'from':<10}  {_origin(written)}"


def _principle(number: int, written: ComposedPrinciple, share: float, width: int) -> Iterator[str]:
    entry = written.entry
    facts = [f"{number}. {entry.id}", f"tier {entry.priority}", f"weight {entry.weight:g} ({share:.0%})"]
    facts += [f"tags {_line(', '.join(entry.tags))}"] if entry.tags else []
    yield "   ".join([*facts, f"{len(entry.tests)} tests"])
    yield from _wrapped(entry.statement, width, "   ")
    texts = {name: getattr(entry, name) for name in ("rationale", "critique", "revision", "comparison")}
    if entry.contrast is not None:
        texts |= {"followed": entry.contrast.followed, "violated": entry.contrast.violated}
        texts["examples"] = str(len(entry.contrast.examples) or "")
    for name, text in texts.items():
        if text:
            yield from _wrapped(text, width, f"   {name:<10}  ")


def _origin(written: ComposedPrinciple) -> str:
    """ "base.yaml, mine.yaml (statement, weight)": where it was defined, then what was changed where."""
    defined, *later = written.paths
    changed = (
        f"{path.name} ({', '.join(name for name, source in written.sources.items() if source.path == path)})"
        for path in later
    )
    return ", ".join([defined.name, *changed])


def _line(text: str) -> str:
    """The text on one line, so that it cannot look like lines of ours."""
    return " ".join(text.split())


def _wrapped(text: str, width: int, first: str) -> list[str]:
    """The paragraph with `first` before its first line and as many spaces before the others."""
    return textwrap.wrap(
        text,
        max(width, len(first) + 20),
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
    )


def difference_lines(
    old: Constitution, new: Constitution, methods: Collection[JudgingMethod], width: int
) -> Iterator[str]:
    """The lines of a difference: which two, one for each principle that changed, its texts, and what it will cost."""
    difference = diff(old, new, methods)
    yield " -> ".join(f"{_line(f'{side.name} {side.version}')} ({side.hash})" for side in (old, new))
    if not difference.changes and not difference.reordered:
        yield "no principle differs"
        return
    longest = max((len(change.id) for change in difference.changes), default=0)
    seen = max((len(_seen(change)) for change in difference.changes), default=0)
    for change in difference.changes:
        yield f"{MARKS[change.kind]} {change.id:<{longest}}  {_seen(change):<{seen}}  {change.words}"
        if change.kind in ("added", "dropped"):
            yield from _wrapped(change.statement, width, f"    {MARKS[change.kind]} ")
        for field in change.fields:
            yield from _field(field, width)
        if any(field.name == "tags" for field in change.fields):
            yield "    slices that choose principles by tag may change"
    if difference.reordered:
        yield "the principles stand in another order, which changes no label and no draw"
    yield ""
    anew = difference.judged_anew
    counts = ", ".join(f"{method} {count}" for method, count in anew.items())
    yield f"principles that need new verdicts, of {difference.principles}: {counts}; the others' stay valid"
    if difference.unreached:
        told = "; ".join(f"{m.name} reads {reading(m.shown)}" for m in methods if m.name in difference.unreached)
        names = " or ".join(difference.unreached)
        yield from _wrapped(f"under judge.method {names} no label can change: {told}", width, "")
    refusing = [method.name for method in methods if method.asks_model and method.name not in anew]
    if refusing:
        lacking = ", ".join(p.id for p in new.principles if p.contrast is None)
        told = f"judge.method: {', '.join(refusing)} refuses {new.name}: no contrast pair in {lacking}"
        yield from _wrapped(told, width, "")


def _seen(change: Change) -> str:
    """Who sees the change; nothing for a principle that nobody is shown any more, or yet."""
    if change.seen_by:
        return f"seen by {', '.join(change.seen_by)}"
    return "seen by no model" if change.kind in ("changed", "renamed") else ""


def _field(field: FieldChange, width: int) -> Iterator[str]:
    """The old and the new text of a field that has one."""
    for name, old, new in _texts(field):
        if old != new:
            yield f"    {name}"
            yield from _wrapped(old, width, "    - ")
            yield from _wrapped(new, width, "    + ")


def _texts(field: FieldChange) -> Iterator[tuple[str, str, str]]:
    """(name, old, new) of the texts in a field; "" where there is none."""
    if field.name == "contrast":
        old, new = _contrast_texts(field.old), _contrast_texts(field.new)
        for name in {**old, **new}:
            yield name, old.get(name, ""), new.get(name, "")
    elif field.name in ("statement", "rationale", "critique", "revision", "comparison"):
        yield field.name, field.old or "", field.new or ""


def _contrast_texts(pair: Contrast | None) -> dict[str, str]:
    if pair is None:
        return {}
    texts = {"contrast.followed": pair.followed, "contrast.violated": pair.violated}
    for number, example in enumerate(pair.examples):
        for part in ("prompt", "followed", "violated"):
            texts[f"contrast.examples.{number}.{part}"] = getattr(example, part)
    return texts


def imported_lines(found: ImportResult, methods: Sequence[str], width: int) -> Iterator[str]:
    """What was written, what was left out, what to know about it, what it works with (`methods` are the judging methods
    that take it) and what to do next."""
    count = len(found.constitution.principles)
    yield f"wrote {found.file}: {count} principle{'' if count == 1 else 's'} from {found.source} ({found.format})"
    lines = [f"left out: {number} x {what}" for what, number in found.left_out.items()]
    lines += [f"note: {note}" for note in found.notes]
    renamed = [f"{shown(old)!r} -> {new}" for old, new in found.renamed]
    if renamed:
        more = f" and {len(renamed) - MOST_RENAMED} more" if len(renamed) > MOST_RENAMED else ""
        lines.append(f"other ids: {', '.join(renamed[:MOST_RENAMED])}{more}")
    lacking = sum(principle.contrast is None for principle in found.constitution.principles)
    if lacking:
        lines.append(
            f"works with judge.method: {', '.join(methods[:-1])} and {methods[-1]}, and in revise; contrast, the "
            f"default, refuses it until each principle has a contrast pair ({lacking} have none): rlaif constitution "
            f"draft {found.file} makes some to start from"
        )
    for line in lines:
        yield from textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    yield f"next: read the statements in {found.file}, then rlaif constitution check {found.file}"
