"""All real stages on a tiny random model: killed at random moments and resumed, the records are the same."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif.config import STAGES, RunConfig
from rlaif.core.files import RunFolder
from rlaif.core.progress import Silent
from rlaif.judge.load import load
from rlaif.run import pipeline
from rlaif.run.init import init_project
from tests import tiny
from tests.stages.small_run import SMALL

RECORDS = (
    "revise/traces.jsonl",
    "sft/examples.jsonl",
    "label/responses.jsonl",
    "label/labels.jsonl",
    "reward/held_out.json",
    "ppo/rollouts.jsonl",
    "evaluate/responses.jsonl",
    "evaluate/labels.jsonl",
)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A model with room for a critique's few hundred tokens, and four prompts of each slice."""
    monkeypatch.setattr(tiny, "CONTEXT", 4096)
    tiny.make_tiny_model(tmp_path / "model")
    init_project(tmp_path)
    return load(tmp_path / "rlaif.yaml", ["model.source=./model", *SMALL])


def go(config: RunConfig, out: Path) -> None:
    pipeline.run_stages(config, out, STAGES, mode="resume", limit=4, progress=Silent())


@pytest.fixture(scope="module")
def start() -> Callable[..., multiprocessing.process.BaseProcess]:
    """Starts a function in a process of its own whose libraries are loaded, so that a kill falls into the work.

    A fork of the test's process would not do: its threads have computed, and their pool does not survive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rlaif.stages.sft", "rlaif.stages.ppo", "rlaif.stages.evaluate", "trl"])

    def started(function: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=function, args=arguments)
        process.start()
        return process

    started(time.monotonic).join()  # the first process waits for the imports
    return started


def test_the_real_run_survives_being_killed(
    config: RunConfig, tmp_path: Path, start: Callable[..., multiprocessing.process.BaseProcess]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    begin = time.monotonic()
    go(config, whole)
    length = time.monotonic() - begin
    moments = random.Random(1)
    kills = 0
    for _ in range(4):
        child = start(go, config, broken)
        child.join(moments.uniform(0.1, 0.35) * length)
        child.kill()
        child.join()
        assert child.exitcode in (0, -9)
        kills += child.exitcode == -9
    assert kills >= 2
    go(config, broken)
    for name in RECORDS:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert all(RunFolder(broken).record(stage) is not None for stage in STAGES)
    assert (broken / "report.html").stat().st_size > 10_000
    card = json.loads((broken / "card/card.json").read_text())["id"]
    assert {json.loads(line)["judge_card"] for line in (broken / "label/labels.jsonl").read_text().splitlines()} == {
        card
    }
    ids = [json.loads(line)["id"] for line in (broken / "label/labels.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 8
