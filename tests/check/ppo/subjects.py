"""Subjects for the conformance suite: the tiny models, with a reward of each kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.check.ppo import suite
from rlaif.check.ppo.subject import Subject, open_subject
from rlaif.config import PpoConfig
from rlaif.lm.local.load import load_model
from rlaif.training.rewards.sources import Rewards, WeightedReward
from tests.training.contexts import prompt
from tests.training.tiny_ppo import model_config
from tests.training.toy_rewards import share_of_e

PROMPTS = [prompt(f"Question {i} " + "about bread " * (i % 4)) for i in range(4)]


def subject(
    source: Path, *, reward: Path | None = None, more: Sequence[Path] = (), dtype: str = "float32", **fields: Any
) -> Subject:
    config = PpoConfig(**{"temperature": 0.8, "max_new_tokens": 8, **fields})

    def load() -> Any:
        return load_model(model_config(source, dtype=dtype))

    rewards = Rewards.of_function(share_of_e) if reward is None else Rewards((WeightedReward("model", None),))
    members = [] if reward is None else [reward, *more]
    return open_subject(load(), config, PROMPTS, load=load, rewards=rewards, members=members)


def failures(outcomes: list[suite.CheckOutcome]) -> list[str]:
    return [str(outcome) for outcome in outcomes if not outcome.ok]


def written(folder: Path, source: Path) -> Path:
    path = folder / "run.yaml"
    tables = f"model: {{source: {source}}}\nprompts: {{everyday: {{source: everyday, train: 12}}}}\n"
    path.write_text(f"{tables}ppo: {{reward: tests.training.toy_rewards:share_of_e, value: trunk}}\n", encoding="utf-8")
    return path
