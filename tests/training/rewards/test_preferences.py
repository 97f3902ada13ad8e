"""Pairs to learn from: each response once, and prompts that are held out."""

from __future__ import annotations

from pathlib import Path

from rlaif.training.rewards import preferences
from tests.training.contexts import prompt
from tests.training.planted_labels import base, planted, reward_context


def test_a_prompt_brings_each_response_once(tiny_model: Path, sft_adapter: Path, tmp_path: Path) -> None:
    context = reward_context(tmp_path, tiny_model, sft_adapter, [])
    groups, dropped = preferences.group_by_prompt(planted(2), base(context), 320)
    assert [(len(g.sequences), len(g.pairs)) for g in groups] == [(4, 4), (4, 4)]
    batch = preferences.collate(groups)
    assert batch["input_ids"].shape[0] == 8
    assert dropped == 0
    rows = [response for group in groups for response in group.responses]
    for a, b, prob_a in zip(batch["row_a"].tolist(), batch["row_b"].tolist(), batch["prob_a"].tolist(), strict=True):
        assert rows[a].prompt_id == rows[b].prompt_id
        assert prob_a == float("kind" in rows[a].text) == float("kind" not in rows[b].text)


def test_held_out_split_is_by_prompt_and_stable() -> None:
    groups = [preferences.PromptGroup(prompt(f"P{i}"), (), (), ()) for i in range(40)]
    train, held_out = preferences.split(groups, share=0.15, seed=0)
    assert (len(train), len(held_out)) == (34, 6)
    again = preferences.split(groups[::-1], share=0.15, seed=0)[1]
    assert {g.prompt.id for g in again} == {g.prompt.id for g in held_out}
    assert {g.prompt.id for g in preferences.split(groups, share=0.15, seed=1)[1]} != {g.prompt.id for g in held_out}
