"""What every stage is given: its config, its folder, the constitution, the prompts, models on demand, progress.

A stage is a module with `run(context) -> dict[str, float]` (flat counts for its record). Stages never import each
other; they meet in the files of the run folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.core.files import JsonlFile, MetricsLog, RunFolder
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, Prompt, Response, RevisionTrace
from rlaif.core.shard import Shard
from rlaif.judge.gate import calibration_of
from rlaif.judge.judge import Judge
from rlaif.judge.methods.table import askings
from rlaif.lm.open import OnDemand
from rlaif.lm.protocol import LanguageModel
from rlaif.training.trackers import Trackers


@dataclass(slots=True)
class StageContext:
    """One stage at work. `open_policy(adapters)` opens the run's model with LoRA adapters merged in, `open_judge` the
    model of the judge or of one who votes beside it (with a folder, behind another cache than the run's); answers of
    all are cached. A stage closes a model to free its memory; the pipeline closes the rest. `usage` says what all
    sessions of the stage asked so far, as counts for its record. `shard`: the part of the prompts that is worked on;
    None = all. `into`: the folder for what the stage writes, where that is not its folder of the run."""

    stage: str
    config: RunConfig
    run: RunFolder
    constitution: Constitution
    progress: Progress
    open_policy: Callable[[tuple[Path, ...]], LanguageModel]
    open_judge: Callable[..., LanguageModel]
    limit: int | None = None
    shard: Shard | None = None
    into: Path | None = None
    trackers: Trackers | None = None
    usage: Callable[[], dict[str, float]] = dict

    def judge(self, *, card: str = "") -> Judge:
        """The run's judge with the run's constitution, templates, slices and calibration; its models are
        opened at the first question. `card` is the id of the card that its labels stand on."""
        config = self.config
        return Judge(
            config.judge,
            self.constitution,
            models=[OnDemand(partial(self.open_judge, asking)) for asking in askings(config.judge)],
            seed=config.seed,
            templates=self.run.templates_path,
            prompts=config.prompts,
            calibration=calibration_of(config.judge, self.run),
            card=card,
        )

    @property
    def folder(self) -> Path:
        return self.run.stage(self.stage) if self.into is None else self.into

    @property
    def metrics(self) -> MetricsLog:
        return self.tracked("metrics.jsonl")

    def tracked(self, file: str, prefix: Callable[[dict[str, Any]], str] = lambda row: "") -> MetricsLog:
        """A log in the stage's folder whose numbers the trackers get too, under the prefix that a row has there."""
        trackers = self.trackers
        also = None if trackers is None else lambda row: trackers.send(row, prefix(row))
        return MetricsLog(self.folder / file, also)

    def train_prompts(self) -> list[Prompt]:
        """The training prompts in their fixed order, cut to `limit` per slice; of a shard those that it takes."""
        prompts = limited(JsonlFile(self.run.file("prompts", "train.jsonl"), Prompt).read(), self.limit)
        return prompts if self.shard is None else self.shard.part(prompts, batch_size(self.config, self.stage))

    def held_out_prompts(self) -> list[Prompt]:
        """The held-out prompts in their fixed order, cut to `limit` per slice."""
        return limited(JsonlFile(self.run.file("prompts", "held_out.jsonl"), Prompt).read(), self.limit)

    def traces(self) -> list[RevisionTrace]:
        """What the revise stage wrote."""
        return JsonlFile(self.run.file("revise", "traces.jsonl"), RevisionTrace).read()

    def responses(self, stage: str) -> JsonlFile[Response]:
        return JsonlFile(self.run.file(stage, "responses.jsonl"), Response)

    @property
    def start(self) -> tuple[Path, ...]:
        """The adapters of the policy that reward model and PPO start from."""
        return tuple(map(self.adapter, self.config.start))

    def adapter(self, stage: str) -> Path:
        """Folder of the adapter that a trained stage leaves."""
        return self.run.file(stage, "adapter")


def batch_size(config: RunConfig, stage: str) -> int:
    """How many prompts the stage works on together."""
    size: int = getattr(config, stage).batch_size
    return size


def limited(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """The first `limit` prompts of each slice, in their order; all of them where it is None."""
    taken: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        taken[prompt.slice] += 1
        if limit is None or taken[prompt.slice] <= limit:
            kept.append(prompt)
    return kept
