"""Judges whose faults are known, compared with each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.config import AskingConfig, ModelConfig, RunConfig
from rlaif.core.progress import Silent
from rlaif.core.records import Message, Prompt
from rlaif.judge.card.card import CardOptions
from rlaif.judge.compare.measure import compare, in_choosing_part
from rlaif.judge.compare.records import JudgeComparison
from rlaif.judge.compare.variants import read_variants
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import LanguageModel
from tests.fakes import mute, scored
from tests.judge.card.cases import answer, first_letter, length_lover, perfect, settings, write_gold


def contrary(messages: tuple[Message, ...], choice: str) -> float:
    return -perfect(messages, choice)


def wavering(messages: tuple[Message, ...], choice: str) -> float:
    """Knows the good answer to three questions in four."""
    number = int(messages[-1].content.partition("question ")[2].split()[0])
    return 3.0 * ("good" in answer(messages, choice)) * (1 if number % 4 else -1)


def lucky(messages: tuple[Message, ...], choice: str) -> float:
    """Right wherever it can be chosen, and wrong wherever it is reported."""
    asked = re.search(r"question \d+", messages[-1].content)
    assert asked is not None
    there = in_choosing_part(Prompt((Message("user", asked[0]),)).id, 0, 0.5)
    return perfect(messages, choice) if there else contrary(messages, choice)


SCORES = {
    "perfect": perfect, "first": first_letter, "length": length_lover, "contrary": contrary, "wavering": wavering,
    "lucky": lucky,
}  # fmt: skip


def compared(folder: Path, *names: str, gold: Path | None = None, share: float = 0.5, **asked: Any) -> JudgeComparison:
    """The judges of SCORES with these names (or "mute") against each other on gold of 120 prompts."""

    def open_judge(asking: AskingConfig, own: ModelConfig, cache: Path) -> LanguageModel:
        name = own.source
        model = mute() if name == "mute" else scored(SCORES[name], name)
        return CachedModel(model, cache / "judge.sqlite")

    def config_of(more: Sequence[str]) -> RunConfig:
        return settings(folder, "evaluate.bootstrap=100", *more)

    variants = read_variants(None, [f"{name}: model.source={name}" for name in names], config_of)
    given = write_gold(folder / "gold.jsonl", prompts=120) if gold is None else gold
    wanted = CardOptions(**{"pairs": 0, **asked})
    return compare(
        variants, str(given), wanted, share=share, timed=2, cache=folder, progress=Silent(), open_judge=open_judge
    )
