"""Which texts of a principle a way of working with it shows to a model, and so what an edit can change there.

Critiques and revisions show REVISE; the judging methods (rlaif.judge.methods) say themselves what they show. All of it
holds for the shipped templates; one of a run's own may show other texts.
"""

from __future__ import annotations

from typing import Protocol

from rlaif.core.records import Principle, content_id

JUDGED = ("statement", "critique", "revision", "comparison", "contrast")
"""The fields in `Principle.hash`."""
REVISE = ("statement", "critique", "revision", "contrast")


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


def shown_hash(principle: Principle, fields: tuple[str, ...]) -> str:
    """Changes with these fields alone."""
    return content_id([getattr(principle, name) for name in fields])
