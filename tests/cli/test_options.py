"""How a command ends when something is wrong: its words, its exit code, its JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.output import rlaif


def test_errors_have_no_traceback_and_json_has_them_as_an_object(project: Path, tmp_path: Path) -> None:
    result = rlaif("reward", project, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 6
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "StageError"
    assert "rlaif sft" in error["remedy"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run"], 2, "which run?"),
        (["run", "none.yaml"], 2, "no such file"),
        (["sft", "--run", "nowhere"], 5, "not a run of rlaif"),
        (["show", "nowhere"], 5, "not a run of rlaif"),
        (["report", "nowhere"], 5, "not a run of rlaif"),
        (["run", "none.yaml", "--resume", "--force"], 2, "give one of them"),
        (["run", "none.yaml", "--limit", "0"], 2, "limit"),
        (["labl", "none.yaml"], 2, "Did you mean 'label'?"),
        (["trian", "none.yaml"], 2, "There are: init, fields, check, run"),
        (["constitution", "chekc"], 2, "'check'"),
    ],
)
def test_wrong_words_are_answered(words: list[str], code: int, message: str) -> None:
    result = rlaif(*words)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_path_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    result = rlaif("show", tmp_path / ("x" * 300))
    assert result.exit_code == 7
    assert f"error: {tmp_path}" in result.stderr
    assert "File name too long" in result.stderr


def test_an_unexpected_error_keeps_its_traceback(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: object) -> dict[str, float]:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["rlaif.stages.revise"], "run", breaks)
    assert isinstance(rlaif("revise", project, "--out", tmp_path / "out").exception, ZeroDivisionError)


def test_ctrl_c_where_nothing_can_be_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlaif.run.init.init_project", interrupted)
    result = rlaif("init", tmp_path)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
