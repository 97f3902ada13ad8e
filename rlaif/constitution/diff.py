"""What an edit of a constitution means: which principles came, went, or changed, and what of it a model will see.

Critiques and revisions show REVISE; the judging methods (rlaif.judge.methods) say themselves what they show. All of it
holds for the shipped templates; one of a run's own may show other texts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from rlaif.core.records import Constitution, Principle, content_id

JUDGED = ("statement", "critique", "revision", "comparison", "contrast")
"""The fields in `Principle.hash`."""
REVISE = ("statement", "critique", "revision", "contrast")
ChangeKind = Literal["added", "dropped", "renamed", "changed"]
UNSEEN = ("rationale", "tests", "weight", "priority", "tags")
UNHEARD = ("rationale", "tests")
"""The fields that change no label, whatever the judge is shown."""
REVISING = "revise"
"""Beside the judging methods the one who is shown principles."""
Shown = Mapping[str, tuple[str, ...]]
"""Judging method or REVISING -> the fields that it shows."""


class JudgingMethod(Protocol):
    """What a constitution has to know of a method of judging: its name, which fields of a principle it shows, whether
    it refuses a principle without a contrast pair, and whether a model is asked at all."""

    @property
    def name(self) -> str: ...

    @property
    def shown(self) -> tuple[str, ...]: ...

    @property
    def needs_contrast(self) -> bool: ...

    @property
    def asks_model(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a principle before and after; `seen` says whether any model may see it."""

    name: str
    old: Any
    new: Any
    seen: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one principle. `id` is the new one, or that of the dropped principle; `was` is set if renamed."""

    id: str
    kind: ChangeKind
    statement: str
    """The new one, or that of the dropped principle."""
    fields: tuple[FieldChange, ...]
    seen_by: tuple[str, ...]
    """Who is shown something else now; for an added principle with a weight, who is shown something of it at all."""
    judged_anew: tuple[str, ...]
    """The judging methods that need new verdicts: those in `seen_by`, or all if it had weight 0 and has one now."""
    was: str | None = None

    @property
    def words(self) -> str:
        """ "reworded (statement); reweighted 1 -> 2", in the order: what a judge may see, then what it does not."""
        if not self.fields and self.was is None:
            return self.kind
        parts = [] if self.was is None else [f"renamed from {self.was}"]
        parts += [f"reworded ({', '.join(names)})"] if (names := [f.name for f in self.fields if f.seen]) else []
        for field in self.fields:
            if field.name == "weight":
                parts.append(f"reweighted {field.old:g} -> {field.new:g}")
            elif field.name == "priority":
                parts.append(f"moved from tier {field.old} to {field.new}")
            elif field.name == "tags":
                tags = [f"+{tag}" for tag in field.new if tag not in field.old]
                tags += [f"-{tag}" for tag in field.old if tag not in field.new]
                parts.append(f"retagged {' '.join(' '.join(tags).split()) or '(order)'}")
            elif field.name == "tests":
                parts.append(f"other tests ({len(field.old)} -> {len(field.new)})")
            elif field.name == "rationale":
                parts.append("other rationale")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes, in the order of the new constitution, dropped principles last."""

    changes: tuple[Change, ...]
    reordered: bool
    """Principles that are in both stand in another order."""
    principles: int
    """Of the new constitution."""
    judged_anew: dict[str, int]
    """Judging method -> how many principles need new verdicts; without the methods that refuse the constitution."""
    unreached: tuple[str, ...] = ()
    """Of these methods those under which the edit can change no label."""

    def reaches(self, shown: Collection[str]) -> bool:
        """Whether the edit can change a label of a judge that is shown these fields. Other weights, tiers, tags and ids
        count as if they could, since that depends on the config."""
        harmless = {*JUDGED, *UNHEARD}.difference(shown)
        return any(
            change.kind != "changed" or any(field.name not in harmless for field in change.fields)
            for change in self.changes
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def diff(old: Constitution, new: Constitution, methods: Iterable[JudgingMethod]) -> Difference:
    """What changed from `old` to `new`, principle by principle; by id, or by the text where only the id is new.

    `methods` are those of judging: which of them see a change is part of what it means.
    """
    asked = [method for method in methods if method.asks_model]
    shown = {method.name: method.shown for method in asked} | {REVISING: REVISE}
    before, after = ({p.id: p for p in constitution.principles} for constitution in (old, new))
    gone: dict[str, list[Principle]] = {}
    for p in old.principles:
        if p.id not in after:
            gone.setdefault(p.hash, []).append(p)
    changes: list[Change] = []
    kept: list[str] = []
    for p in new.principles:
        same_text = gone.get(p.hash)
        previous = before.get(p.id) or (same_text.pop(0) if same_text else None)
        if previous is None:
            seen = _viewers(None, p, shown) if p.weight > 0 else ()
            changes.append(Change(p.id, "added", p.statement, (), seen, _judging(seen)))
            continue
        kept.append(previous.id)
        changes += _change(previous, p, shown)
    changes += [Change(p.id, "dropped", p.statement, (), (), ()) for group in gone.values() for p in group]
    order = [p.id for p in old.principles if p.id in set(kept)]
    lacking = any(p.contrast is None for p in new.principles)
    anew = {
        method.name: sum(method.name in change.judged_anew for change in changes)
        for method in asked
        if not (method.needs_contrast and lacking)
    }
    found = Difference(tuple(changes), order != kept, len(new.principles), anew)
    return replace(found, unreached=tuple(m.name for m in asked if m.name in anew and not found.reaches(m.shown)))


def _change(old: Principle, new: Principle, shown: Shown) -> Iterator[Change]:
    """Nothing for a principle that is the same in everything."""
    fields = tuple(
        FieldChange(name, getattr(old, name), getattr(new, name), seen=name in JUDGED)
        for name in (*JUDGED, *UNSEEN)
        if getattr(old, name) != getattr(new, name)
    )
    if old.id == new.id and not fields:
        return
    seen = _viewers(old, new, shown)
    anew = () if new.weight == 0 else tuple(shown) if old.weight == 0 else seen
    kind: ChangeKind = "changed" if old.id == new.id else "renamed"
    was = None if old.id == new.id else old.id
    yield Change(new.id, kind, new.statement, fields, seen, _judging(anew), was)


def _viewers(old: Principle | None, new: Principle, shown: Shown) -> tuple[str, ...]:
    """Who is shown something else of the principle; where there was none, who is shown anything of it."""
    return tuple(
        viewer
        for viewer, names in shown.items()
        if any(getattr(old, name, None) != getattr(new, name) for name in names)
    )


def _judging(viewers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(viewer for viewer in viewers if viewer != REVISING)


def in_words(fields: Iterable[str]) -> str:
    """ "the statement and the comparison": fields of a principle."""
    *first, last = [f"the {name}{' pair' if name == 'contrast' else ''}" for name in fields]
    return f"{', '.join(first)} and {last}" if first else last


def reading(shown: Iterable[str]) -> str:
    """ "the contrast pair, never the statement": what a judge reads of a principle, as far as an author has to know."""
    fields = tuple(shown)
    return in_words(fields) + (", never the statement" if "statement" not in fields else "")


def shown_hash(principle: Principle, fields: tuple[str, ...]) -> str:
    """Changes with these fields alone."""
    return content_id([getattr(principle, name) for name in fields])
