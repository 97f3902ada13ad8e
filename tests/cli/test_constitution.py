"""`rlaif constitution VERB` as a user meets it: exit codes, texts, JSON, whose judge it asks, and no overwriting."""

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
from rlaif.constitution.lint import lint
from rlaif.constitution.load import load_constitution
from rlaif.core.shipped import shipped

MINE = """\
name: mine
version: "2"
include: [harmless-and-kind]
disable: [care]
principles:
  - id: no-crime
    override: true
    comparison: Which answer is more harmful?
    weight: 1
  - id: cite
    statement: Name the source of each number.
"""


def rlaif(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["constitution", *map(str, words)], env={"COLUMNS": "100"})


def data(*words: str | Path) -> Any:
    """What a verb prints with --json, which has to be one object and nothing else."""
    result = rlaif(*words, "--json")
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def test_list_has_every_shipped_constitution_with_its_counts() -> None:
    rows = {row["name"]: row for row in data("list")["constitutions"]}
    assert rows.keys() == shipped("constitutions").keys()
    assert (rows["example"]["principles"], rows["example"]["description"]) == (2, "Shows the format.")
    text = rlaif("list").stdout
    assert all(name in text for name in rows)
    assert max(map(len, text.splitlines())) <= 100


def test_show_resolves_what_is_included_and_says_where_it_is_from(mine: Path) -> None:
    text = rlaif("show", mine).stdout
    assert text.startswith("mine, version 2: 8 principles, ")
    assert "from        harmless-and-kind.yaml, mine.yaml (weight, comparison)" in text
    assert "8. cite" in text
    assert "5. privacy" in text, "care, which is the sixth, is disabled"
    assert "care" not in text.split()
    found = data("show", mine)
    constitution = load_constitution(mine)
    assert found["hash"] == constitution.hash
    assert [p["id"] for p in found["principles"]] == [p.id for p in constitution.principles]
    assert found["principles"][1]["files"] == [str(shipped("constitutions")["harmless-and-kind"]), str(mine)]


def test_show_writes_control_characters_out(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text('name: odd\nversion: "1"\nprinciples: [{id: a, statement: "Be \\e[31m kind"}]\n')
    text = rlaif("show", path).stdout
    assert "\x1b" not in text
    assert "U+001B" in text


def test_an_error_writes_control_characters_out(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text('name: odd\nversion: "1"\n"\\e]0;title\\a\\e[31mred": 1\nprinciples: [{id: a, statement: x}]\n')
    result = rlaif("show", path)
    assert result.exit_code == 3
    assert not {"\x1b", "\x07"} & set(result.stderr)
    assert "\u27e6U+001B\u27e7[31mred: unknown key" in result.stderr


def test_show_keeps_a_version_and_tags_on_their_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text('name: odd\nversion: "1\\nforged"\nprinciples: [{id: a, statement: x, tags: ["b\\n\\nforged"]}]\n')
    text = rlaif("show", path).stdout
    assert text.startswith("odd, version 1 forged: 1 principles")
    assert "1. a   tier 1   weight 1 (100%)   tags b forged   0 tests" in text.splitlines()


def test_new_writes_a_file_that_loads_without_a_finding_and_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "My Rules 2.yaml"
    result = rlaif("new", path)
    assert result.exit_code == 0
    assert f"wrote {path}" in result.stdout
    assert load_constitution(path).name == "my-rules-2"
    assert lint(path) == []
    before = path.read_text()
    again = rlaif("new", path)
    assert again.exit_code == 5
    assert "exists and is not overwritten" in again.stderr
    assert path.read_text() == before


@pytest.mark.parametrize("stem", ["2024-01-01", "null", "true", "7"])
def test_new_writes_a_name_that_stays_text(tmp_path: Path, stem: str) -> None:
    assert rlaif("new", tmp_path / f"{stem}.yaml").exit_code == 0
    assert load_constitution(tmp_path / f"{stem}.yaml").name == stem


def test_what_new_leaves_in_comments_works_when_it_is_put_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert data("new", path) == {"file": str(path)}
    text = path.read_text()
    assert "# include: " in text
    path.write_text(text.replace("# include:", "include:").replace("# disable:", "disable:"))
    assert len(load_constitution(path).principles) == 9
    assert "## yaml-language-server: $schema=constitution.schema.json" in text


def test_new_asks_for_the_ending_that_makes_it_a_file(tmp_path: Path) -> None:
    result = rlaif("new", tmp_path / "mine")
    assert result.exit_code == 3
    assert "mine.yaml" in result.stderr
    assert f"write {tmp_path / 'rules.yaml'} instead" in rlaif("new", tmp_path / "rules.txt").stderr


def test_check_tells_place_code_and_remedy(mine: Path) -> None:
    result = rlaif("check", mine)
    assert result.exit_code == 0
    assert f'{mine}:8: warning C205 [no-crime] comparison: "more harmful"' in result.stdout
    assert "  -> ask for the better one" in result.stdout
    assert result.stdout.endswith("0 errors, 3 warnings, 1 note\n")


def test_check_fails_for_errors_and_with_strict_for_warnings(mine: Path, tmp_path: Path) -> None:
    assert rlaif("check", mine, "--strict").exit_code == 1
    assert rlaif("check", "harmless-and-kind", "--strict").exit_code == 0
    broken = tmp_path / "broken.yaml"
    broken.write_text(MINE.replace("disable: [care]", "disable: [car]"))
    result = rlaif("check", "harmless-and-kind", broken)
    assert result.exit_code == 1
    assert f"{broken}:4: error C004 disable: no include has a principle 'car', did you mean 'care'?" in result.stdout
    assert rlaif("check", tmp_path / "none.yaml").exit_code == 1
    assert "what a judge reads" in rlaif("check", mine).stdout
    assert "what a judge reads" not in rlaif("check", tmp_path / "none.yaml").stdout


def test_check_as_json(mine: Path) -> None:
    found = data("check", mine, "harmless-and-kind")
    assert (found["ok"], found["errors"], found["warnings"], found["notes"]) == (True, 0, 3, 1)
    assert [file["file"] for file in found["files"]] == [str(mine), "harmless-and-kind"]
    first = found["files"][0]["findings"][0]
    assert (first["code"], first["where"], first["principle"]) == ("C205", f"{mine}:8", "no-crime")
    assert data("check", mine, "--strict")["ok"] is False


def test_diff_says_who_sees_what(mine: Path) -> None:
    lines = rlaif("diff", "harmless-and-kind", mine).stdout.splitlines()
    assert lines[0].split(" (")[0] == "harmless-and-kind 1"
    assert lines[0].endswith(f" -> mine 2 ({load_constitution(mine).hash})")
    assert (
        lines[1] == f"~ no-crime  seen by pairwise, cot, decision{' ' * 18}reworded (comparison); reweighted 1.5 -> 1"
    )
    assert "    + Which answer is more harmful?" in lines
    cite = lines.index("+ cite      seen by pairwise, cot, rating, decision, revise  added")
    care = lines.index(f"- care{' ' * 55}dropped")
    assert lines[cite + 1] == "    + Name the source of each number."
    assert lines[care + 1].startswith("    - Look after the health")
    assert lines[-2].startswith("principles that need new verdicts, of 8: pairwise 2, cot 2, rating 1, decision 2;")
    assert lines[-1] == "judge.method: contrast refuses mine: no contrast pair in cite"
    found = data("diff", "harmless-and-kind", mine)
    assert found["judged_anew"] == {"pairwise": 2, "cot": 2, "rating": 1, "decision": 2}
    assert [change["kind"] for change in found["changes"]] == ["changed", "added", "dropped"]


def test_diff_of_the_same_says_so() -> None:
    assert rlaif("diff", "example", "example").stdout.splitlines()[1:] == ["no principle differs"]


def test_schema_prints_the_published_schema() -> None:
    published = shipped("constitutions")["example"].with_name("schema.json")
    assert rlaif("schema").stdout == published.read_text("utf-8")
    assert data("schema") == json.loads(published.read_text("utf-8"))


@pytest.mark.parametrize("words", [("show",), ("diff", "example")])
def test_a_name_that_is_not_there_is_an_error_with_a_hint(words: tuple[str, ...]) -> None:
    result = rlaif(*words, "exampel")
    assert result.exit_code == 3
    assert "did you mean 'example'?" in result.stderr


HANDBOOK = {"constitutions": [{"critic": "Name what is rude.", "revision": "Say it kindly."}], "system_chat": []}


def test_import_says_what_it_made_and_what_works_with_it(tmp_path: Path) -> None:
    source, out = tmp_path / "h.json", tmp_path / "mine.yaml"
    source.write_text(json.dumps({**HANDBOOK, "\x1b[31mred": 1}))
    result = rlaif("import", source, "--out", out)
    assert result.exit_code == 0
    assert f"wrote {out}: 1 principle from {source} (handbook)" in result.stdout
    assert "left out: 1 x " in result.stdout
    assert "\x1b" not in result.stdout + out.read_text()
    assert "contrast, the default, refuses it" in " ".join(result.stdout.split())
    assert rlaif("check", out).exit_code == 0
    assert rlaif("import", source, "--out", out).exit_code == 5
    found = data("import", source, "--out", tmp_path / "b.yaml", "--from", "handbook", "--name", "kind")
    assert (found["format"], found["principles"], found["methods"]) == (
        "handbook",
        ["kindly"],
        ["pairwise", "cot", "rating", "decision"],
    )
    assert found["left_out"] == {"'\\x1b[31mred'": 1}
    assert load_constitution(tmp_path / "b.yaml").name == "kind"
    unknown = rlaif("import", source, "--out", tmp_path / "c.yaml", "--from", "handbok")
    assert unknown.exit_code == 3
    assert "did you mean 'handbook'?" in unknown.stderr


def test_export_says_what_is_lost(mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = rlaif("export", mine, "--to", "handbook", "--out", out)
    assert result.exit_code == 0
    assert "the format handbook cannot hold: 7 x statement" in " ".join(result.stdout.split())
    assert len(json.loads(out.read_text())["constitutions"]) == 8
    assert rlaif("export", mine, "--to", "handbook", "--out", out).exit_code == 5
    whole = data("export", mine, "--to", "json", "--out", tmp_path / "all.json")
    assert whole == {"file": str(tmp_path / "all.json"), "format": "json", "lost": {}}


def test_set_changes_a_file_and_says_what_it_means(mine: Path) -> None:
    result = rlaif("set", mine, "no-crime.comparison=Which answer is less harmful?", "cite.weight=2")
    assert result.exit_code == 0
    assert f"~ cite      {'seen by no model':<33}reweighted 1 -> 2" in result.stdout
    assert result.stdout.endswith(f"wrote {mine}\n")
    assert mine.read_text() == MINE.replace("more harmful", "less harmful") + "    weight: 2\n"
    again = data("set", mine, "cite.weight=2")
    assert (again["written"], again["changes"]) == (False, [])


def test_set_refuses_what_would_not_load(mine: Path) -> None:
    result = rlaif("set", mine, "cite.weight=2", "cite.wieght=2")
    assert result.exit_code == 3
    assert "principle 'cite', wieght: unknown key, did you mean 'weight'?" in result.stderr
    assert mine.read_text() == MINE
    assert rlaif("set", "example", "no-spoilers.weight=2").exit_code == 3


THREE = """\
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


def tested(*words: str | Path) -> Result:
    return rlaif("test", *words)


def figures(*words: str | Path) -> Any:
    result = tested(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A constitution of three principles and three tests; verdicts are cached in a folder of their own."""
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "mine.yaml"
    file.write_text(THREE)
    return file


def test_the_table_and_the_json_tell_the_same(three: Path) -> None:
    found = figures(three, *SCRIPTED)
    shown = tested(three, *SCRIPTED).stdout
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


def test_json_has_every_test_with_its_probability(three: Path) -> None:
    found = figures(three, *SCRIPTED)
    tests = [test for principle in found["principles"] for test in principle["tests"]]
    assert [test["worse"] for test in tests] == ["No.", "None of your business.", "YES IT IS"]
    assert all(0 < test["prob_better"] < 1 and test["passed"] == (test["prob_better"] > 0.5) for test in tests)
    assert found["judge"] == {"model": "scripted", "method": "contrast", "calls": 12, "cached": 0}
    assert figures(three, *SCRIPTED)["judge"]["calls"] == 0


def test_order_consistency_is_a_column_where_there_is_an_order(three: Path) -> None:
    assert "agree" not in tested(three, *SCRIPTED).stdout
    assert "agree" in tested(three, *SCRIPTED, "--set", "judge.method=pairwise").stdout


def test_an_undecided_judge_gives_a_verdict_on_every_test(three: Path) -> None:
    # scripted letters are never surer than 0.49 of a side, so labels would all be abstentions
    found = figures(three, *SCRIPTED, "--set", "judge.method=pairwise", "--set", "judge.abstain_below=0.49")["overall"]
    assert (found["judged"], found["failures"]) == (3, {})


def test_a_gate_is_kept_or_not(three: Path) -> None:
    share = figures(three, *SCRIPTED)["overall"]["passed"] / 3
    assert tested(three, *SCRIPTED, "--fail-under", str(share)).exit_code == 0
    missed = tested(three, *SCRIPTED, "--fail-under", str(min(share + 0.01, 1.0)))
    assert missed.exit_code == 1
    assert f"{round(3 * share)} of 3 tests passed, less than --fail-under" in missed.stderr
    assert tested(three, *SCRIPTED, "--fail-under", "1.5").exit_code == 2


def test_only_one_principle(three: Path) -> None:
    assert [p["id"] for p in figures(three, *SCRIPTED, "--only", "calm")["principles"]] == ["calm"]
    wrong = tested(three, *SCRIPTED, "--only", "clam")
    assert wrong.exit_code == 3
    assert "did you mean 'calm'" in wrong.stderr
    assert str(three) in wrong.stderr


def test_the_judge_is_the_one_of_the_config(three: Path) -> None:
    config = three.parent / "run.yaml"
    (three.parent / "rules.jsonl").write_text('{"match": "x", "reply": "y"}\n')
    config.write_text(
        "judge: {backend: scripted, source: rules.jsonl, method: pairwise}\n"
        "constitution: nowhere.yaml\nprompts: {mine: {source: nowhere.jsonl}}\n"
    )
    found = figures(three, "--config", config)
    assert (found["judge"]["model"], found["judge"]["method"]) == ("rules", "pairwise")
    assert figures(three, "--config", config, "--set", "judge.method=random")["judge"]["model"] == "random"


@pytest.mark.parametrize(
    ("override", "message"),
    [("judge.methud=random", "did you mean 'method'"), ("judge", "is not table.field=value")],
)
def test_a_wrong_setting_is_named(three: Path, override: str, message: str) -> None:
    result = tested(three, "--set", override)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_judge_without_weights_needs_no_torch(three: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from rlaif.cli import app\n"
        f"words = {['constitution', 'test', str(three), *SCRIPTED]!r}\n"
        "assert CliRunner().invoke(app, words).exit_code == 0\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
