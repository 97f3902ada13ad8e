"""Models that cannot be opened are known before they are loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif.core.errors import ModelError
from rlaif.lm.local.headers import read_headers
from tests.tiny import CONTEXT


def test_a_sound_folder_says_what_it_takes(tiny_model: Path) -> None:
    from safetensors.torch import load_file

    found = read_headers(str(tiny_model))
    assert found.weights == sum(weight.numel() for weight in load_file(tiny_model / "model.safetensors").values())
    assert (found.context, found.place) == (CONTEXT, str(tiny_model))
    assert found.tokenizer.eos_token == "<|im_end|>"


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink()


def _shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _cut_bin(folder: Path) -> None:
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.ones(999)}, folder / "pytorch_model.bin")
    _cut(folder / "pytorch_model.bin")


def _other_kind(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "chat_template.jinja").unlink(), "no chat template"),
        (_no_tokenizer, "the folder holds no tokenizer"),
        (lambda folder: _cut(folder / "tokenizer.json"), "cannot load the tokenizer"),
        (
            lambda folder: _cut(folder / "model.safetensors"),
            r"model\.safetensors: the weights cannot be read: .*incompl",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"not weights"), "the weights cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (_shards, "of the weights model-2-of-2.safetensors is missing"),
        (lambda folder: (_shards(folder), (folder / "model.safetensors.index.json").write_text("{}")), "index of"),
        (_cut_bin, "pytorch_model.bin: the weights cannot be read: the file is cut short"),
        (_other_kind, "a vit model generates no text"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load the model"),
    ],
)
def test_a_folder_that_cannot_be_opened(
    tiny_model: Path, tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    harm(copy)
    with pytest.raises(ModelError, match=message) as caught:
        read_headers(str(copy))
    assert caught.value.remedy


@pytest.mark.parametrize("content", [b"junk" * 999, b"GGUF" + b"\xff" * 999, b""])
def test_a_gguf_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="cannot load the model"):
        read_headers(str(file))
