"""What a config says otherwise for a model of about 0.1, 1 or 8 billion parameters: `rlaif init --size`.

The defaults are for a first run of a small model that ends soon. What follows is where to begin; docs/train.md#by-size
says where each figure is from. Only those of 0.1B were measured by us: they are the demo's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from rlaif.core.errors import ConfigError

Size = Literal["0.1B", "1B", "8B"]

_CRITIC = {"num_ppo_epochs": 1, "num_mini_batches": 4, "baseline": "prompt"}
_SMALL: dict[str, dict[str, Any]] = {
    "model": {"source": "embedded"},
    "judge": {"method": "contrast", "scale": 0.3},
    "revise": {"method": "context", "max_new_tokens": 40, "temperature": 0.6},
    "sft": {"learning_rate": 3e-4, "epochs": 2.0, "helpful_ratio": 0.25},
    "label": {
        "answers": "contrast",
        "contrast_from": "base",
        "pairs": 4,
        "balance": True,
        "max_new_tokens": 40,
        "temperature": 0.7,
    },
    "reward": {"learning_rate": 5e-4, "epochs": 2.0, "batch_size": 4},
    "ppo": {
        "steps": 8,
        "batch_size": 128,
        "samples_per_prompt": 8,
        "max_new_tokens": 40,
        "temperature": 0.7,
        "learning_rate": 8e-3,
        "adam_epsilon": 1e-3,
        "warmup_steps": 1,
        "kl_coef": 0.04,
        "max_kl": 8.0,
        "lam": 1.0,
        "missing_eos_penalty": 0.25,
        "value": "reward",
        **_CRITIC,
    },
    "evaluate": {"max_new_tokens": 40, "temperature": 0.7},
}


def _larger(tokens: int, length: int, *, batch: int, steps: int, rate: float) -> dict[str, dict[str, Any]]:
    """Answers of up to `tokens`, prompts and answers of up to `length`; responses a step, steps and learning rate of
    PPO."""
    return {
        "revise": {"max_new_tokens": tokens},
        "sft": {"learning_rate": 2e-4, "batch_size": 16, "max_length": length},
        "label": {"max_new_tokens": tokens},
        "reward": {"learning_rate": 1e-4, "batch_size": 16, "max_length": length},
        "ppo": {
            "steps": steps,
            "batch_size": batch,
            "samples_per_prompt": 4,
            "max_new_tokens": tokens,
            "max_length": length,
            "learning_rate": rate,
            "warmup_steps": 10,
            "save_steps": 20,
            **_CRITIC,
        },
        "evaluate": {"max_new_tokens": tokens},
    }


def _joined(*parts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for table, fields in part.items():
            found.setdefault(table, {}).update(fields)
    return found


SIZES: dict[Size, dict[str, dict[str, Any]]] = {
    "0.1B": _SMALL,
    "1B": _joined(
        _larger(256, 1024, batch=128, steps=100, rate=2e-5),
        {
            "model": {"source": "Qwen/Qwen2.5-1.5B-Instruct"},
            "judge": {"method": "contrast"},
            "label": {"answers": "contrast", "contrast_from": "base", "pairs": 4, "balance": True},
        },
    ),
    "8B": _joined(
        _larger(512, 2048, batch=256, steps=200, rate=1e-5),
        {
            "model": {"source": "Qwen/Qwen3-8B"},
            "judge": {"method": "pairwise"},
            "label": {"answers": "policy", "samples": 4, "pairs": 4},
            "ppo": {"value": "trunk", "micro_batch_size": 4},
        },
    ),
}
"""Size -> table -> field -> value."""


def choose_size(asked: str) -> Size:
    """The size of that name; raises ConfigError for another."""
    for size in get_args(Size):
        if asked.casefold() in (size.casefold(), size.casefold().removesuffix("b")):
            found: Size = size
            return found
    names = ", ".join(SIZES)
    raise ConfigError(
        f"there are no settings for a model of {asked!r}",
        where="--size",
        remedy=f"write the nearest of {names}",
    )
