"""Which texts of a principle a way of working with it shows to a model, and so what an edit can change there.

The names are those of the judging methods, and "revise" for critiques and revisions. SHOWN holds for the shipped
templates; one of a run's own may show other texts.
"""

from __future__ import annotations

from typing import Literal

from rlaif.core.records import Principle, content_id

Viewer = Literal["pairwise", "cot", "rating", "contrast", "revise"]
JUDGED = ("statement", "critique", "revision", "comparison", "contrast")
"""The fields in `Principle.hash`."""
SHOWN: dict[Viewer, tuple[str, ...]] = {
    "pairwise": ("statement", "comparison"),
    "cot": ("statement", "comparison"),
    "rating": ("statement",),
    "contrast": ("contrast",),
    "revise": ("statement", "critique", "revision", "contrast"),
}


def shown_fields(method: str, *, shipped_template: bool = True, few_shots: int = 0) -> tuple[str, ...]:
    """The fields that a judging method shows, with `few_shots` the examples too; all of JUDGED where its template,
    which is handed the whole principle, is not the shipped one. "contrast" hands any template the pair alone."""
    match method:
        case "pairwise" | "cot" | "rating":
            examples = ("contrast",) if few_shots and method != "cot" else ()
            return (*SHOWN[method], *examples) if shipped_template else JUDGED
        case "contrast":
            return SHOWN["contrast"]
    return ()


def shown_hash(principle: Principle, fields: tuple[str, ...]) -> str:
    """Changes with these fields alone."""
    return content_id([getattr(principle, name) for name in fields])
