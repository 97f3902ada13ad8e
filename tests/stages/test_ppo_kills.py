"""The ppo stage killed at any touch of its folder, or left without room at one; resumed, it equals the uncut run."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlaif.stages import ppo
from rlaif.stages.context import StageContext
from tests.training.kills import FULL, SHORT, ppo_until
from tests.training.tiny_ppo import PROMPTS, ppo_context, same_run

Start = Callable[..., int]


@pytest.fixture(scope="module")
def start() -> Start:
    """Runs the stage in a process whose libraries are loaded but have not computed; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlaif.stages.ppo", "tests.training.kills", "peft", "tests.training.toy_rewards"])

    def started(*arguments: object) -> int:
        process = context.Process(target=ppo_until, args=arguments)
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    return started


# Killed

KILLED: dict[str, dict[str, Any]] = {
    "ppo": {"kl_target": 1.0, "kl_horizon": 20, "learning_rate": 1e-3},
    "ppo on the trunk": {"value": "trunk"},
    "reinforce": {"algorithm": "reinforce", "baseline": "batch"},
    "rloo": {"algorithm": "rloo", "samples_per_prompt": 2},
    "grpo": {"algorithm": "grpo", "samples_per_prompt": 2, "kl_target": 1.0, "kl_horizon": 20},
}


def clean(context: StageContext) -> list[str]:
    return sorted(path.name for path in context.folder.iterdir())


@pytest.mark.parametrize("name", KILLED)
def test_killed_three_times_at_any_touch_it_ends_as_the_uncut_run(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
    start: Start,
    name: str,
) -> None:
    whole, cut = (
        ppo_context(tmp_path / part, tiny_model, sft_adapter, PROMPTS, **SHORT, **KILLED[name])
        for part in ("whole", "cut")
    )
    counts, table = ppo.run(whole), cut.config.ppo.model_dump()
    log = tmp_path / "log"
    # Steps 1 and 2 touch the folder 10 times, their checkpoint 7, step 3 five times, its checkpoint and the adapter 20.
    place = list(KILLED).index(name)
    for touch in (11 + place, 20 + 2 * place, 16 + 3 * place):
        assert start(touch, "kill", tmp_path / "cut", tiny_model, table, log) == -9, log.read_text()
    assert ppo.run(cut) == counts
    same_run(cut, whole)
    assert clean(cut) == ["adapter", "metrics.jsonl", "rollouts.jsonl"]


# A full disk


@pytest.mark.parametrize("full", ["open metrics", "open state.pt", "open facts", "os.mkdir adapter.tmp"])
def test_a_full_disk_is_said_and_with_room_the_run_goes_on(
    tmp_path: Path,
    tiny_model: Path,
    sft_adapter: Path,
    start: Start,
    full: str,
) -> None:
    """From the second such touch on, or the only one, the system refuses every write."""
    whole, cut = (
        ppo_context(tmp_path / part, tiny_model, sft_adapter, PROMPTS, **SHORT, **KILLED["ppo"])
        for part in ("whole", "cut")
    )
    log, table = tmp_path / "log", cut.config.ppo.model_dump()
    assert start(0, "full", tmp_path / "whole", tiny_model, table, log) == 0
    touches = [n for n, line in enumerate(log.read_text().splitlines(), start=1) if line.startswith(full)]
    assert start(touches[:2][-1], "full", tmp_path / "cut", tiny_model, table, log) == FULL
    ppo.run(cut)
    same_run(cut, whole)
    assert clean(cut) == ["adapter", "metrics.jsonl", "rollouts.jsonl"]
