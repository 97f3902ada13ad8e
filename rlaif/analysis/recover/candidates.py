"""Candidates: principles that may explain labels, from constitutions or written by a model, each with an id of its own.

A candidate counts like any other: weight 1, first tier. The judging method `contrast` needs a contrast pair; where a
principle has none, one is made from its statement, and the candidate says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rlaif.constitution.contrast_pair import made_contrast
from rlaif.constitution.load import load_constitution
from rlaif.core.records import Constitution, Principle

PROPOSED = "proposed"
"""The origin of a statement that a model wrote."""
MAX_ID = 64
_FRAME = re.compile(
    r"^\s*(?:(?:an?|the)\s+)?(?:good|better|best|preferred)\s+answers?\s+(?:(?:should|must|is|are|does|do|be)\s+)*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A principle to try. `origin` is the name of its constitution, or PROPOSED; `contrast_made` says that its contrast
    pair was made from the statement."""

    principle: Principle
    origin: str
    contrast_made: bool = False


def of_constitutions(names: Sequence[str]) -> list[Candidate]:
    """The principles of these constitutions (shipped names or files), in order; those without weight too."""
    loaded = [load_constitution(name) for name in names]
    return [Candidate(p, constitution.name) for constitution in loaded for p in constitution.principles]


def of_statements(statements: Iterable[str]) -> list[Candidate]:
    """Candidates with these statements; their ids are their first words."""
    return [Candidate(Principle(_slug(statement), statement), PROPOSED) for statement in statements]


def bare(statement: str) -> str:
    """The statement without the words with which the template has every rule begin: two rules are not alike for
    beginning the same."""
    return _FRAME.sub("", statement)


def ready(candidates: Sequence[Candidate], *, pairs: bool) -> list[Candidate]:
    """The candidates as they are judged: one id each, one weight and tier, and with `pairs` a contrast pair each."""
    taken: set[str] = set()
    found = []
    for candidate in candidates:
        name = next(name for name in _names(candidate) if name not in taken)
        taken.add(name)
        lacks = pairs and candidate.principle.contrast is None
        contrast = made_contrast(candidate.principle.statement) if lacks else candidate.principle.contrast
        principle = replace(candidate.principle, id=name, weight=1.0, priority=1, contrast=contrast)
        found.append(Candidate(principle, candidate.origin, lacks))
    return found


def equal_constitution(principles: Sequence[Principle]) -> Constitution:
    """These principles with one weight and tier, under which a label is the mean over them."""
    equal = tuple(replace(principle, weight=1.0, priority=1) for principle in principles)
    return Constitution("recovered", "1", "", equal)


def _names(candidate: Candidate) -> Iterator[str]:
    """The id, then with the origin behind it, then with numbers."""
    name, origin = candidate.principle.id, candidate.origin
    yield name
    tails = ([] if origin == PROPOSED else [origin]) + [str(n) for n in range(2, 100_000)]
    for tail in tails:
        yield f"{name[: MAX_ID - 1 - len(tail)].rstrip('-')}-{tail}"[:MAX_ID].strip("-")


def _slug(statement: str) -> str:
    words = re.findall(r"[a-z0-9]+", statement.lower().replace("'", ""))
    words = [word for word in words if word not in {"a", "an", "the", "to", "of", "and", "good", "answer", "should"}]
    return "-".join(words[:5])[:40].strip("-") or PROPOSED
