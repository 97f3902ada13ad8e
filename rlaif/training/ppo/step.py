"""One PPO step, read from top to bottom: sample -> measure -> advantages -> clipped updates -> log.

Departures from the papers (PPO 1707.06347, GAE 1506.02438, InstructGPT 2203.02155, N+ details 2403.17031, RLOO
2402.14740, GRPO 2402.03300):
1. Policy, critic, reward model and reference are LoRA adapters on one frozen copy of the SFT weights, not four models:
   a quarter of the memory, and a reference that cannot move.
2. The critic starts from a zero head on the SFT body, or (`value: trunk`) shares the policy's trunk; InstructGPT starts
   it from the reward model, which is not always there (a judge or a function may score). With `value: reward` it *is*
   the reward model (and `on_topic`), reading the response so far, and needs no training.
3. No pre-training gradients are mixed in (InstructGPT's PPO-ptx): there is no such data.
4. The KL penalty is the log-ratio (k1) in the reward, for every algorithm. GRPO puts k3 into the loss, whose gradient
   is that of another divergence. It is not divided by GRPO's deviation either, so that `kl_coef` keeps its meaning.
5. RLOO's ratio is clipped token by token, like all the others', should there be several updates a step.
6. A response that did not end loses `missing_eos_penalty`; N+ gives it a fixed score.
7. An update that carries the policy too far is undone and the rest of the step skipped; the papers know no such stop.

Beside it: formulas.py and advantages.py (numbers in, numbers out), forward.py (passes over the rollouts), schedule.py
(who comes when), checkpoint.py, local_sampler.py and server_sampler.py, validation.py.
All randomness comes from (run seed, step, place), so a run that is cut and resumed equals the uncut one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.core.records import Prompt
from rlaif.lm.local.packing import Row
from rlaif.training.ppo import off_policy
from rlaif.training.ppo.advantages import (
    Grouping,
    advantages_and_returns,
    relative_scores,
    token_weights,
    values_of_reward,
)
from rlaif.training.ppo.checkpoint import TrainingState
from rlaif.training.ppo.formulas import (
    clipped,
    k3,
    masked_mean,
    policy_loss,
    rescale,
    shaped_rewards,
    value_loss,
    whiten,
)
from rlaif.training.ppo.forward import Forward
from rlaif.training.ppo.local_sampler import LocalSampler, Sampler
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.processes import ALONE, Processes
from rlaif.training.ppo.rollout import NotFiniteError, RolloutBatch, Rollouts, batch_metrics, refuse_not_finite
from rlaif.training.ppo.schedule import learning_rate, mini_batches
from rlaif.training.rewards.sources import Rewards, RewardScores, part_figures
from rlaif.training.rewards.topic import new_tokens, topic_scores

MEASURED = ("policy_loss", "value_loss", "clip_fraction", "approx_kl", "grad_norm")
"""What a mini-batch says of its update; each but the last is a mean over its real tokens."""


class PpoTrainer:
    """The loop's parts: model, config, rewards, sampler, and the state that a checkpoint holds.

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
        self.forward = Forward(model, config.micro_batch_size, config.samples_per_prompt, processes)
        self.state = TrainingState(model, config, processes)

    # The five moves.

    def step(self, step: int, prompts: Sequence[Prompt]) -> tuple[Rollouts, RolloutBatch, dict[str, Any]]:
        """What was sampled, what was measured of it, and the row for metrics.jsonl."""
        clock = time.perf_counter()
        # 1. Sample one response to each prompt from the policy as it is now.
        rollouts = self.sampler.sample(prompts, step)
        sampled = time.perf_counter()
        # 2. Measure what the updates need, by the trained model itself; 3. make advantages of it.
        batch, entropy = self.measure(rollouts)
        off_policy.check_sampler(batch, self.config)
        measured = time.perf_counter()
        # 4. Clipped updates. From here to the end of the step the state is no checkpoint.
        self.state.finished = None
        stats = self.update(batch, step)
        # 5. Log. The KL coefficient and held weights are those that the step used; what they learn holds from the next.
        row: dict[str, Any] = {
            **batch_metrics(batch),
            **part_figures(batch.parts),
            **off_policy.mismatch(batch, self.config),
            "kl_coef": self.state.kl.coefficient,
            **{f"weight_{name}": weight for name, weight in self.state.held.weights.items()},
            "entropy": entropy,
            **stats,
            **({} if self.config.algorithm == "ppo" else {"explained_variance": None}),
            **({} if self.model.critic else {"value_loss": None}),  # none is trained
            "seconds_generate": sampled - clock,
            "seconds_score": measured - sampled,
            "seconds_optimise": time.perf_counter() - measured,
        }
        self.state.kl.update(row["kl"], len(rollouts))
        self.state.held.update(row)
        self.state.finished = step + 1
        return rollouts, batch, row

    @torch.no_grad()
    def measure(self, rollouts: Rollouts) -> tuple[RolloutBatch, float]:
        """2. Everything the updates need, and the mean entropy (nats per token)."""
        model, tokens = self.model, self.forward.tokens
        # Whatever sampled, the log-probs are this model's own on the sampled ids: the ratio of the first update is 1.
        logprobs, entropies, values = tokens(
            rollouts, "policy", lambda flat, rows: (*model.logprobs_and_entropies(flat, rows), model.values(flat))
        )
        if model.critic == "value":  # an adapter of its own, so a pass of its own
            (values,) = tokens(rollouts, "value", lambda flat, rows: (model.values(flat),))
        (ref_logprobs,) = tokens(rollouts, None, lambda flat, rows: (model.logprobs(flat, rows),))  # adapters off
        # Reward models read the ids; functions and judge the texts, asked once by the first process for all.
        members = None
        if self.rewards.by_model:
            members, so_far = self.forward.scores(rollouts)
            values = so_far[:, :, None] if self.config.reward_is_critic else values
        topic = None
        if self.rewards.by_topic:  # the reference again, after other prompts
            elsewhere = replace(rollouts, prompt_ids=tuple(self.rewards.others[p.id] for p in rollouts.prompts))
            (other_logprobs,) = tokens(elsewhere, None, lambda flat, rows: (model.logprobs(flat, rows),))
            counts = new_tokens(rollouts.prompts, rollouts.responses, lambda token: self.text([token]))
            told = topic_scores(ref_logprobs, other_logprobs, counts, self.config.on_topic_nats)
            topic = told[:, -1]
            if self.config.reward_is_critic:  # before a token stands what those before it told
                before = torch.cat([torch.full_like(told[:, :1], -1.0), told[:, :-1]], 1)
                values = torch.cat([values, before[:, :, None]], 2)
        rewards = self.rewards.weighing(self.state.held.weights)
        scored = self.processes.from_first(
            lambda: rewards.scored(rollouts, [self.text(ids) for ids in rollouts.responses], members, topic)
        )
        batch = self.shaped(rollouts, logprobs, ref_logprobs, values, scored)
        return batch, float(masked_mean(entropies, batch.response_mask))

    def shaped(
        self, rollouts: Rollouts, logprobs: Tensor, ref_logprobs: Tensor, values: Tensor, scored: RewardScores
    ) -> RolloutBatch:
        """3. The measured (B, T) tensors and what is made of them; raises NotFiniteError where one is not a number.

        With `value: reward`, `values` are (B, T, K): what the reward model, and `on_topic`, score what stands before
        each token.
        """
        config, mask, groups = self.config, rollouts.mask, rollouts.groups
        # A response that was cut off is not scored as if it were complete.
        penalties = config.missing_eos_penalty * torch.tensor([reason != "stop" for reason in rollouts.finish])
        entering = relative_scores(
            scored.scores, penalties, groups, config.score_clip, scale=reward_scale(config), baseline=config.baseline
        )
        # A number that is not finite would spread over all values, and none would know whose it was.
        if config.reward_is_critic and entering.isfinite().all() and values[mask].isfinite().all():
            values = values_of_reward(values, entering, mask, groups)
        # The score lands on the last real token, the KL penalty on every one.
        rewards = shaped_rewards(entering, logprobs, ref_logprobs, mask, self.state.kl.coefficient)
        if config.whiten_rewards:
            rewards = rescale(rewards, mask)
        advantages, returns = advantages_and_returns(
            rewards, values, mask, groups, algorithm=config.algorithm, gamma=config.gamma, lam=config.lam
        )
        # Tokens of another engine weigh what makes up for its being another; those of this machine if asked for.
        found = RolloutBatch(
            rollouts=rollouts,
            response_mask=mask,
            logprobs=logprobs,
            ref_logprobs=ref_logprobs,
            importance=off_policy.importance(rollouts, logprobs, config),
            values=values,
            scores=scored.scores - penalties,
            parts=scored.parts,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
        )
        return refuse_not_finite(found)

    def advantages(self, batch: RolloutBatch, rows: Sequence[int]) -> Tensor:
        """3. (len(rows), T) the advantages as the loss takes them; the critic learns returns as they are."""
        found, mask = batch.advantages[rows], batch.response_mask[rows]
        # For PPO whitened over the tokens of the whole mini-batch, so that micro-batches change nothing.
        found = whiten(found, mask) if whitens(self.config) else torch.where(mask, found, 0.0)
        return batch.importance[rows] * found

    def update(self, batch: RolloutBatch, step: int) -> dict[str, float | None]:
        """4. `num_ppo_epochs` passes over the batch in `num_mini_batches` optimiser steps each; returns the means of
        MEASURED over those that were kept (None where none was) and the number of the others."""
        config, state = self.config, self.state
        plan = self.plan(len(batch.rollouts), step)
        kept: list[dict[str, float]] = []
        before: dict[str, Any] | None = None
        for rows in plan:
            state.set_rate(learning_rate(config, step * len(plan) + len(kept)))
            found = self.gradients(batch, rows, warmup=step < config.value_warmup_steps)
            # The KL to the policy that sampled shows what the update before has done: it is undone, the rest skipped.
            # (What the last update of a step did is seen by none; the next step samples from it afresh.)
            if found["approx_kl"] > config.max_approx_kl and before is not None:
                state.take_up(before)
                kept.pop()
                break
            if not math.isfinite(found["grad_norm"]):
                raise NotFiniteError("the gradient", batch, rows)
            before = state.copy()
            state.optimiser.step()
            kept.append(found)
        means = {name: sum(found[name] for found in kept) / len(kept) if kept else None for name in MEASURED}
        return {**means, "skipped_updates": len(plan) - len(kept)}

    def gradients(self, batch: RolloutBatch, rows: Sequence[int], *, warmup: bool) -> dict[str, float]:
        """4. What the mini-batch `rows` measures; its clipped gradient stays behind (`warmup`: the critic's)."""
        config, model, mask = self.config, self.model, batch.response_mask[rows]
        advantages, tokens = self.advantages(batch, rows), int(mask.sum())
        weights = token_weights(mask, loss_type=config.loss_type, longest=config.max_new_tokens)
        sums = dict.fromkeys(MEASURED, 0.0)
        self.state.optimiser.zero_grad(set_to_none=True)
        for places in self.forward.micro_batches(self.forward.share(rows)):
            chosen = [rows[place] for place in places]
            micro, take = batch.rollouts.rows(chosen), batch.response_mask[chosen]
            wanted, weight = (t[places][take] for t in (advantages, weights))
            old, returns, old_values = (t[chosen][take] for t in (batch.logprobs, batch.returns, batch.values))
            critic_loss = torch.zeros(())
            with model.using("policy"):
                with torch.set_grad_enabled(not warmup):
                    flat = model.response_states(micro)
                    logprobs, bonus = self._logprobs_and_bonus(flat, micro, weight)
                    loss = (weight * policy_loss(logprobs, old, wanted, config.cliprange)).sum()
                if model.critic == "policy":  # on the same states, so in the same backward pass
                    critic_loss = self._value_loss(flat, old_values, returns) / tokens
                    part = config.vf_coef * critic_loss
                    _backward(part if warmup else loss - bonus + part)
                elif not warmup:
                    _backward(loss - bonus)
            if model.critic == "value":
                with model.using("value"):
                    critic_loss = self._value_loss(model.response_states(micro), old_values, returns) / tokens
                    _backward(config.vf_coef * critic_loss)
            with torch.no_grad():  # sums over the micro-batches that are means over the mini-batch's tokens
                sums["policy_loss"] += float(loss)
                sums["value_loss"] += float(critic_loss)
                sums["clip_fraction"] += float(clipped(logprobs, old, config.cliprange).sum()) / tokens
                sums["approx_kl"] += float(k3(logprobs, old).sum()) / tokens
        sums = self.processes.summed_up(sums, self.state.parameters, model.loaded.device)
        sums["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.state.parameters, config.max_grad_norm))
        return sums

    # What the moves use.

    def plan(self, size: int, step: int) -> list[list[int]]:
        """The responses of each mini-batch of the step, in order."""
        config = self.config
        return mini_batches(
            size, config.samples_per_prompt, config.num_mini_batches, config.num_ppo_epochs, seed=self.seed, step=step
        )

    def _logprobs_and_bonus(self, flat: Tensor, micro: list[Row], weight: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) log-probs of the tokens, and what their entropies take off the loss. Those cost as much as the first."""
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


def reward_scale(config: PpoConfig) -> Grouping:
    """`scale_rewards`, with the algorithm's own for null."""
    return config.scale_rewards or ("group" if config.algorithm == "grpo" else "none")


def whitens(config: PpoConfig) -> bool:
    """`normalize_advantages`, with the algorithm's own for null."""
    return config.algorithm == "ppo" if config.normalize_advantages is None else config.normalize_advantages


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]
