"""Where the data that rlaif ships lies: constitutions, prompt sets, templates; and the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from rlaif.core.errors import RlaifError

ShippedKind = Literal["constitutions", "prompts/sets", "prompts/templates"]
_SUFFIX: dict[ShippedKind, str] = {
    "constitutions": ".yaml",
    "prompts/sets": ".jsonl",
    "prompts/templates": ".jinja",
}
_PACKAGE = Path(__file__).resolve().parent.parent


def shipped(kind: ShippedKind) -> dict[str, Path]:
    """Name (file name without its suffix) -> file of everything shipped of one kind, sorted by name."""
    folder = _root() / kind
    return {path.stem: path for path in sorted(folder.glob(f"*{_SUFFIX[kind]}"))}


def cache_folder() -> Path:
    """Where converted models and the verdicts of principle tests are kept: $RLAIF_CACHE, else $XDG_CACHE_HOME/rlaif,
    else ~/.cache/rlaif."""
    if chosen := os.environ.get("RLAIF_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlaif"


def _root() -> Path:
    """The folder that holds `constitutions` and `prompts`: inside the package in a wheel, beside it in a checkout."""
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        if (root / "constitutions").is_dir() and (root / "prompts").is_dir():
            return root
    raise RlaifError(
        "the constitutions, prompts and templates that belong to rlaif are missing",
        where=str(_PACKAGE),
        remedy="install rlaif again: pip install --force-reinstall --no-deps rlaif-toolkit",
    )
