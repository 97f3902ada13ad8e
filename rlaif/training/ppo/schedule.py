"""What is trained on, and when: the prompts that fit, those set aside to validate on, those of each step, the
responses of each mini-batch, and the learning rate of each update. All of it is decided by hashes of (run seed, place),
so a resumed run decides the same."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from rlaif.config import PpoConfig
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.records import Prompt, content_id, record_seed
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


def set_aside(prompts: Sequence[Prompt], config: PpoConfig, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to train on, prompts to validate on, at most half of all); none of the latter without `eval_steps`.

    They come in the order in which `reward` holds prompts out: as many as that were, or fewer, and the reward model
    has not seen them either. Raises ConfigError for a single prompt.
    """
    if not config.eval_steps:
        return list(prompts), []
    if len(prompts) < 2:
        raise ConfigError(
            "validation takes prompts from those to train on, and there is only one",
            where="ppo.eval_steps",
            remedy="give more prompts, or set eval_steps: 0",
        )
    ranked = sorted(prompts, key=lambda prompt: record_seed(seed, "held-out", prompt.id))
    chosen = ranked[: min(config.validation_prompts, len(prompts) // 2)]
    ids = {prompt.id for prompt in chosen}
    return [prompt for prompt in prompts if prompt.id not in ids], chosen


def step_prompts(prompts: Sequence[Prompt], config: PpoConfig, seed: int, step: int) -> list[Prompt]:
    """The prompts of one step: the next ones of an endless sequence of seeded shuffles, each
    `samples_per_prompt` times."""
    count = config.batch_size // config.samples_per_prompt
    chosen = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(prompts))
        chosen += [prompts[_order(len(prompts), seed, epoch)[index]]] * config.samples_per_prompt
    return chosen


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    order = list(range(count))
    random.Random(record_seed(seed, "ppo order", epoch)).shuffle(order)
    return order


def mini_batches(size: int, samples: int, parts: int, epochs: int, *, seed: int, step: int) -> list[list[int]]:
    """The responses of each mini-batch of a step, `parts` of them in each of `epochs` passes over `size` responses.

    The `samples` of a prompt, which stand side by side, stay together: they share its computation.
    """
    assert size % samples == 0
    plan = []
    for epoch in range(epochs):
        order = sorted(range(size // samples), key=lambda i: content_id(seed, "mini-batch", step, epoch, i))
        plan += [[i * samples + k for i in sorted(order[part::parts]) for k in range(samples)] for part in range(parts)]
    return plan


def learning_rate(config: PpoConfig, update: int) -> float:
    """Of update `update` of the run, from 0: it rises to its full height over `warmup_steps`, and falls to 0 linearly
    over all `steps`, the first ones included."""
    a_step = config.num_ppo_epochs * config.num_mini_batches
    rising = min(1.0, (update + 1) / (config.warmup_steps * a_step)) if config.warmup_steps else 1.0
    return config.learning_rate * rising * (1 - update / (config.steps * a_step))
