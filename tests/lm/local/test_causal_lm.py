"""Sampling and scoring against transformers' own generate and forward, on tiny models of several architectures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from rlaif.config import ModelConfig
from rlaif.core.errors import ModelError
from rlaif.lm.local.causal_lm import (
    CausalLM,
    PrefixCache,
    common_prefix,
    left_pad,
    pick,
    prefix_groups,
    sample,
    target_logprobs,
    uniforms,
)
from rlaif.lm.local.load import load_model
from tests.tiny import NEVER, SHARED, Arch, by_forward, by_transformers, load, make_tiny_model, random_ids, random_model


def gemma(softcap: float = 2.0, window: int = 4096) -> Any:
    """A tiny Gemma2: its logits are not head(hidden), and every second layer sees a window only."""
    return random_model("gemma2", head_dim=8, sliding_window=window, final_logit_softcapping=softcap)


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2", "gemma2", "gemma2 with a window of 8"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if request.param.startswith("gemma2"):
        yield gemma(window=8 if "window" in request.param else 4096)
    else:
        arch: Arch = request.param
        yield load(make_tiny_model(tmp_path_factory.mktemp("arch") / arch, arch))


@pytest.fixture(scope="module")
def llama(tiny_model: Path) -> CausalLM:
    return CausalLM(load(tiny_model))


@pytest.mark.parametrize("shared", [[], SHARED], ids=["nothing shared", "a shared beginning"])
def test_greedy_is_transformers_greedy_token_for_token(model: Any, shared: list[int]) -> None:
    prompts = [shared + row for row in random_ids([3, 17, 1, 40, 9])]
    alone = [by_transformers(model, prompt, 12, [NEVER]) for prompt in prompts]
    # A token that some rows say and others do not: rows leave the batch at different times.
    said = sorted({token for row in alone for token in row})
    end = next((t for t in said if 1 < sum(t in row for row in alone) < 5), said[0])
    expected = [by_transformers(model, prompt, 12, [end]) for prompt in prompts]

    found = sample(CausalLM(model), prompts, max_new_tokens=12, temperature=0, seeds=[0] * 5, ends=[end])

    assert [row.ids for row in found] == expected
    assert [row.finish for row in found] == ["stop" if row[-1] == end else "length" for row in expected]


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("shared", [[], SHARED], ids=["nothing shared", "a shared beginning"])
@pytest.mark.parametrize("cached", [False, True], ids=["plain", "prefix cache"])
def test_target_logprobs_are_those_of_a_plain_forward(
    model: Any, batch_size: int, shared: list[int], cached: bool
) -> None:
    contexts = [shared + row for row in random_ids([5, 1, 30, 12, 8, 8])]
    targets = random_ids([4, 9, 1, 20, 2, 7], seed=1)
    lm = CausalLM(model)
    prefixes = PrefixCache(lm) if cached else None
    for _ in range(2):  # the second time from the cache
        found = target_logprobs(lm, list(zip(contexts, targets, strict=True)), batch_size=batch_size, prefixes=prefixes)
        for context, target, values in zip(contexts, targets, found, strict=True):
            torch.testing.assert_close(values, by_forward(model, context, target), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["its own", "eager"])
@pytest.mark.parametrize("cached", [False, True], ids=["plain", "prefix cache"])
def test_targets_of_one_context_see_nothing_of_each_other(model: Any, attention: str, cached: bool) -> None:
    own = model.config._attn_implementation
    first, second, third = (SHARED + row for row in random_ids([5, 9, 1]))
    rows = list(zip([first, second, first, third, first, second], random_ids([4, 9, 1, 20, 2, 7], 1), strict=True))
    try:
        model.set_attn_implementation(own if attention == "its own" else attention)
        lm = CausalLM(model)
        assert lm.packs is (model.config.model_type != "gemma2")  # one that sees a window takes no mask of ours
        found = target_logprobs(lm, rows, batch_size=8, prefixes=PrefixCache(lm) if cached else None)
        for (context, target), values in zip(rows, found, strict=True):
            torch.testing.assert_close(values, by_forward(model, context, target), rtol=1e-4, atol=1e-4)
    finally:
        model.set_attn_implementation(own)


def test_a_model_that_takes_no_mask_of_ours_is_noticed() -> None:
    """Falcon with ALiBi makes its bias from a 2-D mask."""
    model = random_model("falcon", alibi=True, new_decoder_architecture=False)
    lm = CausalLM(model)
    assert not lm.packs
    context, targets = random_ids([9])[0], random_ids([4, 6, 2], seed=1)
    found = target_logprobs(lm, [(context, target) for target in targets], batch_size=2)
    for target, values in zip(targets, found, strict=True):
        torch.testing.assert_close(values, by_forward(model, context, target), rtol=1e-4, atol=1e-4)


def test_equal_contexts_are_computed_once(llama: CausalLM) -> None:
    seen: list[int] = []
    handle = llama.trunk.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    context, targets = random_ids([30])[0], random_ids([5] * 8, seed=1)
    target_logprobs(llama, [(context, target) for target in targets], batch_size=8)
    asked = [context] * 8
    sample(llama, asked, max_new_tokens=1, temperature=1.0, seeds=range(8), ends=[NEVER])
    handle.remove()
    assert seen == [30 + 8 * 4, 30]


def test_a_prompt_asked_often_gives_the_samples_of_its_seeds(llama: CausalLM) -> None:
    one, other = random_ids([9, 14])
    prompts, seeds = [one, other, one, one, other], [3, 3, 4, 3, 5]
    options = {"max_new_tokens": 10, "temperature": 1.0, "ends": [2]}
    together = sample(llama, prompts, seeds=seeds, **options)
    assert together == [sample(llama, [p], seeds=[seed], **options)[0] for p, seed in zip(prompts, seeds, strict=True)]
    assert together[0] == together[3]
    assert together[0] != together[2]


def test_soft_capped_logits_are_noticed() -> None:
    lm = CausalLM(gemma())
    assert not lm.split
    states = lm.states(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
    assert states.shape == (1, 3, 400)
    assert lm.logits(states[0]).abs().max() <= 2.0
    assert lm.last_states(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).shape == (1, 400)


def test_soft_capping_far_above_the_logits_is_noticed() -> None:
    """Logits of at most 1 under a cap of 30 change by at most 1/2700."""
    model = gemma(softcap=30.0)
    ids = torch.arange(1, 9)[None]
    raw = model.lm_head(model.model(input_ids=ids).last_hidden_state)
    model.model.norm.weight.data.fill_(1 / raw.abs().max().item() - 1)  # Gemma's norm multiplies by 1 + weight
    raw = model.lm_head(model.model(input_ids=ids).last_hidden_state)
    assert 1e-4 < (model(input_ids=ids).logits - raw).abs().max() < 1e-3
    assert not CausalLM(model).split


def test_a_common_model_is_split_and_never_makes_logits_of_the_prompt(llama: CausalLM) -> None:
    assert llama.split
    assert llama.states(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).shape == (1, 3, 48)


def test_a_sample_depends_on_its_own_seed_alone(llama: CausalLM) -> None:
    prompts = random_ids([4, 25, 11, 4, 60, 2])
    seeds = [11, 12, 13, 14, 15, 2**63 - 1]
    # Many tokens end an answer, so that rows leave the batch at different times.
    settings: dict[str, Any] = {"max_new_tokens": 25, "temperature": 1.0, "ends": list(range(2, 42))}
    together = sample(llama, prompts, seeds=seeds, **settings)
    alone = [sample(llama, [p], seeds=[s], **settings)[0] for p, s in zip(prompts, seeds, strict=True)]
    backwards = sample(llama, prompts[::-1], seeds=seeds[::-1], **settings)[::-1]
    other = sample(llama, prompts, seeds=[s + 1 for s in seeds[:-1]] + [0], **settings)
    assert together == alone == backwards
    assert len({len(row.ids) for row in together}) > 3
    assert all(a.ids != b.ids for a, b in zip(together, other, strict=True))


def test_an_end_token_in_the_prompt_stops_nothing(llama: CausalLM) -> None:
    end = 2
    prompts = [[5, end, 6, end], [end, end], [7, end, 9, 10, end]]
    found = sample(llama, prompts, max_new_tokens=6, temperature=0, seeds=[0] * 3, ends=[end])
    assert [row.ids for row in found] == [by_transformers(llama.model, prompt, 6, [end]) for prompt in prompts]
    assert all(len(row.ids) > 1 for row in found)


def test_finish_reasons_and_notice_of_every_token(llama: CausalLM) -> None:
    first = by_transformers(llama.model, SHARED, 1, [NEVER])[0]
    told: list[int] = []
    settings: dict[str, Any] = {"temperature": 0, "seeds": [0, 0], "notify": told.append}
    stopped = sample(llama, [SHARED, SHARED], max_new_tokens=5, ends=[2, first], **settings)
    assert [(row.ids, row.finish) for row in stopped] == [([first], "stop")] * 2
    cut = sample(llama, [SHARED, SHARED], max_new_tokens=5, ends=[NEVER], **settings)
    assert [(len(row.ids), row.finish) for row in cut] == [(5, "length")] * 2
    assert told == [2, 2, 2, 2, 2, 2]


def test_an_end_token_at_the_very_last_place_is_a_stop(llama: CausalLM) -> None:
    ids = by_transformers(llama.model, SHARED, 3, [NEVER])
    assert ids[2] not in ids[:2]
    found = sample(llama, [SHARED], max_new_tokens=3, temperature=0, seeds=[0], ends=[ids[2]])
    assert (found[0].ids, found[0].finish) == (ids, "stop")


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_picks_follow_the_distribution(temperature: float) -> None:
    weights = torch.tensor([0.4, 0.0, 0.3, 0.2, 0.0, 0.1, 0.0])
    count = 20_000
    draws = torch.from_numpy(uniforms([5], count)[0])
    found, _ = pick(weights.log().expand(count, -1), draws, temperature)
    observed = torch.bincount(found, minlength=7)
    expected = weights.double() ** (1 / temperature)
    expected = expected / expected.sum() * count
    assert observed[weights == 0].tolist() == [0, 0, 0]
    assert chisquare(observed[weights > 0].numpy(), expected[weights > 0].numpy()).pvalue > 1e-3


def test_edges_of_the_unit_interval_never_take_an_impossible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    below_one = torch.tensor([1.0]).nextafter(torch.zeros(1))
    assert pick(logits, torch.tensor([0.0]), 1.0)[0].tolist() == [1]
    assert pick(logits, torch.tensor([0.499]), 1.0)[0].tolist() == [1]
    assert pick(logits, torch.tensor([0.5]), 1.0)[0].tolist() == [2]
    assert pick(logits, below_one, 1.0)[0].tolist() == [2]
    assert pick(logits, torch.tensor([1.0]), 1.0)[0].tolist() == [2]


def test_the_last_token_of_a_large_vocabulary_can_be_drawn() -> None:
    logits = torch.zeros(2, 49_152)
    edges = torch.tensor([0.0, 1.0]).nextafter(torch.tensor([0.0, 0.0]))
    assert pick(logits, edges, 1.0)[0].tolist() == [0, 49_151]


def test_a_tiny_temperature_is_greedy_and_not_nan() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    assert pick(logits, torch.tensor([0.999]), 1e-40)[0].tolist() == [1]
    assert pick(logits, torch.tensor([0.999]), 0)[0].tolist() == [1]


def test_a_pick_comes_with_its_log_prob_at_the_temperature() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    for temperature in (0.5, 1.0, 2.0):
        token, logprob = pick(logits, torch.tensor([0.5]), temperature)
        assert logprob.tolist() == pytest.approx([float((logits / temperature).log_softmax(-1)[0, token[0]])])


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_are_not_numbers_are_an_error(temperature: float) -> None:
    with pytest.raises(ModelError, match="not a number"):
        pick(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), torch.tensor([0.5, 0.5]), temperature)


def test_scores_that_are_not_numbers_are_an_error(tiny_model: Path) -> None:
    model = load(tiny_model)
    model.get_input_embeddings().weight.data[5] = torch.nan
    with pytest.raises(ModelError, match="not a number"):
        target_logprobs(CausalLM(model), [([3, 5], [4])], batch_size=1)


def test_uniform_streams_are_one_per_seed_and_start_the_same_at_any_length() -> None:
    long = uniforms([3, 4], 100)
    assert np.array_equal(uniforms([4, 3], 10), long[::-1, :10])
    assert long.dtype == np.float32
    assert 0 <= long.min() < long.max() < 1
    assert not np.array_equal(long[0], long[1])


def test_left_pad() -> None:
    ids, mask = left_pad([[1, 2, 3], [4]], 9, torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4], [1, 2]], (1, 2)),
        ([[1, 2], [1, 2]], (1, 2)),
        ([[1], [2]], ()),
        ([[], [1]], ()),
        ([[1, 3], [1, 2, 9], [1, 2, 3]], (1,)),
    ],
)
def test_common_prefix(rows: list[list[int]], expected: tuple[int, ...]) -> None:
    assert common_prefix(rows) == expected


def test_the_prefix_cache_keeps_the_latest_few(llama: CausalLM) -> None:
    cache = PrefixCache(llama, size=2)
    for first in (3, 4, 5):
        expanded = cache.expanded((first, 6, 7), 4)
        assert expanded.layers[0].keys.shape[0] == 4
    assert list(cache.entries) == [(4, 6, 7), (5, 6, 7)]


def test_prompts_under_several_shared_beginnings_sample_as_alone(tiny_model: Path) -> None:
    lm = CausalLM(load_model(ModelConfig(source=str(tiny_model), dtype="float32")).model)
    first, second = list(range(5, 70)), [9, *range(20, 140)]
    prompts = [first + [41 + i] * (1 + 3 * i) for i in range(4)] + [second + [50 + i] * (2 + i) for i in range(3)]
    prompts += [[7, 8, 9], [*first, 44, 3, 1]]
    groups = prefix_groups(prompts)
    assert sorted(index for _, group in groups for index in group) == list(range(len(prompts)))
    assert sorted(len(prefix) for prefix, _ in groups) == [0, 65, 121]
    options = {"max_new_tokens": 12, "temperature": 1.0, "ends": [2]}
    prefixes = PrefixCache(lm)
    for _ in range(2):  # the second time from the kept prefixes
        together = sample(lm, prompts, seeds=range(len(prompts)), prefixes=prefixes, **options)
        alone = [sample(lm, [prompt], seeds=[seed], **options)[0] for seed, prompt in enumerate(prompts)]
        assert together == alone
    assert len(prefixes.entries) == 2
