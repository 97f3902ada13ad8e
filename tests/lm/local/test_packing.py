"""Packing by hand: what stands where, who sees whom, and when a sequence is full."""

from __future__ import annotations

import pytest
import torch

from rlaif.lm.local import packing
from rlaif.lm.local.packing import Row, pack, packing_order

CPU = torch.device("cpu")
ROWS: list[Row] = [([1, 2], [5, 6, 7]), ([3], [8, 9]), ([1, 2], [4, 4])]


def test_a_packed_sequence_by_hand() -> None:
    packed = pack(ROWS, device=CPU)
    assert packed.ids.tolist() == [[1, 2, 5, 6, 4], [3, 8, 0, 0, 0]]
    assert packed.positions.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    assert packed.mask is not None
    assert packed.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],  # sees the context and itself, not the first target
    ]
    # The token before each target token: 2 -> 5, 5 -> 6, 6 -> 7; 3 -> 8, 8 -> 9; 2 -> 4, 4 -> 4.
    assert packed.places.tolist() == [1, 2, 3, 5, 6, 1, 4]
    states = torch.arange(10.0).view(2, 5, 1)
    assert packed.gather(states).flatten().tolist() == [1, 2, 3, 5, 6, 1, 4]


def test_tokens_before_every_context_move_positions_and_are_seen() -> None:
    packed = pack(ROWS, device=CPU, before=4)
    assert packed.positions[0].tolist() == [4, 5, 6, 7, 6]
    assert packed.mask is not None
    assert packed.mask.shape == (2, 1, 5, 9)
    assert bool(packed.mask[..., :4].all())
    assert bool(packed.mask.any(-1).all())  # a row that sees nothing would be NaN, padding too


def test_rows_that_share_nothing_need_no_mask_and_count_on() -> None:
    for packed in (pack(ROWS, device=CPU, apart=True), pack(ROWS[:2], device=CPU)):
        assert packed.mask is None
        # Any other positions make transformers take the batch for packed sequences and build a mask of its own.
        assert all(line == list(range(packed.ids.shape[1])) for line in packed.positions.tolist())
    assert pack(ROWS, device=CPU, apart=True).ids.tolist() == [[1, 2, 5, 6], [3, 8, 0, 0], [1, 2, 4, 0]]


def test_targets_of_one_token_and_of_none() -> None:
    packed = pack([([1, 2], [5]), ([1, 2], []), ([1, 2], [6, 7])], device=CPU)
    assert packed.ids.tolist() == [[1, 2, 6]]
    assert packed.places.tolist() == [1, 1, 2]


def test_a_full_sequence_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "LONGEST", 8)
    rows: list[Row] = [([1, 2], [n, n, n]) for n in range(5)]
    assert pack(rows, device=CPU).ids.tolist() == [[1, 2, 0, 0, 1, 1], [1, 2, 2, 2, 3, 3], [1, 2, 4, 4, 0, 0]]
    rows[0] = ([1, 2], [9] * 12)  # a row may be longer than that, and then the others may be so too
    assert len(pack(rows, device=CPU).ids) == 2


def test_equal_contexts_stand_side_by_side() -> None:
    rows: list[Row] = [([1] * 9, [2]), ([3], [4]), ([1] * 9, [5, 6]), ([7], [8]), ([3], [1])]
    order = packing_order(rows)
    assert sorted(order) == list(range(5))
    assert [next(iter(rows[i][0])) for i in order] == [7, 3, 3, 1, 1]
