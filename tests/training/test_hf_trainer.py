"""The order of training."""

from __future__ import annotations

from rlaif.training import hf_trainer as loop


def test_training_order_is_a_shuffle_of_each_epoch_with_little_padding() -> None:
    lengths = [(7 * i) % 50 + 1 for i in range(100)]
    schedule = loop.Schedule(rows=100, batch_size=8, epochs=2)
    order = loop.training_order(lengths, schedule, seed=0)
    assert sorted(order) == sorted([*range(100), *range(100)])
    assert schedule.steps == 25
    assert order != loop.training_order(lengths, schedule, seed=1)
    batches = [[lengths[row] for row in order[i : i + 8]] for i in range(0, 200, 8)]
    padded = sum(len(batch) * max(batch) for batch in batches)
    assert padded < 1.15 * sum(map(sum, batches))
    assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches)
    assert len(loop.training_order([1] * 10, loop.Schedule(10, 4, 0.55), seed=0)) == 6
