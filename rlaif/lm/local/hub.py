"""What goes by a hub id, models and data sets: whether the hub knows it, and what lies in its cache on this machine.

The hub is asked once, for at most `SECONDS`. transformers asks for every file by itself, and tries each six times: with
a hub that cannot be reached a load takes minutes, also of a model that is all there.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlaif.core.errors import ModelError

SECONDS = 5.0
"""What the hub has to answer in."""
SMALL = {".json", ".jinja", ".model", ".txt"}
"""Endings of the files that are no weights: config, tokenizer, chat template."""
WEIGHTS = {".safetensors", ".bin"}


def is_offline() -> bool:
    """Whether the hub is not to be asked (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def place(name: str) -> str:
    """What transformers is to load for the hub id: the id, or the model's folder in the cache where the hub gives none.

    Raises ModelError where the hub knows no such model, or cannot be reached and the cache does not hold all of it.
    """
    if is_offline():
        return name
    try:
        known = files(name) is not None
    except ModelError:
        if snapshot(name) is None:
            raise
        known = False
    return name if known else str(_kept(name))


@lru_cache
def files(name: str) -> tuple[str, ...] | None:
    """The names of the model's files at the hub; None where it does not answer in time.

    Raises ModelError for a model that the hub does not have, or does not give.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    found = _answer(lambda: HfApi().model_info(name, timeout=SECONDS))
    if isinstance(found, GatedRepoError):
        raise ModelError("the hub gives this model to nobody unknown", where=name, remedy=_ACCEPT)
    if isinstance(found, RepositoryNotFoundError | HFValidationError):
        raise ModelError("the hub has no such model", where=name, remedy=f"check the name; {_PRIVATE}")
    if isinstance(found, HfHubHTTPError) and found.response.status_code < 500:
        raise ModelError(f"the hub refuses: {str(found).strip().splitlines()[0]}", where=name, remedy=_PRIVATE)
    if found is None or isinstance(found, Exception):
        return None
    return tuple(file.rfilename for file in found.siblings or ())


def data_files(name: str, files: Sequence[str], *, revision: str) -> list[Path] | None:
    """The files of a data set, out of the hub's cache where it has them all; None where the hub does not give them."""
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache

    there = [try_to_load_from_cache(name, file, revision=revision, repo_type="dataset") for file in files]
    if all(isinstance(path, str) for path in there):
        return [Path(str(path)) for path in there]
    if is_offline():
        return None
    # Asked once first: the client tries five times for every file, and says so each time.
    found = _answer(lambda: HfApi().dataset_info(name, revision=revision, timeout=SECONDS))
    if found is None or isinstance(found, Exception):
        return None
    try:
        return [Path(hf_hub_download(name, file, revision=revision, repo_type="dataset")) for file in files]
    except Exception:  # of whatever library the hub's client talks with
        return None


def _answer(ask: Callable[[], Any]) -> Any:
    """What the hub answers, or the exception; None where it says nothing in time. The client's time-out is that of each
    step; the look-up of the hub's address knows of none."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append(ask())
        except Exception as problem:  # of whatever library the hub's client talks with
            answer.append(problem)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(2 * SECONDS)
    return answer[0] if answer else None


_PRIVATE = "a private model needs `hf auth login`, a model on this machine its folder as model.source"
_ACCEPT = "accept its terms on its page at the hub, then `hf auth login`"


def snapshot(name: str) -> Path | None:
    """The folder of the model in the hub's cache; None unless config, tokenizer and all weights are there."""
    folder = cached(name)
    weights = [] if folder is None else weight_files(folder)
    if folder is None or not weights or not all(file.is_file() for file in weights):
        return None
    return folder if has_tokenizer(folder) else None


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a file that a tokenizer is made from."""
    names = [file.name for file in folder.iterdir()]
    return any(name in ("tokenizer.json", "tekken.json") or name.startswith("vocab") for name in names) or any(
        name.endswith((".model", ".tiktoken")) for name in names
    )


def cached(name: str) -> Path | None:
    """The folder of what the hub's cache has of the model's newest known commit, which is its name; None if nothing."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def fetched(name: str) -> Path:
    """A folder with the small files of the model, which are fetched; see `files` for what is raised."""
    from huggingface_hub import hf_hub_download

    there = files(name)
    if there is None:
        return _kept(name)
    if not any(Path(file).suffix in WEIGHTS for file in there):
        raise ModelError("the hub has no weights of this model", where=name, remedy="name a model with safetensors")
    small = [file for file in there if "/" not in file and Path(file).suffix in SMALL]
    try:
        paths = [hf_hub_download(name, file, etag_timeout=SECONDS) for file in small]
    except Exception as problem:  # of whatever library the hub's client talks with
        raise ModelError(
            f"the hub refuses: {str(problem).strip().splitlines()[0]}", where=name, remedy=_ACCEPT
        ) from None
    if "config.json" not in small:
        raise ModelError("the hub has no config.json of this model", where=name, remedy="name a transformers model")
    return Path(paths[0]).parent


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of the model in the folder, whether they are there or not; [] for none."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{whole}.index.json"
        if (folder / whole).is_file():
            return [folder / whole]
        if index.is_file():
            return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return []


def _kept(name: str) -> Path:
    """The model in the cache, for want of the hub; ModelError where it is not whole."""
    folder = snapshot(name)
    if folder is None:
        raise ModelError(
            f"the hub cannot be reached within {SECONDS:g} s, and its cache on this machine does not hold all of it",
            where=name,
            remedy="check the network, HF_ENDPOINT and the proxy; or set model.source to a folder, a .gguf file or "
            "embedded",
        )
    return folder
