"""The CPU engine: what does the work of transformers and PEFT faster on a CPU, with the same results up to rounding.

- decoder.py generates, for the model families named there;
- prefix_walker.py scores given texts;
- thin_lora.py computes LoRA layers in training.

Each part tries a model out and stands aside where it does not fit. Nothing needs the engine: with RLAIF_CPU_ENGINE=0 in
the environment transformers and PEFT do everything themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rlaif.lm.local.causal_lm import CausalLM
from rlaif.lm.local.cpu.decoder import LlamaDecoder, is_of_llamas_shape
from rlaif.lm.local.cpu.prefix_walker import Walker
from rlaif.lm.local.cpu.thin_lora import make_lean

SWITCH = "RLAIF_CPU_ENGINE"
WORTH_PACKING = 16
"""New tokens from which a decoder is worth its making, which takes as long as some ten of the model's own steps."""


def is_on() -> bool:
    """Whether the environment leaves the engine on."""
    return os.environ.get(SWITCH, "1") != "0"


def decoder_for(lm: CausalLM, *, rows: int) -> LlamaDecoder | None:
    """A decoder of the model's present weights for batches of `rows`; None where the model does not fit, and where the
    engine is off. It is worth its making for WORTH_PACKING new tokens or more."""
    return LlamaDecoder.of(lm, rows) if is_on() else None


def walker_for(lm: CausalLM, *, tokens: int) -> Walker | None:
    """What scores texts with the model, `tokens` tokens in a forward pass; None as with `decoder_for`."""
    if not is_on():
        return None
    walker = Walker(lm, tokens=tokens)
    return walker if walker.fits() else None


def speed_up_lora(layers: Iterable[Any]) -> None:
    """Gives PEFT's LoRA layers the faster forward, unless the engine is off."""
    if is_on():
        make_lean(layers)


def takes_eager_attention(lm: CausalLM) -> bool:
    """Whether short sequences are trained faster with attention written out (transformers' `eager`): the model is on a
    CPU and of a family whose attention is known, and the engine is on."""
    return is_on() and lm.attention == "sdpa" and lm.model.device.type == "cpu" and is_of_llamas_shape(lm.trunk)
