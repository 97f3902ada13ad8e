"""Ends the training of a reward model where validation prompts say that it learns no more (`reward.patience`).

The validation loss of an epoch stands in the row of its last step in metrics.jsonl, and nowhere else: a run that was
killed reads there what was best, and how long ago. The best weights so far lie beside the checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback

from rlaif.core.files import MetricsLog
from rlaif.training.hf_trainer import Schedule

LOSS = "validation_loss"


def epochs_without_gain(losses: Sequence[float]) -> int:
    """How many losses came after the lowest one; of equal ones the first counts."""
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


def step_kept(rows: Sequence[dict[str, Any]]) -> int | None:
    """The step of metrics.jsonl after which the validation loss was lowest; None where none was measured."""
    measured = [(float(row[LOSS]), int(row["step"])) for row in rows if LOSS in row]
    return min(measured)[1] if measured else None


class EarlyStop(TrainerCallback):  # type: ignore[misc]
    """Measures after each epoch, and after the last step, and saves what is better than all before.

    `loss` is the one just measured, for the trainer to log; None after all other steps.
    """

    def __init__(
        self,
        measure: Callable[[], float],
        save: Callable[[], None],
        *,
        patience: int,
        schedule: Schedule,
        metrics: MetricsLog,
    ) -> None:
        self.measure, self.save = measure, save
        self.patience, self.schedule, self.metrics = patience, schedule, metrics
        self.loss: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decides whether the training goes on. A checkpoint follows each measurement, so none is made twice."""
        self.loss = None
        step = int(state.global_step)
        ended = math.floor(self.schedule.epoch_at(step)) > math.floor(self.schedule.epoch_at(step - 1))
        if not ended and step < self.schedule.steps:
            return
        before, self.loss = self.losses(step), self.measure()
        control.should_save = True
        if self.loss < min(before, default=math.inf):
            self.save()
        if epochs_without_gain([*before, self.loss]) >= self.patience:
            control.should_training_stop = True

    def losses(self, before: int) -> list[float]:
        """Those measured before step `before`."""
        return [float(row[LOSS]) for row in self.metrics.read() if LOSS in row and row["step"] < before]

    def stopped(self, done: int) -> bool:
        """Whether the training ended at step `done`, which is the last one with a checkpoint."""
        return epochs_without_gain(self.losses(done + 1)) >= self.patience
