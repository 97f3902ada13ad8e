"""A full disk and a full memory, told in one way wherever a stage meets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlaif.config import StageName
from rlaif.core.errors import DiskError, RlaifError, StageError, memory_is_full
from rlaif.core.files import disk_errors

DISK = ("No space left on device", "os error 28", "File too large", "Disk quota exceeded")
"""What libraries that raise no OSError of their own, as safetensors, say of a full disk."""

RESUMED = ", then run the same command with --resume"
LESS: dict[StageName, str] = {
    "ppo": f"lower ppo.micro_batch_size (updates) or model.batch_size (sampling){RESUMED}",
    "sft": "lower sft.batch_size or sft.max_length, and start the stage anew with --force",
    "dpo": "lower dpo.batch_size or dpo.max_length, and start the stage anew with --force",
    "reward": "lower reward.batch_size or reward.max_length, and start the stage anew with --force",
}
"""What makes a stage smaller; where a field decides the result too, the stage cannot go on from what it has."""


@contextmanager
def shortages(stage: StageName, folder: Path) -> Iterator[None]:
    """Turns a full disk into a DiskError and a full memory into a StageError, with what to do about them."""
    try:
        with disk_errors(folder):
            yield
    except RlaifError:
        raise
    except MemoryError as error:
        raise _too_large(stage, error) from error
    except Exception as error:
        if any(words in str(error) for words in DISK):
            raise DiskError("the disk is full", where=str(folder), remedy=f"make room{RESUMED}") from error
        if memory_is_full(error):
            raise _too_large(stage, error) from error
        raise


@contextmanager
def resumable() -> Iterator[None]:
    """Has a DiskError say that the run goes on with `--resume`, if it does not yet."""
    try:
        yield
    except DiskError as error:
        if RESUMED in (error.remedy or ""):
            raise
        raise DiskError(error.what, where=error.where, remedy=f"{error.remedy}{RESUMED}") from error


def _too_large(stage: StageName, error: BaseException) -> StageError:
    lines = str(error).strip().splitlines() or ["out of memory"]
    said = lines[0] if len(lines[0]) <= 200 else f"{lines[0][:200]} ..."
    return StageError(
        f"the memory is full: {said}", where=stage, remedy=LESS.get(stage, f"lower model.batch_size{RESUMED}")
    )
