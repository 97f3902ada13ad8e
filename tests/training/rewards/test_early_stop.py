"""Early stopping: what was best, how long ago, and when a training ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from rlaif.core.files import MetricsLog
from rlaif.training.hf_trainer import Schedule
from rlaif.training.rewards.early_stop import LOSS, EarlyStop, epochs_without_gain, step_kept


def test_the_first_of_equal_losses_is_the_best() -> None:
    assert epochs_without_gain([]) == 0
    assert epochs_without_gain([0.7]) == 0
    assert epochs_without_gain([0.7, 0.6, 0.65, 0.61]) == 2
    assert epochs_without_gain([0.6, 0.6]) == 1
    assert step_kept([{"step": 2, LOSS: 0.6}, {"step": 3}, {"step": 4, LOSS: 0.6}, {"step": 6, LOSS: 0.7}]) == 2
    assert step_kept([{"step": 1}]) is None


def followed(losses: list[float], log: MetricsLog, *, patience: int, schedule: Schedule, start: int = 1) -> list[str]:
    """What happens after each step, as words, with `losses` measured one after the other."""
    given, said = iter(losses), []
    stop = EarlyStop(
        lambda: next(given), lambda: said.append("saved"), patience=patience, schedule=schedule, metrics=log
    )
    for step in range(start, schedule.steps + 1):
        control = SimpleNamespace(should_save=False, should_training_stop=False)
        stop.on_step_end(None, SimpleNamespace(global_step=step), control)
        said.append(f"{step}" if stop.loss is None else f"{step}: {stop.loss}")
        assert control.should_save == (stop.loss is not None)
        log.append(step=step, **({} if stop.loss is None else {LOSS: stop.loss}))
        if control.should_training_stop:
            assert stop.stopped(step)
            return [*said, "stopped"]
        assert not stop.stopped(step)
    return said


def test_each_epoch_is_measured_and_the_best_saved(tmp_path: Path) -> None:
    # 6 rows in batches of 4, 2.5 epochs: 15 rows in 4 steps; epochs end within steps 2 and 3, and step 4 is the last.
    schedule = Schedule(6, 4, 2.5)
    said = followed([0.7, 0.5, 0.6], MetricsLog(tmp_path / "a"), patience=2, schedule=schedule)
    assert said == ["1", "saved", "2: 0.7", "saved", "3: 0.5", "4: 0.6"]


def test_it_ends_after_so_many_epochs_without_a_better_one(tmp_path: Path) -> None:
    schedule, losses = Schedule(4, 4, 9.0), [0.7, 0.6, 0.65, 0.59, 0.6, 0.61, 0.5]
    one = ["saved", "1: 0.7", "saved", "2: 0.6", "3: 0.65", "stopped"]
    assert followed(losses, MetricsLog(tmp_path / "one"), patience=1, schedule=schedule) == one
    two = [*one[:-1], "saved", "4: 0.59", "5: 0.6", "6: 0.61", "stopped"]
    log = MetricsLog(tmp_path / "two")
    assert followed(losses, log, patience=2, schedule=schedule) == two
    # Killed after step 3, it reads what was best before, and goes on as it would have.
    log.keep_before(4)
    assert followed(losses[3:], log, patience=2, schedule=schedule, start=4) == two[5:]
