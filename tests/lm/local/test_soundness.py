"""Models that load but cannot serve: found at once, and named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rlaif.config import ModelConfig
from rlaif.core.errors import ModelError
from rlaif.lm.local.load import load_model
from tests.tiny import VOCABULARY, other_model, tiny_tokenizer


def config(source: Path) -> ModelConfig:
    return ModelConfig(source=str(source), dtype="float32", device="cpu")


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_a_number_is_named(copy: Path, value: float) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 4] = value
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 of its weight tensors .*layers\.1\.mlp\.down_proj") as caught:
        load_model(config(copy))
    assert caught.value.where == str(copy)


def test_an_encoder_is_refused_though_it_loads(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="looks ahead") as caught:
        load_model(config(other_model(tmp_path, "bert", intermediate_size=96)))
    assert "decoder-only" in str(caught.value.remedy)


def test_a_decoder_of_the_same_kind_is_not(tmp_path: Path) -> None:
    load_model(config(other_model(tmp_path, "bert", intermediate_size=96, is_decoder=True)))


def test_a_model_without_sdpa_is_loaded_with_what_it_has(tmp_path: Path) -> None:
    loaded = load_model(config(other_model(tmp_path, "bloom", n_layer=2, n_head=4)))
    assert loaded.model.config._attn_implementation == "eager"


def shrink(folder: Path, size: int) -> None:
    """Leaves the model only the first `size` embeddings."""
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:size].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, "vocab_size": size}))


def test_tokens_without_an_embedding_are_refused(copy: Path) -> None:
    shrink(copy, VOCABULARY - 30)
    with pytest.raises(ModelError, match=r"has 30 tokens for which the model has no embedding \(it has 370\)"):
        load_model(config(copy))


@pytest.mark.parametrize("used", [False, True])
def test_a_special_token_without_an_embedding_matters_if_the_template_writes_it(copy: Path, used: bool) -> None:
    """Gemma 3's tokenizer has one for images; a chat template put upon a base model is the common mistake."""
    tokenizer = tiny_tokenizer().__class__.from_pretrained(copy)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    if used:
        tokenizer.chat_template = "<|extra|>" + tokenizer.chat_template
    tokenizer.save_pretrained(copy)
    if used:
        with pytest.raises(ModelError, match=r"1 tokens .*'<\|extra\|>'"):
            load_model(config(copy))
    else:
        load_model(config(copy))
