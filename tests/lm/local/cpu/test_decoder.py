"""The faster decoding step against the model's own: same states, same greedy tokens, same distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from rlaif.config import ModelConfig
from rlaif.core.records import Message
from rlaif.lm.local.causal_lm import CausalLM, places_filled, sample
from rlaif.lm.local.cpu import decoder as engine
from rlaif.lm.local.cpu.decoder import LlamaDecoder
from rlaif.lm.local.cpu.engine import WORTH_PACKING
from rlaif.lm.local.load import load_model
from rlaif.lm.local.model import LocalModel
from rlaif.lm.protocol import GenerateRequest
from tests.tiny import NEVER, SHARED, Arch, by_transformers, load, make_tiny_model, random_ids, random_model


def qwen3() -> Any:
    """A tiny Qwen3: it norms queries and keys, and its heads are not hidden / heads wide."""
    made = random_model("qwen3", head_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in made.model.layers:  # at 1, where they start, a norm that was left out would hardly be seen
            layer.self_attn.q_norm.weight.uniform_(0.2, 3)
            layer.self_attn.k_norm.weight.uniform_(0.2, 3)
    return made


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    if request.param == "qwen3":
        return CausalLM(qwen3())
    arch: Arch = request.param
    model = load(make_tiny_model(tmp_path_factory.mktemp("engine") / arch, arch))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # qwen2's start at 0
            parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return CausalLM(model)


@pytest.mark.parametrize("shared", [[], SHARED, SHARED * 3], ids=["nothing shared", "a beginning", "a long beginning"])
def test_greedy_is_that_of_transformers_token_for_token(lm: CausalLM, shared: list[int]) -> None:
    prompts = [shared + row for row in random_ids([3, 17, 1, 40, 9])]
    prompts.append(prompts[1])
    alone = [by_transformers(lm.model, prompt, 20, [NEVER]) for prompt in prompts]
    # A token that some rows say and others do not: rows leave the batch at different times.
    end = next(t for row in alone for t in row if 0 < sum(t in other for other in alone) < 6)
    expected = [by_transformers(lm.model, prompt, 20, [end]) for prompt in prompts]
    decoder = LlamaDecoder.of(lm, rows=6)
    assert decoder is not None

    found = sample(lm, prompts, max_new_tokens=20, temperature=0, seeds=[0] * 6, ends=[end], decoder=decoder)

    assert [row.ids for row in found] == expected
    assert {row.finish for row in found} == {"stop", "length"}


def test_rows_that_leave_a_batch_leave_the_others_as_they_are(lm: CausalLM) -> None:
    decoder, prompts, ends = LlamaDecoder.of(lm, rows=24), random_ids([5, 30, 2, 11] * 6), list(range(3, 60))
    options: dict[str, Any] = {"max_new_tokens": 24, "temperature": 1.0, "ends": ends, "decoder": decoder}
    together = sample(lm, prompts, seeds=range(24), **options)
    alone = [sample(lm, [prompt], seeds=[seed], **options)[0] for seed, prompt in enumerate(prompts)]
    assert together == alone
    assert len({len(row.ids) for row in together}) > 5


def test_the_last_rows_fill_the_gaps() -> None:
    assert places_filled([0, 1, 2]) == [0, 1, 2]
    assert places_filled([0, 2, 3, 5, 6]) == [0, 6, 2, 3, 5]
    assert places_filled([7]) == [7]


def test_what_is_sampled_follows_the_models_probabilities(lm: CausalLM) -> None:
    prompt, count = random_ids([11])[0], 4000
    first = int(lm.model(torch.tensor([prompt])).logits[0, -1].argmax())
    expected = lm.model(torch.tensor([[*prompt, first]])).logits[0, -1].div(0.5).softmax(-1)
    decoder = LlamaDecoder.of(lm, rows=count)
    assert decoder is not None

    rows = sample(
        lm, [prompt] * count, max_new_tokens=2, temperature=0.5, seeds=range(count), ends=[NEVER], decoder=decoder
    )

    second = torch.tensor([row.ids[1] for row in rows if row.ids[0] == first])
    common = expected.topk(6).indices
    share = expected[common]
    seen = torch.stack([(second == token).sum() for token in common]).float()
    seen, share = torch.cat([seen, len(second) - seen.sum()[None]]), torch.cat([share, 1 - share.sum()[None]])
    assert len(second) > 200
    assert chisquare(seen.double(), (share.double() / share.double().sum()) * seen.double().sum()).pvalue > 1e-3


def test_bfloat16_weights_are_packed_and_the_states_stay(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "llama")
    lm = CausalLM(load_model(ModelConfig(source=str(folder), dtype="bfloat16", device="cpu")).model)
    decoder = LlamaDecoder.of(lm, rows=2)
    assert decoder is not None
    assert decoder.head.packed


def test_the_decoder_holds_the_weights_of_its_making(tmp_path: Path) -> None:
    lm = CausalLM(load(make_tiny_model(tmp_path / "llama")))
    old = LlamaDecoder.of(lm, rows=1)
    prompt = [[5, 6, 7]]
    named: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0, "seeds": [0], "ends": [NEVER]}
    before = sample(lm, prompt, decoder=old, **named)
    for layer in lm.trunk.layers:
        layer.mlp.down_proj.weight.data.neg_()

    new = LlamaDecoder.of(lm, rows=1)

    assert sample(lm, prompt, decoder=new, **named) == sample(lm, prompt, **named) != before
    assert old is not None
    assert not old._agrees(lm)


def test_without_onednn_the_weights_are_taken_as_they_are(lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    named: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0, "seeds": [0, 0], "ends": [0]}
    prompts = random_ids([4, 12])
    expected = sample(lm, prompts, decoder=LlamaDecoder.of(lm, rows=2), **named)
    monkeypatch.setattr(engine, "_packs", lambda weight: False)
    decoder = LlamaDecoder.of(lm, rows=2)
    assert decoder is not None
    assert not decoder.head.packed
    assert sample(lm, prompts, decoder=decoder, **named) == expected


@pytest.mark.parametrize("rope", ["dynamic", "yarn", "llama3"])
def test_positions_are_turned_as_the_model_turns_them(rope: str) -> None:
    lm = CausalLM(random_model("llama", rope_parameters=ROPES[rope] | {"rope_type": rope, "rope_theta": 100.0}))
    prompts = random_ids([60, 9, 33])
    decoder = LlamaDecoder.of(lm, rows=3)
    assert decoder is not None
    found = sample(lm, prompts, max_new_tokens=20, temperature=0, seeds=[0] * 3, ends=[0], decoder=decoder)
    without = sample(lm, prompts, max_new_tokens=20, temperature=0, seeds=[0] * 3, ends=[0])
    assert found == without


ROPES: dict[str, dict[str, Any]] = {
    "dynamic": {"factor": 4.0, "original_max_position_embeddings": 40},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 40},
    "llama3": {"factor": 4.0, "original_max_position_embeddings": 40, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


OTHERS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 8},  # as it is without: see the next test
    "granite": {"residual_multiplier": 0.5, "attention_multiplier": 0.3},
    "olmo2": {},  # norms behind the sublayers
    "ernie4_5": {"head_dim": 8},  # neighbours are turned, not halves
    "phi": {"partial_rotary_factor": 0.5},
    "glm": {"head_dim": 8},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_only_resembles_llama_has_no_decoder(kind: str) -> None:
    assert LlamaDecoder.of(CausalLM(random_model(kind, **OTHERS[kind])), rows=2) is None


def test_a_mistral_without_a_window_has_one() -> None:
    assert LlamaDecoder.of(CausalLM(random_model("mistral", sliding_window=None)), rows=2) is not None


def test_a_model_too_large_for_a_second_copy_has_none(lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LARGEST", sum(p.nbytes for p in lm.model.parameters()) - 1)
    assert LlamaDecoder.of(lm, rows=2) is None


def test_local_answers_are_the_same_and_short_ones_pack_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_model(tmp_path / "llama")
    loaded = load_model(ModelConfig(source=str(folder), dtype="float32", device="cpu"))
    asked = [GenerateRequest((Message("user", text),), WORTH_PACKING, 1.0, 7) for text in ("Hi", "How are you?", "No")]
    short = [GenerateRequest(asked[0].messages, WORTH_PACKING - 1, 1.0, 7)]
    model = LocalModel(loaded, batch_size=2)
    model.ask(short)
    assert "decoder" not in vars(model)
    answers = model.ask(asked)
    assert model.decoder is not None
    model.close()
    assert "decoder" not in vars(model)

    monkeypatch.setattr(LlamaDecoder, "of", lambda lm, rows: None)
    assert LocalModel(loaded, batch_size=2).ask(asked) == answers


@pytest.mark.parametrize("other", ["gpt2", "gpt_neox", "gemma2"])
def test_a_model_of_another_shape_has_no_decoder(other: Any, tmp_path: Path) -> None:
    model = random_model("gemma2", head_dim=8) if other == "gemma2" else load(make_tiny_model(tmp_path / other, other))
    assert LlamaDecoder.of(CausalLM(model), rows=2) is None


def test_what_only_looks_like_llama_is_found_out_by_trying(tmp_path: Path) -> None:
    lm = CausalLM(load(make_tiny_model(tmp_path / "llama")))
    assert LlamaDecoder.of(lm, rows=2) is not None
    attention = lm.trunk.layers[1].self_attn
    attention.register_forward_hook(lambda module, given, made: (made[0] * 0.5, *made[1:]))
    assert LlamaDecoder.of(lm, rows=2) is None
