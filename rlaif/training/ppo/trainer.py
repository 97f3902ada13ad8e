"""One PPO step after another: sample, measure, advantages, clipped updates; and exact checkpoints.

All randomness comes from (run seed, step, place), so a run that is cut and resumed equals the uncut one.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.core.errors import ModelError
from rlaif.core.records import Prompt, content_id
from rlaif.lm.local.packing import Row
from rlaif.training import checkpoint
from rlaif.training.ppo import off_policy
from rlaif.training.ppo.advantages import compared, estimated, normalizes, token_weights
from rlaif.training.ppo.formulas import (
    KlController,
    explained_variance,
    k3,
    masked_mean,
    policy_loss,
    rescale,
    shaped_rewards,
    value_loss,
    whiten,
)
from rlaif.training.ppo.local_sampler import LocalSampler, Sampler
from rlaif.training.ppo.policy_model import Adapter, PolicyModel
from rlaif.training.ppo.processes import ALONE, Processes
from rlaif.training.ppo.rollout import (
    NotFiniteError,
    RolloutBatch,
    Rollouts,
    SamplingError,
    refuse_not_finite,
    together,
)
from rlaif.training.rewards.sources import Rewards, Scored, part_figures

NO_CRITIC = {"explained_variance": None, "value_loss": None}
"""What a step says of a critic where there is none."""
MEASURED = ("policy_loss", "value_loss", "clip_fraction", "approx_kl", "grad_norm")


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """Means over the mini-batches of one step, each of them a mean over real tokens; those skipped or undone
    are in no mean. None where no update was kept."""

    policy_loss: float | None
    value_loss: float | None
    clip_fraction: float | None
    approx_kl: float | None
    grad_norm: float | None
    skipped_updates: int


class PpoTrainer:
    """State of the optimisation: the model, the optimiser, the KL controller.

    Responses are drawn by `sampler`, or from the model itself `sample_batch_size` at a time, which changes memory and
    speed only.
    """

    def __init__(
        self,
        model: PolicyModel,
        config: PpoConfig,
        *,
        seed: int,
        rewards: Rewards,
        sampler: Sampler | None = None,
        sample_batch_size: int = 64,
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.config, self.seed, self.rewards = model, config, seed, rewards
        self.processes = processes
        own = LocalSampler(model, config, seed=seed, batch_size=sample_batch_size, processes=processes)
        self.sampler: Sampler = own if sampler is None else sampler
        self.parameters = list(model.trained.values())
        self.optimiser = torch.optim.AdamW(self.parameters, lr=config.learning_rate, eps=1e-5, weight_decay=0.0)
        self.kl = KlController(config.kl_coef, config.kl_target, config.kl_horizon)
        # Finished steps that the state stands for (None while a step's updates are under way), and those on the disk.
        self.finished: int | None = 0
        self.saved = 0

    def step(self, step: int, prompts: Sequence[Prompt]) -> tuple[Rollouts, RolloutBatch, dict[str, Any]]:
        """One PPO step; returns what was sampled and the row for metrics.jsonl."""
        clock = time.perf_counter()
        rollouts = self.sample(prompts, step)
        sampled = time.perf_counter()
        batch, entropy = self.measure(rollouts)
        off_policy.check_sampler(batch, self.config)
        measured = time.perf_counter()
        self.finished = None
        stats = self.update(batch, step)
        row: dict[str, Any] = {
            **batch_metrics(batch),
            **part_figures(batch.parts),
            **off_policy.mismatch(batch, self.config),
            "kl_coef": self.kl.coefficient,
            "entropy": entropy,
            **asdict(stats),
            **(NO_CRITIC if self.model.critic is None else {}),
            "seconds_generate": sampled - clock,
            "seconds_score": measured - sampled,
            "seconds_optimise": time.perf_counter() - measured,
        }
        self.kl.update(row["kl"], len(rollouts))
        self.finished = step + 1
        return rollouts, batch, row

    def sample(self, prompts: Sequence[Prompt], step: int) -> Rollouts:
        """One response per prompt; raises SamplingError where the policy's output is not a number."""
        try:
            return self.sampler.sample(prompts, step)
        except ModelError as problem:
            if problem.where is not None:
                raise
            raise SamplingError(problem.what) from None

    @torch.no_grad()
    def measure(self, rollouts: Rollouts) -> tuple[RolloutBatch, float]:
        """Everything the updates need, computed by the trained model itself on the sampled ids; and the entropy."""
        model = self.model
        logprobs, entropies, values = self._over(
            rollouts, "policy", lambda flat, rows: (*model.logprobs_and_entropies(flat, rows), model.values(flat))
        )
        if model.critic == "value":
            (values,) = self._over(rollouts, "value", lambda flat, rows: (model.values(flat),))
        (ref_logprobs,) = self._over(rollouts, None, lambda flat, rows: (model.logprobs(flat, rows),))
        batch = self.shaped(rollouts, logprobs, ref_logprobs, values, self._scored(rollouts))
        return batch, float(masked_mean(entropies, batch.response_mask))

    def _over(
        self, rollouts: Rollouts, adapter: Adapter | None, compute: Callable[[Tensor, list[Row]], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """(B, T) each: what `compute` makes, under one adapter, of the (N, H) states of each micro-batch's tokens."""
        mine = self._share(rollouts)
        parts = []
        with self.model.using(adapter):
            for micro in self._micro_batches(rollouts, mine):
                flat = self.model.response_states(micro)
                parts.append([found.cpu() for found in compute(flat, micro)])
        lengths = [len(rollouts.responses[row]) for row in mine]
        tensors = [torch.split(torch.cat(found), lengths) for found in zip(*parts, strict=True)]
        whole = self.processes.joined(mine, list(zip(*tensors, strict=True)))
        return [rollouts.padded(found) for found in zip(*whole, strict=True)]

    def _scored(self, rollouts: Rollouts) -> Scored:
        """What the reward models say of the sampled ids, and functions and judge of the texts; these are asked by the
        first process alone."""
        members = self.member_scores(rollouts) if self.rewards.by_model else None

        def asked() -> Scored:
            texts = [self.text(response) for response in rollouts.responses]
            return self.rewards.combined(rollouts, texts, members, self.rewards.of_texts(rollouts, texts))

        return self.processes.from_first(asked)

    def member_scores(self, rollouts: Rollouts) -> Tensor:
        """(B, M) normalised scores of each reward model."""
        mine = self._share(rollouts)
        columns = []
        for member in self.model.members:
            with self.model.using(member):
                found = [self.model.scores(micro, member) for micro in self._micro_batches(rollouts, mine)]
            columns.append(torch.cat(found))
        return torch.stack(self.processes.joined(mine, list(torch.stack(columns, 1))))

    def _share(self, rollouts: Rollouts) -> list[int]:
        """The rows that this process measures; the samples of a prompt stay together."""
        return self.processes.share(len(rollouts), together(rollouts.prompts, self.config.samples_per_prompt))

    def _micro_batches(self, rollouts: Rollouts, rows: Sequence[int]) -> Iterator[list[Row]]:
        size = self.config.micro_batch_size
        for start in range(0, len(rows), size):
            yield _rows(rollouts, rows[start : start + size])

    def shaped(
        self, rollouts: Rollouts, logprobs: Tensor, ref_logprobs: Tensor, values: Tensor, scored: Scored
    ) -> RolloutBatch:
        """The measured (B, T) tensors and (B,) scores with penalties, rewards, advantages and returns.

        Raises NotFiniteError if any of them is not a number.
        """
        config, mask = self.config, rollouts.mask
        penalties = config.missing_eos_penalty * torch.tensor([reason != "stop" for reason in rollouts.finish])
        groups = prompt_numbers(rollouts.prompts)
        entering, scores = compared(scored.scores, penalties, groups, config), scored.scores - penalties
        rewards = shaped_rewards(entering, logprobs, ref_logprobs, mask, self.kl.coefficient)
        if config.whiten_rewards:
            rewards = rescale(rewards, mask)
        advantages, returns = estimated(rewards, values, mask, groups, config)
        batch = RolloutBatch(
            rollouts=rollouts,
            response_mask=mask,
            logprobs=logprobs,
            ref_logprobs=ref_logprobs,
            importance=off_policy.importance_weights(rollouts, logprobs, config),
            values=values,
            scores=scores,
            parts=scored.parts,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
        )
        refuse_not_finite(batch)
        return batch

    def update(self, batch: RolloutBatch, step: int) -> UpdateStats:
        """`num_ppo_epochs` passes over the batch in `num_mini_batches` optimiser steps each.

        Where the KL to the policy that sampled has exploded, the update that did it is undone and the step ends. (What
        the last update of a step did is seen by none; the next step samples from it afresh.)
        """
        config = self.config
        plan = self._plan(len(batch.rollouts), step)
        total = config.steps * len(plan)
        kept: list[dict[str, float]] = []
        before: dict[str, Any] | None = None
        for rows in plan:
            for group in self.optimiser.param_groups:
                group["lr"] = config.learning_rate * (1 - (step * len(plan) + len(kept)) / total)
            found = self.gradients(batch, rows, warmup=step < config.value_warmup_steps)
            if found["approx_kl"] > config.max_approx_kl and before is not None:
                self._take_up(before)
                kept.pop()
                break
            if not math.isfinite(found["grad_norm"]):
                raise NotFiniteError("the gradient", batch, rows)
            before = copy.deepcopy(self._state())
            self.optimiser.step()
            kept.append(found)
        means = {name: sum(found[name] for found in kept) / len(kept) if kept else None for name in MEASURED}
        return UpdateStats(**means, skipped_updates=len(plan) - len(kept))

    def _plan(self, size: int, step: int) -> list[list[int]]:
        """The responses of each mini-batch of the step, in order.

        The samples of a prompt, which stand side by side, stay together: they share its computation.
        """
        plan = []
        each, parts = self.config.samples_per_prompt, self.config.num_mini_batches
        assert size % each == 0
        for epoch in range(self.config.num_ppo_epochs):
            order = sorted(range(size // each), key=lambda i: content_id(self.seed, "mini-batch", step, epoch, i))
            plan += [[i * each + k for i in sorted(order[part::parts]) for k in range(each)] for part in range(parts)]
        return plan

    def gradients(self, batch: RolloutBatch, rows: Sequence[int], *, warmup: bool) -> dict[str, float]:
        """What a mini-batch measures; its clipped gradient is left in the parameters.

        Every token of the responses `rows` weighs the same, however they are split into micro-batches. During
        `warmup` nothing but the critic gets a gradient.
        """
        config, model = self.config, self.model
        advantages, weights = self.advantages(batch, rows), token_weights(batch.response_mask[rows], config)
        tokens = int(batch.response_mask[rows].sum())
        sums = dict.fromkeys(MEASURED, 0.0)
        self.optimiser.zero_grad(set_to_none=True)
        mine = self.processes.share(len(rows), config.samples_per_prompt)
        for start in range(0, len(mine), config.micro_batch_size):
            places = mine[start : start + config.micro_batch_size]
            chosen = [rows[place] for place in places]
            micro = _rows(batch.rollouts, chosen)
            take = batch.response_mask[chosen]
            wanted, weight = (t[places][take] for t in (advantages, weights))
            old, returns, old_values = (t[chosen][take] for t in (batch.logprobs, batch.returns, batch.values))
            critic_loss = torch.zeros(())
            with model.using("policy"):
                with torch.set_grad_enabled(not warmup):
                    flat = model.response_states(micro)
                    logprobs, bonus = self._logprobs_and_bonus(flat, micro, weight)
                    loss = (weight * policy_loss(logprobs, old, wanted, config.cliprange)).sum()
                if model.critic == "policy":
                    critic_loss = self._value_loss(flat, old_values, returns) / tokens
                    part = config.vf_coef * critic_loss
                    _backward(part if warmup else loss - bonus + part)
                elif not warmup:
                    _backward(loss - bonus)
            if model.critic == "value":
                with model.using("value"):
                    flat = model.response_states(micro)
                    critic_loss = self._value_loss(flat, old_values, returns) / tokens
                    _backward(config.vf_coef * critic_loss)
            ratio = torch.exp(logprobs.detach() - old)
            sums["policy_loss"] += float(loss.detach())
            sums["value_loss"] += float(critic_loss.detach())
            sums["clip_fraction"] += float(((ratio - 1).abs() > config.cliprange).sum()) / tokens
            sums["approx_kl"] += float(k3(logprobs.detach(), old).sum()) / tokens
        sums = self._of_all(sums)
        sums["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm))
        return sums

    def _of_all(self, sums: dict[str, float]) -> dict[str, float]:
        """The sums over all processes; those of the gradients are left in the parameters."""
        if self.processes.count == 1:
            return sums
        trained = [parameter for parameter in self.parameters if parameter.grad is not None]
        own = torch.tensor(list(sums.values()), device=self.model.loaded.device)
        *gradients, whole = self.processes.summed([*(p.grad for p in trained if p.grad is not None), own])
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        return dict(zip(sums, whole.tolist(), strict=True))

    def advantages(self, batch: RolloutBatch, rows: Sequence[int]) -> Tensor:
        """(len(rows), T) the advantages as the loss takes them: for PPO whitened over the tokens of the mini-batch;
        times the importance weights."""
        found, mask = batch.advantages[rows], batch.response_mask[rows]
        found = whiten(found, mask) if normalizes(self.config) else torch.where(mask, found, 0.0)
        return batch.importance[rows] * found

    def _logprobs_and_bonus(self, flat: Tensor, micro: list[Row], weight: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) log-probs of the tokens, and what their entropies take off the loss."""
        if self.config.entropy_coef == 0:
            return self.model.logprobs(flat, micro).cpu(), torch.zeros(())
        logprobs, entropies = self.model.logprobs_and_entropies(flat, micro)
        return logprobs.cpu(), self.config.entropy_coef * (weight * entropies.cpu()).sum()

    def _value_loss(self, flat: Tensor, old_values: Tensor, returns: Tensor) -> Tensor:
        """Sum over the tokens of the critic's clipped loss."""
        return value_loss(self.model.values(flat).cpu(), old_values, returns, self.config.cliprange_value).sum()

    def text(self, response: Sequence[int]) -> str:
        """The response as text, without special tokens."""
        return str(self.model.loaded.tokenizer.decode(response, skip_special_tokens=True)).strip()

    def _state(self) -> dict[str, Any]:
        return {"adapters": self.model.adapter_state(), "optimiser": self.optimiser.state_dict()}

    def _take_up(self, state: dict[str, Any]) -> None:
        self.model.load_adapter_state(state["adapters"])
        self.optimiser.load_state_dict(state["optimiser"])

    def save(self, folder: Path, step: int) -> None:
        """Writes a checkpoint after `step` finished steps; the one before it is kept until this one is whole."""
        if self.processes.first:
            checkpoint.save(folder, self._state(), {"step": step, "kl_coef": self.kl.coefficient})
        self.saved = step

    def restore(self, folder: Path) -> int:
        """Takes up the last checkpoint; returns the number of finished steps (0 without one)."""
        found = self.processes.from_first(lambda: checkpoint.restore(folder))
        if found is None:
            return 0
        state, facts = found
        self._take_up(state)
        self.kl.coefficient = facts["kl_coef"]
        self.finished = self.saved = int(facts["step"])
        return self.saved


def batch_metrics(batch: RolloutBatch) -> dict[str, float]:
    """What a batch says about the policy that sampled it; nothing under the padding is counted."""
    mask = batch.response_mask
    kl = torch.where(mask, batch.logprobs - batch.ref_logprobs, 0.0)
    finish = batch.rollouts.finish
    return {
        "score": float(batch.scores.mean()),
        "score_std": float(batch.scores.std(unbiased=False)),
        "kl": float(kl.sum(1).mean()),
        "kl_per_token": float(kl.sum() / mask.sum()),
        "length": float(mask.sum(1).float().mean()),
        "eos_rate": sum(reason == "stop" for reason in finish) / len(finish),
        "explained_variance": explained_variance(batch.values, batch.returns, mask),
    }


def prompt_numbers(prompts: Sequence[Prompt]) -> Tensor:
    """(B,) numbers from 0 that are equal for responses to the same prompt."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(prompt.id, len(numbers)) for prompt in prompts])


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _rows(rollouts: Rollouts, chosen: Sequence[int] | range) -> list[Row]:
    return [(rollouts.prompt_ids[i], rollouts.responses[i]) for i in chosen]
