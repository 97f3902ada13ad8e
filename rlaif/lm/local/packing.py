"""Several continuations of one context in one sequence: the context is computed once, no continuation sees another.

A sequence is context + continuation + continuation + ... The mask lets a token see the context and its own
continuation up to itself, and its position is the one it has in context + continuation alone; so its state is what it
would be in a row of its own. With 8 responses of 12 tokens to a prompt of 45 tokens a forward pass computes 133 tokens
instead of 448.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Row = tuple[Sequence[int], Sequence[int]]
"""(context ids, target ids), for example a prompt and a response."""


LONGEST = 1024
"""Tokens at which a sequence is full, unless a single row is longer: masks and attention grow with its square."""


@dataclass(frozen=True, slots=True)
class Packed:
    """Inputs of a forward pass over sequences of one context and some of its targets each."""

    ids: Tensor  # (G, L) token ids, padded on the right with 0
    positions: Tensor  # (G, L) the position of each token
    mask: Tensor | None  # (G, 1, L, before + L) bool, True = seen; None = a plain causal mask does
    places: Tensor  # (N,) where, in the flattened (G * L) states, those stand that predict the targets, row after row

    def gather(self, states: Tensor) -> Tensor:
        """(N, H) of the (G, L, H) states: those that predict the tokens of the targets, in the order of the rows."""
        # Not by plain indexing: on several CPU threads its backward adds up repeated places in any order.
        return states.flatten(0, 1).index_select(0, self.places)


def pack(rows: Sequence[Row], *, device: torch.device, before: int = 0, apart: bool = False) -> Packed:
    """The rows with equal contexts behind one copy of it; with `apart` every row is a sequence of its own.

    `before`: so many tokens stand before every context, in a key-value cache. No context may be empty. The last token
    of a target predicts nothing that is asked for and is left out.
    """
    groups = [[index] for index in range(len(rows))] if apart else _groups(rows)
    sequences: list[list[int]] = []
    positions: list[list[int]] = []
    owners: list[list[int]] = []  # 0 = the context, n = the n-th target, -1 = padding
    places: list[tuple[int, int, int]] = [(0, 0, 0)] * len(rows)  # sequence, end of context, begin of target
    for group in groups:
        context = rows[group[0]][0]
        sequence, position, owner = list(context), list(range(len(context))), [0] * len(context)
        for number, index in enumerate(group, 1):
            target = rows[index][1][:-1]
            places[index] = (len(sequences), len(context) - 1, len(sequence))
            sequence += target
            position += range(len(context), len(context) + len(target))
            owner += [number] * len(target)
        sequences.append(sequence)
        positions.append(position)
        owners.append(owner)
    width = max(map(len, sequences))
    flat: list[int] = []
    for (line, last, begin), (_, target) in zip(places, rows, strict=True):
        if target:
            flat += [line * width + last, *range(line * width + begin, line * width + begin + len(target) - 1)]
    plain = len(sequences) == len(rows)
    # In a plain batch the padding counts on as well: any other positions make transformers build a mask of its own.
    counted = torch.arange(width).expand(len(rows), width) if plain else _padded(positions, width, 0)
    return Packed(
        ids=_padded(sequences, width, 0).to(device),
        positions=(counted + before).to(device),
        mask=None if plain else _mask(_padded(owners, width, -1), before).to(device),
        places=torch.tensor(flat, dtype=torch.long, device=device),
    )


def _groups(rows: Sequence[Row]) -> list[list[int]]:
    """Indices of rows with equal contexts, as many together as a sequence holds."""
    full = max(LONGEST, *(len(context) + len(target) for context, target in rows))
    groups: list[list[int]] = []
    latest: dict[tuple[int, ...], tuple[list[int], int]] = {}
    for index, (context, target) in enumerate(rows):
        key = tuple(context)
        group, size = latest.get(key, ([], 0))
        if not group or size + len(target) > full:
            group, size = [], len(key)
            groups.append(group)
        group.append(index)
        latest[key] = (group, size + len(target))
    return groups


def packing_order(rows: Sequence[Row]) -> list[int]:
    """Indices of the rows: those with equal contexts side by side, contexts of like total length near each other."""
    keys = [tuple(context) for context, _ in rows]
    sizes: dict[tuple[int, ...], int] = {}
    for key, (_, target) in zip(keys, rows, strict=True):
        sizes[key] = sizes.get(key, len(key)) + len(target)
    return sorted(range(len(rows)), key=lambda i: (sizes[keys[i]], keys[i], i))


def _mask(owners: Tensor, before: int) -> Tensor:
    """(G, 1, L, before + L) bool, True = seen. Padding sees the context: a row that sees nothing would be NaN."""
    groups, width = owners.shape
    seen = (owners[:, None, :] == 0) | (owners[:, None, :] == owners[:, :, None])
    seen &= torch.ones(width, width, dtype=torch.bool).tril()
    return torch.cat([torch.ones(groups, width, before, dtype=torch.bool), seen], 2)[:, None]


def _padded(rows: Sequence[Sequence[int]], width: int, filler: int) -> Tensor:
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], dtype=torch.long)
