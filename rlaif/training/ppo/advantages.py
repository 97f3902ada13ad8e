"""From scores to advantages: what tells `ppo`, `reinforce`, `rloo` and `grpo` apart. Everything else is one loop.

The reward of a token is -kl_coef times its log-ratio to the reference; the last one has the score on top. The score
enters clipped, scaled and less a baseline, as configured. Then

1. ppo: generalised advantage estimation over a critic (arXiv 1506.02438), trained or made by `values_of_reward`.
2. reinforce: the rewards from the token on, discounted. What came before the token is none of its doing.
3. rloo: the response's whole return less the mean return of the prompt's other samples (2402.14740).
4. grpo: less the mean of all the prompt's samples, the scores first divided by their deviation (2402.03300).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rlaif.training.ppo.formulas import gae, group_mean, group_std, others_mean

Algorithm = Literal["ppo", "reinforce", "rloo", "grpo"]
Grouping = Literal["none", "batch", "group", "prompt"]
"""Whose mean or deviation: nobody's, that of the step, or that of the prompt's samples ("group" and "prompt")."""


def relative_scores(
    scores: Tensor, penalties: Tensor, groups: Tensor, clip: float | None, *, scale: Grouping, baseline: Grouping
) -> Tensor:
    """(B,) the scores as they enter the rewards: clipped, less the penalty, scaled, less a baseline.

    `groups` (B,) numbers the prompts: equal for responses to the same one.
    """
    together = torch.zeros_like(groups)
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    scores = scores - penalties
    if scale != "none":
        scores = scores / group_std(scores, together if scale == "batch" else groups)
    if baseline != "none":
        scores = scores - group_mean(scores, together if baseline == "batch" else groups)
    return scores


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, groups: Tensor, *, algorithm: Algorithm, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), each (B, T), 0 under padding; `values` are those of the critic, 0 where there is none."""
    advantages, returns = gae(rewards, values, mask, gamma=gamma, lam=lam if algorithm == "ppo" else 1.0)
    if algorithm in ("rloo", "grpo"):
        whole = torch.where(mask, rewards, 0.0).sum(1)
        mean = others_mean if algorithm == "rloo" else group_mean
        advantages = torch.where(mask, (whole - mean(whole, groups))[:, None], 0.0)
    return advantages, returns


def values_of_reward(so_far: Tensor, scores: Tensor, mask: Tensor, groups: Tensor) -> Tensor:
    """(B, T) what is known of a response so far as critic: what K such measures (B, T, K) say of the `scores` (B,).

    At each place measures and scores are taken less their means over the prompt's samples that got there (over the
    batch's where a prompt has one sample alone), and the value is slopes * measures. The slopes are those of least
    squares over the *other* prompts: a value that was fitted to its own response's score would take away what is to be
    learnt. With one prompt alone there is nothing to fit, and values are 0. They say nothing of the scores' level, so
    these should come less a baseline.
    """
    folds = torch.nn.functional.one_hot(groups).float()  # (B, G)
    peers = folds if folds.sum(0).min() > 1 else torch.ones_like(folds[:, :1])
    real = mask.float()[:, :, None]
    count = torch.einsum("bg,btk->gtk", peers, real).clamp(min=1)

    def centred(values: Tensor) -> Tensor:
        means = torch.einsum("bg,btk->gtk", peers, real * values) / count
        return real * (values - torch.einsum("bg,gtk->btk", peers, means))

    known = centred(torch.where(mask[:, :, None], so_far, 0.0))
    wanted = centred(scores[:, None, None].expand(*mask.shape, 1)).squeeze(2)
    products = torch.einsum("bg,btk,bt->gtk", folds, known, wanted)
    squares = torch.einsum("bg,btk,btl->gtkl", folds, known, known)
    products, squares = (sums.sum(0) - sums for sums in (products, squares))  # of the other prompts
    inverse = torch.linalg.pinv(squares, atol=1e-8, rtol=1e-5, hermitian=True)
    slopes = torch.einsum("gtkl,gtl->gtk", inverse, products)
    return torch.einsum("bg,gtk,btk->bt", folds, slopes, known)


def token_weights(mask: Tensor, *, loss_type: Literal["dapo", "grpo", "dr_grpo"], longest: int) -> Tensor:
    """(B, T) what each token counts in the loss of a mini-batch, in TRL's names; 0 under padding.

    dapo (2503.14476): every token alike. grpo (2402.03300): every response alike, its tokens a mean: a long bad answer
    is blamed less a token than a short one. dr_grpo (2503.20783): the sum over a response's tokens, the policy gradient
    as it stands in a textbook, over a constant: `longest`, the most tokens of a response.
    """
    real = mask.float()
    if loss_type == "grpo":
        return real / real.sum(1, keepdim=True) / len(real)
    if loss_type == "dr_grpo":
        return real / (len(real) * longest)
    return real / real.sum()
