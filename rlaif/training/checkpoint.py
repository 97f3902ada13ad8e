"""A checkpoint is a folder that is whole or not there: written aside, flushed to disk, then renamed; the one before
stays until then."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from rlaif.core.errors import StageError, memory_is_full
from rlaif.core.files import disk_errors, write_atomic

READ_ERRORS = (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError, EOFError)
"""What reading a damaged file raises; `UnpicklingError`, a plain Exception, comes as `ValueError` from `_read`. Other
errors of the disk, and a full memory, may pass: the checkpoint is none the worse for them."""


def save(folder: Path, state: dict[str, Any], facts: dict[str, Any]) -> None:
    """Writes tensors (`state`) and plain values (`facts`)."""
    temporary, former = folder.with_suffix(".tmp"), folder.with_suffix(".old")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            write_tensors(temporary / "state.pt", state)
            write_atomic(temporary / "facts.json", json.dumps(facts))
            flush(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)  # on a full disk it would take what room is left
            raise
        shutil.rmtree(former, ignore_errors=True)
        if folder.exists():
            folder.rename(former)
        temporary.rename(folder)
        shutil.rmtree(former, ignore_errors=True)


def restore(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(state, facts) of the last whole checkpoint; None where there is none.

    A damaged one is passed over for the one before, if that is still there: the run redoes a few steps. Raises
    StageError where all that is left is damaged.
    """
    damage: list[tuple[Path, Exception]] = []
    for path in (folder, folder.with_suffix(".old")):
        if not path.exists():
            continue
        try:
            found = _read(path)
        except READ_ERRORS as problem:
            if memory_is_full(problem):
                raise
            damage.append((path, problem))
            continue
        if path != folder:
            shutil.rmtree(folder.with_suffix(".damaged"), ignore_errors=True)
            if folder.exists():
                folder.rename(folder.with_suffix(".damaged"))
            path.rename(folder)
        return found
    if not damage:
        return None
    place, first = damage[0]
    lines = str(first).strip().splitlines() or [type(first).__name__]
    raise StageError(
        f"the checkpoint cannot be read: {lines[0]}",
        where=str(place),
        remedy="start the stage anew with --force, which gives up what it had trained",
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from pickle import UnpicklingError

    facts = json.loads((path / "facts.json").read_text(encoding="utf-8"))
    if not isinstance(facts, dict):
        raise ValueError("facts.json is no JSON object")
    try:
        return torch.load(path / "state.pt", weights_only=True, map_location="cpu"), facts
    except UnpicklingError:
        raise ValueError("state.pt is no file of tensors") from None


def remove(folder: Path) -> None:
    """Renames first: half a checkpoint must never stand where a whole one is looked for."""
    temporary = folder.with_suffix(".tmp")
    for path in (folder, folder.with_suffix(".old"), folder.with_suffix(".damaged")):
        shutil.rmtree(temporary, ignore_errors=True)
        if path.exists():
            path.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def write_tensors(path: Path, value: dict[str, Any]) -> None:
    """Writes what `torch.load(path, weights_only=True)` gives back.

    On a full disk torch reports a file position that it did not expect; the OSError behind that is raised instead.
    """
    with disk_errors(path), path.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as problem:
            if isinstance(problem.__context__, OSError):
                raise problem.__context__ from None
            raise


def flush(folder: Path) -> None:
    """Sees a folder and the files in it onto the disk: what is renamed into its place must survive a power cut."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
