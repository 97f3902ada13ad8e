"""PPO on the tiny model: its policy, its trainer, the stage's context, and what two runs must share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlaif.config import LoraTable, ModelConfig, PpoConfig
from rlaif.core.files import JsonlFile
from rlaif.core.records import Message, Prompt
from rlaif.lm.local.load import encode_chat, load_model
from rlaif.stages.context import StageContext
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.rollout import RolloutBatch, Rollouts
from rlaif.training.ppo.schedule import step_prompts
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.model import RewardModel
from rlaif.training.rewards.sources import Rewards, WeightedReward
from tests.training.contexts import prompt, stage_context
from tests.training.toy_rewards import share_of_e

PROMPTS = [prompt(f"Question {i} " + "about bread " * (i % 4)) for i in range(6)]
BY_MODEL = Rewards((WeightedReward("model", None),))
SMALL: dict[str, Any] = {"batch_size": 8, "micro_batch_size": 3, "max_new_tokens": 6}
ADAPTIVE = {"kl_target": 1.0, "kl_horizon": 20, "learning_rate": 1e-3, "samples_per_prompt": 2}
ASKED = (
    Prompt((Message("system", "Be kind."), Message("user", "A")), slice="first", tags=("x", "y"), source="set"),
    Prompt((Message("user", "B"),), slice="second"),
)
TWO_TEXTS = ["Yes", "No"]
TWO_ROLLOUTS = Rollouts(ASKED, ((7, 8), (9,)), ((1, 2, 3), (4,)), ("stop", "length"))


def model_config(source: Path, **fields: Any) -> ModelConfig:
    return ModelConfig(**{"source": str(source), "dtype": "float32", "device": "cpu", **fields})


def ppo_config(**fields: Any) -> PpoConfig:
    return PpoConfig(**fields)


def policy_model(source: Path, *, rewards: Sequence[Path] = (), dtype: str = "float32", **fields: Any) -> PolicyModel:
    return PolicyModel(load_model(model_config(source, dtype=dtype)), ppo_config(**fields), rewards=rewards, seed=0)


@torch.no_grad()
def disturb(model: PolicyModel, *, std: float = 0.05) -> None:
    """Gives all trained weights random values, as if trained."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.trained.values():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * std)


def reward_folder(root: Path, source: Path) -> Path:
    """A reward model with random weights, saved."""
    model = RewardModel.new(load_model(model_config(source)), LoraTable(), seed=0)  # type: ignore[call-arg]
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    model.mean, model.std = 0.3, 1.7
    model.save(root / "reward")
    return root / "reward"


def trainer(source: Path, *, function: Any = share_of_e, reward: Path | None = None, **table: Any) -> PpoTrainer:
    table = {**SMALL, **table}
    model = policy_model(source, rewards=[] if reward is None else [reward], **table)
    rewards = Rewards.of_function(function) if reward is None else BY_MODEL
    return PpoTrainer(model, ppo_config(**table), seed=3, rewards=rewards)


def same_model(of: PpoTrainer, **table: Any) -> PpoTrainer:
    """Another trainer of the same model with some fields changed."""
    return PpoTrainer(of.model, of.config.model_copy(update=table), seed=of.seed, rewards=of.rewards)


def chosen(work: PpoTrainer, step: int = 0) -> list[Prompt]:
    return step_prompts(PROMPTS, work.config, work.seed, step)


def made(work: PpoTrainer, *responses: str, cut: int = -1) -> Rollouts:
    """Rollouts of these texts; all end with the end token but number `cut`."""
    tokenizer = work.model.loaded.tokenizer
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in responses]
    ended = [[*row, tokenizer.eos_token_id] if i != cut else row for i, row in enumerate(ids)]
    asked = PROMPTS[: len(responses)]
    return Rollouts(
        prompts=tuple(asked),
        prompt_ids=tuple(tuple(encode_chat(tokenizer, p.messages)) for p in asked),
        responses=tuple(tuple(row) for row in ended),
        finish=tuple("length" if i == cut else "stop" for i in range(len(responses))),
    )


def gradient(work: PpoTrainer, batch: RolloutBatch, rows: Sequence[int]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """(metrics, gradients by name) of one mini-batch of the responses `rows`."""
    found = work.gradients(batch, rows, warmup=False)
    return found, {name: p.grad.clone() for name, p in work.model.trained.items() if p.grad is not None}


def same_gradient(one: tuple[Any, dict[str, Tensor]], other: tuple[Any, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-3, abs=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, wanted in other[1].items():
        torch.testing.assert_close(one[1][name], wanted, rtol=1e-3, atol=1e-5)


def ppo_context(root: Path, source: Path, sft_adapter: Path, prompts: Sequence[Prompt], **table: Any) -> StageContext:
    table = {"reward": "tests.training.toy_rewards:share_of_e", "steps": 4, "save_steps": 2, **SMALL, **table}
    context = stage_context(root, source, "ppo", ppo=table)
    context.adapter("sft").parent.mkdir(parents=True)
    context.adapter("sft").symlink_to(sft_adapter)
    JsonlFile(context.run.file("prompts", "train.jsonl"), Prompt).append(prompts)
    return context


def rows(context: StageContext) -> list[dict[str, Any]]:
    """The metrics without the times."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in context.metrics.read()]


def same_run(one: StageContext, other: StageContext) -> None:
    assert rows(one) == rows(other)
    assert (one.folder / "rollouts.jsonl").read_text() == (other.folder / "rollouts.jsonl").read_text()
    first, second = (load_file(c.adapter("ppo") / "adapter_model.safetensors") for c in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
