"""How far the distribution that sampled is from the policy that is trained, and what makes up for it.

Another engine computes the same weights a little differently, in another precision, with other kernels. Each token then
weighs w = min(pi(token) / sampler(token), cap) in the policy's loss, both of them before the step's updates: truncated
importance weights. Source: Yao et al., "On the rollout-training mismatch in modern RL systems" (2025); truncation:
Ionides (2008). The weight is a token's, not that of all tokens before it too: what is left is the difference in how
often a prefix comes up. The cap makes the variance finite and leaves a bias where the two are far apart; so that is
measured, and a sampler that is too far off stops the stage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.core.errors import StageError
from rlaif.training.ppo.formulas import k3, masked_mean
from rlaif.training.ppo.rollout import RolloutBatch, Rollouts


def importance_weights(rollouts: Rollouts, logprobs: Tensor, config: PpoConfig) -> Tensor:
    """(B, T) truncated weights of the tokens whose `logprobs` (B, T) under the policy are given; 1 under padding, and
    everywhere for rollouts that the policy sampled itself or with `importance_cap: null`."""
    if config.rollouts == "local" or config.importance_cap is None or rollouts.sampler_logprobs is None:
        return torch.ones_like(logprobs)
    ratio = torch.exp(logprobs - _sampler_logprobs(rollouts)).clamp(max=config.importance_cap)
    return torch.where(rollouts.mask, ratio, 1.0)


def mismatch(batch: RolloutBatch, config: PpoConfig) -> dict[str, float]:
    """Per token: KL(sampler || policy) in nats (k3), mean |log-ratio|, mean weight and the share of weights cut;
    nothing where the sampler gives no log-probs."""
    if batch.rollouts.sampler_logprobs is None:
        return {}
    sampler, mask = _sampler_logprobs(batch.rollouts), batch.response_mask
    cap = torch.inf if config.importance_cap is None else config.importance_cap
    return {
        "sampler_kl": float(masked_mean(k3(batch.logprobs, sampler), mask)),
        "sampler_gap": _gap(sampler, batch.logprobs, mask),
        "importance_mean": float(masked_mean(batch.importance, mask)),
        "importance_capped": float(masked_mean((batch.importance >= cap).float(), mask)),
    }


def check_sampler(batch: RolloutBatch, config: PpoConfig) -> None:
    """Raises StageError where the log-probs of what sampled are not those of the policy, but for rounding."""
    if batch.rollouts.sampler_logprobs is None:
        return
    sampler, mask = _sampler_logprobs(batch.rollouts), batch.response_mask
    found = _gap(sampler, batch.logprobs, mask)
    remedy = "restart the server with the command that docs/reference/scaling.md shows, then run again with --resume"
    # Whatever the rounding: twice as near to the reference as to the policy is the reference.
    if 2 * _gap(sampler, batch.ref_logprobs, mask) < found:
        raise StageError(
            "the server samples from the SFT model and not from the policy: it does not apply the adapter",
            where="ppo.rollouts",
            remedy=remedy,
        )
    if not found <= config.max_sampler_gap:
        raise StageError(
            f"the server does not serve the policy: its log-probs of the sampled tokens are off by {found:.2f} nats in "
            f"the mean, ppo.max_sampler_gap is {config.max_sampler_gap:g}",
            where="ppo.rollouts",
            remedy=f"{remedy} (at a temperature other than 1 it needs --logprobs-mode processed_logprobs); raise the "
            "limit for a quantised server",
        )


def _sampler_logprobs(rollouts: Rollouts) -> Tensor:
    """(B, T) float32, 0 under padding."""
    assert rollouts.sampler_logprobs is not None
    return rollouts.padded([torch.tensor(row) for row in rollouts.sampler_logprobs])


def _gap(one: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(masked_mean((one - other).abs(), mask))
