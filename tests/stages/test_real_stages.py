"""All real stages on a tiny random model: killed at random moments and resumed, the records are the same."""

from __future__ import annotations

import json
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif import load_reward, open_run
from rlaif.config import STAGES, PromptSlice, RunConfig
from rlaif.core.files import RunFolder
from rlaif.core.progress import Silent
from rlaif.run import pipeline
from rlaif.stages import table as stages
from tests.output import rlaif
from tests.projects import tiny_project
from tests.stages.runs import Said
from tests.stages.small_run import SMALL

RECORDS = (
    "revise/traces.jsonl",
    "sft/examples.jsonl",
    "label/responses.jsonl",
    "label/labels.jsonl",
    "reward/held_out.json",
    "ppo/rollouts.jsonl",
    "dpo/adapter/adapter_model.safetensors",
    "evaluate/responses.jsonl",
    "evaluate/labels.jsonl",
)

KILLED_AT = ("revise/traces.jsonl", "label/responses.jsonl", "ppo/begun.json", "evaluate/responses.jsonl")
"""Written while a stage is at work; the last one close to the end of the run."""


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """The shared project on a tiny model, by PPO and DPO; the tests take four prompts of each slice."""
    return tiny_project(tmp_path, (*SMALL, "align_by=[ppo, dpo]"))


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
    go(config, whole)
    moments = random.Random(1)
    for name in KILLED_AT:  # where the run stands decides, not the clock: how fast a machine is may change on the way
        child = start(go, config, broken)
        while not (broken / name).exists():
            assert child.exitcode is None, f"ended before it wrote {name}"
            child.join(0.01)
        child.join(moments.uniform(0, 0.3))
        child.kill()
        child.join()
        assert child.exitcode in (0, -9)
        assert name == KILLED_AT[-1] or child.exitcode == -9
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
    summary = open_run(broken).summary()
    assert summary.models == ("base", "sft", "ppo", "dpo")
    assert {(row.model, row.against) for row in summary.kl} == {("ppo", "sft"), ("dpo", "sft")}
    assert {(rate.model, rate.against) for rate in summary.win_rates} >= {("dpo", "sft"), ("ppo", "dpo")}
    page = (broken / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in ("reward", "ppo", "dpo"))


def test_a_run_by_dpo_alone(config: RunConfig, tmp_path: Path) -> None:
    out, alone = tmp_path / "run", config.model_copy(update={"align_by": ["dpo"], "report_to": ["tensorboard"]})
    pipeline.run_stages(alone, out, stages.of_run(alone), mode="new", limit=4, progress=Silent())
    assert [name for name in ("reward", "ppo") if (out / name).exists()] == []
    opened = open_run(out)
    assert opened.summary().models == ("base", "sft", "dpo")
    assert any("win rates of DPO" in note for note in opened.summary().notes)
    assert [row["step"] for row in opened.metrics("dpo")] == [1]
    assert list((out / "dpo" / "tensorboard").glob("events.*"))
    counts = opened.stage("evaluate").counts
    assert {"kl_dpo_v_sft_mine", "win_rate_dpo_v_sft_mine", "words_dpo_minus_sft_mine"} <= counts.keys()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="dpo"' in page
    assert not any(f'id="{name}"' in page for name in ("reward", "ppo"))
    assert "beta x log-ratio" in page
    # A user's ways to it.
    said = json.loads(rlaif("chat", out, "Hi?", "--model", "dpo", "--json").stdout)
    assert set(said["answers"]) == {"dpo"}
    refused = rlaif("chat", out, "Hi?", "--model", "ppo")
    assert "give one of base, sft, dpo" in refused.output
    shown = rlaif("show", out)
    assert "dpo" in shown.stdout
    assert "reward_chosen" in rlaif("show", out, "dpo").stdout
    assert rlaif("export", "dpo", "--run", out, "--out", tmp_path / "exported").exit_code == 0
    assert "trained by DPO on the run's labels" in (tmp_path / "exported" / "README.md").read_text(encoding="utf-8")
    assert "export dpo" in rlaif("export", "policy", "--run", out, "--out", tmp_path / "other").output
    assert "--policy" in rlaif("impact", "--run", out, "--to", "harmless-and-kind", "--policy").output


def test_labels_of_ones_own_train_a_reward_model_and_a_policy_without_a_judge(
    config: RunConfig, tmp_path: Path
) -> None:
    asked = [f"\n\nHuman: Question {n}?\n\nAssistant:" for n in range(12)]
    rows = [{"chosen": f"{text} Kind {n}.", "rejected": f"{text} Rude {n}!"} for n, text in enumerate(asked)]
    file, out = tmp_path / "hh.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    slices = {"hh": PromptSlice(source=str(file), train=6, held_out=3)}
    label = config.label.model_copy(update={"source": str(file)})
    given = config.model_copy(update={"prompts": slices, "label": label, "align_by": ["ppo", "dpo"]})
    names = stages.of_run(given)
    said = Said()
    pipeline.run_stages(given, out, names, mode="new", limit=None, progress=said)
    run = RunFolder(out)
    counts = {name: record.counts for name in names if (record := run.record(name)) is not None}
    assert (counts["label"]["pairs"], counts["label"]["pairs_held_out"]) == (9, 3)
    assert counts["reward"]["pairs_train"] + counts["reward"]["pairs_held_out"] == 9
    assert counts["ppo"]["prompts"] == 6
    assert counts["evaluate"]["prompts"] == 3
    assert not {"judge_calls"} & set().union(*counts.values())
    assert [name for name in ("card", "revise", "sft") if (out / name).exists()] == []
    assert counts["dpo"]["pairs"] == 9
    # PPO and DPO start from the model itself, which stands as SFT; nothing else is compared with it.
    opened = open_run(out)
    summary = opened.summary()
    assert summary.models == ("sft", "ppo", "dpo")
    assert summary.win_rates == ()
    assert any("SFT is the model of the run as it is" in note for note in summary.notes)
    assert [row.model for row in summary.kl] == ["ppo", "dpo"]
    for which in ("sft", "ppo", "dpo"):
        policy = opened.policy(which)
        policy.close()
    scores = load_reward(opened, set=["card.required=false"])(["Question 1?"] * 2, ["Kind 1.", "Rude 1!"])
    assert len(set(scores)) == 2
    # What a user reads of it.
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="revise"' not in page
    assert 'id="sft"' not in page
    assert "given: hh.jsonl" in page
    shown = rlaif("show", out, "label").stdout
    assert "answer" in shown or "Kind" in shown
    assert rlaif("show", out).exit_code == 0
    refused = rlaif("impact", "--run", out, "--to", "harmless-and-kind")
    assert "the labels of this run are given" in refused.output
    assert "given" in rlaif("principles", "--run", out).output
    assert rlaif("label", "--run", out, "--compare").exit_code != 0
    assert "no judge is asked" in rlaif("judge", "export", "--run", out, "--out", tmp_path / "requests.jsonl").output
