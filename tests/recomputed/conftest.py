"""The run whose figures are computed again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import FEW_TOKENS
from tests.recomputed.plain import PER_SLICE, SAMPLES

MORE = (
    *("label.samples=3", "label.answers=both", "label.pairs=3", "label.max_new_tokens=12"),
    *("reward.held_out=0.5", "reward.epochs=3", "reward.learning_rate=0.01"),
    *(f"evaluate.samples={SAMPLES}", "evaluate.max_new_tokens=16", "evaluate.best_of=2", "evaluate.temperature=0.8"),
    *("evaluate.gold=[sentiment,toxicity]", "evaluate.bootstrap=2000"),
)


@pytest.fixture(scope="session")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose labels, reward model and evaluation have something to count."""
    from rlaif.core.progress import Silent
    from rlaif.judge.load import load
    from rlaif.run import pipeline

    folder = tmp_path_factory.mktemp("recomputed") / "run"
    shutil.copytree(finished / "runs" / "my", folder)
    config = load(finished / "rlaif.yaml", ["model.source=./model", *FEW_TOKENS, *MORE])
    names = ("label", "reward", "ppo", "evaluate", "report")
    pipeline.run_stages(config, folder, names, mode="force", limit=PER_SLICE, progress=Silent())
    return folder
