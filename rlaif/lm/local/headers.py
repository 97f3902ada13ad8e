"""What is known of a model without loading it: config, tokenizer, chat template, and whether its weights are all there.

Weights are read as far as their headers. What this refuses would end a run at the stage that opens the model.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.core.errors import ModelError
from rlaif.core.shipped import cache_folder
from rlaif.lm.local import hub
from rlaif.lm.local.gguf import LOAD_ERRORS, conversion, embedded_gguf, is_whole, not_loadable
from rlaif.lm.local.load import config_context, load_tokenizer, named_gguf, quiet_libraries, resolve, usable


@dataclass(frozen=True, slots=True)
class Headers:
    """A model that can be opened: `context` tokens at most, `weights` in number (None = its files do not say), and in
    words where they are."""

    tokenizer: Any
    context: int
    place: str
    weights: int | None = None


def read_headers(source: str) -> Headers:
    """What the model's files say; ModelError for what a load would refuse, as far as it is known without the weights.

    Of a model at the hub that is not on this machine the small files are fetched.
    """
    quiet_libraries()
    if source == "embedded" or source.endswith(".gguf"):
        return _of_gguf(embedded_gguf() if source == "embedded" else named_gguf(source), source)
    folder, _ = resolve(source)
    if Path(folder).is_dir():
        return _of_folder(Path(folder), source, folder)
    whole = hub.snapshot(source)
    if whole is not None:
        return _of_folder(whole, source, f"{source}, in the local cache of the hub")
    if hub.is_offline():
        raise ModelError(
            "is no folder, is not in the local cache of the hub, and HF_HUB_OFFLINE is set",
            where=source,
            remedy="check model.source, or unset HF_HUB_OFFLINE to download it",
        )
    return _of_folder(hub.fetched(source), source, f"{source}, will be downloaded from the hub", weights=False)


def _of_folder(folder: Path, source: str, place: str, *, weights: bool = True) -> Headers:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except LOAD_ERRORS as problem:
        raise not_loadable(source, problem) from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"a {config.model_type} model generates no text", where=source, remedy="name a causal language model"
        )
    tokenizer = load_tokenizer(str(folder))
    number = _weights(folder, source) if weights else None
    return Headers(tokenizer, config_context(config), place, number)


def _weights(folder: Path, source: str) -> int | None:
    """How many weights the files of the folder hold, None where they do not say; ModelError where a file is missing, is
    cut short or is none."""
    try:
        files = hub.weight_files(folder)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError("the index of the weights cannot be read", where=source, remedy=_AGAIN) from None
    if not files and not (folder / "adapter_config.json").is_file():  # of which transformers takes the base
        raise ModelError("the folder holds no weights, such as model.safetensors", where=source, remedy=_AGAIN)
    numbers = []
    for file in files:
        if not file.is_file():
            raise ModelError(f"of the weights {file.name} is missing", where=source, remedy=_AGAIN)
        numbers.append(_number(file))
    known = [number for number in numbers if number is not None]
    return sum(known) if known and len(known) == len(files) else None


_AGAIN = "copy or download the model again"


def _number(file: Path) -> int | None:
    """How many weights the file holds, by its header, None where it has none; ModelError by header and length."""
    from safetensors import safe_open

    if file.suffix != ".safetensors":
        with file.open("rb") as opened:
            begins = opened.read(2)
        if begins == b"PK" and not zipfile.is_zipfile(file):  # which looks for the table of contents at the end
            raise ModelError("the weights cannot be read: the file is cut short", where=str(file), remedy=_AGAIN)
        return None
    try:
        with safe_open(str(file), framework="pt") as opened:
            shapes: list[list[int]] = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118 (no dictionary)
            return sum(math.prod(shape) for shape in shapes)
    except LOAD_ERRORS as problem:
        reason = str(problem).strip().splitlines()[0]
        raise ModelError(f"the weights cannot be read: {reason}", where=str(file), remedy=_AGAIN) from None


def _of_gguf(file: Path, source: str) -> Headers:
    """Of a GGUF file, read where it was not converted yet."""
    done = conversion(file, cache_folder())
    if is_whole(done):
        return _of_folder(done, source, source)
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoTokenizer

    told = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        # The reader looks at the place of each tensor, so a file that was cut short is found.
        number = sum(int(tensor.n_elements) for tensor in GGUFReader(str(file)).tensors)
        config = AutoConfig.from_pretrained(**told, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(**told, trust_remote_code=False)
    except Exception as problem:  # these readers let pass whatever a damaged file makes them raise
        raise not_loadable(source, problem) from None
    return Headers(usable(tokenizer, source), config_context(config), source, number)
