"""A whole PPO step against one written again from the papers: in float64, one response at a time, token by token.

It shares no line with what it tests: transformers' plain model with the adapters added to its weights stands for the
packed passes, and loops over Python's floats for the formulas.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.func import functional_call
from transformers import AutoModelForCausalLM

from rlaif.config import PpoConfig
from rlaif.training.ppo.rollout import Rollouts
from rlaif.training.ppo.step import PpoTrainer
from tests.training.tiny_ppo import chosen, disturb, reward_folder, trainer

LENGTHS = (6, 3, 5, 1, 4, 6, 2, 5)
"""Tokens of the responses, so that each has another padding; those at even places end by themselves."""
SCORE_CLIP = 0.9
FIELDS: dict[str, Any] = {
    **{"samples_per_prompt": 2, "kl_coef": 0.3, "gamma": 0.9, "lam": 0.7, "missing_eos_penalty": 0.6, "vf_coef": 0.7},
    **{"cliprange": 0.1, "cliprange_value": 0.02, "temperature": 0.8, "entropy_coef": 0.02, "max_grad_norm": 3.5},
    # With this epsilon an update follows the gradient's size too, so that rounding of a small entry stays small.
    **{"learning_rate": 0.001, "adam_epsilon": 1e-3, "max_approx_kl": 1e9, "score_clip": SCORE_CLIP, "steps": 3},
}


@dataclass
class Plain:
    """The model as transformers has it, in float64, and every trained weight by the trainer's name."""

    base: Any
    config: PpoConfig
    trained: dict[str, Tensor]
    reward: dict[str, Tensor]
    head: Tensor
    constants: dict[str, float]

    @classmethod
    def of(cls, work: PpoTrainer, source: Path, folder: Path) -> Plain:
        saved = {
            name.replace(".weight", ".reward.weight"): weight.double()
            for name, weight in load_file(folder / "adapter_model.safetensors").items()
        }
        return cls(
            base=AutoModelForCausalLM.from_pretrained(source, dtype=torch.float64).requires_grad_(False),
            config=work.config,
            trained={n: p.detach().double().requires_grad_() for n, p in work.model.trained.items()},
            reward=saved,
            head=load_file(folder / "reward_head.safetensors")["weight"][0].double(),
            constants=json.loads((folder / "reward.json").read_text()),
        )

    def states(self, ids: Sequence[int], adapter: str | None) -> Tensor:
        """(tokens, H) last states of one sequence with W + alpha / r * B A in the place of each W."""
        weights = {**self.trained, **self.reward}
        changed = {}
        for name, down in weights.items():
            if f"lora_A.{adapter}." in name:
                layer = name.removeprefix("base_model.model.model.").split(".lora_A")[0]
                change = weights[name.replace("lora_A", "lora_B")] @ down
                scale = self.config.lora_alpha / self.config.lora_r
                changed[f"{layer}.weight"] = self.base.model.get_parameter(f"{layer}.weight") + scale * change
        found = functional_call(self.base.model, changed, kwargs={"input_ids": torch.tensor([list(ids)])})
        states: Tensor = found.last_hidden_state[0]
        return states

    def distributions(self, prompt: Sequence[int], response: Sequence[int], adapter: str | None) -> Tensor:
        """(T, V) log-probabilities of what may stand in each place of the response."""
        states = self.states([*prompt, *response], adapter)[len(prompt) - 1 : -1]
        return (states @ self.base.lm_head.weight.T / self.config.temperature).log_softmax(-1)

    def critic(self, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
        """(T,) values before each token."""
        adapter = "value" if self.config.value == "adapter" else "policy"
        states = self.states([*prompt, *response], adapter)[len(prompt) - 1 : -1]
        return states @ self.trained["value_head.weight"][0] + self.trained["value_head.bias"][0]

    def score(self, prompt: Sequence[int], response: Sequence[int]) -> float:
        """What the reward model says of the response: of the mean of its states, in deviations of the reference's."""
        state = self.states([*prompt, *response], "reward")[len(prompt) :].mean(0)
        return (float(state @ self.head) - self.constants["mean"]) / self.constants["std"]


@dataclass
class Measured:
    """Of one response, token by token, before the first update."""

    logprobs: list[float]
    ref_logprobs: list[float]
    entropies: list[float]
    values: list[float]
    so_far: list[float]
    score: float
    rewards: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)


def at(distributions: Tensor, response: Sequence[int]) -> Tensor:
    return torch.stack([distributions[t, token] for t, token in enumerate(response)])


def entropies_of(distributions: Tensor) -> Tensor:
    return -(distributions.exp() * distributions).sum(-1)


@torch.no_grad()
def measure(plain: Plain, rollouts: Rollouts) -> list[Measured]:
    config, found = plain.config, []
    for prompt, response, finish in zip(rollouts.prompt_ids, rollouts.responses, rollouts.finish, strict=True):
        policy = plain.distributions(prompt, response, "policy")
        of_reward = config.value == "reward"
        score = max(-SCORE_CLIP, min(SCORE_CLIP, plain.score(prompt, response)))
        found.append(
            Measured(
                logprobs=at(policy, response).tolist(),
                ref_logprobs=at(plain.distributions(prompt, response, None), response).tolist(),
                entropies=entropies_of(policy).tolist(),
                values=[0.0] * len(response) if of_reward else plain.critic(prompt, response).tolist(),
                so_far=[0.0, *(plain.score(prompt, response[:t]) for t in range(1, len(response)))],
                score=score - (0.0 if finish == "stop" else config.missing_eos_penalty),
            )
        )
    entering = [one.score for one in found]
    asked = [prompt.id for prompt in rollouts.prompts]
    if config.baseline != "none":
        of = [[j for j in range(len(asked)) if config.baseline == "batch" or asked[j] == own] for own in asked]
        entering = [score - sum(entering[j] for j in of[i]) / len(of[i]) for i, score in enumerate(entering)]
    if config.value == "reward":
        for i, one in enumerate(found):
            one.values = [value_of_reward(found, entering, asked, i, t) for t in range(len(one.logprobs))]
    for one, score in zip(found, entering, strict=True):
        one.rewards = [-config.kl_coef * (p - q) for p, q in zip(one.logprobs, one.ref_logprobs, strict=True)]
        one.rewards[-1] += score
    if config.whiten_rewards:
        every = [reward for one in found for reward in one.rewards]
        mean = sum(every) / len(every)
        deviation = math.sqrt(sum((reward - mean) ** 2 for reward in every) / len(every))
        for one in found:
            one.rewards = [mean + (reward - mean) / deviation for reward in one.rewards]
    for one in found:
        length = len(one.rewards)
        ahead = [*one.values[1:], 0.0]
        surprise = [one.rewards[t] + config.gamma * ahead[t] - one.values[t] for t in range(length)]
        decay = config.gamma * config.lam
        one.advantages = [sum(decay ** (k - t) * surprise[k] for k in range(t, length)) for t in range(length)]
        one.returns = [advantage + value for advantage, value in zip(one.advantages, one.values, strict=True)]
    return found


def value_of_reward(found: list[Measured], entering: list[float], asked: list[str], row: int, t: int) -> float:
    """Slope over the other prompts times the score so far, both less the means of those of a prompt's samples that got
    there, or of all where a prompt has one sample alone."""
    alone = any(asked.count(prompt) == 1 for prompt in asked)
    there = [j for j in range(len(found)) if len(found[j].logprobs) > t]

    def centred(i: int) -> tuple[float, float]:
        peers = [(found[j].so_far[t], entering[j]) for j in there if alone or asked[j] == asked[i]]
        so_far, score = (sum(of) / len(peers) for of in zip(*peers, strict=True))
        return found[i].so_far[t] - so_far, entering[i] - score

    others = [centred(j) for j in there if asked[j] != asked[row]]
    squares = sum(x * x for x, _ in others)
    return sum(x * y for x, y in others) / squares * centred(row)[0] if squares > 1e-8 else 0.0


def mini_batch(plain: Plain, rollouts: Rollouts, found: list[Measured], rows: Sequence[int]) -> dict[str, float]:
    """What a mini-batch measures, with how many tokens each branch of the losses decided; leaves its cut gradient."""
    config = plain.config
    every = [advantage for row in rows for advantage in found[row].advantages]
    count, mean = len(every), sum(every) / len(every)
    deviation = math.sqrt(sum((advantage - mean) ** 2 for advantage in every) / count)
    sums = dict.fromkeys(
        ["policy_loss", "value_loss", "clip_fraction", "approx_kl", "policy_cut", "value_cut", "value_plain"], 0.0
    )
    for row in rows:
        prompt, response, old = rollouts.prompt_ids[row], rollouts.responses[row], found[row]
        policy = plain.distributions(prompt, response, "policy")
        values = None if config.value == "reward" else plain.critic(prompt, response)
        loss = -config.entropy_coef * entropies_of(policy).sum()
        for t, logprob in enumerate(at(policy, response)):
            advantage = (old.advantages[t] - mean) / deviation
            ratio = (logprob - old.logprobs[t]).exp()
            near = max(1 - config.cliprange, min(1 + config.cliprange, float(ratio)))
            free, cut = ratio * advantage, torch.tensor(near * advantage, dtype=torch.float64)
            gain = cut if float(cut) < float(free) else free
            loss = loss - gain
            sums["policy_loss"] -= float(gain) / count
            sums["policy_cut"] += float(cut) < float(free)
            sums["clip_fraction"] += (abs(float(ratio) - 1) > config.cliprange) / count
            sums["approx_kl"] += (float(ratio) - 1 - (float(logprob) - old.logprobs[t])) / count
            if values is None:
                continue
            moved, before, wanted = values[t], old.values[t], old.returns[t]
            least, most = before - config.cliprange_value, before + config.cliprange_value
            bounded = max(least, min(most, float(moved)))
            plainly, boundedly = (moved - wanted) ** 2 / 2, (bounded - wanted) ** 2 / 2
            larger = plainly if float(plainly) >= boundedly else torch.tensor(boundedly, dtype=torch.float64)
            loss = loss + config.vf_coef * larger
            sums["value_loss"] += float(larger) / count
            sums["value_cut"] += float(plainly) < boundedly
            sums["value_plain"] += float(plainly) > boundedly
        (loss / count).backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in plain.trained.values() if weight.grad is not None]
    sums["grad_norm"] = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    for gradient in gradients:
        gradient.mul_(min(1.0, config.max_grad_norm / sums["grad_norm"]))
    return sums


@torch.no_grad()
def adam(plain: Plain, moments: dict[str, tuple[Tensor, Tensor]], update: int) -> None:
    """One update (from 0) of Adam (1412.6980), whose rate falls to 0 over the 3 steps of 4 updates."""
    rate = plain.config.learning_rate * (1 - update / 12)
    for name, weight in plain.trained.items():
        if weight.grad is None:
            continue
        first, second = moments.get(name, (torch.zeros_like(weight), torch.zeros_like(weight)))
        first, second = 0.9 * first + 0.1 * weight.grad, 0.999 * second + 0.001 * weight.grad**2
        moments[name] = first, second
        unbiased = first / (1 - 0.9 ** (update + 1)), second / (1 - 0.999 ** (update + 1))
        weight -= rate * unbiased[0] / (unbiased[1].sqrt() + plain.config.adam_epsilon)
        weight.grad = None


def cut_to_lengths(work: PpoTrainer, rollouts: Rollouts) -> Rollouts:
    end = work.model.loaded.tokenizer.eos_token_id
    responses = [
        (*row[: size - 1], end) if i % 2 == 0 else row[:size]
        for i, (row, size) in enumerate(zip(rollouts.responses, LENGTHS, strict=True))
    ]
    finish = tuple("stop" if i % 2 == 0 else "length" for i in range(len(LENGTHS)))
    return replace(rollouts, responses=tuple(responses), finish=finish)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "table"),
    [
        ("adapter", {}),
        ("trunk", {"whiten_rewards": True, "baseline": "prompt"}),
        ("reward", {"baseline": "prompt", "gamma": 1.0}),
        ("reward", {"baseline": "batch", "gamma": 1.0, "samples_per_prompt": 1}),
    ],
)
def test_a_step_is_the_one_written_again_in_float64(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, value: str, table: dict[str, Any]
) -> None:
    folder = reward_folder(tmp_path, tiny_model)
    work = trainer(tiny_model, reward=folder, value=value, **{**FIELDS, **table})
    disturb(work.model)
    rollouts = cut_to_lengths(work, work.sampler.sample(chosen(work), 0))
    batch, entropy = work.measure(rollouts)
    plain = Plain.of(work, tiny_model, folder)
    found = measure(plain, rollouts)

    for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns"):
        for row, one in enumerate(found):
            got = getattr(batch, name)[row][: LENGTHS[row]].tolist()
            assert got == pytest.approx(getattr(one, name), rel=1e-4, abs=1e-4), (name, row)
    assert batch.scores.tolist() == pytest.approx([one.score for one in found], abs=1e-4)
    tokens = [nats for one in found for nats in one.entropies]
    assert entropy == pytest.approx(sum(tokens) / len(tokens), abs=1e-4)

    seen: list[tuple[Sequence[int], dict[str, float], dict[str, Tensor]]] = []
    gradients = work.gradients

    def watched(*given: Any, **named: Any) -> dict[str, float]:
        stats = gradients(*given, **named)
        seen.append((given[1], stats, {n: p.grad.clone() for n, p in work.model.trained.items() if p.grad is not None}))
        return stats

    monkeypatch.setattr(work, "gradients", watched)
    work.update(batch, 0)
    assert sorted(row for rows, _, _ in seen for row in rows) == sorted([*range(8), *range(8)])
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    totals: dict[str, float] = {}
    for update, (rows, stats, slopes) in enumerate(seen):
        wanted = mini_batch(plain, rollouts, found, rows)
        for name in stats:
            assert stats[name] == pytest.approx(wanted[name], rel=1e-3, abs=1e-4), (update, name)
        for name, weight in plain.trained.items():
            if weight.grad is not None:
                torch.testing.assert_close(slopes[name].double(), weight.grad, rtol=1e-3, atol=1e-5, msg=name)
        totals = {name: totals.get(name, 0.0) + count for name, count in wanted.items()}
        adam(plain, moments, update)
    for name, parameter in work.model.trained.items():
        torch.testing.assert_close(parameter.double(), plain.trained[name], rtol=0, atol=1e-5, msg=name)
    # What this test is for did happen: tokens that each branch decides, and a critic whose targets are not 0.
    assert totals["policy_cut"] > 3
    assert 0.1 < totals["clip_fraction"] / len(seen) < 0.9
    norms = [stats["grad_norm"] for _, stats, _ in seen]
    assert min(norms) < FIELDS["max_grad_norm"] < max(norms)
    if value != "reward":
        assert totals["value_cut"] > 3
        assert totals["value_plain"] > 2
        assert batch.values[batch.response_mask].abs().min() > 0.001
        assert batch.returns[batch.response_mask].abs().min() > 0.001
