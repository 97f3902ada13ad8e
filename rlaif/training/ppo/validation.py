"""Validation while `ppo` runs: the same prompts, which it does not train on, answered from the same draws each time.

One row for each answer in validation_samples.jsonl, one for each validation (and each slice, where there are several)
in validation.jsonl. What was the best is worked out from the rows, so a resumed stage knows what the uncut one does.
The policy of the best validation lies in best-<step> until the stage ends; an older one is removed only when no
checkpoint can lead back to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from rlaif.config import PpoConfig
from rlaif.core.errors import StageError
from rlaif.core.files import MetricsLog, disk_errors, move_folder, remove_folder, write_folder
from rlaif.core.plugins import short_name
from rlaif.core.progress import Progress
from rlaif.core.records import Prompt
from rlaif.core.statistics import mean_difference
from rlaif.gold import scorers as gold
from rlaif.gold import text as text_metrics
from rlaif.gold.scorers import Better, GoldScorer
from rlaif.training.ppo.off_policy import check_sampler
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.processes import ALONE, Processes
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import DISAGREEMENT, part_values

DRAWS = -1
"""Stands for the step in the seeds of the answers: every validation draws the same, so that two can be paired."""
SET_PAIRS = 8
"""Word pairs that each answer gives, as far as it has them, to the share of different ones over all answers."""

Row = dict[str, Any]


def load_gold(config: PpoConfig, progress: Progress) -> list[GoldScorer]:
    """The scorers of `ppo.gold` that are installed; the others are said. None without `eval_steps`.

    Raises StageError where the one that chooses the policy is not there.
    """
    if not config.eval_steps or not config.gold:
        return []
    with gold.loading(config.gold, progress) as (scorers, notes):
        missing = {*map(short_name, config.gold)} - {scorer.name for scorer in scorers}
    if config.keep == "best" and config.best_by in missing:
        raise StageError(
            next(note for note in notes if note.startswith(f"{config.best_by} ")),
            where="ppo.best_by",
            remedy="install it, or choose the best by another measure",
        )
    for note in notes:
        progress.say(f"  validation: {note}")
    return scorers


@dataclass(frozen=True, slots=True)
class Validated:
    """One validation: after how many steps, and the value of each prompt's answer, by prompt id."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Gain:
    """How much better a validation is than the best one before it: the mean over the prompts that both measured, with
    its 95 % interval, above 0 = better. Without numbers where there is nothing to compare with."""

    best: bool
    mean: float | None = None
    low: float | None = None
    high: float | None = None


class Peak:
    """The best validation so far and how many came after it. `by` is what they are compared by, and `better` its good
    direction."""

    def __init__(self, by: str, better: Better = "higher") -> None:
        self.by, self.sign = by, -1 if better == "lower" else 1
        self.best: Validated | None = None
        self.since = 0

    def take(self, found: Validated) -> Gain:
        """Compares the next validation with the best one. It becomes the best if its mean is better at all, be that
        by chance or not: the interval says which; one without a value becomes it never."""
        if not found.values:
            self.since += 1
            return Gain(False)
        if self.best is None:
            self.best, self.since = found, 0
            return Gain(True)
        before = self.best.values
        common = [self.sign * (value - before[key]) for key, value in found.values.items() if key in before]
        if not common:
            self.since += 1
            return Gain(False)
        mean, low, high = mean_difference(common)
        if mean > 0:
            self.best, self.since = found, 0
        else:
            self.since += 1
        return Gain(mean > 0, mean, low, high)


class Validation:
    """The validations of one stage: when, of what, and what came of them. Does nothing without `ppo.eval_steps`."""

    def __init__(
        self,
        folder: Path,
        config: PpoConfig,
        progress: Progress,
        prompts: Sequence[Prompt],
        scorers: Sequence[GoldScorer],
        processes: Processes = ALONE,
        log: MetricsLog | None = None,
    ) -> None:
        """`scorers` are those of the first process, which alone scores and writes; all know what was measured. `log`
        is the folder's validation.jsonl."""
        self.folder, self.config, self.progress = folder, config, progress
        self.prompts, self.scorers, self.processes = list(prompts), list(scorers), processes
        self.log = log or MetricsLog(self.folder / "validation.jsonl")
        self.samples = MetricsLog(self.folder / "validation_samples.jsonl")
        self.peak = Peak(self.config.best_by, gold.direction(self.config.best_by, self.config.gold))
        self.known = -1  # the step of the last validation

    def resume(self, start: int) -> None:
        """Takes up what is known after `start` finished steps; what came later, or before a first checkpoint, is done
        again."""
        known = self.processes.from_first(lambda: self._kept(start + 1 if start else 0))
        for step, rows in groupby(known, key=lambda row: int(row["step"])):
            self.known = step
            self.peak.take(_validated(step, rows, self.peak.by))
        self.forget()

    def _kept(self, step: int) -> list[Row]:
        self.log.keep_before(step)
        if all((row["step"], row["slice"]) != (step - 1, None) for row in self.log.read()):
            step -= 1  # the row of all prompts is written last: without it the validation was broken off
        for file in (self.log, self.samples):
            file.keep_before(step)
        return self.samples.read()

    @property
    def over(self) -> bool:
        """Whether `patience` validations brought no new best."""
        return 0 < self.config.patience <= self.peak.since

    def after(self, step: int, trainer: PpoTrainer, *, last: bool) -> None:
        """Validates the policy of `step` finished steps, if it is time to, as it always is after the `last` one, and
        was not done before a resume."""
        if not self.prompts or step <= self.known or (step % self.config.eval_steps and not last):
            return
        clock = time.perf_counter()
        rows, entropy = answers(trainer, self.prompts, self.scorers)
        before = self.peak.best
        gain = self.peak.take(_validated(step, rows, self.peak.by))
        if self.processes.first:
            whole = {"best": int(gain.best), "gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
            if gain.best and self.config.keep == "best":
                write_folder(self._best(step), trainer.model.save_policy)
            whole |= {"entropy": entropy, "seconds_validate": time.perf_counter() - clock}
            self._say(step, self._write(step, rows, whole), gain, before)
        self.known = step

    def _write(self, step: int, rows: Sequence[Row], whole: Row) -> Row:
        """Writes what was measured, of each answer, of each slice and of all; returns the last, with `whole` in it."""
        for row in rows:
            self.samples.append(step=step, **row)
        names = [scorer.name for scorer in self.scorers]
        names += [name for name in rows[0] if name.startswith("score_") or name == DISAGREEMENT]
        slices = sorted({row["slice"] for row in rows})
        for name in slices if len(slices) > 1 else ():
            self.log.append(step=step, slice=name, **summary([row for row in rows if row["slice"] == name], names))
        found = summary(rows, names) | whole
        self.log.append(step=step, slice=None, **found)
        return found

    def _say(self, step: int, row: Row, gain: Gain, before: Validated | None) -> None:
        names = ("score", *(scorer.name for scorer in self.scorers), "kl")
        figures = ", ".join(f"{name} {row[name]:.3g}" for name in names if row[name] is not None)
        compared = "" if before is None else _compared(gain, f"{self.peak.by} {{}} than after step {before.step}")
        best = "; the best so far" if gain.best and before is not None else ""
        self.progress.say(f"  validation after step {step}: {figures}{compared}{best}")
        if self.over and self.peak.best is not None:
            self.progress.say(
                f"  stopped after step {step}: {self.peak.since} validations without a better {self.peak.by} than "
                f"after step {self.peak.best.step}"
            )

    def forget(self) -> None:
        """Removes the adapters of former bests: no checkpoint leads back to them."""
        best = self.peak.best
        for folder in self.folder.glob("best-*") if self.processes.first else ():
            if best is None or folder != self._best(best.step):
                remove_folder(folder)

    def finish(self, model: PolicyModel, adapter: Path) -> None:
        """Puts the policy that is kept into its place. Where that is not the last one, the last lies beside it."""
        best = self.peak.best
        if self.config.keep == "best" and best is None:
            self.progress.say(f"  no validation has a {self.peak.by}: the adapter is that of the last step")
        if self.config.keep == "best" and best is not None and best.step != self._last_step():
            nothing = ": none was better than SFT" if best.step == 0 else ""
            self.progress.say(f"  kept: the policy after step {best.step}, the best by {self.peak.by}{nothing}")
            write_folder(adapter.with_name("adapter-last"), model.save_policy)
            with disk_errors(adapter):
                move_folder(self._best(best.step), adapter)
        else:
            write_folder(adapter, model.save_policy)

    def tidy(self) -> None:
        """Removes what was needed only while the stage ran."""
        for folder in self.folder.glob("best-*"):
            remove_folder(folder)

    def counts(self) -> dict[str, float]:
        """What the stage's record says of its validations."""
        best = self.peak.best
        if not self.prompts:
            return {}
        rows = [row for row in self.log.read() if row["slice"] is None]
        found = {"prompts_validation": len(self.prompts), "validations": len(rows)}
        if best is None:
            return {name: float(value) for name, value in found.items()}
        name = self.peak.by
        ends = {"first": rows[0], "best": next(row for row in rows if row["step"] == best.step), "last": rows[-1]}
        found |= {"best_step": best.step, "stopped_early": int(self.over and self._last_step() < self.config.steps)}
        found |= {f"validation_{name}_{when}": row[name] for when, row in ends.items()}
        return {name: float(value) for name, value in found.items() if value is not None}

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step}"

    def _last_step(self) -> int:
        return int(self.log.read()[-1]["step"])


def answers(trainer: PpoTrainer, prompts: Sequence[Prompt], scorers: Sequence[GoldScorer]) -> tuple[list[Row], float]:
    """What the policy answers to each prompt and what that is worth, in the order of the prompts; and the entropy."""
    rollouts = trainer.sampler.sample(prompts, DRAWS)
    batch, entropy = trainer.measure(rollouts)
    check_sampler(batch, trainer.config)
    kl = torch.where(batch.response_mask, batch.logprobs - batch.ref_logprobs, 0.0).sum(1).tolist()
    texts = [trainer.text(response) for response in rollouts.responses]
    columns = trainer.processes.from_first(
        lambda: {scorer.name: scorer.score(rollouts.prompts, texts) for scorer in scorers}
    )
    rows = {
        prompt.id: {
            "prompt_id": prompt.id,
            "slice": prompt.slice,
            "prompt": prompt.text,
            "response": texts[i],
            "finish": rollouts.finish[i],
            "length": len(rollouts.responses[i]),
            "score": float(batch.scores[i]),
            "kl": kl[i],
            **{name: column[i] for name, column in columns.items()},
            **part_values(batch.parts, i),
        }
        for i, prompt in enumerate(rollouts.prompts)
    }
    return [rows[prompt.id] for prompt in prompts], entropy


def summary(rows: Sequence[Row], names: Sequence[str]) -> Row:
    """The figures of one validation or of a slice of it: means over its answers, of `names` beside what all have."""
    texts = [row["response"] for row in rows]
    tokens = sum(row["length"] for row in rows)
    found: Row = {"prompts": len(rows), "score": mean(row["score"] for row in rows)}
    for name in names:
        found[name] = mean(row[name] for row in rows)
    return found | {
        "kl": mean(row["kl"] for row in rows),
        "kl_per_token": math.fsum(row["kl"] for row in rows) / tokens,
        "length": tokens / len(rows),
        "eos_rate": mean(row["finish"] == "stop" for row in rows),
        "distinct_2": mean(text_metrics.distinct(text, 2) for text in texts),
        "set_distinct_2": text_metrics.distinct_of_set(texts, 2, SET_PAIRS * len(texts)),
        "repetition": mean(text_metrics.repetition(text) for text in texts),
        "refusals": mean(text_metrics.opens_with_refusal(text) for text in texts),
    }


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _validated(step: int, rows: Iterable[Mapping[str, Any]], by: str) -> Validated:
    """The validation by the measure that chooses; empty where that was not measured."""
    return Validated(step, {row["prompt_id"]: row[by] for row in rows if row.get(by) is not None})


def _compared(gain: Gain, words: str) -> str:
    """`words` with better or worse in it, by how much, and the interval of that."""
    if gain.mean is None:
        return ""
    sign, word = (1, "better") if gain.mean > 0 else (-1, "worse" if gain.mean < 0 else "no better")
    interval = ""
    if gain.low is not None and gain.high is not None:
        low, high = sorted((sign * gain.low + 0.0, sign * gain.high + 0.0))  # no minus 0
        interval = f", 95 % interval {low:.3g} to {high:.3g}"
    return f"; {words.format(word)} by {abs(gain.mean):.3g}{interval}"
