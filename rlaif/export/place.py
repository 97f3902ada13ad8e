"""Where an export may be written, and how: the whole folder or nothing, and never over what is no export."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlaif.core import provenance
from rlaif.core.errors import RunFolderError
from rlaif.core.files import RunFolder, write_folder

MARK = "rlaif-export.json"
"""The file by which an export is known. It says what was exported, and by what."""


def refuse_place(out: Path, run: RunFolder, *, force: bool) -> None:
    """Raises RunFolderError where something is at `out` already; with `force`, where that is no export. A run is no
    place for an export, and no export may hold a run: it would be removed with it."""
    place, root = out.resolve(), run.root.resolve()
    if root == place or root in place.parents or place in root.parents:
        raise RunFolderError(
            "an export stands neither in its run's folder nor around it", where=str(out), remedy="choose another folder"
        )
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise RunFolderError(
            "exists and is not overwritten",
            where=str(out),
            remedy="choose another folder; --force replaces an earlier export",
        )
    if not (out / MARK).is_file():
        raise RunFolderError(
            "is no export of rlaif, so --force does not remove it", where=str(out), remedy="choose another folder"
        )


def write_export(out: Path, write: Callable[[Path], object], about: dict[str, Any]) -> None:
    """Puts what `write` leaves in the folder that it is given at `out`, with `about` as the export's mark."""

    def whole(folder: Path) -> None:
        write(folder)
        versions = {"versions": provenance.versions(), "git": provenance.git_revision()}
        (folder / MARK).write_text(json.dumps({**about, **versions}, indent=1, ensure_ascii=False), encoding="utf-8")

    write_folder(out, whole)


def command(what: str, run: RunFolder, out: Path, options: Sequence[str]) -> str:
    """The command that made the export. Of paths the last name is told: the rest is of this machine."""
    return " ".join(["rlaif export", what, "--run", run.root.resolve().name, "--out", out.resolve().name, *options])
