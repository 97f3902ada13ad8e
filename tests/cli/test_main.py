"""The command line as a user meets it: its verbs, resuming, and the report."""

from __future__ import annotations

import json
from pathlib import Path

from rlaif import __version__
from rlaif.stages import table as stages
from tests.output import rlaif
from tests.report.fake_run import write_run


def test_version_and_help() -> None:
    assert rlaif("--version").output == f"rlaif {__version__}\n"
    listed = rlaif("--help").output
    assert "rlaif init mine" in listed
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


def test_report_verb_builds_from_the_folder_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out)
    result = rlaif("report", out)
    assert result.exit_code == 0, result.output
    assert "Content-Security-Policy" in (out / "report.html").read_text()
    assert json.loads(rlaif("report", out, "--json").stdout) == {"report": str(out / "report.html")}
    assert rlaif("report", tmp_path).exit_code != 0


def test_report_shows_another_run_as_a_control_and_goes_on_doing_so(tmp_path: Path) -> None:
    for name in ("ours", "random"):
        write_run(tmp_path / name)
    page = tmp_path / "ours/report.html"
    assert rlaif("report", tmp_path / "ours", "--control", f"random judge={tmp_path / 'random'}").exit_code == 0
    assert "random judge (control)" in page.read_text()
    assert rlaif("report", tmp_path / "ours").exit_code == 0
    assert "random judge (control)" in page.read_text()
    wrong = rlaif("report", tmp_path / "ours", "--control", str(tmp_path / "random"))
    assert wrong.exit_code == 2
    assert "is no NAME=RUN" in wrong.stderr
