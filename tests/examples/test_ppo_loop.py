"""The example loop learns on a tiny model, and is short enough to be read."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import loaded
from tests.training.toy_rewards import share_of_e

FILE = Path(__file__).parents[2] / "examples" / "ppo_loop.py"


@pytest.fixture(scope="module")
def loop() -> ModuleType:
    return loaded(FILE)


def test_the_score_rises_and_the_kl_is_held(
    loop: ModuleType, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = loop.Settings(
        steps=20, batch_size=32, learning_rate=3e-3, num_mini_batches=1, kl_coef=0.05, missing_eos_penalty=0.1
    )
    rows = loop.train(str(tiny_model), share_of_e, settings)
    first, last = (sum(row["score"] for row in part) / 4 for part in (rows[:4], rows[-4:]))
    assert last > first + 0.3
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-4)  # before the first update the policy is the reference
    assert 0 < rows[-1]["kl"] < 15
    assert len(capsys.readouterr().out.splitlines()) == 20


def test_it_is_short() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) <= 250
