"""How much of PPO's gradient is signal? Two halves of a batch, other prompts in each, from the SFT policy of a run:

    python benchmarks/gradient_noise.py RUN [--responses 256] [--samples 8] [--seeds 2] [--lams 1,0.9]

Both halves estimate the same gradient, so the cosine between their estimates says what part of either is signal: with
cosine c, signal to noise is c / (1 - c) in power. It is told without a critic, with the reward model as critic and,
where `on_topic` is a reward of the run, with both of them (`value: reward`), whole and by kind of weight matrix and
depth; and for the signs of the entries, which is the direction of Adam's first update with a small `adam_epsilon`. Each
critic comes with the share of the scores' variance that it explains.

With a lambda below 1 the gradient is less noisy and another one. What it is worth: the cosine of one half's gradient
with the other half's at lambda 1, which is unbiased. Where that is larger than at lambda 1 the smaller lambda points
nearer to the true gradient.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from machine import machine
from torch import Tensor

from rlaif.core.files import JsonlFile
from rlaif.core.records import Prompt
from rlaif.judge.load import load
from rlaif.lm.local.load import encode_chat, load_model
from rlaif.training.ppo.advantages import advantages_and_returns, values_of_reward
from rlaif.training.ppo.formulas import explained_variance
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.rollout import RolloutBatch
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards

Gradient = Mapping[str, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description="How much of PPO's gradient is signal.")
    parser.add_argument("run", type=Path, help="a run folder with sft and reward")
    parser.add_argument("--responses", type=int, default=256, help="of both halves together")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=8, help="responses to a prompt")
    parser.add_argument("--lams", default="1", help="values of lambda; 1 is always among them")
    asked = parser.parse_args()
    lams = sorted({1.0, *map(float, asked.lams.split(","))}, reverse=True)
    print(machine())
    sets = [f"ppo.samples_per_prompt={asked.samples}", "ppo.baseline=prompt", "ppo.value=reward"]
    config = load(asked.run / "config.yaml", [*sets, "ppo.kl_coef=0", "ppo.lam=1"])
    loaded = load_model(config.model, (asked.run / "sft" / "adapter",))
    prompts = JsonlFile(asked.run / "prompts" / "train.jsonl", Prompt).read()
    longest = max(len(encode_chat(loaded.tokenizer, prompt.messages)) for prompt in prompts) + config.ppo.max_new_tokens
    model = PolicyModel(loaded, config.ppo, rewards=[asked.run / "reward" / "adapter"], seed=0, longest=longest)
    rewards = Rewards.of_config(config.ppo, _no_judge).comparing(prompts, loaded.tokenizer)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    explained: dict[str, list[float]] = defaultdict(list)
    for seed in range(asked.seeds):
        trainer = PpoTrainer(model, config.ppo, seed=seed, rewards=rewards)
        order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
        chosen = order[: asked.responses // asked.samples]
        halves: dict[str, list[Gradient]] = defaultdict(list)
        for half in (chosen[::2], chosen[1::2]):  # measured apart: values are fitted on a batch
            rollouts = trainer.sampler.sample([prompts[i] for i in half.tolist() for _ in range(asked.samples)], 0)
            batch, _ = trainer.measure(rollouts)
            scores, mask = batch.returns[:, 0], batch.response_mask  # lambda 1, no KL: all returns are the score
            critics = {"none": (torch.zeros_like(batch.values), [1.0]), _ALL: (batch.values, lams)}
            if rewards.by_topic:
                _, so_far = trainer.forward.scores(rollouts)
                alone = values_of_reward(so_far[:, :, None], scores, mask, rollouts.groups)
                critics["reward model alone"] = (alone, [1.0])
            for critic, (values, wanted) in critics.items():
                explained[critic].append(explained_variance(values, batch.returns, mask))
                for lam in wanted:
                    given = (batch.rewards, values, mask, rollouts.groups)
                    made, _ = advantages_and_returns(*given, algorithm="ppo", gamma=1.0, lam=lam)
                    name = critic if critic != _ALL else _named(lam)
                    halves[name].append(_gradient(trainer, replace(batch, advantages=made)))
        unbiased = halves[_named(1.0)]
        for critic, (one, other) in halves.items():
            for part, cosine in agreement(one, other).items():
                found[part, critic].append(cosine)
            both = (agreement(one, unbiased[1])["all"], agreement(other, unbiased[0])["all"])
            found["all, with the other half's at lambda 1", critic].append(sum(both) / 2)
    print("explained variance, by half: ", end="")
    print(
        "; ".join(f"{critic} {', '.join(f'{share:.2f}' for share in shares)}" for critic, shares in explained.items())
    )
    print(f"\n| cosine of two halves' gradients of | {' | '.join(halves)} |")
    print("|---" * (1 + len(halves)) + "|")
    for part in sorted({part for part, _ in found}):
        cells = [", ".join(f"{cosine:.2f}" for cosine in found[part, critic]) for critic in halves]
        print(f"| {part} | {' | '.join(cells)} |")


_ALL = "value: reward"


def _named(lam: float) -> str:
    return f"{_ALL}, lambda {lam:g}"


def _no_judge() -> NoReturn:
    raise AssertionError("no judge is among the rewards")


def _gradient(trainer: PpoTrainer, batch: RolloutBatch) -> Gradient:
    """Name -> the gradient of the whole batch, as the first update of a step has it. B alone: A has none at the start,
    where B is zero."""
    trainer.gradients(batch, range(len(batch.rollouts)), warmup=False)
    found = {name: p.grad.cpu() for name, p in trainer.model.trained.items() if p.grad is not None}
    return {name: gradient for name, gradient in found.items() if "lora_B" in name}


def agreement(one: Gradient, other: Gradient) -> dict[str, float]:
    """Part of the weights -> the cosine of the two gradients there."""
    sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(3))
    for name in one:
        first, second = one[name].flatten(), other[name].flatten()
        products = torch.stack([first @ second, first @ first, second @ second])
        parts = ["all"]
        if place := re.search(r"\.(\d+)\.(?:.*\.)?(\w+)\.lora_B", name):
            start = int(place[1]) // 10 * 10
            parts += [place[2], f"layers {start} to {start + 9}"]
        for part in parts:
            sums[part] += products
        first, second = first.sign(), second.sign()
        sums["the signs alone"] += torch.stack([first @ second, first @ first, second @ second])
    return {part: float(dot / (a * b).sqrt()) for part, (dot, a, b) in sorted(sums.items())}


if __name__ == "__main__":
    main()
