"""A constitution is read strictly: every mistake is named with file, line, principle, field and remedy."""

from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.config import JudgeConfig, PromptSlice
from rlaif.constitution.edit import edit_file, parse_change, with_changes
from rlaif.constitution.lint import lint
from rlaif.constitution.load import (
    by_slice,
    constitution_text,
    load_constitution,
    refuse_missing_contexts,
    refuse_missing_contrast,
)
from rlaif.core.errors import ConfigError, ConstitutionError
from rlaif.core.records import Comparison, Constitution, Contrast, Message, Principle, PrincipleTest, Prompt, Response
from rlaif.core.shipped import shipped
from rlaif.judge.judge import Judge
from rlaif.judge.load import parse
from rlaif.judge.methods.table import METHODS

MINIMAL = """\
name: mine
version: "1"
principles:
  - id: be-kind
    statement: Be kind.
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(write(folder, text))
    return str(caught.value)


def test_every_field_arrives(tmp_path: Path) -> None:
    text = MINIMAL + (
        "    rationale: >\n      People listen\n      then.\n    priority: 2\n    weight: 0.5\n    tags: [tone]\n"
        "    critique: C?\n    revision: R.\n    comparison: Which?\n"
        "    contrast: {followed: You are kind., violated: You are rude.}\n"
        "    tests:\n      - {prompt: Hi, better: Hello!, worse: Go away.}\n"
    )
    constitution = load_constitution(write(tmp_path, text))
    assert (constitution.name, constitution.version, constitution.description) == ("mine", "1", "")
    (principle,) = constitution.principles
    assert (principle.id, principle.statement, principle.rationale) == ("be-kind", "Be kind.", "People listen then.")
    assert (principle.priority, principle.weight, principle.tags) == (2, 0.5, ("tone",))
    assert (principle.critique, principle.revision, principle.comparison) == ("C?", "R.", "Which?")
    assert principle.contrast == Contrast("You are kind.", "You are rude.")
    assert principle.tests == (PrincipleTest("Hi", "Hello!", "Go away."),)


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    (principle,) = load_constitution(write(tmp_path, MINIMAL)).principles
    assert (principle.priority, principle.weight, principle.tags, principle.tests) == (1, 1.0, (), ())
    assert (principle.critique, principle.contrast) == (None, None)


def test_jinja_in_a_text_stays_as_it_stands(tmp_path: Path) -> None:
    text = MINIMAL.replace("Be kind.", '"Say {{ 7 * 7 }} {% raw %}"')
    assert load_constitution(write(tmp_path, text)).principles[0].statement == "Say {{ 7 * 7 }} {% raw %}"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("statement: Be kind.", "statment: Be kind.", ["mine.yaml:5: principle 'be-kind', statment", "'statement'"]),
        ("    statement: Be kind.\n", "", ["mine.yaml:4", "'be-kind', statement", "required"]),
        ("statement: Be kind.", "statement: '  '", ["mine.yaml:5", "'be-kind', statement", "is empty"]),
        ("statement: Be kind.", "statement:", ["mine.yaml:5", "'be-kind', statement", 'write it in quotes: "null"']),
        ("name: mine", "name: 2024-01-01", ["mine.yaml:1", "name", 'write it in quotes: "2024-01-01"']),
        ("name: mine", "name: true", ["mine.yaml:1", "name", 'write it in quotes: "true"']),
        ("statement: Be kind.", "statement: x\n    weight: -1", ["mine.yaml:6", "'be-kind', weight", "-1"]),
        ("statement: Be kind.", "statement: x\n    weight: .nan", ["mine.yaml:6", "'be-kind', weight", "finite"]),
        ("statement: Be kind.", "statement: x\n    weight: 1e308", ["mine.yaml:6", "'be-kind', weight", "1000000"]),
        ("statement: Be kind.", "statement: x\n    weight: 0", ["mine.yaml:3", "every weight is 0"]),
        ("statement: Be kind.", "statement: x\n    weight: '1'", ["mine.yaml:6", "'be-kind', weight", "number"]),
        ("statement: Be kind.", "statement: x\n    priority: 0", ["mine.yaml:6", "'be-kind', priority"]),
        ("id: be-kind", "id: Be Kind!", ["mine.yaml:4", "'Be Kind!'", "be-kind"]),
        ("id: be-kind", "id: 7", ["mine.yaml:4", "number 1, id", '"7"']),
        ("name: mine", "name: 1.10", ["mine.yaml:1", "name", "quotes"]),
        ('version: "1"', "version: true", ["mine.yaml:2", "version", "quotes"]),
        ("principles:", "principals:", ["mine.yaml:3", "'principles'"]),
        ("  - id: be-kind\n    statement: Be kind.\n", "", ["mine.yaml:3", "principles", "list"]),
        ("id: be-kind\n    statement: Be kind.", "just text", ["mine.yaml:4", "number 1"]),
        (
            "statement: Be kind.",
            "statement: x\n    contrast: {followed: You., violatd: Me.}",
            ["mine.yaml:6", "'be-kind', contrast.violatd", "'violated'"],
        ),
        (
            "statement: Be kind.",
            "statement: x\n    contrast: {followed: You., violated: You.}",
            ["mine.yaml:6", "'be-kind', contrast", "same text"],
        ),
        (
            "statement: Be kind.",
            "statement: x\n    tests:\n      - {prompt: p, better: a, wrose: b}",
            ["mine.yaml:7", "'be-kind', tests.0.wrose", "'worse'"],
        ),
        (
            "statement: Be kind.",
            "statement: x\n    tests:\n      - {prompt: p, better: a, worse: a}",
            ["mine.yaml:7", "'be-kind', tests.0", "same text"],
        ),
        ("statement: Be kind.", "statement: 'Be kind.", ["mine.yaml:"]),
        (MINIMAL, "", ["mine.yaml", "rlaif constitution new mine.yaml"]),
        (MINIMAL, "- a\n- b\n", ["mine.yaml", "mapping"]),
        (MINIMAL, "prompts: {a: {source: everyday}}\n", ["mine.yaml", "is a run config, not a constitution"]),
        (
            MINIMAL,
            "name: x\nversion: 1\nprinciples: {kind: Be kind.}\n",
            ["mine.yaml:3", "principles: a list belongs here", "- {id: be-kind, statement: Be kind.}"],
        ),
        (
            MINIMAL,
            "name: x\nversion: 1\nprinciples: [Be kind.]\n",
            [
                "mine.yaml:3",
                "principle number 1: a table of fields belongs here",
                "- {id: be-kind, statement: Be kind.}",
            ],
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in MINIMAL
    message = problem(tmp_path, MINIMAL.replace(old, new))
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize("written", ["1", "1.0", "1.10", "0x10", "1_000", "2026-05-01", "v2", '"1.0"'])
def test_a_version_is_the_text_that_stands_there(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, MINIMAL.replace('"1"', written))
    assert load_constitution(path).version == written.strip('"')
    edit_file(path, lambda text, where: with_changes(text, where, [parse_change("be-kind.weight=2")]))
    assert f"version: {written}\n" in path.read_text(encoding="utf-8")


TEN = """\
name: Ten Mistakes
versoin: 3
include: [nowhere.yaml]
principles:
  - id: be-kind
    statment: Be kind.
    weight: -1
  - id: be-kind
    statement: Be brief.
    statement: Be very brief.
  - id: same
    statement: Differ.
    contrast: {followed: You differ., violated: You differ.}
    tests:
      - {prompt: p, better: b, worse: 7}
  - id: other
    statement: ""
    override: yes
  - statement: "this quote never ends.
"""


def test_ten_mistakes_are_told_at_once_each_with_line_principle_and_remedy(tmp_path: Path) -> None:
    path = write(tmp_path, TEN)
    found = lint(path)
    assert [(finding.where.removeprefix(f"{path}:"), finding.principle) for finding in found] == [
        ("1", None), ("2", None), ("3", None), ("6", "be-kind"), ("7", "be-kind"), ("8", "be-kind"),
        ("10", None), ("13", "same"), ("15", "same"), ("17", "other"), ("18", "other"), ("19", None),
    ]  # fmt: skip
    words = [
        "'Ten Mistakes'", "did you mean 'version'?", "no such file", "did you mean 'statement'?", "weight", "taken",
        "'statement' stands twice", "the same text", "worse: is a number", "is empty", "override: is true or false",
        "never closed",
    ]  # fmt: skip
    assert [word for word, finding in zip(words, found, strict=True) if word not in finding.message] == []
    assert all(finding.remedy for finding in found)


def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    text = MINIMAL.replace("principles:", 'description: "a\\uD800"\nprinciples:') + '    rationale: "b\\uDC00"\n'
    told = problem(tmp_path, text)
    for words in ("mine.yaml:3: description", "7: principle 'be-kind', rationale", "unicode"):
        assert words in told


def test_a_duplicate_id_names_both_lines(tmp_path: Path) -> None:
    message = problem(tmp_path, MINIMAL + "  - id: be-kind\n    statement: Again.\n")
    assert "mine.yaml:6" in message
    assert "already taken in line 4" in message


def test_all_mistakes_are_told_at_once_the_first_line_first(tmp_path: Path) -> None:
    message = problem(tmp_path, MINIMAL.replace("Be kind.", "''").replace('version: "1"', "versoin: '1'"))
    assert "mine.yaml:2: versoin" in message
    assert "required" not in message
    assert "line 5: principle 'be-kind', statement: is empty" in message


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(ConstitutionError) as caught:
        load_constitution("harmless-and-kin")
    assert "did you mean 'harmless-and-kind'?" in str(caught.value)
    assert "example" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match=r"no\.yaml: no such file"):
        load_constitution(str(tmp_path / "no.yaml"))


def test_the_text_keeps_its_comments(tmp_path: Path) -> None:
    path = write(tmp_path, "# mine\n" + MINIMAL)
    assert constitution_text(str(path)) == "# mine\n" + MINIMAL


def test_only_the_contrast_method_needs_a_contrast_pair(tmp_path: Path) -> None:
    constitution = load_constitution(write(tmp_path, MINIMAL))
    refuse_missing_contrast(constitution, methods=[METHODS["pairwise"]], where="run.yaml")
    with pytest.raises(ConstitutionError, match=r"run\.yaml: .*be-kind"):
        refuse_missing_contrast(constitution, methods=[METHODS["contrast"]], where="run.yaml")


@pytest.mark.parametrize("name", shipped("constitutions"))
def test_shipped_constitutions_serve_every_method(name: str) -> None:
    constitution = load_constitution(name)
    assert constitution.name == name
    refuse_missing_contrast(constitution, methods=[METHODS["contrast"]], where=name)


@pytest.mark.parametrize("name", [name for name in shipped("constitutions") if name != "example"])
def test_shipped_constitutions_are_complete_and_their_contrast_pairs_alike_in_length(name: str) -> None:
    constitution = load_constitution(name)
    tests = [test for p in constitution.principles for test in p.tests]
    shorter = sum(len(test.better) < len(test.worse) for test in tests)
    assert 0.3 <= shorter / len(tests) <= 0.7, "length alone must not pass the tests"
    for p in constitution.principles:
        assert p.rationale, p.id
        assert p.critique, p.id
        assert p.revision, p.id
        assert p.comparison, p.id
        assert len(p.tests) >= 3, p.id
        assert p.contrast is not None
        assert p.contrast.followed.startswith("You "), p.id
        assert p.contrast.violated.startswith("You "), p.id
        assert 0.8 <= len(p.contrast.followed.split()) / len(p.contrast.violated.split()) <= 1.25, p.id


# --- slices of prompts name the principles that apply to them ---

HARM = Principle("no-harm", "Do no harm.", tags=("harm", "law"))
TONE = Principle("tone", "Be kind.", tags=("style",), weight=3.0)
HELP = Principle("help", "Help.", tags=("helpful",))
SILENT = Principle("silent", "Nothing.", tags=("quiet",), weight=0.0)
RULES = Constitution("rules", "1", "", (HARM, TONE, HELP, SILENT))


def part(*names: str) -> PromptSlice:
    return PromptSlice.model_validate({"source": "everyday", "train": 1, "principles": list(names)})


def test_ids_and_tags_choose_and_an_empty_list_means_all() -> None:
    found = by_slice(RULES, {"all": part(), "red": part("law", "tone"), "plain": part("helpful")})
    ids = {name: [p.id for p in scope.principles] for name, scope in found.items()}
    assert ids == {"all": ["no-harm", "tone", "help", "silent"], "red": ["no-harm", "tone"], "plain": ["help"]}


def test_an_unknown_name_and_a_slice_without_weight_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.red\.principles.*did you mean 'helpful'"):
        by_slice(RULES, {"red": part("helpfull")})
    with pytest.raises(ConfigError, match="no principle with a weight"):
        by_slice(RULES, {"red": part("quiet")})


@pytest.mark.parametrize("mode", ["all", "one"])
def test_the_judge_uses_the_principles_of_the_slice(mode: str) -> None:
    slices = {"red": part("harm", "style"), "plain": part("helpful")}
    config = JudgeConfig.model_validate({"method": "random", "principles": mode})
    judge = Judge(config, RULES, models=[], seed=0, prompts=slices)
    asked: dict[str, set[str]] = {"red": set(), "plain": set()}
    for number in range(40):
        for name, principles in asked.items():
            prompt = Prompt((Message("user", f"{name} {number}"),), slice=name)
            a, b = (Response(prompt.id, text, "m", 0, 1.0, "stop", 1) for text in ("yes", "no"))
            (label,) = judge.label([Comparison(prompt, a, b)])
            principles.update(verdict.principle_id for verdict in label.verdicts)
    assert asked == {"red": {"no-harm", "tone"}, "plain": {"help"}}


def test_answers_by_contrast_need_the_texts_of_every_principle_that_may_be_drawn() -> None:
    contrast = Contrast("You ...", "You ...")
    rules = (Principle("kind", "Be kind.", contrast=contrast), Principle("brief", "Be brief.", tags=("short",)))
    constitution = Constitution("ours", "1", "", rules)

    def refuse(answers: str, principles: list[str], weight: float = 1.0, train: int = 1) -> None:
        slices = {"all": {"source": "everyday", "train": train, "principles": principles}}
        config = parse({"prompts": slices, "label": {"answers": answers}, "judge": {"method": "random"}}, where="x")
        found = replace(constitution, principles=(rules[0], replace(rules[1], weight=weight)))
        refuse_missing_contexts(found, config, where="ours.yaml")

    for answers in ("contrast", "both"):
        with pytest.raises(
            ConstitutionError, match=r"(?s)ours\.yaml: label.answers: .*lack: brief\n.*add .*followed: You"
        ):
            refuse(answers, [])
    refuse("policy", [])
    refuse("contrast", ["kind"])
    refuse("contrast", [], weight=0.0)
    refuse("contrast", ["short"], train=0)
