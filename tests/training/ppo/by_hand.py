"""Tensors worked out by hand, with junk under the padding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

JUNK = math.nan


def close(found: Tensor, wanted: list[object]) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=0, atol=1e-5)


def mask(*lengths: int, width: int) -> Tensor:
    return torch.tensor([[place < length for place in range(width)] for length in lengths])
