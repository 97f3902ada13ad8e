"""Sets that a user may add to: an item goes by its name in the set, or is "module:Class" of the user's own."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlaif.core.errors import ConfigError, RlaifError, StageError, memory_is_full, near


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


def look_beside(folder: Path) -> None:
    """Makes the modules in the folder importable, after all others: that of a config, where a user's own items lie."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def load_own(name: str, *, what: str, where: str, remedy: str) -> Any:
    """The object "module:Class"; raises ConfigError if it cannot be imported."""
    module, _, item = name.partition(":")
    if module.endswith(".py"):
        instead = f"{module.removesuffix('.py').replace('/', '.')}:{item}"
        raise ConfigError(f"{name!r} names a file, not a module", where=where, remedy=f"write {instead}")
    try:
        return getattr(importlib.import_module(module), item)
    except Exception as problem:  # whatever its module does when it is imported
        raise ConfigError(
            f"cannot import the {what} {name!r}: {type(problem).__name__}: {problem}", where=where, remedy=remedy
        ) from None


@contextmanager
def own_code(name: str, *, what: str) -> Iterator[None]:
    """Runs code of the user's own item "module:Class": whatever it raises becomes a StageError that names the item and
    the line. Errors of rlaif and full memory pass as they are; so does everything under a name of ours."""
    try:
        yield
    except (RlaifError, MemoryError):
        raise
    except Exception as problem:  # whatever the user's code does
        if not is_own(name) or memory_is_full(problem):
            raise
        module = sys.modules.get(name.partition(":")[0])
        raise StageError(
            f"the {what} {name} raised {type(problem).__name__}: {problem}",
            where=raised_at(problem, getattr(module, "__file__", None)),
            remedy="mend it; what is finished is kept, and a run goes on with --resume",
        ) from problem


def raised_at(problem: Exception, file: str | None) -> str:
    """ "file:line" of what raised: the innermost line in `file`, or the innermost of all where none is in it."""
    frames = list(traceback.extract_tb(problem.__traceback__))
    own = [frame for frame in frames if frame.filename == file]
    frame = (own or frames)[-1]
    return f"{frame.filename}:{frame.lineno}"
