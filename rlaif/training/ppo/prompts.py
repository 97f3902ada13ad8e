"""Which prompts PPO can train on: those that leave room for a response, and for the judge as the reward those that
have answers to compare with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rlaif.config import PpoConfig
from rlaif.core.errors import StageError
from rlaif.core.records import Prompt
from rlaif.lm.local.load import LoadedModel, context_length, encode_chat


def fitting(prompts: Sequence[Prompt], loaded: LoadedModel, config: PpoConfig) -> list[Prompt]:
    """The prompts that leave room for a response of `max_new_tokens`; raises StageError where there are none."""
    if not prompts:
        raise StageError(
            "there are no prompts to train on", where="ppo", remedy="set `train` of a slice of prompts above 0"
        )
    context = context_length(loaded.model)
    room = min(config.max_length, context) - config.max_new_tokens
    sizes = [len(encode_chat(loaded.tokenizer, prompt.messages)) for prompt in prompts]
    found = [prompt for prompt, size in zip(prompts, sizes, strict=True) if size <= room]
    if not found:
        shortest = min(sizes)
        limit = f"the model's context is {context}" if context <= config.max_length else "ppo.max_length is too small"
        remedy = "lower ppo.max_new_tokens"
        if context > config.max_length:
            remedy += f", or raise ppo.max_length to {shortest + config.max_new_tokens} or more"
        raise StageError(
            f"none of {len(prompts)} prompts leaves room for {config.max_new_tokens} new tokens: the shortest has "
            f"{shortest} tokens, and {limit}",
            where="ppo",
            remedy=remedy,
        )
    return found


def answered(prompts: Sequence[Prompt], references: Collection[str]) -> list[Prompt]:
    """The prompts whose ids are among `references`; raises StageError where there are none."""
    found = [prompt for prompt in prompts if prompt.id in references]
    if not found:
        raise StageError(
            f"none of {len(prompts)} prompts has an answer of the SFT policy for the judge to compare with",
            where="ppo.reward: judge",
            remedy="the label stage samples them: redo it with --force, or set ppo.reward: model",
        )
    return found
