"""A checkpoint is a folder that is whole or not there: written aside, then renamed; the one before stays until then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from rlaif.store import disk_errors


def save(folder: Path, state: dict[str, Any], facts: dict[str, Any]) -> None:
    """Writes tensors (`state`) and plain values (`facts`)."""
    temporary, former = folder.with_suffix(".tmp"), folder.with_suffix(".old")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        torch.save(state, temporary / "state.pt")
        (temporary / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        shutil.rmtree(former, ignore_errors=True)
        if folder.exists():
            folder.rename(former)
        temporary.rename(folder)
        shutil.rmtree(former, ignore_errors=True)


def restore(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(state, facts) of the last whole checkpoint; None where there is none."""
    former = folder.with_suffix(".old")
    if not folder.exists() and former.exists():
        former.rename(folder)
    if not folder.exists():
        return None
    facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return torch.load(folder / "state.pt", weights_only=True, map_location="cpu"), facts


def remove(folder: Path) -> None:
    """Renames first: half a checkpoint must never stand where a whole one is looked for."""
    for path in (folder, folder.with_suffix(".old")):
        if path.exists():
            path.rename(folder.with_suffix(".tmp"))
        shutil.rmtree(folder.with_suffix(".tmp"), ignore_errors=True)
