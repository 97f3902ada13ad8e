"""A PPO step: exactness before the first update, independence of batches and padding, resume."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.training.ppo.rollout import NotFiniteError
from rlaif.training.ppo.schedule import step_prompts
from rlaif.training.ppo.step import MEASURED, PpoTrainer
from rlaif.training.rewards.sources import Rewards, RewardScores
from tests.tiny import make_tiny_model
from tests.training.contexts import prompt
from tests.training.tiny_ppo import (
    ADAPTIVE,
    PROMPTS,
    SMALL,
    chosen,
    disturb,
    gradient,
    made,
    policy_model,
    ppo_config,
    reward_folder,
    same_gradient,
    same_model,
    trainer,
)
from tests.training.toy_rewards import share_of_e


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_before_the_first_update_nothing_has_moved(tmp_path: Path, arch: Any, value: Any) -> None:
    work = trainer(make_tiny_model(tmp_path, arch), value=value, num_ppo_epochs=1, num_mini_batches=1)
    _, batch, row = work.step(0, chosen(work))
    assert torch.equal(batch.logprobs, batch.ref_logprobs)
    assert row["kl"] == row["kl_per_token"] == 0
    assert row["clip_fraction"] == 0
    assert row["approx_kl"] == pytest.approx(0, abs=1e-9)
    assert not batch.values.any()  # the critic's head starts at zero
    assert row["policy_loss"] == pytest.approx(0, abs=1e-6)  # ratio 1, whitened advantages


def test_reference_does_not_move_in_training(tiny_model: Path) -> None:
    work = trainer(tiny_model, learning_rate=1e-2)
    rollouts, batch, _ = work.step(0, chosen(work))
    work.step(1, chosen(work, 1))
    again, _ = work.measure(rollouts)
    assert torch.equal(again.ref_logprobs, batch.ref_logprobs)
    assert (again.logprobs - batch.logprobs).abs().max() > 0.01


@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_policy_and_critic_are_both_trained(tiny_model: Path, value: Any) -> None:
    work = trainer(tiny_model, value=value)
    for step in range(3):
        before = {name: parameter.clone() for name, parameter in work.model.trained.items()}
        work.step(step, chosen(work, step))
    still = [name for name, parameter in work.model.trained.items() if torch.equal(parameter, before[name])]
    assert still == []
    assert sum(".value." in name for name in work.model.trained) == (28 if value == "adapter" else 0)


@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_warm_up_trains_the_critic_alone(tiny_model: Path, value: Any) -> None:
    work = trainer(tiny_model, value=value, value_warmup_steps=2, learning_rate=1e-2)
    disturb(work.model)
    before = {name: parameter.clone() for name, parameter in work.model.trained.items()}
    for step in range(2):
        work.step(step, chosen(work, step))
    for name, parameter in work.model.trained.items():
        assert torch.equal(parameter, before[name]) is (".policy." in name), name
    work.step(2, chosen(work, 2))
    assert not torch.equal(work.model.value_head.weight, before["value_head.weight"])
    assert any(not torch.equal(p, before[name]) for name, p in work.model.trained.items() if ".policy." in name)


# Nothing depends on batches, padding or order


@pytest.mark.parametrize("value", ["adapter", "trunk"])
@pytest.mark.parametrize("arch", ["llama", "gpt_neox"])
def test_batch_padding_and_order_change_nothing(tmp_path: Path, arch: Any, value: Any) -> None:
    source = make_tiny_model(tmp_path / "model", arch)
    work = trainer(source, value=value, reward=reward_folder(tmp_path, source))
    disturb(work.model)
    rollouts = made(work, "bread", "water, salt and yeast", "No.", "be kind to the neighbour at night", "yes", cut=1)
    batch, entropy = work.measure(rollouts)
    other = same_model(work, micro_batch_size=5)
    wide, wide_entropy = other.measure(rollouts)
    turned = [3, 0, 4, 2, 1]
    mixed, _ = work.measure(rollouts.only(turned))
    for name in ("logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns"):
        wanted = getattr(batch, name)
        torch.testing.assert_close(getattr(wide, name), wanted, rtol=0, atol=5e-5, msg=name)
        torch.testing.assert_close(getattr(mixed, name), wanted[turned], rtol=0, atol=5e-5, msg=name)
    assert wide_entropy == pytest.approx(entropy, abs=1e-5)
    alone = [work.measure(rollouts.only([i])) for i in range(5)]
    for i, (single, _) in enumerate(alone):
        length = len(rollouts.responses[i])
        torch.testing.assert_close(single.advantages[0], batch.advantages[i, :length], rtol=0, atol=5e-5)
        assert not batch.advantages[i, length:].any()
    # Entropy is a mean over tokens, not over responses or places.
    sizes = [len(response) for response in rollouts.responses]
    weighted = sum(size * own for size, (_, own) in zip(sizes, alone, strict=True)) / sum(sizes)
    assert entropy == pytest.approx(weighted, abs=1e-5)

    disturb(work.model, std=0.01)  # so that ratios are not 1
    wanted_gradient = gradient(work, batch, [0, 1, 2, 4])
    assert wanted_gradient[0]["approx_kl"] > 1e-5
    same_gradient(gradient(other, batch, [0, 1, 2, 4]), wanted_gradient)
    same_gradient(gradient(same_model(work, micro_batch_size=1), batch, [0, 1, 2, 4]), wanted_gradient)
    same_gradient(gradient(work, mixed, [turned.index(i) for i in (0, 1, 2, 4)]), wanted_gradient)


def test_losses_are_means_over_the_tokens_of_the_mini_batch(tiny_model: Path) -> None:
    work = trainer(tiny_model, cliprange_value=100.0)
    batch, _ = work.measure(made(work, "bread", "water, salt and yeast", "No."))
    disturb(work.model)
    measured, _ = work.measure(batch.rollouts)
    found, _ = gradient(work, batch, [0, 2])
    real = batch.response_mask[[0, 2]]
    errors = (measured.values - batch.returns)[[0, 2]][real]
    assert found["value_loss"] == pytest.approx((errors**2).mean().item() / 2, rel=1e-4)
    ratios = (measured.logprobs - batch.logprobs)[[0, 2]][real].exp()
    assert found["clip_fraction"] == pytest.approx(((ratios - 1).abs() > 0.2).float().mean().item())
    assert found["approx_kl"] == pytest.approx((ratios - 1 - ratios.log()).mean().item(), rel=1e-4)
    assert found["clip_fraction"] > 0


def test_what_stands_under_the_padding_is_never_seen(tiny_model: Path) -> None:
    work = trainer(tiny_model)
    disturb(work.model)
    batch, _ = work.measure(made(work, "bread", "water, salt and yeast", "No."))
    disturb(work.model, std=0.01)
    wanted = gradient(work, batch, [0, 1, 2])
    names = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")
    junk: dict[str, Any] = {name: torch.where(batch.response_mask, getattr(batch, name), math.nan) for name in names}
    same_gradient(gradient(work, replace(batch, **junk), [0, 1, 2]), wanted)


def test_a_gradient_that_is_not_a_number_stops_before_the_update(tiny_model: Path) -> None:
    work = trainer(tiny_model)
    batch, _ = work.measure(made(work, "bread", "water", "No.", "yes"))
    broken_batch = replace(batch, advantages=torch.where(batch.response_mask, math.nan, 0.0))
    before = {name: parameter.clone() for name, parameter in work.model.trained.items()}
    with pytest.raises(NotFiniteError, match="gradient"):
        work.update(broken_batch, 0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in work.model.trained.items())


def test_an_exploded_update_is_undone_and_the_rest_skipped(tiny_model: Path) -> None:
    table: dict[str, Any] = {"learning_rate": 0.05, "num_ppo_epochs": 2, "num_mini_batches": 2}
    wild = trainer(tiny_model, max_approx_kl=1e9, **table)
    _, _, row = wild.step(0, chosen(wild))
    assert row["skipped_updates"] == 0
    assert row["approx_kl"] > 0.1  # it does explode

    work = trainer(tiny_model, max_approx_kl=0.1, **table)
    before = {name: parameter.clone() for name, parameter in work.model.trained.items()}
    _, _, row = work.step(0, chosen(work))
    assert row["skipped_updates"] == 4
    assert [row[name] for name in MEASURED] == [None] * len(MEASURED)  # no update was kept to measure
    assert all(torch.equal(parameter, before[name]) for name, parameter in work.model.trained.items())
    assert not work.state.optimiser.state_dict()["state"]


def test_the_learning_rate_falls_linearly_over_all_updates(tiny_model: Path) -> None:
    work = trainer(tiny_model, steps=4, learning_rate=1e-3)  # 4 updates a step, 16 in all
    seen = []
    for step in range(4):
        work.step(step, chosen(work, step))
        seen.append(work.state.optimiser.param_groups[0]["lr"])
    assert seen == pytest.approx([1e-3 * (1 - done / 16) for done in (3, 7, 11, 15)])
    assert work.state.optimiser.param_groups[0]["eps"] == 1e-5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("cliprange", 0.01), ("cliprange_value", 0.01), ("gamma", 0.5), ("kl_coef", 1.0), ("lam", 0.2)),
        *(("learning_rate", 1e-3), ("lora_alpha", 8), ("lora_r", 4), ("max_grad_norm", 0.01), ("max_new_tokens", 5)),
        *(("missing_eos_penalty", 3.0), ("num_mini_batches", 4), ("num_ppo_epochs", 1), ("samples_per_prompt", 2)),
        *(("temperature", 0.5), ("value_warmup_steps", 1), ("vf_coef", 1.0), ("whiten_rewards", True)),
    ],
)
def test_every_field_has_an_effect(tiny_model: Path, field: str, value: Any) -> None:
    """On the weights after two steps, of which the first moves the policy and the critic off their start."""
    weights = []
    for table in ({}, {field: value}):
        work = trainer(tiny_model, **{"learning_rate": 5e-3, **table}, value="trunk")
        for step in range(2):
            work.step(step, chosen(work, step))
        weights.append([p.detach().flatten() for p in work.model.trained.values()])
    if field == "lora_r":
        assert sum(map(len, weights[1])) < sum(map(len, weights[0]))
    else:
        assert (torch.cat(weights[0]) - torch.cat(weights[1])).abs().max() > 1e-5


def test_bfloat16_weights_start_at_ratio_1_too(tmp_path: Path) -> None:
    model = policy_model(make_tiny_model(tmp_path), dtype="bfloat16", **SMALL)
    config = ppo_config(**SMALL, num_ppo_epochs=1, num_mini_batches=1)
    work = PpoTrainer(model, config, seed=0, rewards=Rewards.of_function(share_of_e))
    _, batch, row = work.step(0, chosen(work))
    assert torch.equal(batch.logprobs, batch.ref_logprobs)
    assert row["kl"] == row["clip_fraction"] == 0
    assert row["approx_kl"] < 1e-4
    assert batch.logprobs.dtype == batch.values.dtype == batch.advantages.dtype == torch.float32
    work.step(1, chosen(work))


# The stage


def test_the_mean_of_a_prompts_samples_is_their_baseline(tiny_model: Path) -> None:
    """By hand, without KL and critic: the advantage is the score less the mean of its prompt, wherever it stands."""
    work = trainer(tiny_model, batch_size=4, samples_per_prompt=2, num_mini_batches=1, baseline="prompt", lam=1.0)
    rollouts = made(work, "a", "b", "c", "d")
    rollouts = replace(rollouts, prompts=tuple(PROMPTS[i] for i in (0, 1, 0, 1)))
    zeros = torch.zeros(rollouts.mask.shape)
    batch = work.shaped(rollouts, zeros, zeros, zeros, RewardScores(torch.tensor([1.0, 10.0, 2.0, 30.0])))
    for row, advantage in enumerate((-0.5, -10.0, 0.5, 10.0)):
        assert batch.advantages[row][batch.response_mask[row]].unique().tolist() == [advantage]
    assert batch.scores.tolist() == [1.0, 10.0, 2.0, 30.0]  # what is logged stays what it was


def test_samples_of_a_prompt_stand_side_by_side(tiny_model: Path) -> None:
    asked = [prompt(f"Question {i}") for i in range(6)]  # all of one length
    work = trainer(tiny_model, batch_size=18, samples_per_prompt=3, max_new_tokens=2)
    rollouts = work.sampler.sample(step_prompts(asked, work.config, 0, 0), 0)
    assert [p.id for p in rollouts.prompts] == [p.id for p in rollouts.prompts[::3] for _ in range(3)]
    assert len(set(rollouts.prompts)) == 6


def test_samples_behind_one_prompt_may_be_split_over_micro_batches(tiny_model: Path) -> None:
    table = {"batch_size": 6, "samples_per_prompt": 3, "num_mini_batches": 1}
    work = trainer(tiny_model, micro_batch_size=6, **table)
    disturb(work.model)
    rollouts = work.sampler.sample(chosen(work), 0)
    batch, entropy = work.measure(rollouts)
    for size in (1, 4):
        split = same_model(work, micro_batch_size=size)
        other, other_entropy = split.measure(rollouts)
        torch.testing.assert_close(other.logprobs, batch.logprobs, rtol=0, atol=1e-5)
        assert other_entropy == pytest.approx(entropy, abs=1e-5)
        same_gradient(gradient(split, batch, range(6)), gradient(work, batch, range(6)))


def test_the_samples_of_a_prompt_stay_in_one_mini_batch(tiny_model: Path) -> None:
    work = trainer(tiny_model, batch_size=12, samples_per_prompt=3, num_mini_batches=2, num_ppo_epochs=2)
    plan = work.plan(12, 0)
    assert [sorted(part) for part in plan] == plan
    assert sorted(plan[0] + plan[1]) == sorted(plan[2] + plan[3]) == list(range(12))
    assert all(row - row % 3 + k in part for part in plan for row in part for k in range(3))
    assert plan[:2] != plan[2:]


def test_a_fresh_process_goes_on_exactly(tiny_model: Path, tmp_path: Path) -> None:
    table: dict[str, Any] = {"steps": 4, **ADAPTIVE}
    whole, first, second = (trainer(tiny_model, **table) for _ in range(3))
    wanted = [whole.step(step, chosen(whole, step))[2] for step in range(4)]
    assert all(row["skipped_updates"] == 0 for row in wanted)  # or the optimiser's state would not matter
    found = [first.step(step, chosen(first, step))[2] for step in range(2)]
    first.state.save(tmp_path / "checkpoint", 2)
    assert second.state.restore(tmp_path / "nothing") == 0
    # Killed between the two renames of a later save: the former checkpoint still stands.
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert second.state.restore(tmp_path / "checkpoint") == 2
    found += [second.step(step, chosen(second, step))[2] for step in range(2, 4)]
    for one, other in zip(found, wanted, strict=True):
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }
    assert all(torch.equal(p, whole.model.trained[name]) for name, p in second.model.trained.items())
    assert second.state.kl.coefficient == whole.state.kl.coefficient != 0.05
    assert wanted[3]["kl_coef"] != wanted[2]["kl_coef"]


@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_a_planted_score_is_learnt(tiny_model: Path, value: Any) -> None:
    steps = 25
    work = trainer(
        tiny_model,
        function=share_of_e,
        value=value,
        batch_size=32,
        micro_batch_size=32,
        max_new_tokens=8,
        steps=steps,
        learning_rate=1e-2,
        kl_coef=0.02,
    )
    rows = [work.step(step, chosen(work, step))[2] for step in range(steps)]
    first, last = rows[0], {name: sum(row[name] for row in rows[-5:]) / 5 for name in rows[0]}
    assert first["score"] < 0
    assert last["score"] > first["score"] + 2
    assert last["kl"] > 10  # it has gone somewhere, and knows it
    assert last["entropy"] < first["entropy"] - 1
    if value == "adapter":
        assert last["explained_variance"] > 0.2 > first["explained_variance"]
