"""How a judge is asked about gold: under which principles, in parts, and a second time past the cache."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.config import RunConfig
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, PreferenceLabel, Principle
from rlaif.gold.pairs import GoldPair, GoldSet
from rlaif.judge.judge import Judge, opened_models
from rlaif.lm.open import OpenJudge
from rlaif.lm.protocol import LanguageModel, Usage

JudgeOf = Callable[[Sequence[LanguageModel]], Judge]
"""The judge that is measured, with these models behind it."""


@dataclass(frozen=True, slots=True)
class Again:
    """The labels of a second asking, and what it took, the model being loaded already."""

    labels: list[PreferenceLabel]
    usage: Usage
    seconds: float

    @property
    def tokens(self) -> int:
        """Read, written and scored."""
        return self.usage.prompt_tokens + self.usage.generated_tokens + self.usage.scored_tokens


def judge_on(
    known: GoldSet,
    constitution: Constitution,
    config: RunConfig,
    models: Sequence[LanguageModel],
    *,
    only: Sequence[str],
    templates: Path | None,
) -> Judge:
    """The config's judge under the constitution, before any calibration."""
    narrowed = bool(only) or known.constitution is not None
    prompts = None if narrowed else config.prompts  # whose principles may not be among those that are left
    return Judge(config.judge, constitution, models=models, seed=config.seed, templates=templates, prompts=prompts)


def rules_of(judge: Judge, pairs: Sequence[GoldPair]) -> list[tuple[Principle, ...]]:
    """What each pair is judged under: its own principle, or those that the config asks for."""
    return [judge.principles(p.comparison) if p.principle is None else (p.principle,) for p in pairs]


def gold_notes(known: GoldSet, pairs: Sequence[GoldPair]) -> list[str]:
    """What a reader has to know of the gold, of which `pairs` were drawn."""
    notes = list(known.notes)
    if len(pairs) < len(known.pairs):
        notes.append(f"{len(pairs):,} of {len(known.pairs):,} pairs, drawn by hash and spread over the prompts")
    if known.silent:
        notes.append(f"{known.silent:,} rows of gold prefer no answer and are in no figure")
    return notes


def labels_of(
    judge: Judge,
    pairs: Sequence[GoldPair],
    rules: Sequence[Sequence[Principle]],
    config: RunConfig,
    title: str,
    progress: Progress,
) -> list[PreferenceLabel]:
    """The labels of the pairs, each under its own principles, with a bar called `title`."""
    batch = config.label.batch_size * config.label.pairs
    with progress.task(title, len(pairs), "pairs") as task:
        return judge.label_in_parts([pair.comparison for pair in pairs], rules, size=batch, task=task)


def asked_again(
    judge_of: JudgeOf,
    open_judge: OpenJudge,
    pairs: Sequence[GoldPair],
    rules: Sequence[Sequence[Principle]],
    config: RunConfig,
    title: str,
    progress: Progress,
) -> Again:
    """The same questions to the same model behind an empty cache."""
    with tempfile.TemporaryDirectory() as folder, opened_models(config, Path(folder), open_judge) as models:
        judge, start = judge_of(models), time.monotonic()
        labels = labels_of(judge, pairs, rules, config, title, progress)
        return Again(labels, judge.usage, time.monotonic() - start)
