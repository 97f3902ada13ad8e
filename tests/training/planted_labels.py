"""Labels that prefer a planted word, and the reward stage on them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from rlaif.core.files import JsonlFile
from rlaif.core.records import Comparison, Failure, PreferenceLabel, Prompt, Response
from rlaif.lm.local.load import LoadedModel, load_model
from rlaif.stages.context import StageContext
from tests.training.contexts import prompt, response, stage_context

WORDS = [
    "bread", "dough", "flour", "water", "salt", "yeast", "friend", "note",
    "noise", "neighbour", "fox", "dog", "answer", "help", "night", "music",
]  # fmt: skip


def label(a: Response, b: Response, of: Prompt, prob_a: float | None) -> PreferenceLabel:
    failure = Failure("refused", "will not say") if prob_a is None else None
    return PreferenceLabel(Comparison(of, a, b), prob_a, (), failure=failure)


def planted(n: int, prob: float = 1.0) -> list[PreferenceLabel]:
    """`n` prompts with 4 answers each, two of which hold the word "kind"; those win with P = `prob`."""
    labels = []
    for i in range(n):
        draw = random.Random(i)
        asked = prompt(f"Question {i} about {draw.choice(WORDS)}?")
        answers = []
        for k in range(4):
            words = draw.choices(WORDS, k=draw.randint(3, 8))
            if k < 2:
                words[draw.randrange(len(words))] = "kind"
            answers.append(response(asked, " ".join(words), seed=k))
        draw.shuffle(answers)
        for j in range(4):
            for m in range(j + 1, 4):
                a, b = answers[j], answers[m]
                if ("kind" in a.text) != ("kind" in b.text):
                    labels.append(label(a, b, asked, prob if "kind" in a.text else 1 - prob))
    return labels


def reward_context(
    root: Path, tiny_model: Path, sft_adapter: Path, labels: list[PreferenceLabel], **table: Any
) -> StageContext:
    context = stage_context(root, tiny_model, "reward", reward=table)
    context.adapter("sft").parent.mkdir(parents=True)
    context.adapter("sft").symlink_to(sft_adapter)
    JsonlFile(context.run.file("label", "labels.jsonl"), PreferenceLabel).append(labels)
    return context


Trained = tuple[StageContext, dict[str, float]]
"""A run and the counts of its reward stage."""


def base(context: StageContext) -> LoadedModel:
    return load_model(context.config.model, (context.adapter("sft"),))
