"""One PPO step after another: sample, measure, advantages, clipped updates; and exact checkpoints.

All randomness comes from (run seed, step, place), so a run that is cut and resumed equals the uncut one.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.errors import ConfigError, StageError
from rlaif.lm.decode import sample
from rlaif.models import encode_chat, end_ids
from rlaif.records import Prompt, content_id, record_seed
from rlaif.store import disk_errors
from rlaif.training.adapters import Adapter, PolicyModel, Row
from rlaif.training.objectives import (
    KlController,
    explained_variance,
    gae,
    k3,
    masked_mean,
    policy_loss,
    shaped_rewards,
    value_loss,
    whiten,
)
from rlaif.training.rollout import RolloutBatch, Rollouts

RewardFunction = Callable[..., Sequence[float | None]]


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Means over the real tokens of all mini-batches of one step."""

    policy_loss: float
    value_loss: float
    clip_fraction: float
    approx_kl: float
    grad_norm: float


class PpoTrainer:
    """State of the optimisation: the model, the optimiser, the KL controller."""

    def __init__(
        self, model: PolicyModel, config: PpoConfig, *, seed: int, function: RewardFunction | None = None
    ) -> None:
        if config.batch_size % config.samples_per_prompt or config.batch_size < config.num_mini_batches:
            raise ConfigError(
                f"batch_size {config.batch_size} must be a multiple of samples_per_prompt and >= num_mini_batches",
                where="ppo",
            )
        self.model, self.config, self.seed, self.function = model, config, seed, function
        self.parameters = model.trainable()
        self.optimiser = torch.optim.AdamW(self.parameters, lr=config.learning_rate, eps=1e-5, weight_decay=0.0)
        self.kl = KlController(config.kl_coef, config.kl_target, config.kl_horizon)
        self.ends = end_ids(model.loaded.tokenizer, model.loaded.model)

    def step(self, step: int, prompts: Sequence[Prompt]) -> tuple[Rollouts, RolloutBatch, dict[str, float]]:
        """One PPO step; returns what was sampled and the row for metrics.jsonl."""
        clock = time.perf_counter()
        rollouts = self.sample(prompts, step)
        sampled = time.perf_counter()
        batch, entropy = self.measure(rollouts)
        measured = time.perf_counter()
        stats = self.update(batch, step)
        mask = batch.response_mask
        kl = (batch.logprobs - batch.ref_logprobs) * mask
        row = {
            "score": float(batch.scores.mean()),
            "score_std": float(batch.scores.std(unbiased=False)),
            "kl": float(kl.sum(1).mean()),
            "kl_per_token": float(kl.sum() / mask.sum()),
            "kl_coef": self.kl.coefficient,
            "entropy": entropy,
            "length": float(mask.sum(1).float().mean()),
            "eos_rate": sum(f == "stop" for f in rollouts.finish) / len(rollouts),
            "policy_loss": stats.policy_loss,
            "value_loss": stats.value_loss,
            "clip_fraction": stats.clip_fraction,
            "approx_kl": stats.approx_kl,
            "explained_variance": explained_variance(batch.values, batch.returns, mask),
            "grad_norm": stats.grad_norm,
            "seconds_generate": sampled - clock,
            "seconds_score": measured - sampled,
            "seconds_optimise": time.perf_counter() - measured,
        }
        self.kl.update(row["kl"], len(rollouts))
        return rollouts, batch, row

    def sample(self, prompts: Sequence[Prompt], step: int) -> Rollouts:
        """One response per prompt from the merged policy. Prompts of like length stand together."""
        tokenizer = self.model.loaded.tokenizer
        rows = sorted(
            ((encode_chat(tokenizer, p.messages), i, p) for i, p in enumerate(prompts)), key=lambda r: len(r[0])
        )
        with self.model.merged() as lm:
            sampled = sample(
                lm,
                [ids for ids, _, _ in rows],
                max_new_tokens=self.config.max_new_tokens,
                temperature=self.config.temperature,
                seeds=[record_seed(self.seed, "ppo", step, i) for _, i, _ in rows],
                ends=self.ends,
            )
        return Rollouts(
            prompts=tuple(p for _, _, p in rows),
            prompt_ids=tuple(tuple(ids) for ids, _, _ in rows),
            responses=tuple(tuple(s.ids) for s in sampled),
            finish=tuple(s.finish for s in sampled),
        )

    @torch.no_grad()
    def measure(self, rollouts: Rollouts) -> tuple[RolloutBatch, float]:
        """Everything the updates need, computed by the trained model itself on the sampled ids; and the entropy."""
        mask = rollouts.mask
        logprobs, entropies = self._over(rollouts, "policy")
        ref_logprobs, _ = self._over(rollouts, None)
        values, _ = self._over(rollouts, self.model.critic, values=True)
        scores = self._scores(rollouts)
        unfinished = torch.tensor([finish != "stop" for finish in rollouts.finish])
        scores = scores - self.config.missing_eos_penalty * unfinished
        rewards = shaped_rewards(scores, logprobs, ref_logprobs, mask, self.kl.coefficient)
        if self.config.whiten_rewards:
            rewards = whiten(rewards, mask, center=False)
        advantages, returns = gae(rewards, values, mask, gamma=self.config.gamma, lam=self.config.lam)
        batch = RolloutBatch(
            rollouts=rollouts,
            response_mask=mask,
            logprobs=logprobs,
            ref_logprobs=ref_logprobs,
            values=values,
            scores=scores,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
        )
        return batch, float(masked_mean(entropies, mask))

    def update(self, batch: RolloutBatch, step: int) -> UpdateStats:
        """`num_ppo_epochs` passes over the batch in `num_mini_batches` optimiser steps each."""
        config, size = self.config, len(batch.rollouts)
        warmup = step < config.value_warmup_steps
        total = config.steps * config.num_ppo_epochs * config.num_mini_batches
        done = step * config.num_ppo_epochs * config.num_mini_batches
        sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "approx_kl", "grad_norm"), 0.0)
        for epoch in range(config.num_ppo_epochs):
            order = sorted(range(size), key=lambda i: content_id(self.seed, "mini-batch", step, epoch, i))
            for part in range(config.num_mini_batches):
                rows = sorted(order[part :: config.num_mini_batches])
                for group in self.optimiser.param_groups:
                    group["lr"] = config.learning_rate * (1 - done / total)
                for name, value in self._mini_batch(batch, rows, warmup=warmup).items():
                    sums[name] += value
                done += 1
        updates = config.num_ppo_epochs * config.num_mini_batches
        return UpdateStats(**{name: value / updates for name, value in sums.items()})

    def _mini_batch(self, batch: RolloutBatch, rows: Sequence[int], *, warmup: bool) -> dict[str, float]:
        """One optimiser step on the responses `rows`; every token weighs the same however they are split."""
        config, model = self.config, self.model
        mask = batch.response_mask[rows]
        advantages = whiten(batch.advantages[rows], mask)
        tokens = int(mask.sum())
        sums = dict.fromkeys(("policy_loss", "value_loss", "clip_fraction", "approx_kl"), 0.0)
        self.optimiser.zero_grad(set_to_none=True)
        for start in range(0, len(rows), config.micro_batch_size):
            chosen = rows[start : start + config.micro_batch_size]
            micro = _rows(batch.rollouts, chosen)
            take = batch.response_mask[chosen]
            wanted = advantages[start : start + config.micro_batch_size][take]
            old, returns, old_values = (t[chosen][take] for t in (batch.logprobs, batch.returns, batch.values))
            with model.using("policy"):
                flat = model.response_states(model.states(micro), micro)
                logprobs = model.logprobs(flat, micro)[0].cpu()
                loss = policy_loss(logprobs, old, wanted, config.cliprange).sum() / tokens
                if model.critic == "policy":
                    found = self._value_loss(flat, old_values, returns) / tokens
                    _backward((0.0 if warmup else 1.0) * loss + config.vf_coef * found)
                elif not warmup:
                    _backward(loss)
            if model.critic == "value":
                with model.using("value"):
                    flat = model.response_states(model.states(micro), micro)
                    found = self._value_loss(flat, old_values, returns) / tokens
                    _backward(config.vf_coef * found)
            ratio = torch.exp(logprobs.detach() - old)
            sums["policy_loss"] += float(loss.detach())
            sums["value_loss"] += float(found.detach())
            sums["clip_fraction"] += float(((ratio - 1).abs() > config.cliprange).sum()) / tokens
            sums["approx_kl"] += float(k3(logprobs.detach(), old).sum()) / tokens
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm))
        if not math.isfinite(norm):
            raise NotFiniteError(batch, rows)
        self.optimiser.step()
        return sums | {"grad_norm": norm}

    def _value_loss(self, flat: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
        """Sum over the tokens of the critic's clipped loss."""
        return value_loss(self.model.values(flat).cpu(), old_values, returns, self.config.cliprange_value).sum()

    def _over(self, rollouts: Rollouts, adapter: Adapter | None, *, values: bool = False) -> tuple[Tensor, Tensor]:
        """((B, T) log-probs or values, (B, T) entropies or zeros) under one adapter, in micro-batches."""
        found: list[Tensor] = []
        entropies: list[Tensor] = []
        with self.model.using(adapter):
            for start in range(0, len(rollouts), self.config.micro_batch_size):
                micro = _rows(rollouts, range(start, min(start + self.config.micro_batch_size, len(rollouts))))
                flat = self.model.response_states(self.model.states(micro), micro)
                if values:
                    result, entropy = self.model.values(flat), torch.zeros(len(flat))
                else:
                    result, entropy = self.model.logprobs(flat, micro)
                sizes = [len(response) for _, response in micro]
                found += torch.split(result.cpu(), sizes)
                entropies += torch.split(entropy.cpu(), sizes)
        return rollouts.padded(found), rollouts.padded(entropies)

    def _scores(self, rollouts: Rollouts) -> Tensor:
        """(B,) scores by the reward adapter on the sampled ids, or by the reward function on the texts."""
        if self.function is None:
            size = self.config.micro_batch_size
            parts = [
                self.model.scores(_rows(rollouts, range(start, min(start + size, len(rollouts)))))
                for start in range(0, len(rollouts), size)
            ]
            return torch.cat(parts)
        texts = [self.text(response) for response in rollouts.responses]
        # By position: TRL calls the second argument "completions", others "responses".
        found = list(self.function([p.text for p in rollouts.prompts], texts))
        bad = [i for i, value in enumerate(found) if value is None or not math.isfinite(value)]
        if len(found) != len(texts) or bad:
            what = (
                f"{found[bad[0]]} for response {bad[0]}" if bad else f"{len(found)} scores for {len(texts)} responses"
            )
            raise StageError(
                f"the reward function returned {what}",
                where="ppo.reward",
                remedy="return one finite number per response; the run continues from its last checkpoint",
            )
        return torch.tensor([float(value) for value in found if value is not None])

    def text(self, response: Sequence[int]) -> str:
        """The response as text, without special tokens."""
        return str(self.model.loaded.tokenizer.decode(response, skip_special_tokens=True)).strip()

    def save(self, folder: Path, step: int) -> None:
        """Writes a checkpoint after `step` finished steps; the one before it is kept until this one is whole."""
        temporary, former = folder.with_suffix(".tmp"), folder.with_suffix(".old")
        with disk_errors(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            state = {"adapters": self.model.adapter_state(), "optimiser": self.optimiser.state_dict()}
            torch.save(state, temporary / "state.pt")
            facts = {"step": step, "kl_coef": self.kl.coefficient}
            (temporary / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
            shutil.rmtree(former, ignore_errors=True)
            if folder.exists():
                folder.rename(former)
            temporary.rename(folder)
            shutil.rmtree(former, ignore_errors=True)

    def restore(self, folder: Path) -> int:
        """Takes up the last checkpoint; returns the number of finished steps (0 without one)."""
        former = folder.with_suffix(".old")
        if not folder.exists() and former.exists():
            former.rename(folder)
        if not folder.exists():
            return 0
        facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        state = torch.load(folder / "state.pt", weights_only=True)
        self.model.load_adapter_state(state["adapters"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.kl.coefficient = facts["kl_coef"]
        return int(facts["step"])


class NotFiniteError(Exception):
    """A gradient became NaN or infinite; carries the batch and the rows of the mini-batch."""

    def __init__(self, batch: RolloutBatch, rows: Sequence[int]) -> None:
        self.batch, self.rows = batch, rows
        super().__init__("the gradient is not finite")


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _rows(rollouts: Rollouts, chosen: Sequence[int] | range) -> list[Row]:
    return [(rollouts.prompt_ids[i], rollouts.responses[i]) for i in chosen]
