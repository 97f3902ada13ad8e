"""The formulas of PPO for language models, as pure functions of tensors.

Shapes: B responses, T tokens, right-padded. `mask` (B, T) bool, True = real response token (EOS included). What
stands under the padding never reaches a result. Everything is float32. Sources: PPO (arXiv 1707.06347), GAE
(1506.02438), InstructGPT (2203.02155), N+ implementation details (2403.17031).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Scalar mean of `values` (B, T) over the real tokens."""
    return torch.where(mask, values, 0.0).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values` (B, T) with mean 0 and unit variance over the real tokens; 0 under padding."""
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean) ** 2, mask)
    return torch.where(mask, (values - mean) * torch.rsqrt(variance + 1e-8), 0.0)


def rescale(values: Tensor, mask: Tensor) -> Tensor:
    """`values` (B, T) with unit variance around the mean that they have; 0 under padding (TRL's `whiten_rewards`)."""
    return torch.where(mask, whiten(values, mask) + masked_mean(values, mask), 0.0)


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """(N,) log-softmax of `logits` (N, V) at `tokens` (N,)."""
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(1)


def entropies(logits: Tensor) -> Tensor:
    """(N,) entropies in nats of the softmax of `logits` (N, V); as dear as the log-probs themselves."""
    normaliser = logits.logsumexp(1)
    return normaliser - ((logits - normaliser[:, None]).exp_() * logits).sum(1)


def shaped_rewards(scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """(B, T) rewards: -kl_coef * (logprobs - ref_logprobs) on every token, `scores` (B,) added on the last real one.

    The log-ratio is the k1 estimate of the KL divergence; k3 would be biased as a gradient.
    """
    rewards = torch.where(mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    last = mask.sum(1) - 1
    rewards[torch.arange(len(scores)), last] += scores
    return rewards


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(advantages, returns), each (B, T), 0 under padding; the value after the last real token is 0.

    advantage_t = sum_k (gamma lam)^k delta_{t+k}, delta_t = reward_t + gamma value_{t+1} - value_t.
    """
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    after = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * after - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, 0.0)
        advantages[:, t] = running
        after = values[:, t]
    return advantages, torch.where(mask, advantages + values, 0.0)


def group_mean(values: Tensor, groups: Tensor) -> Tensor:
    """(B,) for each response the mean of `values` (B,) over its group; `groups` (B,) are numbers from 0."""
    return (_group_sum(values, groups) / _group_sum(torch.ones_like(values), groups))[groups]


def others_mean(values: Tensor, groups: Tensor) -> Tensor:
    """(B,) for each response the mean over the others of its group (RLOO, arXiv 2402.14740); 0 where there are none."""
    others = _group_sum(torch.ones_like(values), groups)[groups] - 1
    return torch.where(others > 0, (_group_sum(values, groups)[groups] - values) / others.clamp(min=1), 0.0)


def group_std(values: Tensor, groups: Tensor) -> Tensor:
    """(B,) for each response the standard deviation (of n - 1) over its group, 1e-4 more than it is, as in TRL: equal
    values stay equal. 1 where a response is alone."""
    others = _group_sum(torch.ones_like(values), groups)[groups] - 1
    squares = _group_sum((values - group_mean(values, groups)) ** 2, groups)[groups]
    return torch.where(others > 0, (squares / others.clamp(min=1)).sqrt() + 1e-4, 1.0)


def _group_sum(values: Tensor, groups: Tensor) -> Tensor:
    """(G,) sums over groups."""
    return torch.zeros(int(groups.max()) + 1, dtype=values.dtype).index_add(0, groups, values)


def policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, cliprange: float) -> Tensor:
    """(B, T) clipped surrogate loss per token: max(-A ratio, -A clip(ratio, 1 - c, 1 + c))."""
    ratio = torch.exp(logprobs - old_logprobs)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange))


def clipped(logprobs: Tensor, old_logprobs: Tensor, cliprange: float) -> Tensor:
    """(B, T) bool, True = the ratio has left the clip range."""
    return (torch.exp(logprobs - old_logprobs) - 1).abs() > cliprange


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """(B, T) truncated weights min(pi(token) / sampler(token), cap) of tokens that another engine sampled; 1 under
    padding. Ionides (2008); off_policy.py says what they make up for."""
    return torch.where(mask, torch.exp(logprobs - sampler_logprobs).clamp(max=cap), 1.0)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float) -> Tensor:
    """(B, T) half squared error per token, the larger of plain and clipped around the rollout's values."""
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def k3(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """(B, T) estimate of KL(old || new) per token that is never negative: ratio - 1 - log ratio. For logs only."""
    log_ratio = logprobs - old_logprobs
    return torch.exp(log_ratio) - 1 - log_ratio


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over the real tokens; 1 = perfect critic, 0 = a constant."""
    target = returns[mask]
    spread = target.var(unbiased=False)
    return float(1 - (target - values[mask]).var(unbiased=False) / spread) if spread > 0 else 0.0


@dataclass(slots=True)
class KlController:
    """The KL coefficient: fixed, or adaptive towards `target` nats per response (2203.02155's predecessor, 1909.08593).

    After a batch of n responses: coefficient *= 1 + clip(kl / target - 1, -0.2, 0.2) * min(n / horizon, 1).
    """

    coefficient: float
    target: float | None
    horizon: int

    def update(self, kl: float, responses: int) -> None:
        """Takes the mean KL per response (nats) of the global batch."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -0.2), 0.2)
            self.coefficient *= 1 + error * min(responses / self.horizon, 1.0)
