"""The formulas of PPO against numbers worked by hand. Padding holds junk everywhere: it must never be seen."""

from __future__ import annotations

import math

import pytest
import torch

from rlaif.training.ppo.formulas import (
    KlController,
    entropies,
    explained_variance,
    gae,
    k3,
    masked_mean,
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
    ("value", "wanted", "loss"),
    [
        (0.1, 2.0, 1.805),  # inside the clip: 1.9 ^ 2 / 2
        (1.0, 2.0, 1.62),  # clipped to 0.2, which is further off: 1.8 ^ 2 / 2
        (1.0, 0.0, 0.5),  # clipped to 0.2 would be nearer: the unclipped 1 ^ 2 / 2 counts
    ],
)
def test_clipped_value_loss(value: float, wanted: float, loss: float) -> None:
    found = value_loss(torch.tensor([[value]]), torch.tensor([[0.0]]), torch.tensor([[wanted]]), 0.2)
    assert found.item() == pytest.approx(loss)


def test_k3_has_the_divergence_as_its_mean_and_is_never_negative() -> None:
    old, new = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
    estimates = k3(new.log()[None], old.log()[None])[0]
    assert estimates.min() >= 0
    assert (old * estimates).sum().item() == pytest.approx(0.143841)  # (log 2 + log 2/3) / 2
    assert k3(old[None], old[None]).eq(0).all()


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
