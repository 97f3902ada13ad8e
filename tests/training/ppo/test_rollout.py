"""Responses and what each of their tokens is given: end tokens, and the distribution that is drawn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from rlaif.training.ppo.step import PpoTrainer
from tests.training.tiny_ppo import PROMPTS, chosen, disturb, made, trainer


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
    one, other = few.sampler.sample(chosen(work), 5), work.sampler.sample(chosen(work), 5)
    assert replace(one, sampler_logprobs=None) == replace(other, sampler_logprobs=None)
    for ours, theirs in zip(one.sampler_logprobs or (), other.sampler_logprobs or (), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert work.sampler.sample(chosen(work), 6).responses != other.responses


def test_the_sampler_says_how_likely_it_found_each_token(tiny_model: Path) -> None:
    work = trainer(tiny_model, temperature=0.7)
    disturb(work.model)
    rollouts = work.sampler.sample(chosen(work), 0)
    batch, _ = work.measure(rollouts)
    found, mask = rollouts.padded_sampler_logprobs, batch.response_mask
    assert found is not None
    torch.testing.assert_close(found[mask], batch.logprobs[mask], rtol=1e-4, atol=1e-4)


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
