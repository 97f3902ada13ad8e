"""What a run folder already holds, whether it may stay, and under what each stage was begun (`begun.json`).

Every refusal is a RunFolderError that says what would be lost and how to ask for it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlaif.config import StageName
from rlaif.core.errors import DataError, RunFolderError
from rlaif.core.files import RunFolder, parse_json, write_atomic
from rlaif.core.records import to_json
from rlaif.core.shard import caches_of, folder_of_shard, shards_of
from rlaif.lm.cache import take_in
from rlaif.run.models import CACHES
from rlaif.stages import table as stages


@dataclass(slots=True)
class Begun:
    """Under what a stage was started, and how long the sessions before this one worked on it. `work`: the name under
    which caches count what all its sessions ask models for."""

    settings: dict[str, Any]
    inputs: dict[str, str]
    started: str
    sessions: int = 1
    seconds_before: float = 0.0
    session_start: float = field(default_factory=time.time)
    work: str = field(default_factory=lambda: uuid.uuid4().hex)


def begun_path(run: RunFolder, stage: StageName) -> Path:
    return run.file(stage, "begun.json")


def read_begun(run: RunFolder, stage: StageName) -> Begun | None:
    """Under what the stage was begun; None if it was not, or if the session left no work of its own."""
    return _read_begun(run, stage) if holds_work(run, stage) else None


def _read_begun(run: RunFolder, stage: StageName) -> Begun | None:
    path = begun_path(run, stage)
    if not path.exists():
        return None
    try:
        return Begun(**parse_json(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise DataError("cannot be read", where=str(path), remedy=f"redo the stage: {_anew(run, stage)}") from None


def _anew(run: RunFolder, stage: StageName) -> str:
    """The command that does the stage again in the folder, which may be that of a shard."""
    of_shard = folder_of_shard(run.root)
    where = str(run.root) if of_shard is None else f"{of_shard[0]} --shard {of_shard[1]}"
    return f"rlaif {stage} --run {where} --force"


def begin(run: RunFolder, stage: StageName, settings: dict[str, Any], inputs: dict[str, str]) -> Begun:
    """Marks the stage as begun. A killed session leaves no end time: its last written file tells when it ended. One
    that left no file counts too: what it asked is in the cache, and was paid for."""
    begun = Begun(settings, inputs, datetime.now(UTC).isoformat(timespec="seconds"))
    before = _read_begun(run, stage)
    if before is not None and (holds_work(run, stage) or (before.settings, before.inputs) == (settings, inputs)):
        last = max(item.stat().st_mtime for item in run.stage(stage).rglob("*"))
        begun.started, begun.sessions, begun.work = before.started, before.sessions + 1, before.work
        begun.seconds_before = before.seconds_before + max(0.0, last - before.session_start)
    write_atomic(begun_path(run, stage), json.dumps(to_json(begun), indent=1))
    return begun


def work_of(run: RunFolder, stage: StageName) -> str | None:
    """The name under which caches count for the stage; None if it was not begun."""
    begun = _read_begun(run, stage)
    return None if begun is None else begun.work


def holds_work(run: RunFolder, stage: StageName) -> bool:
    """Whether the stage has left more than the note that it was begun."""
    folder = run.root / stage
    return folder.is_dir() and any(item.name[0] != "." and item.name != "begun.json" for item in folder.iterdir())


def refuse_foreign_folder(run: RunFolder) -> None:
    """Raises if the folder holds anything that is not a run: `--force` must never clear a stranger's files."""
    if run.root.exists() and not run.root.is_dir():
        raise RunFolderError("is a file", where=str(run.root), remedy="choose a folder with --out")
    if not run.root.is_dir() or run.config_path.exists():
        return
    # Hidden names are our own lock and what a crash leaves of a first write.
    if any(not item.name.startswith(".") for item in run.root.iterdir()):
        raise RunFolderError(
            "is not empty and not a run of rlaif", where=str(run.root), remedy="choose a new folder with --out"
        )


def refuse_existing(run: RunFolder, names: Sequence[StageName]) -> None:
    """Raises if one of the stages is finished or begun."""
    for stage in names:
        if stage != "report" and holds_work(run, stage):
            state = "finished" if run.record(stage) is not None else "begun"
            raise RunFolderError(
                f"the {stage} stage is already {state} here",
                where=str(run.root),
                remedy="--resume keeps what is finished and goes on, --force redoes it and everything after it, "
                "or choose a new folder with --out",
            )


def made_from(
    run: RunFolder, stage: StageName, *, at_work: bool = False
) -> tuple[dict[str, Any], dict[str, str]] | None:
    """The settings and the inputs under which the stage was finished or begun; None for neither. What is `at_work` was
    begun even if it has left nothing yet."""
    made = run.record(stage)
    if made is not None:
        return made.config, made.inputs
    begun = _read_begun(run, stage) if at_work else read_begun(run, stage)
    return None if begun is None else (begun.settings, begun.inputs)


def differences(
    made: tuple[dict[str, Any], dict[str, str]], settings: dict[str, Any] | None, inputs: dict[str, str]
) -> list[str]:
    """One phrase for each of the settings and of the inputs that is another than what the stage was made from."""
    found = [] if settings is None else stages.changes(made[0], settings)
    return found + [f"the {name}" for name in inputs if made[1].get(name) != inputs[name]]


def refuse_changed(run: RunFolder, stage: StageName, settings: dict[str, Any] | None, inputs: dict[str, str]) -> None:
    """Raises if the stage was begun or finished with other settings or inputs than these; compares only the inputs
    named here, and no settings where None is given."""
    made = made_from(run, stage)
    if made is None and holds_work(run, stage):
        raise RunFolderError(
            f"the {stage} folder holds files, but no record of what they were made from",
            where=str(run.root / stage),
            remedy=f"clear it: {_anew(run, stage)}",
        )
    if made is None:
        return
    found = differences(made, settings, inputs)
    if found:
        state = "begun" if run.record(stage) is None else "finished"
        raise RunFolderError(
            f"the {stage} stage was {state} with other settings or inputs; changed since: {', '.join(found)}",
            where=str(run.root),
            remedy=f"rlaif {stage} with --force redoes it and removes all that stands on it; "
            "or choose a new folder with --out",
        )


def clear(run: RunFolder, names: Sequence[StageName]) -> None:
    """Removes what the stages wrote, last first: a crash in between never leaves a stage on a removed one. What shards
    asked is known to the run afterwards, and not asked again."""
    if any(shards_of(run, stage) for stage in names):
        take_in_shards(run)
    for stage in reversed(names):
        for shard in shards_of(run, stage).values():
            shard.clear(stage)
        # Markers first: files without them are known to be of no use.
        if not (run.root / stage).is_symlink():
            run.file(stage, "stage.json").unlink(missing_ok=True)
            begun_path(run, stage).unlink(missing_ok=True)
        run.clear(stage)


def take_in_shards(run: RunFolder) -> None:
    """Moves into the run's caches those of all its shards, be they of a stage that is there or was removed. No shard
    may be at work."""
    for folder in caches_of(run):
        for name in CACHES.values():
            take_in(run.cache_path / name, folder / name)
