"""LoRA layers with less work around their products: PEFT's numbers and gradients, in fewer passes over the states.

Beside its two thin products PEFT casts the layer's input to float32 and back (autocast), writes the two results apart,
scales one, adds them, and keeps a copy of the input for the gradient. Here the second product is added in place to what
the frozen layer made, and the gradient keeps the layer's own input and the thin product alone.

Where PEFT's layer is more than y = x W' + s (x A') B' with a frozen W (dropout, DoRA, a bias of LoRA's own, a layer
that is not `nn.Linear`, several adapters at once), and on other devices than a CPU, where it is not measured, PEFT's
own forward goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Lean(torch.autograd.Function):
    """y = x W' + bias + s (x A') B' in the dtype of W, which gets no gradient; A and B keep their own dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        down, up = a.to(weight.dtype), (b * scale).to(weight.dtype)
        thin = flat @ down.t()
        made = F.linear(flat, weight, bias).addmm_(thin, up.t())
        ctx.save_for_backward(flat, thin, weight, down, up)
        ctx.scale, ctx.shape, ctx.kind = scale, x.shape, a.dtype
        return made.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, thin, weight, down, up = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        back = grad @ up
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (grad @ weight).addmm_(back, down).view(ctx.shape)
        to_a = (back.t() @ flat).to(ctx.kind) if ctx.needs_input_grad[3] else None
        to_b = (grad.t() @ thin).to(ctx.kind) * ctx.scale if ctx.needs_input_grad[4] else None
        return to_x, None, None, to_a, to_b, None


def make_lean(layers: Iterable[Any]) -> None:
    """Gives PEFT's LoRA layers the lean forward, which leaves to PEFT's own what it does not compute."""
    for layer in layers:
        layer.forward = _Forward(layer)


class _Forward:
    """The forward of one LoRA layer."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, x: Tensor, *args: Any, **named: Any) -> Any:
        layer = self.layer
        if args or named or not is_plain(layer):
            return type(layer).forward(layer, x, *args, **named)
        if layer.disable_adapters:
            return layer.base_layer(x)
        name, base = layer.active_adapters[0], layer.base_layer
        given = (layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
        return _Lean.apply(x.to(base.weight.dtype), base.weight, base.bias, *given)  # type: ignore[no-untyped-call]


def is_plain(layer: Any) -> bool:
    """Whether the layer, as it is switched now, is what is computed here."""
    from peft.tuners.lora.layer import Linear

    base = layer.base_layer
    if type(layer) is not Linear or type(base) is not nn.Linear or layer.merged or len(layer.active_adapters) != 1:
        return False
    if base.weight.device.type != "cpu" or base.weight.requires_grad:
        return False
    if base.bias is not None and base.bias.requires_grad:
        return False
    name = layer.active_adapters[0]
    return (
        name in layer.lora_A
        and name not in layer.lora_variant
        and not layer.lora_bias[name]
        and isinstance(layer.lora_dropout[name], nn.Identity)
    )
