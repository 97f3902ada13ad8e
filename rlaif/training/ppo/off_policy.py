"""How far the distribution that sampled is from the policy that is trained, and what makes up for it.

Another engine computes the same weights a little differently, in another precision, with other kernels. So does this
machine in bfloat16, where it samples from merged weights and trains an adapter beside them. The distance is measured at
every step. Tokens that `importance` names ("server": a server's alone; "all": this machine's too) then weigh
w = min(pi(token) / sampler(token), cap) in the policy's loss, both of them before the step's updates: truncated
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
from rlaif.training.ppo.formulas import importance_weights, k3, masked_mean
from rlaif.training.ppo.rollout import RolloutBatch, Rollouts


def importance(rollouts: Rollouts, logprobs: Tensor, config: PpoConfig) -> Tensor:
    """(B, T) what each token weighs for who sampled it; 1 where `importance` leaves that out, and with
    `importance_cap: null`."""
    sampler, cap = rollouts.padded_sampler_logprobs, config.importance_cap
    if not _weighs(config) or sampler is None or cap is None:
        return torch.ones_like(logprobs)
    return importance_weights(logprobs, sampler, rollouts.mask, cap)


def _weighs(config: PpoConfig) -> bool:
    return config.importance == "all" or config.rollouts == "server"


def mismatch(batch: RolloutBatch, config: PpoConfig) -> dict[str, float]:
    """Per token: KL(sampler || policy) in nats (k3) and mean |log-ratio|; where tokens weigh, also the mean weight and
    the share of weights cut. Nothing where the sampler gives no log-probs."""
    sampler, mask, cap = batch.rollouts.padded_sampler_logprobs, batch.response_mask, config.importance_cap
    if sampler is None:
        return {}
    apart = {
        "sampler_kl": float(masked_mean(k3(batch.logprobs, sampler), mask)),
        "sampler_gap": _gap(sampler, batch.logprobs, mask),
    }
    if not _weighs(config):
        return apart
    capped = torch.zeros_like(batch.importance) if cap is None else (batch.importance >= cap).float()
    return apart | {
        "importance_mean": float(masked_mean(batch.importance, mask)),
        "importance_capped": float(masked_mean(capped, mask)),
    }


def check_sampler(batch: RolloutBatch, config: PpoConfig) -> None:
    """Raises StageError where the log-probs of a server that sampled are not those of the policy, but for rounding."""
    sampler, mask = batch.rollouts.padded_sampler_logprobs, batch.response_mask
    if sampler is None or config.rollouts == "local":
        return
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


def _gap(one: Tensor, other: Tensor, mask: Tensor) -> float:
    return float(masked_mean((one - other).abs(), mask))
