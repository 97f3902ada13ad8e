"""A source of the reward as a plain function `(prompts, responses) -> scores`, as TRL's trainers take it.

TRL calls `function(prompts=..., completions=..., completion_ids=..., **columns)`; what is not needed is ignored, and a
function of the user's gets the columns that it asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from rlaif.config import RunConfig
from rlaif.core.errors import DataError
from rlaif.core.files import RunFolder
from rlaif.core.records import FinishReason, Message, Prompt, Response
from rlaif.judge.judge import Judge
from rlaif.lm.local.load import load_model
from rlaif.training.ppo.rollout import Rollouts
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.function import FunctionReward, import_function
from rlaif.training.rewards.model import RewardModel
from rlaif.training.rewards.sources import Rewards

Chat = str | Sequence[Mapping[str, str]]
"""A text, or messages such as {"role": "user", "content": "..."}."""
Reward = Callable[..., list[float | None]]


def of_model(config: RunConfig, run: RunFolder) -> Reward:
    """The run's reward model, or what the config makes of an ensemble. An answer counts as one that ended."""
    members = []
    for name in config.reward.adapters:  # each changes the base that it stands on
        base = load_model(config.model, tuple(run.file(stage, "adapter") for stage in config.start))
        members.append(RewardModel.load(run.file("reward", name), base))
    ensemble = Rewards((), config.ppo.reward_ensemble, config.ppo.reward_uncertainty)

    def reward_model(prompts: Sequence[Chat], completions: Sequence[Chat], **_: Any) -> list[float | None]:
        asked, texts = [_prompt(chat) for chat in prompts], [_text(chat) for chat in completions]
        found = [member.score_texts(asked, texts, [True] * len(texts)) for member in members]
        return list(ensemble.of_members(torch.tensor(found).T).tolist())

    return reward_model


def of_judge(judge: Judge, references: Mapping[str, Sequence[Response]]) -> Reward:
    """How surely the judge prefers an answer to the references of its prompt, which go by the prompt's id."""
    source = JudgeReward(judge, references)

    def judge_reward(prompts: Sequence[Chat], completions: Sequence[Chat], **_: Any) -> list[float | None]:
        asked = [_prompt(chat) for chat in prompts]
        for prompt in asked:
            if prompt.id not in references:
                raise DataError(
                    f"there is no answer to compare with for the prompt {prompt.text[:200]!r}",
                    where="the judge as the reward",
                    remedy="take prompts that the run's label stage answered, or the reward model",
                )
        return list(source.preferred(asked, [_text(chat) for chat in completions]).tolist())

    return judge_reward


def of_function(name: str) -> Reward:
    """The function "module:function", whatever names its parameters have."""
    plain = import_function(name)
    by_columns: dict[tuple[str, ...], FunctionReward] = {}

    def reward_function(
        prompts: Sequence[Chat],
        completions: Sequence[Chat],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **given: Any,
    ) -> list[float | None]:
        own = {k: v for k, v in given.items() if isinstance(v, list | tuple) and len(v) == len(completions)}
        if tuple(own) not in by_columns:
            by_columns[tuple(own)] = FunctionReward(plain, name, tuple(own))
        function = by_columns[tuple(own)]
        texts, none = [_text(chat) for chat in completions], ((),) * len(completions)
        ids = none if completion_ids is None else tuple(tuple(row) for row in completion_ids)
        ended: list[FinishReason] = ["stop"] * len(texts)
        rollouts = Rollouts(tuple(_prompt(chat) for chat in prompts), none, ids, tuple(ended))
        return [None if math.isnan(score) else score for score in function.scores(rollouts, texts, own).tolist()]

    reward_function.__name__ = name.rpartition(":")[2]
    return reward_function


def _prompt(chat: Chat) -> Prompt:
    if isinstance(chat, str):
        return Prompt.of_text(chat)
    return Prompt(tuple(Message(turn["role"], turn["content"]) for turn in chat))  # type: ignore[arg-type]


def _text(chat: Chat) -> str:
    return chat if isinstance(chat, str) else chat[-1]["content"]
