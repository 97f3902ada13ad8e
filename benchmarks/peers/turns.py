"""The workers' side of benchmarks/ppo.py: wait for a turn, do one PPO step, say what it took. Needs torch alone.

A worker lives through the whole run, so that loading, and whatever a library does once, is in no measured step. It
reads "step" lines on its standard input and answers each with a line of JSON; all else that it prints goes to the
standard error stream.
"""

from __future__ import annotations

import collections
import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

PHASES = ("generate", "score", "optimise")


class Turns:
    """The turns of one worker, and the marks set within them.

    Between two marks everything counts for the phase named by the first: seconds of the clock, of the process's own
    CPU time, and tokens (padding included) that went into each of the `watched` embeddings.
    """

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self.updates = 0
        self.clear()
        register_optimizer_step_post_hook(self._count_update)

    def clear(self) -> None:
        """Forgets what was counted; the clock starts anew, in no phase yet."""
        self.phase = ""
        self.wall: dict[str, float] = collections.defaultdict(float)
        self.cpu: dict[str, float] = collections.defaultdict(float)
        self.tokens: dict[str, int] = collections.defaultdict(int)
        self.updates = 0
        self.last = (time.perf_counter(), time.process_time())

    def watch(self, embeddings: Iterable[torch.nn.Module]) -> None:
        """Counts the tokens that are looked up in these from now on."""

        def count(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
            self.tokens[self.phase] += arguments[0].numel()

        for module in embeddings:
            module.register_forward_pre_hook(count)

    def _count_update(self, *_: Any) -> None:
        self.updates += 1

    def mark(self, phase: str) -> None:
        """What follows is `phase`."""
        now = (time.perf_counter(), time.process_time())
        self.wall[self.phase] += now[0] - self.last[0]
        self.cpu[self.phase] += now[1] - self.last[1]
        self.phase, self.last = phase, now

    def marking(self, phase: Callable[[], str | None], work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, which at each call sets the mark that `phase()` names, if it names another than the present one."""

        def marked(*arguments: Any, **named: Any) -> Any:
            name = phase()
            if name is not None and name != self.phase:
                self.mark(name)
            return work(*arguments, **named)

        return marked

    def ready(self, **facts: Any) -> None:
        """Tells of the model that it is loaded."""
        self._say({"threads": torch.get_num_threads(), **facts})

    def wait(self) -> bool:
        """True at the next turn; False when there is none any more."""
        if sys.stdin.readline().strip() != "step":
            return False
        self.clear()
        return True

    def done(self, generated: int, **facts: float) -> None:
        """Tells what the step took; `generated`: the tokens of its responses."""
        self.mark("")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        found = {"wall": self.wall, "cpu": self.cpu, "tokens": self.tokens}
        parts = {kind: {phase: counts[phase] for phase in PHASES} for kind, counts in found.items()}
        _give_back()
        self._say({**parts, "updates": self.updates, "generated": generated, "peak_bytes": peak, **facts})

    def _say(self, row: dict[str, Any]) -> None:
        print(json.dumps(row), file=self.answers, flush=True)


def _give_back() -> None:
    """Hands freed memory back to the system, so that a row that waits leaves it to those whose turn it is."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
