"""A power cut for tests: a process of its own that is killed just before its n-th flush or rename."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

CALLS = ("fsync", "rename", "replace")


def calls_of(work: Callable[[], object]) -> int:
    """How many flushes and renames `work`, which is done in this process, comes to."""
    made = 0

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            return original(*given, **named)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counting(getattr(os, name)))
        work()
    return made


def cut_at(call: int, work: Callable[[], object]) -> bool:
    """Whether a process that does `work` came to its `call`-th flush or rename, and was killed just before it."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        return status != 0
    made = 0

    def until(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*given, **named)

        return counted

    for name in CALLS:
        setattr(os, name, until(getattr(os, name)))
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)
