"""Sets that a user may add to: an item goes by its name in the set, or is "module:Class" of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from rlaif.core.errors import ConfigError, near


def is_own(name: str) -> bool:
    """Whether the name is of the form "module:Class"."""
    module, colon, item = name.partition(":")
    return bool(colon and module and item) and not any(part.isspace() for part in name)


def short_name(name: str) -> str:
    """What an item's figures go by: its name in the set, or the name of the user's class."""
    return name.rpartition(":")[2]


def check_name(name: str, known: Iterable[str], *, what: str, where: str) -> None:
    """Raises ConfigError, with the nearest name, unless `name` is one of the known or "module:Class".

    `what` is one item of the set in words, such as "gold scorer"; `where` the field.
    """
    names = list(known)
    if name in names or is_own(name):
        return
    raise ConfigError(
        f"there is no {what} {name!r}{near(name, names)}",
        where=where,
        remedy=f'write one of {", ".join(names)}, or "module:Class" of your own',
    )


def load_own(name: str, *, what: str, where: str, remedy: str) -> Any:
    """The object "module:Class"; raises ConfigError if it cannot be imported."""
    module, _, item = name.partition(":")
    try:
        return getattr(importlib.import_module(module), item)
    except Exception as problem:  # whatever its module does when it is imported
        raise ConfigError(
            f"cannot import the {what} {name!r}: {type(problem).__name__}: {problem}", where=where, remedy=remedy
        ) from None
