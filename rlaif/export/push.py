"""An export on the hub, in a repository of its own.

The hub is asked whom it knows before anything is written; what it then refuses stays on this machine, whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rlaif.core.errors import BackendError, ConfigError

Kind = Literal["model", "dataset"]


def refuse_hub(name: str) -> None:
    """Raises ConfigError for what is no name of a repository, BackendError where the hub is not to be asked, cannot be
    reached, or knows nobody by the token of this machine."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

    where = "--push-to-hub"
    if constants.HF_HUB_OFFLINE:
        raise BackendError("the hub is not to be asked (HF_HUB_OFFLINE)", where=where, remedy="unset HF_HUB_OFFLINE")
    hub = HfApi()
    try:
        hub.whoami()
        hub.repo_exists(name)
    except HFValidationError:
        raise ConfigError(f"{name!r} is no name of a repository", where=where, remedy="write OWNER/NAME") from None
    except LocalTokenNotFoundError:
        raise BackendError(
            "there is no token for the hub on this machine", where=where, remedy="hf auth login, or HF_TOKEN"
        ) from None
    except Exception as problem:  # of whatever library the hub's client talks with
        remedy = "check the token (hf auth whoami) and the network"
        raise BackendError(f"the hub refuses: {_first(problem)}", where=where, remedy=remedy) from None


def push(folder: Path, name: str, kind: Kind) -> str:
    """The address of the repository that now holds the folder. One that is new is private: making it public is for its
    owner. Raises BackendError where the hub refuses."""
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        url = hub.create_repo(name, repo_type=kind, private=True, exist_ok=True)
        hub.upload_folder(
            repo_id=url.repo_id, folder_path=folder, repo_type=kind, commit_message=f"rlaif export: {folder.name}"
        )
    except Exception as problem:  # as above
        words: dict[str, Any] = {"where": name, "remedy": f"hf upload {name} {folder} --repo-type {kind}"}
        raise BackendError(f"written to {folder}, but the hub refuses: {_first(problem)}", **words) from None
    return str(url)


def _first(problem: Exception) -> str:
    """The first line of what a library says."""
    return next(iter(str(problem).strip().splitlines()), type(problem).__name__)
