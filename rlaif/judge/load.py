"""Reading a run config with every name in it known: of backends, judging methods and gold scorers.

`rlaif.config` declares the fields and lies below the rooms that know these, so it cannot ask them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from rlaif.config import AskingConfig, RunConfig
from rlaif.config import load as tables
from rlaif.core.errors import ConfigError
from rlaif.gold.scorers import entry_of
from rlaif.judge.methods import table as methods
from rlaif.lm import backends


def problems(config: RunConfig) -> Iterator[tuple[tables.Location, str]]:
    """(place in the config, sentence) for each unknown name in it and what the methods cannot work with."""
    yield from backends.problems(config.judge)
    yield from methods.problems(config)
    for name, table in (("evaluate", config.evaluate), ("ppo", config.ppo)):
        for scorer in table.gold:
            try:
                entry_of(scorer, f"{name}.gold")
            except ConfigError as problem:
                yield (name, "gold"), problem.advice


def _choices(field: str, names: Iterable[str]) -> tuple[str, ...]:
    default = AskingConfig.model_fields[field].default
    return (default, *(name for name in names if name != default))


CHOICES = {
    "judge.backend": _choices("backend", backends.BACKENDS),
    "judge.method": _choices("method", methods.METHODS),
}
"""Field -> the names that it may have, the default first, for fields whose names are declared above the config."""

load = partial(tables.load, check=problems)
load_or_default = partial(tables.load_or_default, check=problems)
default_config = partial(tables.default_config, check=problems)
parse = partial(tables.parse, check=problems)
