"""Which prompts a step takes, which are set aside, and the learning rate of an update."""

from __future__ import annotations

import pytest

from rlaif.core.errors import ConfigError
from rlaif.training.ppo.schedule import learning_rate, set_aside, step_prompts
from rlaif.training.rewards.preferences import PromptGroup, split
from tests.training.contexts import prompt
from tests.training.tiny_ppo import PROMPTS, ppo_config


def test_prompts_set_aside_are_those_that_the_reward_model_did_not_see_either() -> None:
    asked = [prompt(f"Number {i}") for i in range(40)]
    trained, kept = set_aside(asked, ppo_config(eval_steps=1, validation_prompts=7), 5)
    assert len(kept) == 7
    assert [p for p in asked if p in trained] == trained
    assert {p.id for p in trained} | {p.id for p in kept} == {p.id for p in asked}
    assert not {p.id for p in trained} & {p.id for p in kept}
    _, unseen = split([PromptGroup(p, (), (), ()) for p in asked], share=0.25, seed=5)
    assert {p.id for p in kept} < {group.prompt.id for group in unseen}
    assert {p.id for p in set_aside(asked, ppo_config(eval_steps=1, validation_prompts=7), 6)[1]} != {
        p.id for p in kept
    }


def test_half_of_the_prompts_at_most_are_set_aside() -> None:
    asked = [prompt(f"Number {i}") for i in range(9)]
    trained, kept = set_aside(asked, ppo_config(eval_steps=3), 0)
    assert (len(trained), len(kept)) == (5, 4)
    with pytest.raises(ConfigError, match="only one"):
        set_aside(asked[:1], ppo_config(eval_steps=3), 0)


def test_every_prompt_comes_once_an_epoch() -> None:
    config = ppo_config(batch_size=4, samples_per_prompt=2, num_mini_batches=1)
    steps = [step_prompts(PROMPTS, config, 0, step) for step in range(6)]
    for epoch in (0, 1):
        seen = [p.id for step in steps[3 * epoch : 3 * epoch + 3] for p in step]
        assert sorted(seen) == sorted([p.id for p in PROMPTS] * 2)
    assert [p.id for step in steps[:3] for p in step] != [p.id for step in steps[3:] for p in step]


def test_the_learning_rate_falls_to_nothing_and_rises_first_where_it_is_asked_to() -> None:
    table = {"steps": 5, "num_ppo_epochs": 1, "num_mini_batches": 2, "learning_rate": 1.0}
    assert [learning_rate(ppo_config(**table), u) for u in range(10)] == pytest.approx([1 - u / 10 for u in range(10)])
    warm = [learning_rate(ppo_config(**table, warmup_steps=2), u) for u in range(10)]
    assert warm == pytest.approx([0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
