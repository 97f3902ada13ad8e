"""A shard: one of n parts of a stage, worked on by a process of its own in the folder of the run.

Shard i of n takes every n-th batch of prompts, from the i-th on: whole batches in their order, so that models are asked
together what one process would ask them together, and all that comes of a prompt lies in one shard. It writes to
`shards/<i>-of-<n>/<stage>/`, and its caches are its own: SQLite cannot share a file between machines. `rlaif merge`
makes the stage of them (rlaif/run/merge.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rlaif.core.errors import ConfigError, RunFolderError
from rlaif.core.files import RunFolder, refuse_no_run

Item = TypeVar("Item")
FOLDER = "shards"
_NAME = re.compile(r"([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Shard `number` (from 1) of `of`."""

    of: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that "2/4" names; ConfigError for anything else."""
        number, _, of = text.partition("/")
        if not (
            number.isascii() and number.isdigit() and of.isascii() and of.isdigit() and 1 <= int(number) <= int(of)
        ):
            raise ConfigError(
                f"there is no shard {text!r}",
                where="--shard",
                remedy="write 1/4 for the first of four, 4/4 for the last",
            )
        return cls(int(of), int(number))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def folder(self, run: RunFolder) -> RunFolder:
        """What the shard writes in, laid out as a run is; it has neither config nor prompts."""
        return RunFolder(run.root / FOLDER / f"{self.number}-of-{self.of}")

    def takes(self, batch: int) -> bool:
        """Whether the batch, counted from 0, is its own."""
        return batch % self.of == self.number - 1

    def part(self, items: Sequence[Item], size: int) -> list[Item]:
        """Those of the items that it takes, in batches of `size`."""
        return [item for place, item in enumerate(items) if self.takes(place // size)]


def shards_of(run: RunFolder, stage: str) -> dict[Shard, RunFolder]:
    """The shards in which the stage was begun, in order; those that are finished have its record."""
    found = {}
    for folder in (run.root / FOLDER).glob("*-of-*"):
        name = _NAME.fullmatch(folder.name)
        if name is not None and ((folder / stage / "begun.json").exists() or (folder / stage / "stage.json").exists()):
            found[Shard(int(name[2]), int(name[1]))] = RunFolder(folder)
    return dict(sorted(found.items()))


def caches_of(run: RunFolder) -> list[Path]:
    """The folders of the caches of all shards, of whatever stage and number."""
    return sorted((run.root / FOLDER).glob("*-of-*/cache"))


def unmerged(run: RunFolder) -> str | None:
    """The stage that was begun in shards and is not merged yet; None if there is none."""
    # More than a note, and than what a crash left of writing it.
    left = (x for x in (run.root / FOLDER).glob("*-of-*/*/*") if x.name[0] != "." and x.name != "begun.json")
    names = sorted({path.parent.name for path in left if (path.parent / "begun.json").exists()})
    return next((name for name in names if not run.file(name, "stage.json").exists()), None)


def refuse_unmerged(run: RunFolder) -> None:
    """Raises RunFolderError where a stage lies in shards: what reads it would find nothing, or a part."""
    stage = unmerged(run)
    if stage is not None:
        shards = shards_of(run, stage)
        done = sum(folder.record(stage) is not None for folder in shards.values())
        raise RunFolderError(
            f"the {stage} stage lies here in shards ({done} of {max(shards).of} finished)",
            where=str(run.root),
            remedy=f"join them first: rlaif merge {run.root}",
        )


def refuse_no_whole_run(folder: Path) -> None:
    """Raises RunFolderError for what is no run, and for one of which a stage lies in shards."""
    refuse_shard_folder(folder)
    refuse_no_run(folder)
    refuse_unmerged(RunFolder(folder))


def folder_of_shard(folder: Path) -> tuple[Path, Shard] | None:
    """The run and the shard whose folder this is; None for any other folder."""
    path = folder.resolve()
    name = _NAME.fullmatch(path.name)
    return (path.parent.parent, Shard(int(name[2]), int(name[1]))) if name and path.parent.name == FOLDER else None


def refuse_shard_folder(folder: Path) -> None:
    """Raises RunFolderError for the folder of a shard."""
    found = folder_of_shard(folder)
    if found is not None:
        whole, _ = found
        raise RunFolderError(
            "is a shard of a run, and no run by itself",
            where=str(folder),
            remedy=f"join the shards, rlaif merge {whole}, and give {whole}",
        )
