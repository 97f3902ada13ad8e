"""Loads weights: a hub id, a folder, a GGUF file, or the embedded default; merges LoRA adapters; encodes chats.

The only module, beside `rlaif.lm`, that reads model files.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from rlaif.config import LoraTable, ModelConfig
from rlaif.core.errors import ModelError
from rlaif.core.files import parse_json
from rlaif.core.records import Message, content_id
from rlaif.core.shipped import cache_folder
from rlaif.lm.local import hub
from rlaif.lm.local.gguf import LOAD_ERRORS, converted, embedded_gguf, not_loadable, sha256
from rlaif.lm.local.soundness import check_sound
from rlaif.lm.markers import is_marker, spans, without_words_of


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoadedModel:
    """A frozen causal LM in eval mode with its tokenizer. `fingerprint` changes with the weights. `merged`: the
    adapters that are merged into them, by stage and folder ("sft/adapter")."""

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    merged: tuple[str, ...] = ()


def quiet_libraries() -> None:
    """Keeps transformers' loading bars and deprecation notes out of the log; warnings of substance stay."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)


def load_model(config: ModelConfig, adapters: Sequence[Path] = (), *, attention: str | None = None) -> LoadedModel:
    """The model of `config` with the LoRA `adapters` merged into its weights, in order, frozen and in eval mode.

    `attention` None is SDPA for a model that has it. Merging is done in float32 and the sum rounded once to the model's
    dtype. Raises ModelError with a remedy.
    """
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    folder, name = resolve(config.source)
    device, dtype = pick_device(config.device), pick_dtype(config.dtype, config.device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if adapters else dtype,
            attn_implementation=attention,
            trust_remote_code=False,  # unset, transformers asks on the terminal
        )
    except MemoryError:
        raise
    except Exception as problem:  # transformers lets pass whatever a damaged file makes it raise
        raise not_loadable(config.source, problem) from None
    for adapter in adapters:
        model = _merge_adapter(model, adapter)
    model = _cast(model, dtype).to(device).eval().requires_grad_(False)
    tokenizer = load_tokenizer(folder)
    check_sound(model, tokenizer, str(config.source))
    fingerprint = model_fingerprint(config, adapters)
    if name == config.source and not Path(name).is_dir():  # a hub id, which `model_fingerprint` knows by name only
        cached = hub.cached(name)
        fingerprint = fingerprint if cached is None else content_id(fingerprint, cached.name)
    merged = tuple(f"{adapter.parent.name}/{adapter.name}" for adapter in adapters)
    return LoadedModel(model, tokenizer, name, fingerprint, device, dtype, merged)


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """The model with its weights in `dtype`. What is no weight stays: rotary frequencies in bfloat16 would turn late
    positions by the wrong angle, and transformers keeps them in float32."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point() and name not in module._non_persistent_buffers_set:
                setattr(module, name, buffer.to(dtype))
    return model


def load_tokenizer(folder: str) -> Any:
    """The tokenizer of the model; raises ModelError when it has no chat template or no end-of-sequence token."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as problem:  # as above
        if Path(folder).is_dir() and not hub.has_tokenizer(Path(folder)):
            raise ModelError(
                "the folder holds no tokenizer",
                where=folder,
                remedy="copy tokenizer.json, tokenizer_config.json and the chat template of the model it was made from",
            ) from None
        raise not_loadable(folder, problem, "tokenizer") from None
    return usable(tokenizer, folder)


def usable(tokenizer: Any, where: str) -> Any:
    """The tokenizer; ModelError where it has no chat template or no end-of-sequence token."""
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokenizer has no chat template",
            where=where,
            remedy="use an instruction-tuned model, or add chat_template.jinja to its folder",
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end-of-sequence token", where=where, remedy="set eos_token in tokenizer_config.json"
        )
    return tokenizer


def resolve(source: str) -> tuple[str, str]:
    """(folder or hub id for `from_pretrained`, name for rows) of a model source; converts GGUF if needed.

    Raises ModelError for a source that there is not; the hub is asked about a name of its kind.
    """
    if source == "embedded":
        return str(converted(embedded_gguf(), cache_folder())), "SmolLM2-135M-Instruct"
    path = Path(source).expanduser()
    if source.endswith(".gguf"):
        return str(converted(named_gguf(source), cache_folder())), path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError("the folder holds no config.json", where=source, remedy="name a transformers model folder")
        return str(path), path.name
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelError("no such model folder", where=source, remedy="check model.source")
    return hub.place(source), source


def named_gguf(source: str) -> Path:
    """The GGUF file of a model source; ModelError if there is none."""
    path = Path(source).expanduser()
    if not path.is_file():
        raise ModelError("no such GGUF file", where=source, remedy="check model.source")
    return path


def model_fingerprint(config: ModelConfig, adapters: Sequence[Path] = ()) -> str:
    """A short hash that changes with the weights, the tokenizer, the chat template, the dtype and the adapters.

    Files are read in samples. A hub id stands for itself: its files need not be on this machine yet.
    """
    if config.source == "embedded":
        identity: object = sha256(embedded_gguf())
    else:
        path = Path(config.source).expanduser()
        if path.is_dir():
            kinds = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
            identity = [_sampled(file) for file in sorted(path.iterdir()) if file.suffix in kinds]
        elif path.is_file():
            identity = _sampled(path)
        else:
            identity = config.source
    dtype = str(pick_dtype(config.dtype, config.device))
    parts = [
        _sampled(file)
        for adapter in adapters
        for file in [*sorted(adapter.glob("*.safetensors")), adapter / "adapter_config.json"]
        if file.is_file()
    ]
    return content_id(identity, dtype, parts)


def pick_device(name: str) -> torch.device:
    """The named device; "auto" = the first GPU that is there, else the CPU."""
    if name != "auto":
        try:
            device = torch.device(name)
        except RuntimeError:
            device = None
        if device is None or not _is_there(device):
            raise ModelError(
                f"no such device: {name!r}", where="model.device", remedy="write auto, cpu, cuda, cuda:0 or mps"
            )
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _is_there(device: torch.device) -> bool:
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    return device.type == "cpu" or (device.type == "mps" and torch.backends.mps.is_available())


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
    ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch that serves
    capabilities = ask() if ask is not None else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def lora_config(table: LoraTable) -> Any:
    """PEFT's config for a LoRA adapter on all linear layers but the head, without dropout."""
    from peft import LoraConfig

    return LoraConfig(
        r=table.lora_r,
        lora_alpha=table.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


MISPLACED = "wrong_on_the_bare_base_see_README"
"""A field that PEFT does not know, in the config of an adapter that stands on merged weights. PEFT names it in a
warning whenever it puts the adapter on a model, which is all that it lets an adapter say: it compares no weights."""


def save_adapter(peft: Any, folder: Path, name: str = "default", *, merged: Sequence[str] = ()) -> None:
    """Writes the adapter `name` of a PEFT model into `folder`, in PEFT's format. Equal adapters give equal bytes.

    `merged`: the adapters that are merged into the weights that this one stands on. Its config then names no base that
    could be loaded: on the bare one it would answer wrongly, and nothing would say so.
    """
    peft.save_pretrained(str(folder), selected_adapters=[name])
    inner = folder / name  # PEFT puts adapters that are not called "default" into a folder of their own
    if inner.is_dir():
        for file in inner.iterdir():
            file.replace(folder / file.name)
        inner.rmdir()
    path = folder / "adapter_config.json"
    # PEFT holds the names of the layers as a set and writes them in its order, which no two processes share.
    ordered = {key: sorted(value) for key, value in vars(peft.peft_config[name]).items() if isinstance(value, set)}
    written = json.loads(path.read_text(encoding="utf-8")) | ordered
    base = str(written["base_model_name_or_path"])
    stands_on = f"It stands on the weights of `{base}`"
    if merged:
        added = " and ".join(merged)
        written["base_model_name_or_path"] = f"{base} with {added} merged in"
        stands_on += f" with `{added}` of its run merged in. Put on `{base}` alone it answers wrongly"
        written[MISPLACED] = stands_on
    path.write_text(json.dumps(written, indent=2, sort_keys=True), encoding="utf-8")
    text = f"{stands_on}.\n\n`rlaif export` makes of the run what loads elsewhere.\n"
    (folder / "README.md").write_text(f"# A LoRA adapter of an rlaif run\n\n{text}", encoding="utf-8")


def autocast(loaded: LoadedModel) -> AbstractContextManager[Any]:
    """Computes LoRA layers in the base's dtype where that is bfloat16; the adapters' master weights stay float32."""
    return torch.autocast(loaded.device.type, torch.bfloat16, enabled=loaded.dtype == torch.bfloat16)


def encode_chat(tokenizer: Any, messages: Sequence[Message], prefix: str = "") -> list[int]:
    """Token ids of the chat up to where the assistant's turn begins, followed by `prefix`.

    Text that spells a token of the chat format ("<|im_end|>") is encoded as plain characters: it cannot end a turn.
    What the format writes in ordinary words ("ASSISTANT:") gets a blank into it where a content has it.
    Raises ModelError for a conversation that the model's chat template refuses.
    """
    rows = [(m.role, without_words_of(_words(tokenizer), m.content)) for m in messages]
    markers = _markers(tokenizer)
    if any(spans(content, markers) for _, content in rows):
        ids = _encode_spelt(tokenizer, rows, markers)
    else:
        ids = list(_apply_template(tokenizer, rows, tokenize=True))
    return ids + encode_text(tokenizer, prefix) if prefix else ids


def _encode_spelt(tokenizer: Any, rows: Sequence[tuple[str, str]], markers: tuple[str, ...]) -> list[int]:
    """The ids of a chat in whose contents the strings `markers` stand for their characters."""
    # Render with a mark in place of each such string, and encode those strings apart from the rest.
    written = "".join(content for _, content in rows)
    mark = next(chr(code) for code in range(0xE000, 0xF900) if chr(code) not in written)
    taken: list[str] = []
    marked = []
    for role, content in rows:
        parts, before = [], 0
        for start, end in spans(content, markers):
            parts += [content[before:start], f"{mark}{len(taken)}{mark}"]
            taken.append(content[start:end])
            before = end
        marked.append((role, "".join([*parts, content[before:]])))
    rendered = str(_apply_template(tokenizer, marked, tokenize=False))
    result: list[int] = []
    for place, part in enumerate(re.split(f"{mark}([0-9]+){mark}", rendered)):
        if place % 2:
            result += encode_text(tokenizer, taken[int(part)])
        else:
            result += tokenizer.encode(part, add_special_tokens=False)
    return result


def _apply_template(tokenizer: Any, rows: Sequence[tuple[str, str]], *, tokenize: bool) -> Any:
    chat = [{"role": role, "content": content} for role, content in rows]
    try:
        return tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=tokenize, return_dict=False)
    except Exception as problem:  # a template is a program of the model's maker: whatever it raises is a refusal
        raise ModelError(
            f"the model's chat template refuses a conversation: {problem}",
            where=f"roles {', '.join(role for role, _ in rows)}",
            remedy="use a model whose template takes these roles, or edit chat_template.jinja in its folder",
        ) from None


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` without any token of a chat format, also where the text spells one."""
    found = spans(text, _markers(tokenizer))
    if not found:
        return list(tokenizer.encode(text, add_special_tokens=False))
    ids = list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
    if _marker_ids(tokenizer).isdisjoint(ids):
        return ids
    # one that is not flagged as special, or that the tokenizer makes of other letters: no token spans a cut
    cuts = [0, *(start + 1 for start, _ in found), len(text)]
    parts = (text[start:end] for start, end in pairwise(cuts))
    return [i for part in parts for i in tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True)]


def end_ids(tokenizer: Any, model: Any) -> list[int]:
    """Ids that end a turn: the tokenizer's EOS and those of the model's generation config."""
    listed = getattr(model.generation_config, "eos_token_id", None) if model is not None else None
    more = listed if isinstance(listed, list) else [listed]
    return sorted({int(i) for i in [tokenizer.eos_token_id, *more] if i is not None})


def context_length(model: Any) -> int:
    """Tokens the model can attend to."""
    return config_context(model.config)


def config_context(config: Any) -> int:
    """Tokens that a model of transformers' `config` can attend to."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 2048)


@lru_cache(maxsize=8)
def _markers(tokenizer: Any) -> tuple[str, ...]:
    """As text, the special tokens and those that look like a chat format's though nobody flagged them. Other added
    tokens (runs of spaces, "</think>") are words like any other."""
    added = tokenizer.added_tokens_decoder.values()
    found = [str(token) for token in added if token.special or is_marker(str(token))]
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *found]))


@lru_cache(maxsize=8)
def _marker_ids(tokenizer: Any) -> frozenset[int]:
    """Their ids, but that of the unknown token, which other text may well give."""
    return frozenset(tokenizer.convert_tokens_to_ids(list(_markers(tokenizer)))) - {tokenizer.unk_token_id}


@lru_cache(maxsize=8)
def _words(tokenizer: Any) -> str:
    """The chat template without what is a token of its own."""
    template = str(tokenizer.chat_template or "")
    for token in _markers(tokenizer):
        template = template.replace(token, " ")
    return template


@contextmanager
def takes_lora(name: str) -> Iterator[None]:
    """Turns PEFT's refusal to put adapters on a model into a ModelError."""
    try:
        yield
    except ValueError as problem:
        if not any(word in str(problem) for word in ("PEFT", "target_modules", "arget modules")):
            raise
        raise ModelError(
            f"takes no LoRA adapter on its linear layers: {_reason(problem)}",
            where=name,
            remedy="choose a model that is made of attention and linear layers, as Llama, Qwen or GPT-2",
        ) from None


def _merge_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    with adapter_fits(adapter):
        wrapped = PeftModel.from_pretrained(model, str(adapter))
        check_keys(wrapped, adapter)
    return wrapped.merge_and_unload()


@contextmanager
def adapter_fits(adapter: Path) -> Iterator[None]:
    """Raises ModelError where the folder holds no LoRA adapter that can be read, or attaching it in the block fails."""
    _check_adapter_files(adapter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT only warns of keys that do not fit; `check_keys` makes it an error
            yield
    except (*LOAD_ERRORS, TypeError) as problem:
        raise ModelError(
            f"the adapter does not fit the model: {_reason(problem)}",
            where=str(adapter),
            remedy="use the model that the adapter was trained on",
        ) from None


def _check_adapter_files(adapter: Path) -> None:
    from safetensors import safe_open

    files = [adapter / "adapter_config.json", adapter / "adapter_model.safetensors"]
    for path in files:
        if not path.is_file():
            raise ModelError(
                f"holds no LoRA adapter ({path.name})",
                where=str(adapter),
                remedy="run its stage first, or again with --force if the file got lost",
            )
    path = files[0]
    try:
        parse_json(path.read_text(encoding="utf-8"))["peft_type"]
        path = files[1]
        with safe_open(str(path), framework="pt") as file:
            bad = [key for key in file.keys() if not file.get_tensor(key).isfinite().all()]  # noqa: SIM118
    except (*LOAD_ERRORS, TypeError) as problem:
        raise ModelError(
            f"{path.name} of the adapter cannot be read: {_reason(problem)}",
            where=str(adapter),
            remedy="the file is damaged: redo the stage that wrote it with --force",
        ) from None
    if bad:
        raise ModelError(
            f"{len(bad)} weights of the adapter are NaN or infinite, among them {bad[0]}",
            where=str(adapter),
            remedy="lower the learning rate of the stage that wrote it, and redo that stage with --force",
        )


def check_keys(wrapped: Any, adapter: Path, name: str = "default") -> None:
    """Raises ValueError if the LoRA weights in the folder are not just those that the adapter `name` has places for."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(str(adapter / "adapter_model.safetensors"), framework="pt") as file:
        stored = {key for key in file.keys() if "lora_" in key}  # noqa: SIM118 (no dictionary)
    found = get_peft_model_state_dict(wrapped, save_embedding_layers=False, adapter_name=name)
    places = {key for key in found if "lora_" in key}
    if places != stored:
        odd = places ^ stored
        raise ValueError(f"{len(odd)} LoRA weights have no counterpart, among them {min(odd)}")


def _reason(problem: Exception) -> str:
    """What a library says, in one line: its first, or the second where the first only announces it."""
    lines = [line.strip() for line in str(problem).strip().splitlines()] or [type(problem).__name__]
    said = lines[1] if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return said if len(said) <= 240 else f"{said[:240]} ..."


def _sampled(path: Path) -> tuple[str, int, str]:
    """Name, size and hash of 64 KiB at both ends and 63 places between: tells weights apart without reading 100 GB."""
    size, piece = path.stat().st_size, 1 << 16
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for place in range(65):
            file.seek(max(0, size - piece) * place // 64)
            digest.update(file.read(piece))
    return path.name, size, digest.hexdigest()
