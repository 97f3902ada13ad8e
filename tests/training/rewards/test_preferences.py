"""Pairs to learn from: each response once, and prompts that are held out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlaif.stages.reward import run
from rlaif.training.rewards import preferences
from rlaif.training.rewards.model import load_head
from tests.training.contexts import prompt
from tests.training.planted_labels import base, planted, reward_context


def test_a_prompt_brings_each_response_once(tiny_model: Path, sft_adapter: Path, tmp_path: Path) -> None:
    context = reward_context(tmp_path, tiny_model, sft_adapter, [])
    groups, too_long, identical = preferences.group_by_prompt(planted(2), base(context), 320)
    assert [(len(g.rows), len(g.pairs)) for g in groups] == [(4, 4), (4, 4)]
    (batch,) = preferences.micro_batches(groups, 8)
    assert len(batch.rows) == 8
    assert (too_long, identical) == (0, 0)
    rows = [response for group in groups for response in group.responses]
    for a, b, prob_a in zip(batch.row_a.tolist(), batch.row_b.tolist(), batch.prob_a.tolist(), strict=True):
        assert rows[a].prompt_id == rows[b].prompt_id
        assert prob_a == float("kind" in rows[a].text) == float("kind" not in rows[b].text)


def test_micro_batches_hold_whole_prompts(tiny_model: Path, sft_adapter: Path, tmp_path: Path) -> None:
    context = reward_context(tmp_path, tiny_model, sft_adapter, [])
    groups, *_ = preferences.group_by_prompt(planted(3), base(context), 320)
    for size, prompts in ((1, [1, 1, 1]), (7, [1, 1, 1]), (8, [2, 1]), (12, [3])):
        parts = preferences.micro_batches(groups, size)
        assert [len(part.rows) for part in parts] == [4 * count for count in prompts]
        assert sum((part.rows for part in parts), ()) == sum((group.rows for group in groups), ())


def test_micro_batches_change_nothing_but_the_rounding(tiny_model: Path, sft_adapter: Path, tmp_path: Path) -> None:
    weights = []
    for size in (1, 100):
        context = reward_context(tmp_path / str(size), tiny_model, sft_adapter, planted(8), micro_batch_size=size)
        run(context)
        head = load_head(context.adapter("reward")).head.weight
        weights.append((head, [row["loss"] for row in context.metrics.read()]))
    assert torch.allclose(weights[0][0], weights[1][0], atol=1e-6)
    assert weights[0][0].abs().max() > 1e-4
    assert weights[0][1] == pytest.approx(weights[1][1], abs=1e-5)


def test_held_out_split_is_by_prompt_and_stable() -> None:
    groups = [preferences.PromptGroup(prompt(f"P{i}"), (), (), ()) for i in range(40)]
    train, held_out = preferences.split(groups, share=0.15, seed=0)
    assert (len(train), len(held_out)) == (34, 6)
    again = preferences.split(groups[::-1], share=0.15, seed=0)[1]
    assert {g.prompt.id for g in again} == {g.prompt.id for g in held_out}
    assert {g.prompt.id for g in preferences.split(groups, share=0.15, seed=1)[1]} != {g.prompt.id for g in held_out}
