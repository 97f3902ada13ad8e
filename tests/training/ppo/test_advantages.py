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
from rlaif.training.ppo.advantages import advantages_and_returns, relative_scores, token_weights, values_of_reward
from rlaif.training.ppo.formulas import group_mean
from rlaif.training.ppo.step import reward_scale
from tests.training.ppo.by_hand import JUNK, close, mask
from tests.training.tiny_ppo import PROMPTS, chosen, made, policy_model, ppo_config, reward_folder, trainer

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


def test_values_of_the_reward_by_hand() -> None:
    """Two prompts with two responses, then one that ends after a token; padding holds junk."""
    so_far = torch.tensor([[0.0, 0.5], [0.0, -0.5], [0.0, 1.0], [0.0, 3.0], [0.0, JUNK]])
    real, scores = mask(2, 2, 2, 2, 1, width=2), torch.tensor([1.0, 0.0, 0.0, 4.0, 9.0])
    # Less the prompt's mean: 0.5, -0.5 (scores 0.5, -0.5: slope 1) and -1, 1 (scores -2, 2: slope 2), crosswise.
    found = values_of_reward(so_far[:, :, None], scores, real, torch.tensor([0, 0, 1, 1, 1]))
    close(found, [[0.0, 1.0], [0.0, -1.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])


def test_values_of_the_reward_with_one_sample_a_prompt_are_fitted_on_all_others() -> None:
    so_far, real = torch.tensor([[1.0], [2.0], [3.0], [6.0]]), mask(1, 1, 1, 1, width=1)
    scores = 2 * so_far[:, 0] + 5
    close(values_of_reward(so_far[:, :, None], scores, real, torch.arange(4)), [[-4.0], [-2.0], [0.0], [6.0]])
    # A prompt that came twice changes nothing for the others, whose samples are still alone.
    close(values_of_reward(so_far[:, :, None], scores, real, torch.tensor([0, 0, 1, 2]))[2:], [[0.0], [6.0]])
    # With one prompt alone, or nothing that tells responses apart, there is nothing to fit.
    close(values_of_reward(so_far[:, :, None], scores, real, torch.zeros(4, dtype=torch.int64)), [[0.0]] * 4)
    close(values_of_reward(torch.ones(4, 1, 1), scores, real, torch.arange(4)), [[0.0]] * 4)


def test_values_of_the_reward_are_0_where_no_other_prompt_tells_its_responses_apart() -> None:
    """The first prompt's two responses differ; the second's are equal, and one alone gets to the second token."""
    so_far = torch.tensor([[1.0, 4.0], [3.0, 6.0], [2.0, 5.0], [2.0, JUNK]])
    real, scores = mask(2, 2, 2, 1, width=2), torch.tensor([0.0, 4.0, 1.0, 1.0])
    close(values_of_reward(so_far[:, :, None], scores, real, torch.tensor([0, 0, 1, 1])), [[0.0, 0.0]] * 4)


def test_values_of_the_reward_do_not_know_their_own_score() -> None:
    drawn = torch.Generator().manual_seed(0)
    so_far, scores = torch.randn(8, 5, generator=drawn), torch.randn(8, generator=drawn)
    real, groups = mask(5, 3, 5, 5, 2, 5, 4, 5, width=5), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    found = values_of_reward(so_far[:, :, None], scores, real, groups)
    moved = scores.clone()
    moved[:2] += torch.tensor([5.0, -7.0])
    again = values_of_reward(so_far[:, :, None], moved, real, groups)
    torch.testing.assert_close(again[:2], found[:2], rtol=0, atol=1e-4)
    assert (again[2:] - found[2:]).abs().max() > 0.01


def test_values_of_two_measures_are_those_of_least_squares_over_the_other_prompts() -> None:
    drawn = torch.Generator().manual_seed(1)
    so_far, scores = torch.randn(9, 4, 2, generator=drawn), torch.randn(9, generator=drawn)
    real, groups = mask(4, 3, 4, 4, 2, 4, 4, 3, 4, width=4), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    found = values_of_reward(torch.where(real[:, :, None], so_far, JUNK), scores, real, groups)
    for place in range(4):
        for group in range(3):
            rows: dict[int, list[int]] = {
                n: [b for b in range(9) if groups[b] == n and real[b, place]] for n in range(3)
            }
            less = {n: so_far[r, place].double() - so_far[r, place].double().mean(0) for n, r in rows.items()}
            wanted = {n: scores[r].double() - scores[r].double().mean() for n, r in rows.items()}
            others = [n for n in range(3) if n != group]
            slopes = torch.linalg.lstsq(
                torch.cat([less[n] for n in others]), torch.cat([wanted[n] for n in others])[:, None]
            ).solution
            close(found[rows[group], place], (less[group] @ slopes)[:, 0].tolist())
    assert not found[~real].any()


def test_a_measure_that_says_what_another_does_changes_no_value() -> None:
    drawn = torch.Generator().manual_seed(2)
    so_far, scores = torch.randn(8, 3, 1, generator=drawn), torch.randn(8, generator=drawn)
    real, groups = mask(3, 3, 2, 3, 3, 3, 1, 3, width=3), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    alone = values_of_reward(so_far, scores, real, groups)
    close(values_of_reward(torch.cat([so_far, 2 * so_far], 2), scores, real, groups), alone.tolist())


def test_with_the_reward_model_as_critic_none_is_trained(tmp_path: Path, tiny_model: Path) -> None:
    table = {"value": "reward", "samples_per_prompt": 2, "baseline": "prompt", "kl_coef": 0.0, "lam": 1.0}
    work = trainer(tiny_model, reward=reward_folder(tmp_path, tiny_model), **table)
    assert all(".policy." in name for name in work.model.trained)
    _, batch, row = work.step(0, chosen(work))
    assert row["value_loss"] is None
    assert row["explained_variance"] is not None
    assert not batch.values[:, 0].any()  # nothing is known before the first token
    assert batch.values[:, 1:].any()
    # The objective is what it was: less the mean of its prompt, the score of the whole response.
    wanted = batch.scores - group_mean(batch.scores, batch.rollouts.groups)
    torch.testing.assert_close(batch.returns[:, 0], wanted, rtol=0, atol=1e-5)


def test_tokens_in_the_three_averages() -> None:
    real = mask(4, 1, width=4)
    close(averaged(real), [[0.2] * 4, [0.2, 0, 0, 0]])
    close(averaged(real, loss_type="grpo"), [[0.125] * 4, [0.5, 0, 0, 0]])
    close(averaged(real, loss_type="dr_grpo", max_new_tokens=10), [[0.05] * 4, [0.05, 0, 0, 0]])


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
        ({"value": "reward", "value_warmup_steps": 1}, "a critic that is not trained"),
        ({"value": "reward"}, "set baseline: prompt"),
        ({"value": "reward", "baseline": "batch", "whiten_rewards": True}, "predicts the score as it is"),
        ({"value": "reward", "baseline": "batch", "gamma": 0.9}, "predicts the score as it is"),
        ({"value": "reward", "reward": "tests.training.toy_rewards:share_of_e"}, "value: reward is the reward model"),
    ],
)
def test_fields_that_do_not_go_together(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"prompts": {"all": {"source": "own"}}, "ppo": table}, where="test")


def test_the_critic_does_not_read_ends_alone() -> None:
    raw = {"prompts": {"all": {"source": "own"}}, "ppo": {"value": "reward", "baseline": "batch"}}
    assert parse(raw, where="test").ppo.reward_is_critic
    with pytest.raises(ConfigError, match=r"set reward\.pooling: mean, or ppo\.value: trunk"):
        parse(raw | {"reward": {"pooling": "end"}}, where="test")
