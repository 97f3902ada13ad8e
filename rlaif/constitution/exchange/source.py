"""The text of a file to import, and its JSON: limits, encoding and syntax told with file and line, nothing dropped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.core.errors import ConstitutionError
from rlaif.core.files import read_text
from rlaif.core.yaml import MAX_BYTES

MOST_TOLD = 10


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was read; `hash` is the start of the SHA-256 of its bytes."""

    path: Path
    text: str
    hash: str

    def json(self) -> Any:
        """The data of the JSON in it. Raises ConstitutionError with the line, also for a key that stands twice."""
        try:
            return json.loads(self.text, object_pairs_hook=_once)
        except json.JSONDecodeError as problem:
            raise ConstitutionError(
                f"is not JSON: {problem.msg}",
                where=f"{self.path}:{problem.lineno}",
                remedy="check the commas, quotes and brackets there, or name the format with --from",
            ) from None
        except RecursionError:
            raise ConstitutionError("is nested too deep", where=str(self.path), remedy="check the brackets") from None
        except ValueError as problem:
            raise ConstitutionError(f"is not JSON: {problem}", where=str(self.path), remedy="mend the file") from None


def read_source(path: Path) -> SourceFile:
    """The file, which has to be UTF-8 text of at most MAX_BYTES that is not empty."""
    text = read_text(path, ConstitutionError, most=MAX_BYTES)
    if not text.strip():
        raise ConstitutionError("is empty", where=str(path), remedy="give a file with principles")
    return SourceFile(path, text, hashlib.sha256(path.read_bytes()).hexdigest()[:16])


def refuse(source: SourceFile, problems: list[str], expected: str) -> None:
    """Raises ConstitutionError with what is wrong in the file, if anything is; `expected` shows the right shape."""
    if not problems:
        return
    told = problems[:MOST_TOLD]
    if len(problems) > MOST_TOLD:
        told = [*told, f"and {len(problems) - MOST_TOLD} more"]
    raise ConstitutionError("; ".join(told), where=str(source.path), remedy=f"the format is {expected}")


def shown(text: str, most: int = 60) -> str:
    """A text of the file on one line and in sight, shortened, for a message or a comment."""
    line = " ".join(text.split())
    short = line if len(line) <= most else line[: most - 4] + " ..."
    return short if short.isprintable() else ascii(short)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)!r} stands twice in one object, and one of the two would be lost")
    return found
