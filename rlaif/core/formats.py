"""The format of a config and of the run folder that it makes, and the error about one that cannot be read here.

One number counts both: a run folder has its config in it. docs/reference/formats.md says when the number moves.
"""

from __future__ import annotations

from rlaif.core.errors import ConfigError
from rlaif.core.provenance import package_version

FORMAT = 1
"""What is written."""
OLDEST = 1
"""What can still be read."""
_PAGE = "docs/reference/formats.md says what changed"


def refuse_format(given: object, where: str) -> None:
    """Raises ConfigError for a format that is newer than FORMAT or older than OLDEST, or no number."""
    here = f"this rlaif ({package_version('rlaif')})"
    if not isinstance(given, int) or isinstance(given, bool):
        raise ConfigError(f"format must be a number (given: {given!r})", where=where, remedy=f"write {FORMAT}")
    if given > FORMAT:
        raise ConfigError(
            f"was written in format {given}, and {here} reads up to format {FORMAT}",
            where=where,
            remedy="install a newer one: pip install --upgrade rlaif-toolkit",
        )
    if given < OLDEST:
        raise ConfigError(
            f"was written in format {given}, and {here} reads from format {OLDEST} on",
            where=where,
            remedy=f"use the rlaif that wrote it, whose version a run has in each stage.json, or move it: {_PAGE}",
        )
