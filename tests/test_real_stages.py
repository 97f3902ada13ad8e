"""All seven real stages on a tiny random model: killed at random moments and resumed, the records are the same."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from rlaif import pipeline
from rlaif.config import STAGES, RunConfig, load
from rlaif.init_project import init_project
from rlaif.progress import Silent
from rlaif.store import RunFolder
from tests import tiny

SMALL = (
    "judge.principles=one",
    "revise.gate=0",
    "revise.few_shots=0",
    "revise.max_new_tokens=6",
    "revise.critique_tokens=6",
    "revise.batch_size=1",
    "label.samples=2",
    "label.max_new_tokens=6",
    "label.batch_size=1",
    "ppo.steps=2",
    "ppo.batch_size=4",
    "ppo.micro_batch_size=4",
    "ppo.max_new_tokens=6",
    "ppo.save_steps=1",
    "evaluate.samples=1",
    "evaluate.max_new_tokens=6",
    "evaluate.gold=[]",
    "evaluate.bootstrap=100",
)
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


def test_the_real_run_survives_being_killed(config: RunConfig, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    start = time.monotonic()
    go(config, whole)
    length = time.monotonic() - start
    moments = random.Random(1)
    kills = 0
    for _ in range(4):
        child = os.fork()  # libraries are loaded, so that the moments fall into the work and not into imports
        if child == 0:
            try:
                go(config, broken)
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
        time.sleep(moments.uniform(0.1, 0.35) * length)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0
        kills += os.WIFSIGNALED(status)
    assert kills >= 2
    go(config, broken)
    for name in RECORDS:
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert all(RunFolder(broken).record(stage) is not None for stage in STAGES)
    assert (broken / "report.html").stat().st_size > 10_000
    ids = [json.loads(line)["id"] for line in (broken / "label/labels.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 8
