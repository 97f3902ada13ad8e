"""Progress on the terminal: bars with rate and time left on a TTY, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rlaif.core.terminal import console, say, visible


class Task(Protocol):
    """One bar."""

    def advance(self, n: float = 1, note: str = "") -> None:
        """`n` more units done; `note` is a few words shown beside the bar."""


class Progress(Protocol):
    def say(self, text: str) -> None:
        """Prints one line above the bars."""

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Task]:
        """A bar for `total` units, closed at the end of the block."""
        ...


class _SilentTask:
    def advance(self, n: float = 1, note: str = "") -> None:
        pass


class Silent:
    """No output: for tests and `--json`."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Task]:
        yield _SilentTask()


class _LineTask:
    def __init__(self, title: str, total: float, unit: str, every: float) -> None:
        self.title, self.total, self.unit, self.every = title, total, unit, every
        self.done, self.start = 0.0, time.monotonic()
        self.last = self.start

    def advance(self, n: float = 1, note: str = "") -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last >= self.every:
            self.last = now
            rate = self.done / (now - self.start)
            left = (self.total - self.done) / rate if rate > 0 else 0.0
            text = f"  {self.title}: {self.done:.0f}/{self.total:.0f} {self.unit}, {left:.0f} s left"
            say(f"{text}  {note}".rstrip(), error=True)


class Lines:
    """Plain lines for logs: one every `every` seconds while a task runs."""

    def __init__(self, every: float = 15.0) -> None:
        self.every = every

    def say(self, text: str) -> None:
        say(text, error=True)

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Task]:
        yield _LineTask(title, total, unit, self.every)


class Bars:
    """rich progress bars with count, rate, time spent and time left."""

    def __init__(self) -> None:
        self.console = console(error=True)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Task]:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("  {task.description:<22}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn(unit, markup=False),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with RichProgress(*columns, console=self.console, transient=False) as bars:
            # rich draws bars past what the console writes out
            identity = bars.add_task(visible(title), total=total, note="")

            class BarTask:
                def advance(self, n: float = 1, note: str = "") -> None:
                    bars.update(identity, advance=n, note=visible(note))

            yield BarTask()


def choose(*, quiet: bool = False) -> Progress:
    """Bars on a terminal, lines in a log, nothing when quiet."""
    if quiet:
        return Silent()
    return Bars() if sys.stderr.isatty() else Lines()
