"""What an edit of a constitution means: which principles came, went, or changed, and what of it a judge will see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlaif.records import Constitution, Principle

ChangeKind = Literal["added", "dropped", "renamed", "changed"]
SEEN = ("statement", "critique", "revision", "comparison", "contrast")
"""The fields that a judge may see, which are those in `Principle.hash`."""
UNSEEN = ("rationale", "tests", "weight", "priority", "tags")


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a principle before and after; `seen` says whether a judge may see it."""

    name: str
    old: Any
    new: Any
    seen: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one principle. `id` is the new one, or that of the dropped principle; `was` is set if renamed."""

    id: str
    kind: ChangeKind
    fields: tuple[FieldChange, ...]
    judge_sees: bool
    """The hash of the principle changed, or it came or went: what the judge is shown is no longer the same."""
    judged_anew: bool
    """New verdicts are needed: it has a weight, and is new, worded anew, or had weight 0 before."""
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
                parts.append(f"retagged {' '.join(tags) or '(order)'}")
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
    """Principles that are in both stand in another order, so that a seed draws others where one is drawn per prompt."""
    principles: int
    """Of the new constitution."""
    judged_anew: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def diff(old: Constitution, new: Constitution) -> Difference:
    """What changed from `old` to `new`, principle by principle; by id, or by the text where only the id is new."""
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
            changes.append(Change(p.id, "added", (), judge_sees=True, judged_anew=p.weight > 0))
            continue
        kept.append(previous.id)
        changes += _change(previous, p)
    changes += [
        Change(p.id, "dropped", (), judge_sees=True, judged_anew=False) for group in gone.values() for p in group
    ]
    order = [p.id for p in old.principles if p.id in set(kept)]
    anew = sum(change.judged_anew for change in changes)
    return Difference(tuple(changes), order != kept, len(new.principles), anew)


def _change(old: Principle, new: Principle) -> Iterator[Change]:
    """Nothing for a principle that is the same in everything."""
    fields = tuple(
        FieldChange(name, getattr(old, name), getattr(new, name), seen=name in SEEN)
        for name in (*SEEN, *UNSEEN)
        if getattr(old, name) != getattr(new, name)
    )
    if old.id != new.id or fields:
        seen = old.hash != new.hash
        yield Change(
            new.id,
            "changed" if old.id == new.id else "renamed",
            fields,
            judge_sees=seen,
            judged_anew=new.weight > 0 and (seen or old.weight == 0),
            was=None if old.id == new.id else old.id,
        )
