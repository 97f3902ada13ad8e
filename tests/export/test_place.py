"""An export never takes the place of anything but an export."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.core.errors import RunFolderError
from rlaif.core.files import RunFolder
from rlaif.export.place import refuse_place, write_export


def test_what_force_replaces(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "my")
    run.root.mkdir(parents=True)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with pytest.raises(RunFolderError, match="exists and is not overwritten"):
        refuse_place(theirs, run, force=False)
    with pytest.raises(RunFolderError, match="is no export of rlaif, so --force does not remove it"):
        refuse_place(theirs, run, force=True)
    write_export(tmp_path / "ours", lambda folder: (folder / "x").write_text("x"), {"export": "data"})
    refuse_place(tmp_path / "ours", run, force=True)
    for place in (run.root, run.root / "sft" / "out", tmp_path / "runs", tmp_path):
        with pytest.raises(RunFolderError, match="neither in its run's folder nor around it"):
            refuse_place(place, run, force=True)


def test_an_export_that_fails_leaves_what_stood_there(tmp_path: Path) -> None:
    write_export(tmp_path / "out", lambda folder: (folder / "x").write_text("x"), {})

    def fails(folder: Path) -> None:
        (folder / "y").write_text("y")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_export(tmp_path / "out", fails, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["rlaif-export.json", "x"]
