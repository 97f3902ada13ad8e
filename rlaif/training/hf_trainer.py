"""What the stages by transformers' Trainer (`sft`, `reward`, `dpo`) share: arguments, order of rows, resume, metrics.

A stage that is killed goes on from its last checkpoint and ends as if it had never stopped. Two things here see to
that: rows are put into their training order beforehand, so that nothing of the order hangs on a random state, and
checkpoints stand in a folder named after everything that decides the result, so that no others are taken up.
"""

from __future__ import annotations

import math
import random
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging

from rlaif.config import DpoConfig, RewardConfig, SftConfig
from rlaif.core.errors import StageError
from rlaif.core.files import MetricsLog, disk_errors, parse_json
from rlaif.core.progress import Progress, Task
from rlaif.core.records import content_id, record_seed

WINDOW = 8
"""Batches that are sorted by length together: enough to save most padding, few enough to stay a shuffle."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to train: `rows` training rows in batches of `batch_size`, each seen `epochs` times."""

    rows: int
    batch_size: int
    epochs: float

    @property
    def seen(self) -> int:
        """Rows seen in all, counting repeats."""
        return max(1, round(self.rows * self.epochs))

    @property
    def steps(self) -> int:
        return math.ceil(self.seen / self.batch_size)

    def epoch_at(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return min(step * self.batch_size, self.seen) / self.rows


def training_order(lengths: Sequence[int], schedule: Schedule, seed: int) -> list[int]:
    """Row numbers in the order to train on, all epochs one after the other; decided by the arguments alone.

    Every epoch is shuffled anew. Rows of similar length share a batch (a quarter of the tokens would be padding
    otherwise), and the batches are shuffled again within their window.
    """
    order: list[int] = []
    for epoch in range(math.ceil(schedule.seen / schedule.rows)):
        rows = list(range(schedule.rows))
        random.Random(record_seed(seed, "order", epoch)).shuffle(rows)
        order += rows
    order = order[: schedule.seen]
    size, window = schedule.batch_size, WINDOW * schedule.batch_size
    result: list[int] = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lambda row: lengths[row])
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        partial = batches.pop() if len(batches[-1]) < size else []  # must stay last, or it would shift the others
        random.Random(record_seed(seed, "batches", start)).shuffle(batches)
        result += [row for batch in [*batches, partial] for row in batch]
    return result


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One training: the rows in their order, and keyword arguments for TrainingArguments and its subclasses."""

    schedule: Schedule
    order: list[int]
    arguments: dict[str, Any]


def plan(
    table: SftConfig | RewardConfig | DpoConfig,
    lengths: Sequence[int],
    *,
    seed: int,
    checkpoints: Path,
    decisive: Sequence[object],
    device: torch.device,
) -> TrainingPlan:
    """The plan for rows of `lengths` tokens: AdamW, linear decay, no output of its own.

    Checkpoints lie in a folder in `checkpoints` that is named after `decisive`: those of any other work are removed.
    """
    schedule = Schedule(rows=len(lengths), batch_size=table.batch_size, epochs=table.epochs)
    arguments = {
        "output_dir": str(_only_folder(checkpoints, content_id(*decisive))),
        "per_device_train_batch_size": schedule.batch_size,
        "num_train_epochs": 1.0,  # the rows already repeat, see `training_order`
        "train_sampling_strategy": "sequential",
        "learning_rate": table.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": schedule.steps // 20,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a NaN must be seen, not shown as the last good loss
        "save_strategy": "steps",
        "save_steps": table.save_steps,
        "save_total_limit": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "seed": seed,
        "use_cpu": device.type == "cpu",
    }
    return TrainingPlan(schedule, training_order(lengths, schedule, seed), arguments)


def _only_folder(root: Path, name: str) -> Path:
    """`root/name`, after everything else in `root` has been removed."""
    for other in root.iterdir() if root.exists() else ():
        if other.name != name:
            shutil.rmtree(other, ignore_errors=True)
    return root / name


def on_one_device(arguments: Any) -> Any:
    """The TrainingArguments, told to use one device of this process.

    Where several GPUs are visible the Trainer would wrap the model in DataParallel, which no stage can work with.
    """
    _ = arguments.device  # sets up the devices, and with them the count that is overwritten here
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None. Its state file is written last; one without it is a crash's trace."""
    found: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        try:
            state = parse_json((path / "trainer_state.json").read_text(encoding="utf-8"))
            found[int(state["global_step"])] = path
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(path, ignore_errors=True)
    return found[max(found)] if found else None


def step_of(checkpoint: Path) -> int:
    """The step after which it was saved."""
    return int(checkpoint.name.rpartition("-")[2])


class _Reporter(TrainerCallback):  # type: ignore[misc]
    """Writes a metrics row and moves the bar at each step; a loss that is not a number ends the stage."""

    def __init__(
        self, stage: str, metrics: MetricsLog, task: Task, schedule: Schedule, columns: dict[str, str]
    ) -> None:
        self.stage, self.metrics = stage, metrics
        self.task, self.schedule, self.columns = task, schedule, columns

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs is None or "loss" not in logs or not state.is_world_process_zero:
            return
        step, loss = int(state.global_step), float(logs["loss"])
        if not math.isfinite(loss):
            raise StageError(
                f"the loss is {loss} at step {step}",
                where=self.stage,
                remedy=f"lower {self.stage}.learning_rate, or set model.dtype: float32",
            )
        values = {ours: float(logs[theirs]) for theirs, ours in self.columns.items() if theirs in logs}
        self.metrics.append(step=step, epoch=round(self.schedule.epoch_at(step), 4), loss=loss, **values)
        self.task.advance(1, note=f"loss {loss:.3f}")


def train(
    stage: str, trainer: Any, schedule: Schedule, columns: dict[str, str], metrics: MetricsLog, progress: Progress
) -> None:
    """Runs `trainer` to its end, from its last checkpoint if there is one, and writes a row of `metrics` each step.

    `columns` maps names in the trainer's log to names in `metrics`, beside step, epoch and loss.
    """
    checkpoint = last_checkpoint(Path(trainer.args.output_dir))
    done = 0 if checkpoint is None else step_of(checkpoint)
    metrics.keep_before(done + 1)
    if done:
        progress.say(f"  {stage}: going on after step {done} of {schedule.steps}")
    trainer.remove_callback(PrinterCallback)
    with progress.task(f"{stage}: training", schedule.steps, "steps") as task:
        task.advance(done)
        trainer.add_callback(_Reporter(stage, metrics, task, schedule, columns))
        with disk_errors(metrics.path.parent), quiet():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


@contextmanager
def quiet() -> Iterator[None]:
    """Holds back the trainers' messages below errors: deprecations of their own, notes on token ids and resuming."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(before)
