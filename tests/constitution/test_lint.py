"""Each code of the linter fires on its defect, with file and line, and is silent on the sound version."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.constitution.lint import RULES, lint
from rlaif.core.shipped import shipped

SOUND = """\
name: mine
version: "1"
principles:
  - id: be-kind
    statement: Be kind to the person who asks.
    critique: Name what is unkind.
    revision: Answer again in a kind way.
    comparison: Which answer is kinder?
    contrast:
      followed: You are kind to the person who asks.
      violated: You are rude to the person who asks.
      examples: [{prompt: How are you?, followed: "Well, and you?", violated: None of that!}]
    tests:
      - {prompt: Hi, better: Hello there!, worse: Go away.}
      - {prompt: Bye, better: Bye!, worse: I hope you stay away.}
      - {prompt: Sorry, better: It is fine., worse: You should be.}
"""
STATEMENT = "statement: Be kind to the person who asks."
PAIR = SOUND[SOUND.index("      followed: You") : SOUND.index("      examples:")]
WRAPPED = "".join(
    f'      {name}: "You are an assistant whose answers {verb} this rule: Be kind to the person who asks."\n'
    for name, verb in (("followed", "follow"), ("violated", "break"))
)
TWO = "  - id: two\n    statement: {}\n"
LONG = "Be kind " + "and patient " * 30 + "always."

CASES = [
    ("C001", "name: mine", "name: mine\nname: mine", 2),
    ("C001", "name: mine", "name: &a mine\ndescription: *a", 1),
    ("C002", STATEMENT, "statment: x", 5),
    ("C002", "name: mine", "name: 7", 1),
    ("C003", "principles:\n", "principles:\n  - {id: be-kind, statement: x}\n", 5),
    ("C004", "principles:", "include: [none.yaml]\nprinciples:", 3),
    ("C004", "principles:", "disable: [x]\nprinciples:", 3),
    ("C005", "better: Bye!, worse: I hope you stay away.", "better: Bye, worse: Bye", 15),
    ("C101", SOUND[SOUND.index("    contrast:") : SOUND.index("    tests:")], "", 4),
    ("C102", "    critique: Name what is unkind.\n", "", 4),
    ("C102", "    comparison: Which answer is kinder?\n", "", 4),
    ("C103", SOUND[SOUND.index("    tests:") :], "", 4),
    ("C104", "principles:\n", "principles:\n  - {id: two, statement: Smile., weight: 0}\n", 4),
    ("C105", "principles:\n", "principles:\n  - {id: two, statement: Smile., weight: 0.0005}\n", 4),
    ("C106", STATEMENT, f"{STATEMENT}\n    weight: 2", 6),
    ("C201", "principles:\n", "principles:\n" + TWO.format("Be kind to a person who asks."), 7),
    ("C202", "principles:\n", "principles:\n" + TWO.format("Be not kind to the person who asks."), 7),
    ("C203", STATEMENT, "statement: Do not fail to be kind.", 5),
    ("C203", "Name what", "Never forget to name what", 6),
    ("C204", "Which answer is kinder?", "Which answer is not ruder?", 8),
    ("C205", "Which answer is kinder?", "Which answer is more harmful?", 8),
    ("C205", STATEMENT, "statement: Select the response that is more offensive.", 5),
    ("C206", STATEMENT, f"statement: {LONG}", 5),
    ("C207", STATEMENT, 'statement: "Be {{ kind }}."', 5),
    ("C207", "{prompt: Hi, ", '{prompt: "{% x", ', 14),
    ("C301", "followed: You are kind to the person who asks.", "followed: You are kind.", 9),
    ("C302", "violated: You are rude", "violated: They are rude", 9),
    ("C303", "None of that!", "None of that" + " and" * 12 + " more!", 12),
    ("C304", "better: Hello there!", "better: Hey!", 13),
    ("C305", "{prompt: Hi, ", "{prompt: How are you?, ", 14),
    ("C306", PAIR, WRAPPED, 9),
]
"""Code, what to replace in the sound file, by what, and the line of the finding."""

NEAR_MISSES = [
    ("C105", "principles:\n", "principles:\n  - {id: two, statement: Smile., weight: 0.002}\n"),
    ("C106", "principles:\n", "principles:\n  - {id: two, statement: Smile., weight: 2}\n"),
    ("C201", "principles:\n", "principles:\n" + TWO.format("Be kind to all animals.")),
    ("C202", "principles:\n", "principles:\n" + TWO.format("Do not scold the person who asks.")),
    ("C203", STATEMENT, "statement: Do not lie, and never mock."),
    ("C204", "is kinder?", "is kinder to somebody who cannot see?"),
    ("C205", "is kinder?", "is less harmful?"),
    ("C206", STATEMENT, "statement: Be kind " + "and patient " * 29),
    ("C207", STATEMENT, 'statement: "Be {kind}."'),
    ("C301", "You are kind to the person who asks.", "You are kind to whoever asks."),
    ("C303", "None of that!", "None of that" + " and" * 5 + " more!"),
    ("C304", "{prompt: Hi, better: Hello there!, worse: Go away.}", "{prompt: Hi, better: Hey, worse: Hm.}"),
]


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def codes(path: Path) -> set[str]:
    return {finding.code for finding in lint(path)}


def test_the_sound_constitution_has_no_finding_and_every_code_has_a_case(tmp_path: Path) -> None:
    assert lint(write(tmp_path, SOUND)) == []
    assert {case[0] for case in CASES} == RULES.keys()


@pytest.mark.parametrize(("code", "old", "new", "line"), CASES)
def test_a_defect_is_found_with_its_line(tmp_path: Path, code: str, old: str, new: str, line: int) -> None:
    assert old in SOUND
    path = write(tmp_path, SOUND.replace(old, new, 1))
    (finding,) = (finding for finding in lint(path) if finding.code == code)
    assert finding.where == f"{path}:{line}"
    assert finding.severity == RULES[code].severity
    assert finding.message
    assert finding.remedy
    assert (finding.severity == "error") == code.startswith("C0")


@pytest.mark.parametrize(("code", "old", "new"), NEAR_MISSES)
def test_what_is_just_not_a_defect_is_left_alone(tmp_path: Path, code: str, old: str, new: str) -> None:
    assert old in SOUND
    assert code not in codes(write(tmp_path, SOUND.replace(old, new, 1)))


def test_every_problem_of_a_file_that_does_not_load_is_a_finding(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND.replace(STATEMENT, "statment: x").replace("name: mine", "name: 7"))
    assert [(f.code, f.where) for f in lint(path)] == [("C002", f"{path}:1"), ("C002", f"{path}:5")]


def test_few_tests_of_each_principle_are_looked_at_together(tmp_path: Path) -> None:
    def two(better: str) -> str:
        tests = f"tests: [{{prompt: a, better: {better}, worse: bad}}, {{prompt: b, better: so, worse: bad}}]"
        rules = "".join(f"  - {{id: {name}, statement: {name}, {tests}}}\n" for name in ("smile", "write"))
        return 'name: mine\nversion: "1"\nprinciples:\n' + rules

    assert "C304" in codes(write(tmp_path, two("ok")))
    assert "C304" not in codes(write(tmp_path, two("good")))


def test_findings_in_included_principles_point_at_the_file_that_has_the_text(tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(SOUND.replace("is kinder?", "is not ruder?"))
    path = write(tmp_path, 'name: m\nversion: "1"\ninclude: [base.yaml]\n')
    assert [(f.code, f.where) for f in lint(path)] == [("C204", f"{base}:8")]
    write(tmp_path, path.read_text() + "principles: [{id: be-kind, override: true, comparison: Which is kinder?}]\n")
    assert lint(path) == []


@pytest.mark.parametrize("name", sorted(shipped("constitutions")))
def test_shipped_constitutions_have_no_error_and_no_warning(name: str) -> None:
    teaches_the_least = {("example", "C103", "short-sentences")}  # a principle with only what it must have
    serious = {(name, f.code, f.principle) for f in lint(name) if f.severity != "note"}
    assert serious - teaches_the_least == set()
