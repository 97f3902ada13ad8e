"""The columns that prompts bring beside our own fields, for the user's functions that ask for them by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

from rlaif.core.records import Prompt


def column_names(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Every column that one of the prompts has, in their order."""
    return tuple(dict.fromkeys(name for prompt in prompts for name in prompt.own_columns))


def column_values(prompts: Sequence[Prompt], names: Collection[str]) -> dict[str, list[Any]]:
    """Column -> its value of every prompt, None where a prompt has no such column."""
    rows = [prompt.own_columns for prompt in prompts] if names else []
    return {name: [row.get(name) for row in rows] for name in names}


@dataclass(frozen=True, slots=True)
class AskedColumns:
    """What a function takes by keyword behind its first parameters: names that it needs, and others, `any` for all."""

    needed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    any: bool = False

    @classmethod
    def of(cls, function: Callable[..., Any], *, behind: int) -> AskedColumns:
        """Those of the function's signature; nothing where it has none."""
        try:
            parameters = [*inspect.signature(function).parameters.values()]
        except (TypeError, ValueError):  # something compiled that does not say
            return cls()
        named = [p for p in parameters[behind:] if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
        needed = tuple(p.name for p in named if p.default is Parameter.empty)
        others = tuple(p.name for p in named if p.default is not Parameter.empty)
        return cls(needed, others, any(p.kind is Parameter.VAR_KEYWORD for p in parameters))

    def values(self, prompts: Sequence[Prompt]) -> dict[str, list[Any]]:
        """The columns to call the function with."""
        there = column_names(prompts)
        optional = [name for name in there if self.any or name in self.others]
        return column_values(prompts, dict.fromkeys((*self.needed, *optional)))
