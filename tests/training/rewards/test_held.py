"""Weights that are held: the price of a floor, by hand, in PPO, and over a checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from rlaif.config import PpoConfig
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.held import BOUND, HeldWeights
from rlaif.training.rewards.sources import Rewards
from tests.training.tiny_ppo import SMALL, chosen, policy_model

SHARE = "tests.training.toy_rewards:share_of_e"
LENGTH = "rlaif.gold.text:length_reward"


def row(mean: float | None, std: float | None = 0.5) -> dict[str, float | None]:
    return {"score_a": mean, "score_a_std": std}


def test_the_weight_rises_where_the_mean_falls_and_goes_back_where_it_rises() -> None:
    held = HeldWeights({"a": 2.0})
    held.update(row(None))
    assert (held.weights, held.targets) == ({"a": 2.0}, {})
    held.update(row(1.0))  # the first step is what it is held at
    assert held.weights == {"a": 2.0}
    held.update(row(0.9, 9.0))  # a fifth of the first deviation too low
    assert held.weights["a"] == pytest.approx(2 * math.exp(0.3))
    held.update(row(1.1, 9.0))
    assert held.weights["a"] == pytest.approx(2.0)
    held.update(row(-50.0))  # at most by e in a step
    assert held.weights["a"] == pytest.approx(2 * math.e)
    for _ in range(9):
        held.update(row(-50.0))
    assert held.weights["a"] == 2 * BOUND
    for _ in range(9):
        held.update(row(50.0))
    assert held.weights["a"] == 2.0  # a floor has no weight to lose


def test_scores_that_are_all_alike_tell_nothing() -> None:
    held = HeldWeights({"a": 1.0})
    held.update(row(1.0, 0.0))
    held.update(row(0.0, 0.0))
    assert held.weights == {"a": 1.0}


def trainer(source: Path) -> PpoTrainer:
    reward = [{"source": SHARE, "weight": 3.0}, {"source": LENGTH, "weight": 0.5, "name": "words", "hold": True}]
    config = PpoConfig(**{**SMALL, "learning_rate": 0.05, "missing_eos_penalty": 0.0, "reward": reward})
    model = policy_model(source, **config.model_dump(exclude={"reward"}))
    return PpoTrainer(model, config, seed=3, rewards=Rewards.of_config(config, no_judge))


def no_judge() -> object:
    raise AssertionError("no judge is among the sources")


def test_ppo_scores_a_step_by_the_weight_that_its_log_tells(tiny_model: Path) -> None:
    work = trainer(tiny_model)
    weights = []
    for step in range(3):
        _, batch, told = work.step(step, chosen(work, step))
        parts = 3.0 * batch.parts["score_share_of_e"] + told["weight_words"] * batch.parts["score_words"]
        torch.testing.assert_close(batch.scores, parts)
        weights.append(told["weight_words"])
        work.state.held.targets["words"] = (1.0, 1.0)  # from now on far above what the responses have
    assert weights[:2] == [0.5, 0.5]  # the first step is the measure
    assert 0.5 < weights[2] <= 0.5 * math.e
    assert "weight_share_of_e" not in told


def test_a_checkpoint_keeps_them(tiny_model: Path, tmp_path: Path) -> None:
    work, again = trainer(tiny_model), trainer(tiny_model)
    for step in range(2):
        work.step(step, chosen(work, step))
        work.state.held.targets["words"] = (1.0, 1.0)
    work.state.save(tmp_path / "checkpoint", 2)
    assert again.state.restore(tmp_path / "checkpoint") == 2
    assert again.state.held.facts() == work.state.held.facts()
    assert again.state.held.weights["words"] != 0.5
    assert again.step(2, chosen(again, 2))[2]["score"] == work.step(2, chosen(work, 2))[2]["score"]


def test_what_is_held_is_written_as_it_is_read() -> None:
    table = PpoConfig(reward=["model", {"source": "on_topic", "hold": True}])  # type: ignore[arg-type]
    dumped = table.model_dump()["reward"]
    assert dumped == ["model", {"source": "on_topic", "weight": 1.0, "hold": True}]
    assert PpoConfig(reward=dumped) == table
    weighed = PpoConfig(reward=["model", {"source": "on_topic", "weight": 2.0}])  # type: ignore[arg-type]
    assert weighed.model_dump()["reward"][1] == {"source": "on_topic", "weight": 2.0}  # as runs from before have it
    for weight in (0.0, -1.0):
        with pytest.raises(ValueError, match="hold adapts a weight above 0, and that of on_topic is"):
            PpoConfig(reward=["model", {"source": "on_topic", "weight": weight, "hold": True}])  # type: ignore[arg-type]
