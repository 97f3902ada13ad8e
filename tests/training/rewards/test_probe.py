"""The probe: what it can learn it learns, and what is noise stays at chance."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif.training.rewards.probe import chosen, cross_validated, held_out_margins


def test_a_direction_is_found_on_prompts_that_were_not_seen_and_noise_is_not() -> None:
    draw = np.random.default_rng(0)
    prompts = [f"p{i // 4}" for i in range(200)]
    sides = draw.random(200) < 0.5
    noise = draw.normal(size=(200, 32))
    planted = noise + np.where(sides, 1.0, -1.0)[:, None] * np.eye(32)[0] * 2
    assert cross_validated(planted, list(sides), prompts) > 0.9
    assert cross_validated(noise, list(sides), prompts) == pytest.approx(0.5, abs=0.12)
    # What is the same for all pairs of a prompt must not help: no fold holds a prompt that was learnt from.
    by_prompt = np.repeat(draw.normal(size=(50, 32)), 4, axis=0)
    alike = np.repeat(draw.random(50) < 0.5, 4)
    assert cross_validated(by_prompt, list(alike), prompts) == pytest.approx(0.5, abs=0.2)
    margins = held_out_margins(planted[:100], list(sides[:100]), planted[100:])
    assert np.mean((np.array(margins) > 0) == sides[100:]) > 0.9


def test_which_answer_stands_as_a_changes_nothing() -> None:
    draw = np.random.default_rng(1)
    sides = draw.random(120) < 0.5
    turn = np.where(sides, 1.0, -1.0)[:, None]
    drawn = draw.normal(size=(120, 16)) + turn * np.eye(16)[0]
    prompts = [f"p{i // 4}" for i in range(120)]
    always = [True] * 120  # the same pairs, the preferred answer always as A
    assert cross_validated(drawn * turn, always, prompts) == cross_validated(drawn, list(sides), prompts)
    asked = draw.normal(size=(20, 16))
    told = held_out_margins(drawn, list(sides), asked)
    assert held_out_margins(drawn * turn, always, asked) == pytest.approx(told, abs=1e-3)
    assert max(map(abs, told)) > 0.1
    assert held_out_margins(drawn, list(sides), asked[:0]) == []


def test_the_mean_is_taken_unless_another_is_clearly_better() -> None:
    # The standard error of 0.8 in 100 pairs is 0.04.
    assert chosen({"mean": 0.77, "last": 0.80, "end": 0.5}, 100) == "mean"
    assert chosen({"mean": 0.75, "last": 0.80, "end": 0.5}, 100) == "last"
    assert chosen({"mean": 0.75, "last": 0.80, "end": 0.81}, 100) == "end"
