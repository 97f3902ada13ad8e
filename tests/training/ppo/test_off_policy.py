"""Importance weights by hand, the figures of the mismatch, and the sampler that is not the policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.core.errors import ConfigError, StageError
from rlaif.judge.load import parse
from rlaif.training.ppo import off_policy
from rlaif.training.ppo.rollout import RolloutBatch
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards
from tests.training.tiny_ppo import (
    SMALL,
    chosen,
    disturb,
    gradient,
    made,
    policy_model,
    ppo_config,
    same_model,
    trainer,
)
from tests.training.toy_rewards import share_of_e

RATIOS = (0.5, 1.0, 1.5, 5.0)
"""Of policy to sampler, over and over, token by token."""


def sampled_by_another(work: PpoTrainer, ratios: Sequence[float] = RATIOS) -> RolloutBatch:
    """A measured batch whose tokens the sampler had found 1 / ratio as likely as the policy does."""
    rollouts = made(work, "bread", "water", "No.", "yes", cut=1)
    batch, _ = work.measure(rollouts)
    given, number = [], 0
    for row, response in enumerate(rollouts.responses):
        wanted = [ratios[(number + i) % len(ratios)] for i in range(len(response))]
        number += len(response)
        given.append(tuple(float(batch.logprobs[row, i]) - math.log(r) for i, r in enumerate(wanted)))
    return work.measure(replace(rollouts, sampler_logprobs=tuple(given)))[0]


def test_weights_by_hand(tiny_model: Path) -> None:
    work = trainer(tiny_model, rollouts="server")
    batch = sampled_by_another(work)
    mask = batch.response_mask
    count = int(mask.sum())
    wanted = [(0.5, 1.0, 1.5, 2.0)[i % 4] for i in range(count)]  # 5 is cut to the cap of 2
    assert batch.importance[mask].tolist() == pytest.approx(wanted, rel=1e-4)
    assert (batch.importance[~mask] == 1).all()
    found = off_policy.mismatch(batch, work.config)
    logs = [math.log(RATIOS[i % 4]) for i in range(count)]
    assert found["sampler_gap"] == pytest.approx(sum(map(abs, logs)) / count, rel=1e-4)
    assert found["sampler_kl"] == pytest.approx(
        sum(RATIOS[i % 4] - 1 - logs[i] for i in range(count)) / count, rel=1e-4
    )
    assert found["importance_mean"] == pytest.approx(sum(wanted) / count, rel=1e-4)
    assert found["importance_capped"] == pytest.approx(wanted.count(2.0) / count)


@pytest.mark.parametrize(
    ("table", "weights"), [({"importance_cap": 1.2}, {0.5, 1.0, 1.2}), ({"importance_cap": None}, {1.0})]
)
def test_the_cap_is_a_field(tiny_model: Path, table: dict[str, Any], weights: set[float]) -> None:  # fmt: skip
    work = trainer(tiny_model, rollouts="server", **table)
    batch = sampled_by_another(work)
    assert {round(w, 3) for w in batch.importance[batch.response_mask].tolist()} == weights
    capped = off_policy.mismatch(batch, work.config)["importance_capped"]
    assert capped == 0 if table["importance_cap"] is None else capped == pytest.approx(0.5, abs=0.1)


def test_a_token_counts_in_the_gradient_as_often_as_it_weighs(tiny_model: Path) -> None:
    """All weights 1/2: half the policy's gradient, and the critic's as it was."""
    work = trainer(tiny_model, rollouts="server", value="adapter", max_grad_norm=1e9)
    halved, plain = sampled_by_another(work, [0.5]), sampled_by_another(work, [1.0])
    rows = range(4)
    one, other = gradient(work, halved, rows)[1], gradient(work, plain, rows)[1]
    policy = [name for name in other if ".policy." in name]
    assert max(float(other[name].abs().max()) for name in policy) > 1e-4
    for name, wanted in other.items():
        torch.testing.assert_close(one[name], wanted * (0.5 if name in policy else 1), rtol=1e-3, atol=1e-6)


def test_rollouts_of_the_policy_itself_weigh_exactly_1_and_how_far_the_sampler_is_is_said(tiny_model: Path) -> None:
    work = trainer(tiny_model)
    disturb(work.model)
    _, batch, row = work.step(0, chosen(work))
    assert (batch.importance == 1).all()
    assert not [name for name in row if name.startswith("importance")]
    assert 0 < row["sampler_gap"] < 1e-4  # float32
    assert abs(row["sampler_kl"]) < 1e-6
    apart = sampled_by_another(same_model(work))
    assert (apart.importance == 1).all()  # rollouts: local
    assert off_policy.mismatch(apart, work.config).keys() == {"sampler_kl", "sampler_gap"}
    off_policy.check_sampler(apart, work.config)  # a server's alone is refused


def test_the_tokens_of_this_machine_weigh_too_where_that_is_asked_for(tiny_model: Path) -> None:
    work = trainer(tiny_model, importance="all")
    batch = sampled_by_another(work)
    mask = batch.response_mask
    wanted = [(0.5, 1.0, 1.5, 2.0)[i % 4] for i in range(int(mask.sum()))]
    assert batch.importance[mask].tolist() == pytest.approx(wanted, rel=1e-4)
    assert off_policy.mismatch(batch, work.config)["importance_mean"] == pytest.approx(
        sum(wanted) / len(wanted), rel=1e-4
    )


def test_in_bfloat16_what_samples_is_not_quite_what_is_trained_on(tiny_model: Path) -> None:
    model = policy_model(tiny_model, dtype="bfloat16", **SMALL)
    work = PpoTrainer(model, ppo_config(**SMALL), seed=3, rewards=Rewards.of_function(share_of_e))
    disturb(work.model)
    batch, _ = work.measure(work.sampler.sample(chosen(work), 0))
    assert 0.001 < off_policy.mismatch(batch, work.config)["sampler_gap"] < 0.5


def test_a_sampler_that_is_not_the_policy_is_found_out(tiny_model: Path) -> None:
    work = trainer(tiny_model, rollouts="server", learning_rate=1e-2)
    batch = sampled_by_another(work, [1.1, 0.9])
    off_policy.check_sampler(batch, work.config)
    far = sampled_by_another(work, [1.5, 0.6])
    with pytest.raises(StageError, match=r"off by 0\.4\d nats .* is 0\.2"):
        off_policy.check_sampler(far, work.config)
    off_policy.check_sampler(far, same_model(work, max_sampler_gap=0.5).config)
    with pytest.raises(StageError, match="off by nan"):
        off_policy.check_sampler(sampled_by_another(work, [math.nan]), work.config)

    # The policy has left the reference by much less than the limit, and the server still samples from the reference.
    disturb(work.model, std=0.002)
    behind, _ = work.measure(batch.rollouts)
    assert 0 < off_policy._gap(behind.logprobs, behind.ref_logprobs, behind.response_mask) < 0.1
    of_ref = tuple(
        tuple(row[: len(r)].tolist()) for row, r in zip(behind.ref_logprobs, behind.rollouts.responses, strict=True)
    )
    stale = replace(behind, rollouts=replace(behind.rollouts, sampler_logprobs=of_ref))
    with pytest.raises(StageError, match="does not apply the adapter"):
        off_policy.check_sampler(stale, same_model(work, max_sampler_gap=100.0).config)


@pytest.mark.parametrize(("way", "of_reference"), [(0.6, False), (0.64, False), (0.69, True), (0.72, True)])
def test_a_sampler_twice_as_near_to_the_reference_as_to_the_policy_is_the_reference(
    tiny_model: Path, way: float, of_reference: bool
) -> None:
    """A part of the way from the policy to the reference in every log-prob: twice as near from 2/3 on."""
    work = trainer(tiny_model, rollouts="server", max_sampler_gap=100.0)
    disturb(work.model, std=0.01)
    batch, _ = work.measure(made(work, "bread", "water", "No.", "yes", cut=1))
    between = batch.logprobs + way * (batch.ref_logprobs - batch.logprobs)
    given = tuple(tuple(row[: len(r)].tolist()) for row, r in zip(between, batch.rollouts.responses, strict=True))
    sampled = replace(batch, rollouts=replace(batch.rollouts, sampler_logprobs=given))
    if of_reference:
        with pytest.raises(StageError, match="does not apply the adapter"):
            off_policy.check_sampler(sampled, work.config)
    else:
        off_policy.check_sampler(sampled, work.config)


@pytest.mark.parametrize(
    "table",
    [
        {"importance_cap": 0},
        {"max_sampler_gap": 0},
        {"server_timeout": 0},
        {"rollouts": "vllm"},
        {"importance": "none"},
    ],
)
def test_values_that_make_no_sense(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse({"prompts": {"all": {"source": "own"}}, "ppo": table}, where="test")
