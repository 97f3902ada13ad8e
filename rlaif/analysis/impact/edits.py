"""What an edit did to each principle, unchanged ones too, with the principle itself on both sides."""

from __future__ import annotations

from dataclasses import dataclass

from rlaif.constitution.diff import Difference
from rlaif.core.records import Constitution, Principle


@dataclass(frozen=True, slots=True)
class PrincipleEdit:
    """One principle on both sides; `before` is None for an added one, `after` for a dropped one."""

    id: str
    kind: str
    words: str
    before: Principle | None
    after: Principle | None


def edits(before: Constitution, after: Constitution, difference: Difference) -> list[PrincipleEdit]:
    """One edit per principle of either side: those of `after` in its order, then the dropped ones."""
    old, new = ({p.id: p for p in constitution.principles} for constitution in (before, after))
    changes = {change.id: change for change in difference.changes if change.kind != "dropped"}
    found = []
    for name, principle in new.items():
        change = changes.get(name)
        if change is None:
            found.append(PrincipleEdit(name, "unchanged", "unchanged", old[name], principle))
        else:
            previous = None if change.kind == "added" else old[change.was or name]
            found.append(PrincipleEdit(name, change.kind, change.words, previous, principle))
    dropped = [change for change in difference.changes if change.kind == "dropped"]
    return found + [PrincipleEdit(change.id, change.kind, change.words, old[change.id], None) for change in dropped]
