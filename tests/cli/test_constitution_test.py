"""`rlaif constitution test` as a user meets it: table, JSON, exit codes, and whose judge it asks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rlaif.cli import app

MINE = """\
name: mine
version: "[red]7[/red]"
principles:
  - id: kind
    statement: Be kind.
    weight: 0
    contrast: {followed: You are kind., violated: You are cruel.}
    tests:
      - {prompt: May I come in?, better: Yes my friend., worse: "No."}
      - {prompt: Who are you?, better: A friend., worse: None of your business.}
  - id: calm
    statement: Be calm.
    contrast: {followed: You are calm., violated: You shout.}
    tests:
      - {prompt: Is it late?, better: A little., worse: YES IT IS}
  - id: plain
    statement: Be plain.
"""
SCRIPTED = ("--set", "judge.backend=scripted")


def rlaif(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["constitution", "test", *(str(word) for word in words)])


def data(*words: str | Path) -> Any:
    result = rlaif(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A constitution of three principles and three tests; verdicts are cached in a folder of their own."""
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


def test_the_table_and_the_json_tell_the_same(mine: Path) -> None:
    found = data(mine, *SCRIPTED)
    shown = rlaif(mine, *SCRIPTED).stdout
    assert "mine [red]7[/red], judged by scripted (contrast)" in shown
    rows = {cells[0]: cells for cells in (re.split(r" {2,}", line.strip()) for line in shown.splitlines())}
    for principle in found["principles"][:2]:
        failed = [str(n) for n, test in enumerate(principle["tests"], 1) if not test["passed"]]
        passed = f"{principle['passed']} of {principle['judged']}"
        assert rows[principle["id"]][1] == passed
        assert rows[principle["id"]][5:] == ([", ".join(failed)] if failed else [])
    assert rows["plain"] == ["plain", "no tests"]
    assert rows["all"][1] == f"{found['overall']['passed']} of 3"
    assert "The judge was asked 0 times; 12 answers were known from before." in shown
    assert "By length alone: shorter wins 33.3\u00a0%, longer wins 33.3\u00a0%." in shown


def test_json_has_every_test_with_its_probability(mine: Path) -> None:
    found = data(mine, *SCRIPTED)
    tests = [test for principle in found["principles"] for test in principle["tests"]]
    assert [test["worse"] for test in tests] == ["No.", "None of your business.", "YES IT IS"]
    assert all(0 < test["prob_better"] < 1 and test["passed"] == (test["prob_better"] > 0.5) for test in tests)
    assert found["judge"] == {"model": "scripted", "method": "contrast", "calls": 12, "cached": 0}
    assert data(mine, *SCRIPTED)["judge"]["calls"] == 0


def test_order_consistency_is_a_column_where_there_is_an_order(mine: Path) -> None:
    assert "agree" not in rlaif(mine, *SCRIPTED).stdout
    assert "agree" in rlaif(mine, *SCRIPTED, "--set", "judge.method=pairwise").stdout


def test_an_undecided_judge_gives_a_verdict_on_every_test(mine: Path) -> None:
    # scripted letters are never surer than 0.49 of a side, so labels would all be abstentions
    found = data(mine, *SCRIPTED, "--set", "judge.method=pairwise", "--set", "judge.abstain_below=0.49")["overall"]
    assert (found["judged"], found["failures"]) == (3, {})


def test_a_gate_is_kept_or_not(mine: Path) -> None:
    share = data(mine, *SCRIPTED)["overall"]["passed"] / 3
    assert rlaif(mine, *SCRIPTED, "--fail-under", str(share)).exit_code == 0
    missed = rlaif(mine, *SCRIPTED, "--fail-under", str(min(share + 0.01, 1.0)))
    assert missed.exit_code == 1
    assert f"{round(3 * share)} of 3 tests passed, less than --fail-under" in missed.stderr
    assert rlaif(mine, *SCRIPTED, "--fail-under", "1.5").exit_code == 2


def test_only_one_principle(mine: Path) -> None:
    assert [p["id"] for p in data(mine, *SCRIPTED, "--only", "calm")["principles"]] == ["calm"]
    wrong = rlaif(mine, *SCRIPTED, "--only", "clam")
    assert wrong.exit_code == 3
    assert "did you mean 'calm'" in wrong.stderr
    assert str(mine) in wrong.stderr


def test_the_judge_is_the_one_of_the_config(mine: Path) -> None:
    config = mine.parent / "run.yaml"
    (mine.parent / "rules.jsonl").write_text('{"match": "x", "reply": "y"}\n')
    config.write_text(
        "judge: {backend: scripted, source: rules.jsonl, method: pairwise}\n"
        "constitution: nowhere.yaml\nprompts: {mine: {source: nowhere.jsonl}}\n"
    )
    found = data(mine, "--config", config)
    assert (found["judge"]["model"], found["judge"]["method"]) == ("rules", "pairwise")
    assert data(mine, "--config", config, "--set", "judge.method=random")["judge"]["model"] == "random"


@pytest.mark.parametrize(
    ("override", "message"),
    [("judge.methud=random", "did you mean 'method'"), ("judge", "is not table.field=value")],
)
def test_a_wrong_setting_is_named(mine: Path, override: str, message: str) -> None:
    result = rlaif(mine, "--set", override)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_judge_without_weights_needs_no_torch(mine: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from rlaif.cli import app\n"
        f"words = {['constitution', 'test', str(mine), *SCRIPTED]!r}\n"
        "assert CliRunner().invoke(app, words).exit_code == 0\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
