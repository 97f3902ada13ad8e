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

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.files import JsonlFile, MetricsLog, RunFolder
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, Prompt, Response, RevisionTrace
from rlaif.judge.gate import calibration_of
from rlaif.judge.judge import Judge
from rlaif.judge.methods.table import askings
from rlaif.lm.open import OnDemand
from rlaif.lm.protocol import LanguageModel


@dataclass(slots=True)
class StageContext:
    """One stage at work. `open_policy(adapters)` opens the run's model with LoRA adapters merged in, `open_judge` the
    model of the judge or of one who votes beside it; answers of all are cached. A stage closes a model to free its
    memory; the pipeline closes the rest."""

    stage: str
    config: RunConfig
    run: RunFolder
    constitution: Constitution
    progress: Progress
    open_policy: Callable[[tuple[Path, ...]], LanguageModel]
    open_judge: Callable[[AskingConfig], LanguageModel]
    limit: int | None = None

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
        return self.run.stage(self.stage)

    @property
    def metrics(self) -> MetricsLog:
        return MetricsLog(self.folder / "metrics.jsonl")

    def train_prompts(self) -> list[Prompt]:
        """The training prompts in their fixed order, cut to `limit` per slice."""
        return limited(JsonlFile(self.run.file("prompts", "train.jsonl"), Prompt).read(), self.limit)

    def held_out_prompts(self) -> list[Prompt]:
        """The held-out prompts in their fixed order, cut to `limit` per slice."""
        return limited(JsonlFile(self.run.file("prompts", "held_out.jsonl"), Prompt).read(), self.limit)

    def traces(self) -> list[RevisionTrace]:
        """What the revise stage wrote."""
        return JsonlFile(self.run.file("revise", "traces.jsonl"), RevisionTrace).read()

    def responses(self, stage: str) -> JsonlFile[Response]:
        return JsonlFile(self.run.file(stage, "responses.jsonl"), Response)

    def adapter(self, stage: str) -> Path:
        """Folder of the adapter that a trained stage leaves."""
        return self.run.file(stage, "adapter")


def limited(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """The first `limit` prompts of each slice, in their order; all of them where it is None."""
    taken: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        taken[prompt.slice] += 1
        if limit is None or taken[prompt.slice] <= limit:
            kept.append(prompt)
    return kept
