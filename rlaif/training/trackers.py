"""Rows of metrics.jsonl that go to TensorBoard, trackio, Weights & Biases or MLflow as well.

The file stays the record: a tracker that fails is named once and left out, and the training goes on. Each stage is a
run of its own there, since its steps begin at 0 again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rlaif.config import StageName, TrackerName
from rlaif.core.errors import ConfigError
from rlaif.core.records import content_id

TRACKED: frozenset[StageName] = frozenset({"sft", "reward", "ppo", "dpo", "evaluate"})
"""The stages that have something to send."""
PROJECT = "rlaif"
"""What the runs are filed under, where a tracker has projects or experiments."""


class Tracker(Protocol):
    def log(self, numbers: dict[str, float], step: int) -> None: ...

    def finish(self) -> None: ...


class Trackers:
    """The trackers of one stage of the run in `folder`; each is opened with the first row and shown the `settings`."""

    def __init__(
        self,
        names: Sequence[TrackerName],
        folder: Path,
        stage: str,
        *,
        settings: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self.names, self.folder, self.stage = tuple(dict.fromkeys(names)), folder, stage
        self.settings, self.say = dict(settings), say
        self.open: dict[TrackerName, Tracker] | None = None

    def send(self, row: Mapping[str, Any], prefix: str = "") -> None:
        """Sends the numbers of the row, which has a `step`, under their names after the prefix."""
        numbers = {f"{prefix}{name}": value for name, value in row.items() if name != "step" and _is_number(value)}
        if not self.names or not numbers:
            return
        step = int(row["step"])
        if self.open is None:
            self.open = {}
            for name in self.names:
                self._try(name, partial(self._start, name, step))
        for name, tracker in list(self.open.items()):
            self._try(name, partial(tracker.log, numbers, step))

    def close(self) -> None:
        """Has what was sent arrive; without that the last rows may be missing."""
        for name, tracker in list((self.open or {}).items()):
            self._try(name, tracker.finish)
        self.open = None

    def _start(self, name: TrackerName, step: int) -> None:
        assert self.open is not None
        if name == "tensorboard":
            self.open[name] = _TensorBoard(self.folder / self.stage / "tensorboard", step, self.settings)
        elif name == "mlflow":
            self.open[name] = _MLflow(f"{self.folder.name}-{self.stage}", self.settings)
        else:
            self.open[name] = self._hosted(name)

    def _hosted(self, name: TrackerName) -> Tracker:
        """A run of trackio or of Weights & Biases, whose interfaces are alike. A stage that was interrupted goes on in
        the same one."""
        about: dict[str, Any] = {"name": f"{self.folder.name}-{self.stage}", "group": self.folder.name}
        if name == "wandb":
            about |= {"id": content_id(str(self.folder.resolve()), self.stage), "dir": str(self.folder)}
        run: Tracker = import_module(name).init(project=PROJECT, resume="allow", config=self.settings, **about)
        return run

    def _try(self, name: TrackerName, act: Callable[[], None]) -> None:
        """A tracker's failure costs its curves, never the training. What it prints is no output of the command."""
        try:
            with redirect_stdout(sys.stderr):
                act()
        except Exception as problem:  # of a server, a login, a disk: whatever its library raises
            if self.open is not None:
                self.open.pop(name, None)
            self.say(f"  {name} failed, nothing more of {self.stage} is sent: {type(problem).__name__}: {problem}")


class _TensorBoard:
    """Event files in `folder`. What they have of `step` and later is dropped: it is done again after a crash."""

    def __init__(self, folder: Path, step: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(folder, purge_step=step)
        self.writer.add_text("config", "\n".join(f"    {name}: {value}" for name, value in settings.items()))

    def log(self, numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self.writer.close()


class _MLflow:
    """A run of the experiment, on the server that MLflow's own settings name."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.mlflow: Any = import_module("mlflow")
        self.mlflow.set_experiment(PROJECT)
        self.mlflow.start_run(run_name=name)
        self.mlflow.log_params(dict(settings))

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.mlflow.log_metrics(numbers, step=step)

    def finish(self) -> None:
        self.mlflow.end_run()


def refuse_missing_trackers(names: Sequence[TrackerName]) -> None:
    """Raises ConfigError for a tracker that is not installed."""
    absent = [name for name in dict.fromkeys(names) if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"not installed: {', '.join(absent)}",
            where="report_to",
            remedy=f"pip install {' '.join(absent)}, or leave {'it' if len(absent) == 1 else 'them'} out",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
