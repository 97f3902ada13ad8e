"""Several LoRA adapters, each on the weights with those before it merged in, as one adapter on the bare base.

W + s1 B1 A1 + s2 B2 A2 = W + [s1 B1, s2 B2] [A1; A2]: the ranks add up, and the sum is the same to the last rounding.
No model is loaded for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlaif.core.errors import ModelError
from rlaif.core.files import parse_json
from rlaif.lm.local.load import MISPLACED

PLAIN = {"bias": "none", "use_dora": False, "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}}
"""What the config of an adapter must say, where it says anything, for its weights to be scale B A and nothing else."""


def write_composed(adapters: Sequence[Path], folder: Path, *, base: str, revision: str | None) -> None:
    """Writes the adapters as one that stands on `base`, in PEFT's format, with scale 1."""
    configs, weights = zip(*(_read(adapter) for adapter in adapters), strict=True)
    scaled = [_scaled(tensors, _scale(config)) for config, tensors in zip(configs, weights, strict=True)]
    if any(tensors.keys() != scaled[0].keys() for tensors in scaled):
        raise ModelError(
            "the adapters are on different layers, so they are not written as one",
            where=str(adapters[-1]),
            remedy="--form merged writes base and adapters as one model",
        )
    # A is (rank, in) and B is (out, rank): the ranks of one stand below each other, those of the other side by side.
    joined = {key: torch.cat([t[key] for t in scaled], dim=0 if "lora_A" in key else 1) for key in scaled[0]}
    rank = next(tensor.shape[0] for key, tensor in joined.items() if "lora_A" in key)
    save_file({key: tensor.contiguous() for key, tensor in joined.items()}, str(folder / "adapter_model.safetensors"))
    said = {name: value for name, value in configs[0].items() if name != MISPLACED}
    said |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "base_model_name_or_path": base, "revision": revision}
    text = json.dumps(said, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _read(adapter: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of an adapter; ModelError where they cannot be read or are more than scale B A."""
    try:
        config: dict[str, Any] = parse_json((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        weights = load_file(str(adapter / "adapter_model.safetensors"))
        odd = sorted(name for name, value in PLAIN.items() if config.get(name, value) not in (value, None))
        odd += sorted(key for key in weights if "lora_A" not in key and "lora_B" not in key)[:1]
        _scale(config)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as problem:
        raise ModelError(
            f"holds no LoRA adapter that can be read ({type(problem).__name__})",
            where=str(adapter),
            remedy="run its stage again with --force",
        ) from None
    if odd:
        raise ModelError(
            f"is more than two matrices a layer ({', '.join(odd)}), so it cannot be joined with another",
            where=str(adapter),
            remedy="--form merged writes base and adapters as one model",
        )
    return config, weights


def _scale(config: Mapping[str, Any]) -> float:
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


def _scaled(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The weights in float32, with the scale in the B of each layer."""
    return {key: tensor.float() * (scale if "lora_B" in key else 1.0) for key, tensor in weights.items()}
