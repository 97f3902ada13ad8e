"""The formulas of PPO against numbers worked by hand. Padding holds junk everywhere: it must never be seen."""

from __future__ import annotations

import math

import pytest
import torch

from rlaif.training.ppo.formulas import (
    KlController,
    clipped,
    entropies,
    explained_variance,
    gae,
    group_mean,
    group_std,
    importance_weights,
    k3,
    masked_mean,
    others_mean,
    policy_loss,
    rescale,
    shaped_rewards,
    token_logprobs,
    value_loss,
    whiten,
)
from tests.training.ppo.by_hand import JUNK, close, mask


def test_mean_over_real_tokens_only() -> None:
    assert masked_mean(torch.tensor([[1.0, 2.0, JUNK], [6.0, JUNK, JUNK]]), mask(2, 1, width=3)).item() == 3.0


def test_whitening_centres_and_scales() -> None:
    # mean 2, variance 2/3, 1 / sqrt(2/3) = 1.224745
    values, real = torch.tensor([[1.0, 2.0, JUNK], [3.0, JUNK, JUNK]]), mask(2, 1, width=3)
    close(whiten(values, real), [[-1.224745, 0.0, 0.0], [1.224745, 0.0, 0.0]])
    close(rescale(values, real), [[0.775255, 2.0, 0.0], [3.224745, 0.0, 0.0]])


def test_whitened_equal_values_are_0_not_nan() -> None:
    close(whiten(torch.tensor([[3.0, 3.0]]), mask(2, width=2)), [[0.0, 0.0]])


def test_score_lands_on_the_last_real_token_and_kl_on_every_one() -> None:
    logprobs = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -3.0, JUNK], [-0.2, JUNK, JUNK]])
    ref_logprobs = torch.tensor([[-1.5, -1.5, -0.5], [-1.0, -2.0, JUNK], [-0.2, JUNK, JUNK]])
    rewards = shaped_rewards(torch.tensor([2.0, -1.0, 4.0]), logprobs, ref_logprobs, mask(3, 2, 1, width=3), 0.1)
    close(rewards, [[-0.05, 0.05, 2.0], [0.0, -0.9, 0.0], [4.0, 0.0, 0.0]])


def test_advantages_by_hand() -> None:
    # Row 1: deltas -0.1, -0.2, 0.8. Row 2 ends after two tokens: deltas 0.2, 0.7, nothing taken from the padding.
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, JUNK]])
    values = torch.tensor([[0.5, 0.4, 0.2], [0.1, 0.3, JUNK]])
    advantages, returns = gae(rewards, values, mask(3, 2, width=3), gamma=1.0, lam=0.5)
    close(advantages, [[0.0, 0.2, 0.8], [0.55, 0.7, 0.0]])
    close(returns, [[0.5, 0.6, 1.0], [0.65, 1.0, 0.0]])


def test_advantages_of_responses_of_one_token() -> None:
    advantages, returns = gae(
        torch.tensor([[3.0], [1.0]]), torch.tensor([[0.5], [2.0]]), mask(1, 1, width=1), gamma=0.9, lam=0.5
    )
    close(advantages, [[2.5], [-1.0]])
    close(returns, [[3.0], [1.0]])


def test_with_lam_1_the_return_is_the_discounted_sum_whatever_the_values() -> None:
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[5.0, -3.0, 0.7]])
    close(gae(rewards, values, mask(3, width=3), gamma=0.5, lam=1.0)[1], [[1.5, 1.0, 2.0]])


def test_with_lam_0_the_advantage_is_the_surprise_of_one_step() -> None:
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[5.0, -3.0, 0.7]])
    close(gae(rewards, values, mask(3, width=3), gamma=0.5, lam=0.0)[0], [[-5.5, 3.35, 1.3]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.0, 2.0, -2.0, True),
        (1.5, 1.0, -1.2, False),  # already likelier than the clip allows: no further gain
        (1.5, -1.0, 1.5, True),  # likelier although bad: the full loss
        (0.5, 1.0, -0.5, True),
        (0.5, -1.0, 0.8, False),
    ],
)
def test_clipped_policy_loss(ratio: float, advantage: float, loss: float, moves: bool) -> None:
    logprobs = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    found = policy_loss(logprobs, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), 0.2)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(loss)
    assert logprobs.grad is not None
    assert (logprobs.grad.item() != 0) is moves


@pytest.mark.parametrize(
    ("value", "old", "wanted", "loss"),
    [
        (0.1, 0.0, 2.0, 1.805),  # inside the clip: 1.9 ^ 2 / 2
        (1.5, 0.5, 2.5, 1.62),  # clipped to 0.7, which is further off: 1.8 ^ 2 / 2
        (1.5, 0.5, 0.6, 0.405),  # clipped to 0.7 would be nearer: the unclipped 0.9 ^ 2 / 2 counts
        (-0.5, 0.5, 1.0, 1.125),  # clipped to 0.3 would be nearer: 1.5 ^ 2 / 2
        (-0.5, 0.5, -1.0, 0.845),  # clipped to 0.3, which is further off: 1.3 ^ 2 / 2
    ],
)
def test_clipped_value_loss(value: float, old: float, wanted: float, loss: float) -> None:
    found = value_loss(torch.tensor([[value]]), torch.tensor([[old]]), torch.tensor([[wanted]]), 0.2)
    assert found.item() == pytest.approx(loss)


def test_k3_has_the_divergence_as_its_mean_and_is_never_negative() -> None:
    old, new = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    estimates = k3(new.log()[None], old.log()[None])[0]
    assert estimates.min() >= 0
    assert (old * estimates).sum().item() == pytest.approx(0.143841)  # (log 2 + log 2/3) / 2
    assert k3(old[None], old[None]).eq(0).all()


def test_figures_of_groups() -> None:
    scores, groups = torch.tensor([1.0, 10.0, 2.0, 30.0, 6.0, 5.0]), torch.tensor([0, 1, 0, 1, 0, 2])
    close(group_mean(scores, groups), [3.0, 20.0, 3.0, 20.0, 3.0, 5.0])
    close(others_mean(scores, groups), [4.0, 30.0, 3.5, 10.0, 1.5, 0.0])
    # Group 0: squares 4 + 1 + 9 over 2; group 1: 100 + 100 over 1; the last response is alone.
    close(group_std(scores, groups) - 1e-4, [7**0.5, 200**0.5, 7**0.5, 200**0.5, 7**0.5, 1 - 1e-4])
    assert group_std(torch.tensor([2.0, 2.0]), torch.tensor([0, 0])).tolist() == pytest.approx([1e-4, 1e-4])


def test_a_ratio_is_clipped_beyond_the_range_and_not_at_its_end() -> None:
    old, ratios = torch.full((1, 5), -2.0), torch.tensor([[0.79, 0.81, 1.0, 1.19, 1.21]])
    assert clipped(ratios.log() + old, old, 0.2).tolist() == [[True, False, False, False, True]]
    assert clipped(old, old, 0.0).sum() == 0


def test_importance_weights_are_cut_at_the_cap_and_1_under_padding() -> None:
    sampler, ratios = torch.tensor([[-2.0, -3.0, JUNK]]), torch.tensor([[0.5, 5.0, JUNK]])
    close(importance_weights(ratios.log() + sampler, sampler, mask(2, width=3), 2.0), [[0.5, 2.0, 1.0]])


def test_entropy_has_its_gradient() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropies, (logits,))
    even = torch.zeros(1, 4, requires_grad=True)
    entropies(even).sum().backward()  # type: ignore[no-untyped-call]
    assert even.grad is not None
    assert even.grad.abs().max() < 1e-6  # nothing is more even


def test_logprobs_and_entropies_of_logits() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [7.0, 7.0]])  # probabilities 1/4, 3/4 and 1/2, 1/2
    close(token_logprobs(logits, torch.tensor([1, 0])), [math.log(0.75), math.log(0.5)])
    close(entropies(logits), [0.562335, math.log(2)])


def test_explained_variance() -> None:
    returns, real = torch.tensor([[1.0, 2.0, 3.0, JUNK]]), mask(3, width=4)
    assert explained_variance(returns + 5, returns, real) == pytest.approx(1.0)  # an offset is no variance
    assert explained_variance(torch.zeros(1, 4), returns, real) == pytest.approx(0.0)
    assert explained_variance(torch.tensor([[3.0, 2.0, 1.0, JUNK]]), returns, real) == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(1, 4), real) == 0.0


@pytest.mark.parametrize(
    ("kl", "responses", "coefficient"),
    [
        (6.0, 100, 0.1),
        (6.6, 100, 0.11),  # a tenth too much, one horizon
        (60.0, 50, 0.11),  # clipped to a fifth, half a horizon
        (-1.0, 50, 0.09),
        (0.0, 1000, 0.08),  # ten horizons at once count as one: it must never turn negative
    ],
)
def test_kl_controller(kl: float, responses: int, coefficient: float) -> None:
    controller = KlController(0.1, target=6.0, horizon=100)
    controller.update(kl, responses)
    assert controller.coefficient == pytest.approx(coefficient)


def test_without_a_target_the_coefficient_stays() -> None:
    controller = KlController(0.1, target=None, horizon=100)
    controller.update(1000.0, 1000)
    assert controller.coefficient == 0.1
