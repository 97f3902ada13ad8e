"""What tells the algorithms apart, against numbers worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaif.core.errors import ConfigError
from rlaif.judge.load import parse
from rlaif.training.ppo.advantages import advantages_and_returns, relative_scores, token_weights
from rlaif.training.ppo.formulas import entropies, group_mean, group_std, others_mean
from rlaif.training.ppo.step import reward_scale
from tests.training.ppo.by_hand import JUNK, close, mask
from tests.training.tiny_ppo import PROMPTS, chosen, made, policy_model, ppo_config, trainer

GROUPS = torch.tensor([0, 1, 0, 1, 0, 2])
SCORES = torch.tensor([1.0, 10.0, 2.0, 30.0, 6.0, 5.0])


def config(**fields: Any) -> Any:
    return ppo_config(**{"samples_per_prompt": 2, **fields})


def entering(penalties: Tensor | None = None, **fields: Any) -> Tensor:
    of, none = config(**fields), torch.zeros(6)
    given = none if penalties is None else penalties
    return relative_scores(SCORES, given, GROUPS, of.score_clip, scale=reward_scale(of), baseline=of.baseline)


def averaged(real: Tensor, **fields: Any) -> Tensor:
    of = config(**fields)
    return token_weights(real, loss_type=of.loss_type, longest=of.max_new_tokens)


def test_figures_of_groups() -> None:
    close(group_mean(SCORES, GROUPS), [3.0, 20.0, 3.0, 20.0, 3.0, 5.0])
    close(others_mean(SCORES, GROUPS), [4.0, 30.0, 3.5, 10.0, 1.5, 0.0])
    # Group 0: squares 4 + 1 + 9 over 2; group 1: 100 + 100 over 1; the last response is alone.
    close(group_std(SCORES, GROUPS) - 1e-4, [7**0.5, 200**0.5, 7**0.5, 200**0.5, 7**0.5, 1 - 1e-4])
    assert group_std(torch.tensor([2.0, 2.0]), torch.tensor([0, 0])).tolist() == pytest.approx([1e-4, 1e-4])


def test_scores_enter_clipped_then_less_the_penalty_then_scaled_then_less_their_baseline() -> None:
    close(entering(), SCORES.tolist())
    close(entering(score_clip=5.0), [1.0, 5.0, 2.0, 5.0, 5.0, 5.0])
    close(entering(baseline="prompt"), [-2.0, -10.0, -1.0, 10.0, 3.0, 0.0])
    close(entering(baseline="batch"), [-8.0, 1.0, -7.0, 21.0, -3.0, -4.0])
    close(entering(scale_rewards="group"), [0.377950, 0.707102, 0.755900, 2.121305, 2.267700, 5.0])
    close(entering(scale_rewards="batch") * (116**0.5 + 1e-4), SCORES.tolist())
    close(entering(algorithm="grpo"), entering(scale_rewards="group").tolist())
    penalties = torch.tensor([3.0, 0, 0, 0, 0, 0])
    close(entering(penalties, score_clip=0.5), [-2.5, 0.5, 0.5, 0.5, 0.5, 0.5])


REWARDS = torch.tensor([[-1.0, 0.0, 3.0], [1.0, 5.0, JUNK], [4.0, JUNK, JUNK], [0.5, 0.5, 1.0]])
VALUES = torch.zeros(4, 3)
REAL = mask(3, 2, 1, 3, width=3)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"algorithm": "reinforce"}, [[2.0, 3.0, 3.0], [6.0, 5.0, 0.0], [4.0, 0.0, 0.0], [2.0, 1.5, 1.0]]),
        (
            {"algorithm": "reinforce", "gamma": 0.5},
            [[-0.25, 1.5, 3.0], [3.5, 5.0, 0.0], [4.0, 0.0, 0.0], [1.0, 1.0, 1.0]],
        ),
        # Whole returns 2, 6 and 4, 2, in groups of two.
        ({"algorithm": "rloo"}, [[-4.0, -4.0, -4.0], [4.0, 4.0, 0.0], [2.0, 0.0, 0.0], [-2.0, -2.0, -2.0]]),
        ({"algorithm": "grpo"}, [[-2.0, -2.0, -2.0], [2.0, 2.0, 0.0], [1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]]),
    ],
)
def test_advantages_by_hand(fields: dict[str, Any], wanted: list[object]) -> None:
    of, groups = config(**fields), torch.tensor([0, 0, 1, 1])
    advantages, returns = advantages_and_returns(
        REWARDS, VALUES, REAL, groups, algorithm=of.algorithm, gamma=of.gamma, lam=of.lam
    )
    close(advantages, wanted)
    assert not returns[~REAL].any()


def test_tokens_in_the_three_averages() -> None:
    real = mask(4, 1, width=4)
    close(averaged(real), [[0.2] * 4, [0.2, 0, 0, 0]])
    close(averaged(real, loss_type="grpo"), [[0.125] * 4, [0.5, 0, 0, 0]])
    close(averaged(real, loss_type="dr_grpo", max_new_tokens=10), [[0.05] * 4, [0.05, 0, 0, 0]])


def test_entropy_has_its_gradient() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropies, (logits,))
    even = torch.zeros(1, 4, requires_grad=True)
    entropies(even).sum().backward()  # type: ignore[no-untyped-call]
    assert even.grad is not None
    assert even.grad.abs().max() < 1e-6  # nothing is more even


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo"])
def test_without_a_critic_nothing_of_one_is_loaded(tiny_model: Path, algorithm: Any) -> None:
    model = policy_model(tiny_model, algorithm=algorithm, samples_per_prompt=2)
    assert model.critic is None
    assert model.value_head is None
    assert all(".policy." in name for name in model.trained)
    assert not any(".value." in name for name, _ in model.peft.named_parameters())
    work = trainer(tiny_model, algorithm=algorithm, samples_per_prompt=2)
    _, batch, row = work.step(0, chosen(work))
    assert row["value_loss"] is None
    assert row["explained_variance"] is None
    assert not batch.values.any()
    assert math.isfinite(row["policy_loss"])


def test_with_one_update_a_step_the_gradient_is_that_of_the_lecture(tiny_model: Path) -> None:
    """reinforce without a baseline: the gradient of -sum(score * log-prob of the response), over a constant."""
    work = trainer(
        tiny_model, algorithm="reinforce", loss_type="dr_grpo", kl_coef=0.0, missing_eos_penalty=0.0, max_grad_norm=1e9
    )
    rollouts = work.sampler.sample(chosen(work), 0)
    batch, _ = work.measure(rollouts)
    work.gradients(batch, range(8), warmup=False)
    found = {name: p.grad.clone() for name, p in work.model.trained.items() if p.grad is not None}
    work.state.optimiser.zero_grad()
    for place in range(8):
        row = [(rollouts.prompt_ids[place], rollouts.responses[place])]
        logprob = work.model.logprobs(work.model.response_states(row), row).sum()
        (-batch.scores[place] * logprob / (8 * work.config.max_new_tokens)).backward()  # type: ignore[no-untyped-call]
    for name, p in work.model.trained.items():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "fields",
    [
        *({"baseline": "batch"}, {"baseline": "prompt"}, {"scale_rewards": "batch"}, {"scale_rewards": "group"}),
        *({"normalize_advantages": True}, {"loss_type": "grpo"}, {"loss_type": "dr_grpo"}, {"entropy_coef": 0.1}),
        *({"score_clip": 0.1}, {"gamma": 0.5}, {"algorithm": "rloo"}, {"algorithm": "grpo"}, {"whiten_rewards": True}),
    ],
    ids=str,
)
def test_every_field_has_an_effect(tiny_model: Path, fields: dict[str, Any]) -> None:
    """On the gradient of the first mini-batch of the same rollouts."""
    found = []
    for table in ({}, fields):
        start = {"algorithm": "reinforce", "samples_per_prompt": 2, "max_grad_norm": 1e9}
        work = trainer(tiny_model, **{**start, **table})
        rollouts = made(work, "bread", "water, salt and yeast", "No.", "be kind to the neighbour", cut=1)
        batch, _ = work.measure(replace(rollouts, prompts=tuple(PROMPTS[i // 2] for i in range(4))))
        work.gradients(batch, range(4), warmup=False)
        found.append(torch.cat([p.grad.flatten() for p in work.model.trained.values() if p.grad is not None]))
    assert (found[0] - found[1]).abs().max() > 1e-4 * found[0].abs().max()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"algorithm": "rloo"}, "algorithm: rloo compares the samples of a prompt: set samples_per_prompt"),
        ({"baseline": "prompt"}, "baseline: prompt compares"),
        ({"scale_rewards": "group"}, "scale_rewards: group compares"),
        ({"algorithm": "grpo", "samples_per_prompt": 2, "baseline": "batch"}, "has a baseline of its own"),
        ({"algorithm": "reinforce", "value_warmup_steps": 1}, "has no critic to warm up"),
    ],
)
def test_fields_that_do_not_go_together(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"prompts": {"all": {"source": "own"}}, "ppo": table}, where="test")
