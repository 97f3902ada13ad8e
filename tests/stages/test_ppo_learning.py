"""PPO learns a planted score. (Where the optimum is known: tests/check/ppo/test_analytic.py.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny_ppo import chosen, trainer
from tests.training.toy_rewards import share_of_e


@pytest.mark.parametrize("value", ["adapter", "trunk"])
def test_a_planted_score_is_learnt(tiny_model: Path, value: Any) -> None:
    steps = 25
    work = trainer(
        tiny_model,
        function=share_of_e,
        value=value,
        batch_size=32,
        micro_batch_size=32,
        max_new_tokens=8,
        steps=steps,
        learning_rate=1e-2,
        kl_coef=0.02,
    )
    rows = [work.step(step, chosen(work, step))[2] for step in range(steps)]
    first, last = rows[0], {name: sum(row[name] for row in rows[-5:]) / 5 for name in rows[0]}
    assert first["score"] < 0
    assert last["score"] > first["score"] + 2
    assert last["kl"] > 10  # it has gone somewhere, and knows it
    assert last["entropy"] < first["entropy"] - 1
    if value == "adapter":
        assert last["explained_variance"] > 0.2 > first["explained_variance"]
