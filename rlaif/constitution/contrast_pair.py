"""A contrast pair made from a principle's statement: the least that judge.method: contrast takes.

It wraps the rule where a good pair names the behaviour, so it is something to start from.
"""

from __future__ import annotations

from pathlib import Path

from rlaif.constitution.compose import compose_text
from rlaif.constitution.edit import FieldEdit, with_changes
from rlaif.core.records import Contrast

FOLLOWS = "You are an assistant whose answers follow this rule: "
BREAKS = "You are an assistant whose answers break this rule: "


def made_contrast(statement: str) -> Contrast:
    """A pair of system prompts that holds for any statement, and is worse than one written for it."""
    rule = " ".join(statement.split())
    return Contrast(FOLLOWS + rule, BREAKS + rule)


def is_made(followed: str, violated: str) -> bool:
    """Whether the pair only wraps a rule."""
    return followed.startswith(FOLLOWS) and violated.startswith(BREAKS)


def with_made_contrasts(text: str, path: Path) -> str:
    """The constitution's text with a made pair in each principle that has none, or one that was made from another
    statement; those that it includes get an entry with `override: true`."""
    edits = []
    for part in compose_text(text, path).principles:
        own, made = part.entry.contrast, made_contrast(part.entry.statement)
        if own is None:
            pair = {"followed": made.followed, "violated": made.violated}
            edits.append(FieldEdit(part.entry.id, ("contrast",), pair))
        elif is_made(own.followed, own.violated) and own.followed != made.followed:
            edits.append(FieldEdit(part.entry.id, ("contrast", "followed"), made.followed))
            edits.append(FieldEdit(part.entry.id, ("contrast", "violated"), made.violated))
    return with_changes(text, path, edits)
