"""A command in one of several processes: the first works and is heard, the others assist it in the ppo stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rlaif.core.errors import ConfigError, RlaifError
from rlaif.core.launch import place
from rlaif.core.terminal import say

if TYPE_CHECKING:
    from rlaif.config import RunConfig, StageName


def assisted(names: Sequence[StageName], config: RunConfig, folder: Path, limit: int | None) -> bool:
    """Does this process's part of the stages if it is not the first; whether that was all there is to do in it.

    Raises ConfigError for stages that one process does; what all meet is told by the first alone.
    """
    index, count = place()
    if count == 1:
        return False
    if tuple(names) != ("ppo",):
        if index > 0:
            raise typer.Exit(ConfigError.exit_code)
        raise ConfigError(
            f"{count} processes were launched, and only the ppo stage runs in several",
            where="accelerate launch",
            remedy="launch the ppo stage alone: rlaif run CONFIG --until reward, then "
            "accelerate launch ... -m rlaif ppo --run RUN, then rlaif run --run RUN --resume",
        )
    from rlaif.run import pipeline
    from rlaif.training.ppo.processes import FirstFailedError, launched_processes

    processes = launched_processes()
    if index == 0:
        return False
    try:
        if processes.told_to_begin():
            pipeline.assist(config, folder, "ppo", limit=limit)
    except FirstFailedError:
        raise typer.Exit(1) from None
    except RlaifError as error:
        if not getattr(error, "everywhere", False):  # else the first process has met it too, and tells it
            say(f"error in process {index}: {error}", error=True)
        raise typer.Exit(error.exit_code) from None
    processes.end()
    return True


@contextmanager
def leading() -> Iterator[None]:
    """While the first process works; then the others are told that there is nothing (more) to do."""
    if place()[1] == 1:
        yield
        return
    from rlaif.training.ppo.processes import launched_processes

    processes = launched_processes()
    try:
        yield
    except RlaifError:
        if not processes.begun:
            processes.end()
        raise
    processes.end()
