"""PPO: exactness before the first update, independence of batches and padding, resume, and that it learns."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from scipy.stats import chisquare
from torch import Tensor

from rlaif.config import LoraTable
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.files import JsonlFile, MetricsLog
from rlaif.core.records import Prompt
from rlaif.judge.load import parse
from rlaif.lm.local.load import encode_chat, load_model, lora_config
from rlaif.stages import ppo
from rlaif.stages.context import StageContext
from rlaif.training.ppo.rollout import NotFiniteError, RolloutBatch, Rollouts
from rlaif.training.ppo.trainer import MEASURED, PpoTrainer
from rlaif.training.rewards.sources import Rewards, Scored, Source
from tests.tiny import make_tiny_model
from tests.training.contexts import Heard, prompt, stage_context
from tests.training.ppo.test_policy_model import disturb, policy_model, ppo_config, reward_folder
from tests.training.toy_rewards import share_of_e

PROMPTS = [prompt(f"Question {i} " + "about bread " * (i % 4)) for i in range(6)]
BY_MODEL = Rewards((Source("model", None),))
SMALL: dict[str, Any] = {"batch_size": 8, "micro_batch_size": 3, "max_new_tokens": 6}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(source: Path, *, function: Any = share_of_e, reward: Path | None = None, **table: Any) -> PpoTrainer:
    table = {**SMALL, **table}
    model = policy_model(source, rewards=[] if reward is None else [reward], **table)
    rewards = Rewards.of_function(function) if reward is None else BY_MODEL
    return PpoTrainer(model, ppo_config(**table), seed=3, rewards=rewards)


def same_model(of: PpoTrainer, **table: Any) -> PpoTrainer:
    """Another trainer of the same model with some fields changed."""
    return PpoTrainer(of.model, of.config.model_copy(update=table), seed=of.seed, rewards=of.rewards)


def chosen(work: PpoTrainer, step: int = 0) -> list[Prompt]:
    return ppo.step_prompts(PROMPTS, work.config, work.seed, step)


def taken(rollouts: Rollouts, rows: Sequence[int]) -> Rollouts:
    fields = ("prompts", "prompt_ids", "responses", "finish")
    return Rollouts(**{name: tuple(getattr(rollouts, name)[i] for i in rows) for name in fields})


def made(work: PpoTrainer, *responses: str, cut: int = -1) -> Rollouts:
    """Rollouts of these texts; all end with the end token but number `cut`."""
    tokenizer = work.model.loaded.tokenizer
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in responses]
    ended = [[*row, tokenizer.eos_token_id] if i != cut else row for i, row in enumerate(ids)]
    asked = PROMPTS[: len(responses)]
    return Rollouts(
        prompts=tuple(asked),
        prompt_ids=tuple(tuple(encode_chat(tokenizer, p.messages)) for p in asked),
        responses=tuple(tuple(row) for row in ended),
        finish=tuple("length" if i == cut else "stop" for i in range(len(responses))),
    )


def gradient(work: PpoTrainer, batch: RolloutBatch, rows: Sequence[int]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """(metrics, gradients by name) of one mini-batch of the responses `rows`."""
    found = work.gradients(batch, rows, warmup=False)
    return found, {name: p.grad.clone() for name, p in work.model.trained.items() if p.grad is not None}


def same_gradient(one: tuple[Any, dict[str, Tensor]], other: tuple[Any, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-3, abs=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, wanted in other[1].items():
        torch.testing.assert_close(one[1][name], wanted, rtol=1e-3, atol=1e-5)


# Before the first update


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
    mixed, _ = work.measure(taken(rollouts, turned))
    for name in ("logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns"):
        wanted = getattr(batch, name)
        torch.testing.assert_close(getattr(wide, name), wanted, rtol=0, atol=5e-5, msg=name)
        torch.testing.assert_close(getattr(mixed, name), wanted[turned], rtol=0, atol=5e-5, msg=name)
    assert wide_entropy == pytest.approx(entropy, abs=1e-5)
    alone = [work.measure(taken(rollouts, [i])) for i in range(5)]
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


# End tokens and rewards


def test_end_tokens_of_the_prompt_do_not_count(tiny_model: Path) -> None:
    work = trainer(tiny_model, kl_coef=0.0, missing_eos_penalty=0.5)
    rollouts = made(work, "bread", "eee", cut=1)
    end = work.model.loaded.tokenizer.eos_token_id
    assert all(end in asked for asked in rollouts.prompt_ids)  # the chat template's
    batch, _ = work.measure(rollouts)
    for i, response in enumerate(rollouts.responses):
        assert batch.response_mask[i].sum() == len(response)  # the end token is real: the policy must learn to stop
    # Share of e: 1 of 5 letters, and 3 of 3 less the penalty for a response that was cut. Nothing on other tokens.
    assert batch.scores.tolist() == pytest.approx([2.0, 9.5])
    wanted = torch.zeros_like(batch.rewards)
    for i, response in enumerate(rollouts.responses):
        wanted[i, len(response) - 1] = batch.scores[i]
    assert torch.equal(batch.rewards, wanted)


def test_sampling_ends_with_an_end_token_of_the_response(tiny_model: Path) -> None:
    work = trainer(tiny_model, batch_size=64, max_new_tokens=24)
    rollouts = work.sampler.sample(chosen(work), 0)
    end = work.model.loaded.tokenizer.eos_token_id
    for response, finish in zip(rollouts.responses, rollouts.finish, strict=True):
        assert end not in response[:-1]
        assert (response[-1] == end) is (finish == "stop")
        assert finish == "stop" or len(response) == 24
    assert len(set(rollouts.finish)) == 2


def test_sampled_responses_do_not_depend_on_how_many_are_sampled_at_a_time(tiny_model: Path) -> None:
    work = trainer(tiny_model)
    disturb(work.model)
    few = PpoTrainer(work.model, work.config, seed=work.seed, rewards=work.rewards, sample_batch_size=3)
    assert few.sampler.sample(chosen(work), 5) == work.sampler.sample(chosen(work), 5)
    assert work.sampler.sample(chosen(work), 6) != work.sampler.sample(chosen(work), 5)


@pytest.mark.parametrize("temperature", [0.7, 1.6])
def test_responses_are_drawn_from_the_distribution_that_is_trained(tiny_model: Path, temperature: float) -> None:
    work = trainer(tiny_model, temperature=temperature, max_new_tokens=1)
    disturb(work.model)
    work.sampler.batch_size = 1000
    rollouts = work.sampler.sample([PROMPTS[0]] * 3000, 0)
    counts = torch.bincount(torch.tensor([response[0] for response in rollouts.responses]), minlength=400).float()
    asked = rollouts.prompt_ids[0]
    tokens = range(work.model.loaded.model.config.vocab_size)
    with torch.no_grad(), work.model.using("policy"):
        state = work.model.states([(asked, (0,))])[:, len(asked) - 1]
        rows = [((), (token,)) for token in tokens]
        logprobs = work.model.logprobs(state.expand(len(rows), -1), rows)
    assert logprobs.exp().sum().item() == pytest.approx(1, abs=1e-5)

    def probability_of_chance(expected: Tensor) -> float:
        common = expected * 3000 >= 5
        seen, wanted = counts[common].tolist(), (expected[common] * 3000).tolist()
        rest = [3000 - sum(seen)], [3000 - sum(wanted)]
        return float(chisquare(seen + rest[0], wanted + rest[1], sum_check=False).pvalue)

    assert probability_of_chance(logprobs.exp()) > 1e-3
    assert probability_of_chance((logprobs * temperature).softmax(0)) < 1e-9  # temperature 1 would be noticed


# What can go wrong


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
    assert not work.optimiser.state_dict()["state"]


def test_the_learning_rate_falls_linearly_over_all_updates(tiny_model: Path) -> None:
    work = trainer(tiny_model, steps=4, learning_rate=1e-3)  # 4 updates a step, 16 in all
    seen = []
    for step in range(4):
        work.step(step, chosen(work, step))
        seen.append(work.optimiser.param_groups[0]["lr"])
    assert seen == pytest.approx([1e-3 * (1 - done / 16) for done in (3, 7, 11, 15)])
    assert work.optimiser.param_groups[0]["eps"] == 1e-5


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


@pytest.fixture(scope="module")
def sft_adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft") / "adapter"
    model = load_model(stage_context(tiny_model, tiny_model, "sft").config.model).model
    torch.manual_seed(1)
    peft_model = get_peft_model(model, lora_config(LoraTable()))  # type: ignore[call-arg]
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    peft_model.save_pretrained(str(folder))
    return folder


def ppo_context(root: Path, source: Path, sft_adapter: Path, prompts: Sequence[Prompt], **table: Any) -> StageContext:
    table = {"reward": "tests.training.toy_rewards:share_of_e", "steps": 4, "save_steps": 2, **SMALL, **table}
    context = stage_context(root, source, "ppo", ppo=table)
    context.adapter("sft").parent.mkdir(parents=True)
    context.adapter("sft").symlink_to(sft_adapter)
    JsonlFile(context.run.file("prompts", "train.jsonl"), Prompt).append(prompts)
    return context


def rows(context: StageContext) -> list[dict[str, Any]]:
    """The metrics without the times."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds_")} for row in context.metrics.read()]


def same_run(one: StageContext, other: StageContext) -> None:
    assert rows(one) == rows(other)
    assert (one.folder / "rollouts.jsonl").read_text() == (other.folder / "rollouts.jsonl").read_text()
    first, second = (load_file(c.adapter("ppo") / "adapter_model.safetensors") for c in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


ADAPTIVE = {"kl_target": 1.0, "kl_horizon": 20, "learning_rate": 1e-3, "samples_per_prompt": 2}


def test_the_stage_leaves_an_adapter_metrics_and_rollouts(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = [*PROMPTS, prompt("too long " * 80)]
    context = ppo_context(tmp_path, tiny_model, sft_adapter, asked)
    context.progress = Heard()
    counts = ppo.run(context)
    assert counts["prompts"] == 6
    assert counts["prompts_too_long"] == 1
    assert any("too long" in line for line in context.progress.lines)
    assert counts["generated_tokens"] <= 4 * 8 * 6
    assert counts["score_last"] == rows(context)[-1]["score"]
    assert [row["step"] for row in rows(context)] == [0, 1, 2, 3]
    assert sorted(path.name for path in context.folder.iterdir()) == ["adapter", "metrics.jsonl", "rollouts.jsonl"]
    shown = MetricsLog(context.folder / "rollouts.jsonl").read()
    assert {row["prompt_id"] for row in shown} <= {p.id for p in PROMPTS}
    assert len({row["prompt_id"] for row in shown if row["step"] == 0}) == 4  # of different prompts
    for row in shown:
        score = share_of_e([], [row["response"]])[0] - (row["finish"] != "stop")
        assert row["score"] == pytest.approx(score, abs=1e-5)


def test_prompts_that_are_all_too_long_are_an_error(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, [prompt("too long " * 80)])
    with pytest.raises(StageError, match="none of 1 prompts leaves room"):
        ppo.run(context)


def test_sizes_that_do_not_come_out_even_are_an_error() -> None:
    tables: tuple[dict[str, Any], ...] = (
        {"batch_size": 9, "samples_per_prompt": 2},
        {"batch_size": 8, "samples_per_prompt": 4, "num_mini_batches": 2},  # a prompt each: whitening would be its own
    )
    for table in tables:
        with pytest.raises(ConfigError, match="ppo"):
            parse({"prompts": {"all": {"source": "own"}}, "ppo": table}, where="test")


def test_the_mean_of_a_prompts_samples_is_their_baseline(tiny_model: Path) -> None:
    """By hand, without KL and critic: the advantage is the score less the mean of its prompt, wherever it stands."""
    work = trainer(tiny_model, batch_size=4, samples_per_prompt=2, num_mini_batches=1, baseline="prompt", lam=1.0)
    rollouts = made(work, "a", "b", "c", "d")
    rollouts = replace(rollouts, prompts=tuple(PROMPTS[i] for i in (0, 1, 0, 1)))
    zeros = torch.zeros(rollouts.mask.shape)
    batch = work.shaped(rollouts, zeros, zeros, zeros, Scored(torch.tensor([1.0, 10.0, 2.0, 30.0])))
    for row, advantage in enumerate((-0.5, -10.0, 0.5, 10.0)):
        assert batch.advantages[row][batch.response_mask[row]].unique().tolist() == [advantage]
    assert batch.scores.tolist() == [1.0, 10.0, 2.0, 30.0]  # what is logged stays what it was


def test_samples_of_a_prompt_stand_side_by_side(tiny_model: Path) -> None:
    asked = [prompt(f"Question {i}") for i in range(6)]  # all of one length
    work = trainer(tiny_model, batch_size=18, samples_per_prompt=3, max_new_tokens=2)
    rollouts = work.sampler.sample(ppo.step_prompts(asked, work.config, 0, 0), 0)
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
    plan = work._plan(12, 0)
    assert [sorted(part) for part in plan] == plan
    assert sorted(plan[0] + plan[1]) == sorted(plan[2] + plan[3]) == list(range(12))
    assert all(row - row % 3 + k in part for part in plan for row in part for k in range(3))
    assert plan[:2] != plan[2:]


def test_every_prompt_comes_once_an_epoch() -> None:
    config = ppo_config(batch_size=4, samples_per_prompt=2, num_mini_batches=1)
    steps = [ppo.step_prompts(PROMPTS, config, 0, step) for step in range(6)]
    for epoch in (0, 1):
        seen = [p.id for step in steps[3 * epoch : 3 * epoch + 3] for p in step]
        assert sorted(seen) == sorted([p.id for p in PROMPTS] * 2)
    assert [p.id for step in steps[:3] for p in step] != [p.id for step in steps[3:] for p in step]


def test_a_score_that_is_not_a_number_stops_with_the_batch_saved(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, reward="model")
    model = load_model(context.config.model, (context.adapter("sft"),))
    from rlaif.training.rewards.model import RewardModel

    scorer = RewardModel.new(model, LoraTable(), seed=0)  # type: ignore[call-arg]
    scorer.head.weight.data.fill_(3e38)
    scorer.save(context.adapter("reward"))
    with pytest.raises(StageError, match="not finite"):
        ppo.run(context)
    saved = torch.load(context.folder / "bad_batch.pt", weights_only=True)
    assert saved["rows"]
    assert saved["rows"] == (~saved["scores"].isfinite()).nonzero().flatten().tolist()
    assert len(saved["responses"]) == 8
    assert not context.metrics.read()


def test_a_fresh_process_goes_on_exactly(tiny_model: Path, tmp_path: Path) -> None:
    table: dict[str, Any] = {"steps": 4, **ADAPTIVE}
    whole, first, second = (trainer(tiny_model, **table) for _ in range(3))
    wanted = [whole.step(step, chosen(whole, step))[2] for step in range(4)]
    assert all(row["skipped_updates"] == 0 for row in wanted)  # or the optimiser's state would not matter
    found = [first.step(step, chosen(first, step))[2] for step in range(2)]
    first.save(tmp_path / "checkpoint", 2)
    assert second.restore(tmp_path / "nothing") == 0
    # Killed between the two renames of a later save: the former checkpoint still stands.
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    assert second.restore(tmp_path / "checkpoint") == 2
    found += [second.step(step, chosen(second, step))[2] for step in range(2, 4)]
    for one, other in zip(found, wanted, strict=True):
        assert {k: v for k, v in one.items() if "seconds" not in k} == {
            k: v for k, v in other.items() if "seconds" not in k
        }
    assert all(torch.equal(p, whole.model.trained[name]) for name, p in second.model.trained.items())
    assert second.kl.coefficient == whole.kl.coefficient != 0.05
    assert wanted[3]["kl_coef"] != wanted[2]["kl_coef"]


def test_a_killed_stage_ends_as_the_uncut_one(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    whole = ppo_context(tmp_path / "whole", tiny_model, sft_adapter, PROMPTS, **ADAPTIVE)
    counts = ppo.run(whole)
    named = {"source": "tests.training.toy_rewards:killed_at_the_fourth_call", "name": "share_of_e"}
    table = {**ADAPTIVE, "reward": named}
    cut = ppo_context(tmp_path / "cut", tiny_model, sft_adapter, PROMPTS, **table)
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from rlaif.stages import ppo; from tests.training.contexts import stage_context\n"
        "torch.set_num_threads(1)\n"
        f"ppo.run(stage_context(Path(sys.argv[1]), Path(sys.argv[2]), 'ppo', ppo={cut.config.ppo.model_dump()!r}))"
    )
    counter = tmp_path / "counter"
    counter.touch()
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cut"), str(tiny_model)],
        env={**os.environ, "KILL_COUNTER": str(counter)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(rows(cut)) == 3  # and the checkpoint is after two
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILL_COUNTER", str(counter))
        assert ppo.run(cut) == counts
    same_run(cut, whole)
    before = rows(cut)
    assert ppo.run(cut) == counts  # killed again, between the adapter and the stage's record
    assert rows(cut) == before
