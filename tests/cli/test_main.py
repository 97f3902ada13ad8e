"""The command line as a user meets it: exit codes, messages, JSON, and that nothing is overwritten."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rlaif import __version__
from rlaif.stages import table as stages
from tests.output import rlaif
from tests.report.fake_run import write_run


def test_version_and_help() -> None:
    assert rlaif("--version").output == f"rlaif {__version__}\n"
    listed = rlaif("--help").output
    assert all(verb in listed for verb in ("run", *stages.TABLE, "show", "check", "env", "init"))


def test_run_resume_and_verbs(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = rlaif("revise", project, "--out", out, "--json")
    assert first.exit_code == 0, first.output
    answer = json.loads(first.stdout)
    assert answer["run"] == str(out)
    assert answer["stages"]["revise"]["outcome"] == "done"
    assert answer["stages"]["revise"]["counts"] == {"written": 18.0}
    again = rlaif("revise", project, "--out", out)
    assert again.exit_code == 5
    assert "--resume" in again.stderr
    assert "--force" in again.stderr
    # The verbs find their config in the run.
    assert rlaif("sft", "--run", out).exit_code == 0
    kept = json.loads(rlaif("revise", "--run", out, "--resume", "--json").stdout)
    assert kept["stages"]["revise"]["outcome"] == "kept"
    changed = rlaif("label", "--run", out, "--set", "seed=1")
    assert changed.exit_code == 5
    assert "seed (was 0, now 1)" in changed.stderr


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
        (["trian", "none.yaml"], 2, "There are: init, check, run"),
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
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlaif.run.init.init_project", interrupted)
    result = rlaif("init", tmp_path)
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def test_report_verb_builds_from_the_folder_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out)
    result = rlaif("report", out)
    assert result.exit_code == 0, result.output
    assert "Content-Security-Policy" in (out / "report.html").read_text()
    assert json.loads(rlaif("report", out, "--json").stdout) == {"report": str(out / "report.html")}
    assert rlaif("report", tmp_path).exit_code != 0
