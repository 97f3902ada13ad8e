"""A part of the chain alone, by `stages`: as a user has it, by commands, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

import rlaif
from tests import tiny
from tests.output import done
from tests.output import rlaif as command

CAT = """\
def reward(prompts, responses):
    return [float("cat" in text) + text.count("e") / max(1, len(text)) for text in responses]


class Cats:
    better = "higher"

    def score(self, prompts, responses):
        return reward(prompts, responses)
"""
BY_FUNCTION = """\
model: {source: ./model}
prompts: {mine: {source: prompts.txt, train: 6, held_out: 4}}
stages: [ppo, evaluate]
ppo: {reward: "cat:reward", steps: 2, batch_size: 4, max_new_tokens: 6}
evaluate: {gold: ["cat:Cats"], max_new_tokens: 6}
"""
LABELS_ALONE = """\
model: {source: ./model}
prompts: {mine: {source: prompts.txt, train: 6}}
card: {required: false}
stages: [label]
label: {max_new_tokens: 6}
"""


def said(*words: str | Path) -> str:
    """What a command says that succeeds, as one line."""
    found = command(*words)
    assert found.exit_code == 0, found.output
    return " ".join(found.output.split())


def failed(*words: str | Path) -> str:
    """What a command says that fails, as one line."""
    found = command(*words)
    assert found.exit_code != 0, found.output
    return " ".join(found.output.split())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a tiny model, ten prompts and a function."""
    monkeypatch.setattr(tiny, "CONTEXT", 4096)  # room for what a judge reads
    tiny.make_tiny_model(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("".join(f"Tell me of number {i}.\n" for i in range(10)))
    (tmp_path / "cat.py").write_text(CAT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_ppo_against_a_function_alone(folder: Path) -> None:
    """Neither judge nor labels nor fine-tuning: a config of five lines."""
    (folder / "cat.yaml").write_text(BY_FUNCTION)
    assert "judge" not in said("check", "cat.yaml")
    planned = done("run", "cat.yaml", "--dry-run")
    assert [row["stage"] for row in planned["stages"]] == ["ppo", "evaluate", "report"]
    assert not any(row["judge_calls"] for row in planned["stages"])
    assert "held near the model by a KL penalty" in said("run", "cat.yaml", "--out", "runs/cat")
    assert sorted(path.name for path in (folder / "runs" / "cat").iterdir() if path.is_dir()) == [
        *("cache", "evaluate", "ppo", "prompts", "report", "templates")
    ]
    run = rlaif.open_run("runs/cat")
    summary = run.summary()
    assert list(summary.models) == ["sft", "ppo"]  # the model as it is, and after PPO
    assert not run.labels("evaluate")
    assert any("nothing was fine-tuned before PPO" in note for note in summary.notes)
    assert any("no judge was asked, since this run has no labels" in note for note in summary.notes)
    assert {cell.measure for cell in summary.cells} >= {"Cats", "words"}
    # PPO can be gone on with, and other prompts be evaluated, without anything else
    said("run", "cat.yaml", "--out", "runs/cat", "--resume")
    assert "evaluate" in said("show", "runs/cat")
    said("export", "policy", "--run", "runs/cat", "--out", "policy")
    assert (folder / "policy" / "adapter_config.json").exists() or (folder / "policy" / "model.safetensors").exists()
    refused = failed("sft", "--run", "runs/cat")
    assert "this run has no stage sft: its stages are ppo, evaluate" in refused


def test_labels_of_the_model_as_it_is(folder: Path) -> None:
    (folder / "labels.yaml").write_text(LABELS_ALONE)
    said("run", "labels.yaml", "--out", "runs/labels")
    run = rlaif.open_run("runs/labels")
    labels = run.labels("label")
    assert len(labels) == 6 * 6
    assert not (folder / "runs" / "labels" / "sft").exists()
    assert not (folder / "runs" / "labels" / "ppo").exists()
    said("export", "data", "--run", "runs/labels", "--out", "pairs")
    assert (folder / "pairs" / "data").is_dir()
    # what stands on labels can be added afterwards, and what was made stays
    said("run", "labels.yaml", "--out", "runs/labels", "--resume", "--set", "stages=[label, reward]")
    assert (folder / "runs" / "labels" / "reward" / "adapter").is_dir()
    assert run.labels("label") == labels
    scored = rlaif.load_reward("runs/labels")
    assert len(scored(prompts=["Tell me of number 1."], completions=["One."])) == 1
    assert "this run has no PPO" in failed("export", "policy", "--run", "runs/labels", "--out", "policy")


def test_what_is_left_out_is_said_before_the_first_stage(folder: Path) -> None:
    (folder / "cat.yaml").write_text(BY_FUNCTION.replace('"cat:reward"', "model"))
    for words in (("run", "cat.yaml", "--out", "runs/cat"), ("check", "cat.yaml"), ("run", "cat.yaml", "--dry-run")):
        found = failed(*words)
        assert "ppo reads what reward writes, and this run has no stage reward" in found
        assert "ppo.reward takes a function of your own" in found
    assert not (folder / "runs").exists()
