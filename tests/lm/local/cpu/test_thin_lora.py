"""The lean LoRA layers against PEFT's own: numbers, gradients, and what is left to PEFT."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlaif.lm.local.cpu.thin_lora import is_plain, make_lean

WIDE = 3 * 48


def wrapped(*, bias: bool = False, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A LoRA layer of PEFT on a linear layer, with adapters "default" and "other" that have an effect."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, WIDE, bias=bias)).to(dtype)
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ["0"], **options})
    peft: Any = get_peft_model(model, config)
    peft.add_adapter("other", config)
    layer = peft.base_model.model[0]
    for name, parameter in layer.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3  # float32 masters, as PEFT keeps them
    return layer.eval()


def passed(layer: Any, x: Tensor, *, autocast: bool = False) -> tuple[Tensor, ...]:
    """What the layer makes of x, and the gradients of x, A and B under fixed weights of the result."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        made = layer(x)
    weight = torch.linspace(-1, 1, made.numel()).view(made.shape)
    name = layer.active_adapters[0]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    grads = torch.autograd.grad((made.float() * weight).sum(), [x, a, b])
    return made.detach(), *grads


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("adapter", ["default", "other"])
def test_float32_numbers_and_gradients_are_pefts(bias: bool, adapter: str) -> None:
    layer = wrapped(bias=bias)
    layer.set_adapter(adapter)
    x = torch.randn(2, 5, 48)
    expected = passed(layer, x)
    make_lean([layer])
    found = passed(layer, x)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))


def test_bfloat16_is_no_further_from_the_truth_than_autocast() -> None:
    layer, x = wrapped(dtype=torch.bfloat16), torch.randn(16, 48).bfloat16()
    truth = passed(copy.deepcopy(layer).float(), x.float())
    theirs = passed(layer, x, autocast=True)
    make_lean([layer])
    mine = passed(layer, x, autocast=True)
    for found, other, exact in zip(mine, theirs, truth, strict=True):
        assert found.dtype == other.dtype
        assert 0 < float((found - exact).norm()) <= 1.05 * float((other - exact).norm()) <= 0.02 * float(exact.norm())


def test_no_more_is_kept_for_the_gradient_than_input_and_thin_product() -> None:
    layer, x = wrapped(dtype=torch.bfloat16), torch.randn(64, 48).bfloat16()

    def kept() -> int:
        sizes: dict[int, int] = {}
        own = {p.untyped_storage().data_ptr() for p in layer.parameters()} | {x.untyped_storage().data_ptr()}

        def pack(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
            made = layer(x)
        total = sum(size for place, size in sizes.items() if place not in own)
        del made
        return total

    before = kept()
    make_lean([layer])
    weights = 2 * 4 * (48 + WIDE)  # A and B in bfloat16
    assert kept() == 2 * 4 * 64 + weights < before


def test_off_is_the_frozen_layer_to_the_last_bit() -> None:
    layer, x = wrapped(), torch.randn(3, 48)
    make_lean([layer])
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))


def dropped(layer: Any) -> None:
    layer.lora_dropout["default"] = nn.Dropout(0.5)


def both(layer: Any) -> None:
    layer.set_adapter(["default", "other"])


def merged(layer: Any) -> None:
    layer.merge()


def unfrozen(layer: Any) -> None:
    layer.base_layer.weight.requires_grad_(True)


OTHERS: list[tuple[dict[str, Any], Any]] = [
    ({}, dropped),
    ({}, both),
    ({}, merged),
    ({}, unfrozen),
    ({"use_dora": True}, None),
    ({"lora_bias": True, "bias": True}, None),
]


@pytest.fixture(params=OTHERS, ids=["dropout", "two adapters", "merged", "unfrozen", "dora", "bias"])
def other(request: pytest.FixtureRequest) -> Any:
    options, change = request.param
    layer = wrapped(**options)
    if change is not None:
        change(layer)
    return layer


def test_what_is_not_computed_here_is_left_to_peft(other: Any) -> None:
    x = torch.randn(3, 48)
    torch.manual_seed(1)
    expected = other(x)
    make_lean([other])
    assert not is_plain(other)
    torch.manual_seed(1)
    assert torch.equal(other(x), expected)
