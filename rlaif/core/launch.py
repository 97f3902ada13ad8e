"""What `accelerate launch` or torchrun has told this process, by its environment; no torch."""

from __future__ import annotations

import os


def place() -> tuple[int, int]:
    """(number of this process, how many there are): (0, 1) for one that was not launched with others."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def sharded() -> bool:
    """Whether the launcher was asked to shard the weights (FSDP)."""
    return _flag("ACCELERATE_USE_FSDP") and place()[1] > 1


def deepspeed() -> bool:
    """Whether the launcher was asked for DeepSpeed."""
    return _flag("ACCELERATE_USE_DEEPSPEED")


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")
