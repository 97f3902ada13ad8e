"""What a response to PPO is scored by: one source, or several with weights."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from rlaif.config.fields import Table

TAKEN = {"score_std"}
"""Columns of ppo/metrics.jsonl that are about the sum."""


class RewardSource(Table):
    """One part of the reward."""

    source: str = Field(description='"model", "judge" or a Python function "module:function"')
    weight: float = Field(1.0, description="times the source's score; below 0 = a penalty, 0 = logged only")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]+$", description="of its columns score_NAME; null = model, judge or the function"
    )

    @property
    def called(self) -> str:
        """The name that the source is logged under."""
        return self.name or self.source.rpartition(":")[2]

    @property
    def columns(self) -> tuple[str, str, str]:
        """Its columns in ppo/metrics.jsonl."""
        return f"score_{self.called}", f"score_{self.called}_std", f"score_{self.called}_none"

    @model_validator(mode="after")
    def _is_one_of_the_kinds(self) -> RewardSource:
        if self.source not in ("model", "judge") and not re.fullmatch(r"[^:\s]+:[^:\s.]+", self.source):
            raise ValueError(f'{self.source!r} is neither "model" nor "judge" nor "module:function"')
        return self


def _listed(value: Any) -> Any:
    """The list of sources behind the short forms: one source, and a source by its mere text."""
    items = value if isinstance(value, list | tuple) else [value]
    return [{"source": item} if isinstance(item, str) else item for item in items]


def _distinct(sources: tuple[RewardSource, ...]) -> tuple[RewardSource, ...]:
    if all(part.weight == 0 for part in sources):
        raise ValueError("no source has a weight: at least one must count")
    for name in ("model", "judge"):
        if sum(part.source == name for part in sources) > 1:
            raise ValueError(f"{name} stands there twice: give it once, with the sum of the weights")
    columns = [column for part in sources for column in part.columns] + sorted(TAKEN)
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"two figures would be logged as {twice}: give one of the sources another name")
    return sources


def _short(sources: tuple[RewardSource, ...]) -> Any:
    """The value as it is written by hand: a plain source is its text, one that stands alone is no list."""
    items = [
        part.source if (part.weight, part.name) == (1.0, None) else part.model_dump(exclude_none=True)
        for part in sources
    ]
    return items[0] if len(items) == 1 and isinstance(items[0], str) else items


Reward = Annotated[
    tuple[RewardSource, ...],
    BeforeValidator(_listed),
    AfterValidator(_distinct),
    PlainSerializer(_short),
]
"""The sources of the score. Read from "model", "judge", "module:function", a table, or a list of these."""
