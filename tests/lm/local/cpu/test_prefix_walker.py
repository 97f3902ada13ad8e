"""Scoring by a walk against plain forward passes, on tiny models; the same bits whatever is asked beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlaif.core.errors import ModelError
from rlaif.lm.local.causal_lm import CausalLM
from rlaif.lm.local.cpu.prefix_walker import Walker
from rlaif.lm.local.packing import Row
from tests.tiny import Arch, by_forward, load, make_tiny_model

DRAW = np.random.default_rng(0)


def ids(size: int) -> tuple[int, ...]:
    return tuple(DRAW.integers(3, 390, size).tolist())


SYSTEM, OTHER = ids(150), ids(60)  # with what follows they end just before a stretch of the grid does, and after
CHATS = [SYSTEM + ids(9), SYSTEM + ids(98), OTHER + ids(62), ids(4), SYSTEM]
ROWS: list[Row] = [(chat, ids(size)) for chat in CHATS for size in (1, 7, 20)] + [(CHATS[0], ids(2)), (CHATS[3], ())]


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen2"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    arch: Arch = request.param
    return CausalLM(load(make_tiny_model(tmp_path_factory.mktemp("arch") / arch, arch)))


@pytest.mark.parametrize("tokens", [1, 40, 1000], ids=["tiny passes", "cut rows", "one pass"])
def test_log_probs_are_those_of_a_plain_forward(lm: CausalLM, tokens: int) -> None:
    walker = Walker(lm, tokens=tokens)
    assert walker.fits()
    attention = lm.model.config._attn_implementation
    for rows in (ROWS, ROWS[::-1], ROWS[3:5]):  # the later ones with what the earlier ones left
        for row, found in zip(rows, walker.logprobs(rows), strict=True):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, by_forward(lm.model, *row), rtol=1e-4, atol=1e-4)
    assert lm.model.config._attn_implementation == attention
    assert walker.logprobs([]) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_gets_the_same_bits_whatever_is_asked_beside_it(tiny_model: Path, dtype: str) -> None:
    """True of the CPUs and libraries we know, not promised by them: see rlaif.lm.local.cpu.prefix_walker."""
    lm = CausalLM(load(tiny_model, dtype))
    together = Walker(lm, tokens=1000).logprobs(ROWS)
    alone = [Walker(lm, tokens=1000).logprobs([row])[0] for row in ROWS]
    walker = Walker(lm, tokens=50)
    order = np.random.default_rng(1).permutation(len(ROWS))
    parts = [values for part in np.array_split(order, 5) for values in walker.logprobs([ROWS[i] for i in part])]
    for found in (alone, [parts[place] for place in np.argsort(order)]):
        assert [values.tolist() for values in found] == [values.tolist() for values in together]


@pytest.fixture
def counted(tiny_model: Path) -> tuple[CausalLM, list[int]]:
    """A model and the tokens that each of its walks' passes computes."""
    lm, seen = CausalLM(load(tiny_model)), []
    lm.trunk.register_forward_pre_hook(
        lambda _, __, given: seen.append(sum(len(step.ids) for _, step, _ in given.get("steps", ()))), with_kwargs=True
    )
    return lm, seen


def test_beginnings_that_rows_share_are_kept_for_the_next_call(counted: tuple[CausalLM, list[int]]) -> None:
    lm, seen = counted
    walker = Walker(lm, tokens=1000)
    first, second = ([(start + ids(5), (7,)) for start in (SYSTEM, OTHER) for _ in range(3)] for _ in range(2))
    walker.logprobs(first)
    found = walker.logprobs(second)
    assert seen == [150 + 60 + 6 * 5, 6 * 5]
    for row, values in zip(second, found, strict=True):
        torch.testing.assert_close(values, by_forward(lm.model, *row), rtol=1e-4, atol=1e-4)


def test_what_was_used_longest_ago_goes_when_there_is_no_more_room(counted: tuple[CausalLM, list[int]]) -> None:
    lm, seen = counted
    config = lm.model.config
    token = 2 * 2 * 4 * config.num_key_value_heads * config.head_dim  # two layers' keys and values in float32
    walker = Walker(lm, tokens=1000, limit=token * 220)
    third = ids(50)
    for start in (SYSTEM, OTHER, SYSTEM, third):
        walker.logprobs([(start + ids(5), (7,)) for _ in range(2)])
    assert [len(kept) for kept in walker.kept] == [150, 50]  # OTHER had not been used since
    assert seen == [160, 70, 10, 60]


def test_a_failed_pass_leaves_nothing_wrong_behind(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = CausalLM(load(tiny_model))
    walker = Walker(lm, tokens=64)
    walker.logprobs(ROWS[:3])
    attention, attend, calls = lm.model.config._attn_implementation, walker.attend, iter(range(99))

    def breaks(*inputs: Any) -> torch.Tensor:
        if next(calls) == 3:  # in the second pass
            raise RuntimeError("out of memory")
        return attend(*inputs)

    monkeypatch.setattr(walker, "attend", breaks)
    with pytest.raises(RuntimeError, match="out of memory"):
        walker.logprobs(ROWS[3:])
    assert lm.model.config._attn_implementation == attention
    for row, found in zip(ROWS, walker.logprobs(ROWS), strict=True):
        torch.testing.assert_close(found, by_forward(lm.model, *row), rtol=1e-4, atol=1e-4)


def test_models_whose_attention_is_more_are_refused(tiny_model: Path) -> None:
    lm = CausalLM(load(tiny_model))
    forward = lm.model.model.layers[1].self_attn.forward
    for option in ("softcap", "sliding_window"):
        lm.model.model.layers[1].self_attn.forward = lambda *args, o=option, **more: forward(*args, **{o: 4}, **more)
        assert not Walker(lm, tokens=64).fits()
    lm.model.model.layers[1].self_attn.forward = lambda *args, **more: forward(*args, **more)
    assert Walker(lm, tokens=64).fits()
    lm.split = False
    assert not Walker(lm, tokens=64).fits()


def test_a_model_that_takes_its_attention_otherwise_is_noticed(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = CausalLM(load(tiny_model))
    walker = Walker(lm, tokens=64)
    monkeypatch.setattr(walker, "attend", lambda _, __, query, *rest: torch.zeros_like(query).transpose(1, 2))
    assert not walker.fits()


def test_scores_that_are_not_numbers_are_an_error(tiny_model: Path) -> None:
    model = load(tiny_model)
    model.get_input_embeddings().weight.data[5] = torch.nan
    with pytest.raises(ModelError, match="not a number"):
        Walker(CausalLM(model), tokens=64).logprobs([([3, 5], [4])])
