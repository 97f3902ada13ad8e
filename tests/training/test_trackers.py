"""Trackers are given what metrics.jsonl has, and their failures cost nothing but their curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any

import pytest

from rlaif.core.errors import ConfigError
from rlaif.core.files import MetricsLog
from rlaif.training.trackers import Trackers, refuse_missing_trackers
from tests.output import done, rlaif

Scalars = dict[str, list[tuple[int, float]]]


def scalars(folder: Path) -> Scalars:
    """Name -> (step, value) of everything that TensorBoard shows of the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def of_file(path: Path) -> Scalars:
    """The numbers of a file of metrics, as `scalars` has them."""
    found: Scalars = {}
    for row in MetricsLog(path).read():
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                found.setdefault(name, []).append((row["step"], value))
    return found


def alike(one: Scalars, other: Scalars) -> None:
    assert one.keys() == other.keys()
    for name, points in one.items():
        assert [step for step, _ in points] == [step for step, _ in other[name]]
        assert [value for _, value in points] == pytest.approx([value for _, value in other[name]], rel=1e-6)


def test_tensorboard_has_the_curves_of_every_trained_stage_and_the_evaluation(finished: Path, tmp_path: Path) -> None:
    run = copytree(finished / "runs" / "my", tmp_path / "my")
    for stage in ("sft", "label", "reward", "ppo", "evaluate"):
        done(stage, "--run", run, "--limit", "4", "--force", "--set", "report_to=[tensorboard]")
    assert not (run / "label" / "tensorboard").exists()
    for stage in ("sft", "ppo"):
        alike(scalars(run / stage / "tensorboard"), of_file(run / stage / "metrics.jsonl"))
    members = of_file(run / "reward" / "metrics.jsonl")
    members |= {f"member-2/{name}": points for name, points in of_file(run / "reward" / "metrics-2.jsonl").items()}
    alike(scalars(run / "reward" / "tensorboard"), members)
    counts = json.loads((run / "evaluate" / "stage.json").read_text())["counts"]
    compared = scalars(run / "evaluate" / "tensorboard")
    assert any(name.startswith("words_ppo_minus_sft") for name in compared)
    alike(compared, {name: [(0, counts[name])] for name in compared})


def test_trackio_has_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)  # it reads the folder once
    said: list[str] = []
    sent = Trackers(["trackio"], tmp_path / "my", "ppo", settings={"steps": 2}, say=said.append)
    sent.send({"step": 0, "score": 0.5, "why": "cut", "nothing": None})
    sent.send({"step": 1, "score": 0.75})
    sent.send({"step": 1, "slice": None, "gold": 0.25}, "validation/all/")
    sent.close()
    from trackio.sqlite_storage import SQLiteStorage

    rows = SQLiteStorage.get_logs("rlaif", "my-ppo")
    kept = [{name: row[name] for name in row if name not in ("timestamp",)} for row in rows]
    assert kept == [{"step": 0, "score": 0.5}, {"step": 1, "score": 0.75}, {"step": 1, "validation/all/gold": 0.25}]
    assert said == []
    assert capfd.readouterr().out == ""


def test_what_is_done_again_is_not_shown_twice(tmp_path: Path) -> None:
    for steps in (range(4), range(2, 5)):  # killed after step 3, its checkpoint stood at 2
        sent = Trackers(["tensorboard"], tmp_path, "ppo", settings={}, say=print)
        for step in steps:
            sent.send({"step": step, "score": float(step)})
        sent.close()
    assert scalars(tmp_path / "ppo" / "tensorboard")["score"] == [(step, float(step)) for step in range(5)]


@pytest.mark.parametrize("fails", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_left_out(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []

    def act(name: str) -> Any:
        def call(*_: Any, **__: Any) -> SimpleNamespace:
            got.append(name)
            if name == fails:
                raise ConnectionError("no network")
            return run

        return call

    run = SimpleNamespace(log=act("log"), finish=act("finish"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=act("init")))
    said: list[str] = []
    sent = Trackers(["wandb", "tensorboard"], tmp_path, "sft", settings={}, say=said.append)
    for step in range(3):
        sent.send({"step": step, "loss": 1.0})
    sent.close()
    assert said == ["  wandb failed, nothing more of sft is sent: ConnectionError: no network"]
    assert got == {"init": ["init"], "log": ["init", "log"], "finish": ["init", *["log"] * 3, "finish"]}[fails]
    assert len(scalars(tmp_path / "sft" / "tensorboard")["loss"]) == 3


def test_a_tracker_that_is_not_installed_is_named_before_the_first_stage(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match="not installed: mlflow"):
        refuse_missing_trackers(["tensorboard", "mlflow"])
    run = copytree(finished / "runs" / "my", tmp_path / "my")
    refused = rlaif("ppo", "--run", run, "--limit", "4", "--force", "--set", "report_to=[mlflow]")
    assert refused.exit_code == 2
    assert "pip install mlflow" in refused.stderr
    assert (run / "ppo" / "stage.json").exists()
    unknown = rlaif("ppo", "--run", run, "--force", "--set", "report_to=[tensorbord]")
    assert unknown.exit_code == 2
    assert "'tensorboard'" in unknown.stderr
