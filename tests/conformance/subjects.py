"""Subjects for the conformance suite: the tiny models, with a reward of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.config import PpoConfig
from rlaif.conformance.subject import Subject, open_subject
from rlaif.models import load_model
from tests.training.contexts import prompt
from tests.training.rewards import share_of_e
from tests.training.test_adapters import model_config

PROMPTS = [prompt(f"Question {i} " + "about bread " * (i % 4)) for i in range(4)]


def subject(source: Path, *, reward: Path | None = None, dtype: str = "float32", **fields: Any) -> Subject:
    config = PpoConfig(**{"temperature": 0.8, "max_new_tokens": 8, **fields})

    def load() -> Any:
        return load_model(model_config(source, dtype=dtype))

    function = None if reward is not None else share_of_e
    return open_subject(load(), config, PROMPTS, load=load, function=function, reward=reward)
