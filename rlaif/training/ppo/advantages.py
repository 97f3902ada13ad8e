"""From scores to advantages: what tells `ppo`, `reinforce`, `rloo` and `grpo` apart. Everything else is one loop.

The reward of a token is -kl_coef times its log-ratio to the reference; the last one has the score on top. The score
enters clipped, scaled and less a baseline, as configured. Then

1. ppo: generalised advantage estimation over a critic (arXiv 1506.02438).
2. reinforce: the rewards from the token on, discounted. What came before the token is none of its doing.
3. rloo: the response's whole return less the mean return of the prompt's other samples (2402.14740).
4. grpo: less the mean of all the prompt's samples, the scores first divided by their deviation (2402.03300).

Departures from the papers: RLOO's and GRPO's KL stands in the reward as everywhere here (k1), not in GRPO's loss as
k3, whose gradient is that of another divergence; it is not divided by GRPO's deviation, so that `kl_coef` keeps its
meaning; and RLOO's ratio is clipped token by token, like all the others', should there be several updates a step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.training.ppo.formulas import gae, group_mean, group_std, others_mean


def reward_scale(config: PpoConfig) -> Literal["none", "batch", "group"]:
    """`scale_rewards`, with the algorithm's own for null."""
    return config.scale_rewards or ("group" if config.algorithm == "grpo" else "none")


def normalizes(config: PpoConfig) -> bool:
    """`normalize_advantages`, with the algorithm's own for null."""
    return config.algorithm == "ppo" if config.normalize_advantages is None else config.normalize_advantages


def compared(scores: Tensor, penalties: Tensor, groups: Tensor, config: PpoConfig) -> Tensor:
    """(B,) the scores as they enter the rewards: clipped, less the penalty, scaled, less a baseline.

    `groups` (B,) numbers the prompts: equal for responses to the same one.
    """
    together = torch.zeros_like(groups)
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    scores = scores - penalties
    scale = reward_scale(config)
    if scale != "none":
        scores = scores / group_std(scores, groups if scale == "group" else together)
    if config.baseline != "none":
        scores = scores - group_mean(scores, groups if config.baseline == "prompt" else together)
    return scores


def estimated(
    rewards: Tensor, values: Tensor, mask: Tensor, groups: Tensor, config: PpoConfig
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), each (B, T), 0 under padding; `values` are those of the critic, 0 where there is none."""
    lam = config.lam if config.algorithm == "ppo" else 1.0
    advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=lam)
    if config.algorithm in ("rloo", "grpo"):
        whole = torch.where(mask, rewards, 0.0).sum(1)
        mean = others_mean if config.algorithm == "rloo" else group_mean
        advantages = torch.where(mask, (whole - mean(whole, groups))[:, None], 0.0)
    return advantages, returns


def token_weights(mask: Tensor, config: PpoConfig) -> Tensor:
    """(B, T) what each token counts in the loss of a mini-batch, in TRL's names; 0 under padding.

    dapo (2503.14476): every token alike. grpo (2402.03300): every response alike, its tokens a mean: a long bad answer
    is blamed less a token than a short one. dr_grpo (2503.20783): the sum over a response's tokens, the policy gradient
    as it stands in a textbook, over a constant.
    """
    real = mask.float()
    if config.loss_type == "grpo":
        return real / real.sum(1, keepdim=True) / len(real)
    if config.loss_type == "dr_grpo":
        return real / (len(real) * config.max_new_tokens)
    return real / real.sum()
