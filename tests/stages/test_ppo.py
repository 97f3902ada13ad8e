"""The ppo stage: what it leaves, what it refuses, and that it ends the same when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.config import LoraTable
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.files import MetricsLog
from rlaif.judge.load import parse
from rlaif.lm.local.load import load_model
from rlaif.stages import ppo
from rlaif.training.rewards.model import RewardModel
from tests.training.contexts import Heard, prompt
from tests.training.tiny_ppo import (
    ADAPTIVE,
    PROMPTS,
    ppo_context,
    rows,
    same_run,
)
from tests.training.toy_rewards import share_of_e


def test_the_stage_leaves_an_adapter_metrics_and_rollouts(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = [*PROMPTS, prompt("too long " * 80)]
    context = ppo_context(tmp_path, tiny_model, sft_adapter, asked)
    context.progress = Heard()
    counts = ppo.run(context)
    assert counts["prompts"] == 6
    assert counts["prompts_too_long"] == 1
    assert any("too long" in line for line in context.progress.lines)
    assert counts["generated_tokens"] <= 4 * 8 * 6
    assert counts["score_last"] == rows(context)[-1]["score"]
    assert [row["step"] for row in rows(context)] == [0, 1, 2, 3]
    assert sorted(path.name for path in context.folder.iterdir()) == ["adapter", "metrics.jsonl", "rollouts.jsonl"]
    shown = MetricsLog(context.folder / "rollouts.jsonl").read()
    assert {row["prompt_id"] for row in shown} <= {p.id for p in PROMPTS}
    assert len({row["prompt_id"] for row in shown if row["step"] == 0}) == 4  # of different prompts
    for row in shown:
        score = share_of_e([], [row["response"]])[0] - (row["finish"] != "stop")
        assert row["score"] == pytest.approx(score, abs=1e-5)


def test_prompts_that_are_all_too_long_are_an_error(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, [prompt("too long " * 80)])
    with pytest.raises(StageError, match="none of 1 prompts leaves room"):
        ppo.run(context)


def test_sizes_that_do_not_come_out_even_are_an_error() -> None:
    tables: tuple[dict[str, Any], ...] = (
        {"batch_size": 9, "samples_per_prompt": 2},
        {"batch_size": 8, "samples_per_prompt": 4, "num_mini_batches": 2},  # a prompt each: whitening would be its own
    )
    for table in tables:
        with pytest.raises(ConfigError, match="ppo"):
            parse({"prompts": {"all": {"source": "own"}}, "ppo": table}, where="test")


def test_a_score_that_is_not_a_number_stops_with_the_batch_saved(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, reward="model")
    model = load_model(context.config.model, (context.adapter("sft"),))

    scorer = RewardModel.new(model, LoraTable(), seed=0)  # type: ignore[call-arg]
    scorer.head.weight.data.fill_(3e38)
    scorer.save(context.adapter("reward"))
    with pytest.raises(StageError, match="not finite"):
        ppo.run(context)
    saved = torch.load(context.folder / "bad_batch.pt", weights_only=True)
    assert saved["rows"]
    assert saved["rows"] == (~saved["scores"].isfinite()).nonzero().flatten().tolist()
    assert len(saved["responses"]) == 8
    assert not context.metrics.read()


def test_a_killed_stage_ends_as_the_uncut_one(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    whole = ppo_context(tmp_path / "whole", tiny_model, sft_adapter, PROMPTS, **ADAPTIVE)
    counts = ppo.run(whole)
    named = {"source": "tests.training.toy_rewards:killed_at_the_fourth_call", "name": "share_of_e"}
    table = {**ADAPTIVE, "reward": named}
    cut = ppo_context(tmp_path / "cut", tiny_model, sft_adapter, PROMPTS, **table)
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from rlaif.stages import ppo; from tests.training.contexts import stage_context\n"
        "torch.set_num_threads(1)\n"
        f"ppo.run(stage_context(Path(sys.argv[1]), Path(sys.argv[2]), 'ppo', ppo={cut.config.ppo.model_dump()!r}))"
    )
    counter = tmp_path / "counter"
    counter.touch()
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cut"), str(tiny_model)],
        env={**os.environ, "KILL_COUNTER": str(counter)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(rows(cut)) == 3  # and the checkpoint is after two
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KILL_COUNTER", str(counter))
        assert ppo.run(cut) == counts
    same_run(cut, whole)
    before = rows(cut)
    assert ppo.run(cut) == counts  # killed again, between the adapter and the stage's record
    assert rows(cut) == before
