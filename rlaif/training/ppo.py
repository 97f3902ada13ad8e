"""`ppo`: the SFT policy learns to score higher, with a KL penalty that keeps it near the SFT policy.

The loop, in order: sample -> measure (log-probs, reference, values, score) -> advantages -> clipped updates -> log.
Departures from InstructGPT (arXiv 2203.02155):
1. Policy, critic, reward model and reference are LoRA adapters on one frozen copy of the SFT weights.
2. The critic starts from a zero head on the SFT body, or (`value: trunk`) shares the policy's trunk.
3. No pre-training gradients are mixed in.
All randomness comes from (run seed, step, place), so a run that is cut and resumed equals the uncut one.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rlaif.config import PpoConfig
from rlaif.errors import ConfigError, StageError
from rlaif.models import context_length, encode_chat, load_model
from rlaif.records import Prompt, content_id, record_seed
from rlaif.stage import StageContext
from rlaif.store import disk_errors
from rlaif.training.adapters import PolicyModel
from rlaif.training.ppo_trainer import NotFiniteError, PpoTrainer, RewardFunction
from rlaif.training.rollout import RolloutBatch, Rollouts


def run(context: StageContext) -> dict[str, float]:
    """Trains the policy adapter into ppo/adapter; returns counts and the first and last step's score and KL."""
    config, prompts = context.config.ppo, context.train_prompts()
    loaded = load_model(context.config.model, (context.adapter("sft"),))
    function = None if config.reward == "model" else load_function(config.reward)
    model = PolicyModel(
        loaded,
        config,
        reward=context.adapter("reward") if function is None else None,
        seed=record_seed(context.config.seed, "ppo", "adapters") % (1 << 31),
    )
    trainer = PpoTrainer(model, config, seed=context.config.seed, function=function)
    prompts = _fitting(prompts, loaded, config, context)
    start = trainer.restore(context.folder / "checkpoint")
    context.metrics.keep_before(start)
    tokens = 0
    with context.progress.task("ppo", config.steps, "steps") as task:
        task.advance(start)
        for step in range(start, config.steps):
            chosen = step_prompts(prompts, config, context.config.seed, step)
            try:
                rollouts, batch, row = trainer.step(step, chosen)
            except NotFiniteError as problem:
                path = context.folder / "bad_batch.pt"
                torch.save({"rows": list(problem.rows), **_tensors(problem.batch)}, path)
                raise StageError(
                    f"step {step}: {problem}; the batch is saved for inspection",
                    where=str(path),
                    remedy="lower ppo.learning_rate; the run continues from its last checkpoint with --resume",
                ) from None
            tokens += int(batch.response_mask.sum())
            context.metrics.append(step=step, **row)
            _log_rollouts(context, step, rollouts, batch, loaded.tokenizer)
            if (step + 1) % config.save_steps == 0 or step + 1 == config.steps:
                trainer.save(context.folder / "checkpoint", step + 1)
            task.advance(1, f"score {row['score']:+.2f} kl {row['kl']:.1f} tokens {row['length']:.0f}")
    _save_adapter(model, context.folder / "adapter")
    shutil.rmtree(context.folder / "checkpoint", ignore_errors=True)
    rows = context.metrics.read()
    counts = {"steps": config.steps, "prompts": len(prompts), "generated_tokens": float(tokens)}
    for name in ("score", "kl", "length", "eos_rate", "entropy"):
        counts |= {f"{name}_first": rows[0][name], f"{name}_last": rows[-1][name]}
    return counts


def step_prompts(prompts: Sequence[Prompt], config: PpoConfig, seed: int, step: int) -> list[Prompt]:
    """The prompts of one step: the next ones of an endless sequence of seeded shuffles, each
    `samples_per_prompt` times."""
    count = config.batch_size // config.samples_per_prompt
    chosen = []
    for place in range(step * count, (step + 1) * count):
        epoch, index = divmod(place, len(prompts))
        order = sorted(range(len(prompts)), key=lambda i: content_id(seed, "ppo order", epoch, prompts[i].id))
        chosen += [prompts[order[index]]] * config.samples_per_prompt
    return chosen


def load_function(name: str) -> RewardFunction:
    """The function "module:function"; it is called as f(prompt texts, response texts) -> one float each."""
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ConfigError(
            f"cannot import the reward function {name!r}: {problem}",
            where="ppo.reward",
            remedy='write "model" or "module:function" of something importable',
        ) from None
    if not callable(function):
        raise ConfigError(f"{name!r} is not a function", where="ppo.reward")
    result: RewardFunction = function
    return result


def _tensors(batch: RolloutBatch) -> dict[str, Any]:
    """The tensors of a batch by name, and the sampled ids."""
    names = ("logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns", "response_mask")
    ids = {"prompt_ids": batch.rollouts.prompt_ids, "responses": batch.rollouts.responses}
    return {name: getattr(batch, name) for name in names} | ids


def _fitting(prompts: Sequence[Prompt], loaded: Any, config: PpoConfig, context: StageContext) -> list[Prompt]:
    """The prompts that leave room for a response; the others are counted and said."""
    room = min(config.max_length, context_length(loaded.model)) - config.max_new_tokens
    kept = [p for p in prompts if len(encode_chat(loaded.tokenizer, p.messages)) <= room]
    if not kept:
        raise StageError(
            f"no prompt leaves room for {config.max_new_tokens} new tokens", where="ppo", remedy="raise ppo.max_length"
        )
    if len(kept) < len(prompts):
        context.progress.say(f"  {len(prompts) - len(kept)} prompts are too long for ppo.max_length and left out")
        context.extra["prompts_too_long"] = len(prompts) - len(kept)
    return kept


def _log_rollouts(
    context: StageContext, step: int, rollouts: Rollouts, batch: RolloutBatch, tokenizer: Any, count: int = 4
) -> None:
    """Appends a few rollouts of the step to rollouts.jsonl, to be read beside the curves."""
    path = context.folder / "rollouts.jsonl"
    rows = []
    for i in sorted(range(len(rollouts)), key=lambda i: rollouts.prompts[i].id)[:count]:
        text = tokenizer.decode(rollouts.responses[i], skip_special_tokens=True).strip()
        prompt = rollouts.prompts[i]
        score = float(batch.scores[i])
        rows.append(
            {"step": step, "prompt_id": prompt.id, "prompt": prompt.text, "response": text}
            | {"finish": rollouts.finish[i], "score": score}
        )
    with disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _save_adapter(model: PolicyModel, folder: Path) -> None:
    temporary = folder.with_suffix(".tmp")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_policy(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
