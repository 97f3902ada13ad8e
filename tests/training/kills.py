"""The ppo stage in a process of its own, for which at its n-th touch of the stage's folder the end comes or the disk
is full: a real SIGKILL, and the operating system's own refusal to write."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from rlaif.core.errors import DiskError
from rlaif.run.shortages import resumable, shortages
from tests.training.contexts import stage_context

TOUCHES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
"""Audit events that change files; `open` does where it is to write."""
SHORT: dict[str, Any] = {"steps": 3, "save_steps": 2, "batch_size": 4, "num_mini_batches": 1, "max_new_tokens": 4}
"""A run small enough to be repeated many times, with a checkpoint in the middle and one at the end."""
FULL = 7
"""Exit code of a child whose stage ended with a DiskError."""


def ppo_until(
    touch: int, what: Literal["kill", "full"], root: Path, source: Path, table: dict[str, Any], log: Path
) -> None:
    """Runs the stage until `what` happens just before file operation number `touch`; all are named in `log`."""
    import torch

    from rlaif.stages import ppo

    torch.set_num_threads(1)
    context = stage_context(root, source, "ppo", ppo=table)
    folder, seen = f"{context.folder}/", 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if (event not in TOUCHES and event != "open") or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        seen += 1
        if seen <= touch or not touch:
            with os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as file:
                file.write(f"{event} {Path(str(arguments[0])).name}\n")
        if seen == touch and what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if seen == touch:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    sys.addaudithook(hook)
    try:
        with resumable(), shortages("ppo", context.folder):
            ppo.run(context)
    except DiskError as error:
        os._exit(FULL if "--resume" in str(error) else 1)
