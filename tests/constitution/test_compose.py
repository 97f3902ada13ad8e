"""A constitution may include others, change and drop their principles; every text knows its file and line."""

import time
from pathlib import Path

import pytest

from rlaif.constitution.compose import MAX_DEPTH, compose
from rlaif.constitution.load import constitution_text, load_constitution
from rlaif.constitution.problems import MOST_HINTED, FileProblems
from rlaif.core.errors import ConstitutionError
from rlaif.core.files import RunFolder, write_atomic
from rlaif.judge.load import parse
from rlaif.run.pipeline import gather

BASE = """\
name: base
version: "1"
principles:
  - id: be-kind
    statement: Be kind.
    rationale: People listen then.
    weight: 2
    tags: [tone]
    contrast: {followed: You are kind., violated: You are rude.}
  - id: be-brief
    statement: Be brief.
"""
HEAD = 'name: mine\nversion: "2"\ninclude: [base.yaml]\n'
OVERRIDE = """\
principles:
  - id: be-kind
    override: true
    statement: Be very kind.
    weight: 1
  - id: be-true
    statement: Say what is true.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def mine(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def problem(folder: Path, text: str) -> str:
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(mine(folder, text))
    assert caught.value.remedy
    return str(caught.value)


def ids(path: Path) -> list[str]:
    return [p.id for p in load_constitution(path).principles]


def test_included_principles_come_first_and_an_override_keeps_what_it_does_not_give(folder: Path) -> None:
    path = mine(folder, HEAD + OVERRIDE)
    constitution = load_constitution(path)
    assert (constitution.name, constitution.version) == ("mine", "2")
    assert [p.id for p in constitution.principles] == ["be-kind", "be-brief", "be-true"]
    kind, original = constitution.principles[0], load_constitution(folder / "base.yaml").principles[0]
    assert (kind.statement, kind.weight) == ("Be very kind.", 1.0)
    assert (kind.rationale, kind.tags, kind.contrast) == (original.rationale, original.tags, original.contrast)


def test_an_override_can_take_an_own_wording_away(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE + "    critique: Name what is long.\n")
    path = mine(folder, HEAD + "principles: [{id: be-brief, override: true, critique: null}]\n")
    assert load_constitution(folder / "base.yaml").principles[1].critique == "Name what is long."
    assert load_constitution(path).principles[1].critique is None


def test_disabled_principles_are_dropped_and_their_id_is_free(folder: Path) -> None:
    assert ids(mine(folder, HEAD + "disable: [be-kind]\n")) == ["be-brief"]
    again = HEAD + "disable: [be-kind]\nprinciples:\n  - {id: be-kind, statement: Smile.}\n"
    assert ids(mine(folder, again)) == ["be-brief", "be-kind"]


def test_a_shipped_constitution_is_included_by_name(folder: Path) -> None:
    path = mine(folder, HEAD.replace("base.yaml", "harmless-and-kind"))
    assert load_constitution(path).principles == load_constitution("harmless-and-kind").principles


def test_an_include_is_looked_for_beside_the_file_that_names_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "middle.yaml").write_text(HEAD.replace("base.yaml", "../base.yaml"))
    assert ids(mine(folder, HEAD.replace("base.yaml", "deep/middle.yaml"))) == ["be-kind", "be-brief"]


def test_every_text_knows_its_file_and_line(folder: Path) -> None:
    path = mine(folder, HEAD + OVERRIDE)
    kind, brief, true = compose(path).principles
    assert kind.place() == f"{folder / 'base.yaml'}:4"
    assert kind.place("statement") == f"{path}:7"
    assert kind.place("contrast", "violated") == f"{folder / 'base.yaml'}:9"
    assert kind.place("tests") == f"{folder / 'base.yaml'}:4", "a field that is nowhere: where the principle begins"
    assert brief.place("statement") == f"{folder / 'base.yaml'}:11"
    assert true.place("statement") == f"{path}:10"
    assert kind.paths == [folder / "base.yaml", path]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("disable: [be-kin]\n", ["mine.yaml:4", "no include has a principle 'be-kin'", "did you mean 'be-kind'?"]),
        (
            "principles:\n  - {id: be-kin, override: true, weight: 2}\n",
            ["mine.yaml:5", "'be-kin' has nothing to override: no include has it", "did you mean 'be-kind'?"],
        ),
        (
            "disable: [be-kind]\nprinciples:\n  - {id: be-kind, override: true, weight: 2}\n",
            ["mine.yaml:6", "'be-kind' has nothing to override: it is disabled"],
        ),
        (
            "principles:\n  - id: be-kind\n    statement: Smile.\n",
            ["mine.yaml:5", "'be-kind'", "taken in", "base.yaml:4, which is included", "override: true"],
        ),
        (
            "principles:\n  - {id: be-kind, override: true}\n  - {id: be-kind, override: true}\n",
            ["mine.yaml:6", "'be-kind'", "already taken in line 5"],
        ),
        ("principles:\n  - {id: be-kind, override: 1}\n", ["mine.yaml:5", "override: is true or false (given: 1)"]),
        (
            "principles:\n  - {id: be-kind, override: true, statement: null}\n",
            ["mine.yaml:5", "statement", "is empty", 'quotes: "null"'],
        ),
        ("principles:\n  - {id: be-kind, override: true, wieght: 1}\n", ["mine.yaml:5", "did you mean 'weight'?"]),
        ("disable: [be-kind, be-brief]\n", ["mine.yaml", "every included principle is disabled"]),
        (
            "disable: [be-brief]\nprinciples:\n  - {id: be-kind, override: true, weight: 0}\n",
            ["mine.yaml:5", "every weight is 0"],
        ),
        ("inclde: [x]\n", ["mine.yaml:4", "did you mean 'include'?"]),
    ],
)
def test_a_mistake_in_composing_is_named_with_its_place(folder: Path, text: str, words: list[str]) -> None:
    message = problem(folder, HEAD + text)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("include", "words"),
    [
        ("[base.yaml, none.yaml]", ["mine.yaml:3", "include 'none.yaml': no such file", "looked for beside this one"]),
        ("[harmless-and-kin]", ["mine.yaml:3", "did you mean 'harmless-and-kind'?"]),
        ("[mine.yaml]", ["mine.yaml:3", "in a circle: mine.yaml -> mine.yaml"]),
        ('["a\\0.yaml"]', ["mine.yaml:3", "characters that no file name has"]),
        ("[" + "a" * 5000 + ".yaml]", ["mine.yaml:3", "no such file"]),
        ("[]", ["mine.yaml", "principles"]),
        ("base.yaml", ["mine.yaml:3", "include", "list"]),
    ],
)
def test_a_wrong_include_is_named_with_its_line(folder: Path, include: str, words: list[str]) -> None:
    message = problem(folder, HEAD.replace("[base.yaml]", include))
    assert [word for word in words if word not in message] == [], message


def test_a_circle_over_several_files_is_named_in_full(folder: Path) -> None:
    (folder / "b.yaml").write_text(HEAD.replace("base.yaml", "c.yaml"))
    (folder / "c.yaml").write_text(HEAD.replace("base.yaml", "../" + folder.name + "/b.yaml"))
    message = problem(folder, HEAD.replace("base.yaml", "b.yaml"))
    assert "c.yaml:3: include" in message
    assert "b.yaml -> c.yaml -> b.yaml" in message


def test_a_problem_inside_an_included_file_is_told_of_that_file(folder: Path) -> None:
    (folder / "base.yaml").write_text(BASE.replace("rationale", "rational"))
    assert "base.yaml:6: principle 'be-kind', rational: unknown key" in problem(folder, HEAD)


def test_two_includes_with_the_same_id_can_be_told_apart_by_disabling_it(folder: Path) -> None:
    (folder / "other.yaml").write_text(BASE.replace("be-brief", "be-short"))
    both = HEAD.replace("base.yaml", "base.yaml, other.yaml")
    assert "'be-kind' is in two includes" in problem(folder, both)
    own = "disable: [be-kind]\nprinciples:\n  - {id: be-kind, statement: Smile.}\n"
    assert ids(mine(folder, both + own)) == ["be-brief", "be-short", "be-kind"]


def test_what_comes_by_two_ways_from_one_file_is_there_once(folder: Path) -> None:
    (folder / "left.yaml").write_text(HEAD + "principles: [{id: left, statement: Keep left.}]\n")
    (folder / "right.yaml").write_text(
        HEAD + "disable: [be-brief]\nprinciples: [{id: right, statement: Keep right.}]\n"
    )
    both = HEAD.replace("base.yaml", "left.yaml, ./base.yaml, right.yaml")
    assert ids(mine(folder, both)) == ["be-kind", "be-brief", "left", "right"]
    (folder / "right.yaml").write_text(HEAD + "principles: [{id: be-kind, override: true, weight: 3}]\n")
    message = problem(folder, both)
    assert f"'be-kind' is in two includes: {folder}/base.yaml:4 and {folder}/base.yaml:4, changed in " in message
    assert "right.yaml" in message
    assert "be-brief" not in message


def test_the_fields_of_an_entry_stand_in_the_order_of_the_format(folder: Path) -> None:
    text = HEAD + "principles: [{tests: [], contrast: null, id: be-brief, comparison: C, override: true, weight: 1}]\n"
    brief = compose(mine(folder, text)).principles[1]
    assert [*brief.sources] == ["id", "statement", "weight", "comparison", "contrast", "tests"]


def test_includes_go_only_so_deep(folder: Path) -> None:
    def chain(length: int) -> Path:
        (folder / "f0.yaml").write_text(BASE)
        for number in range(1, length):
            (folder / f"f{number}.yaml").write_text(HEAD.replace("base", f"f{number - 1}"))
        return folder / f"f{length - 1}.yaml"

    assert len(ids(chain(MAX_DEPTH))) == 2
    with pytest.raises(ConstitutionError, match=rf"f1\.yaml:3: .*more than {MAX_DEPTH} files deep"):
        load_constitution(chain(MAX_DEPTH + 1))


def test_the_text_of_a_composed_file_stands_alone_and_loads_to_the_same(folder: Path, tmp_path: Path) -> None:
    path = mine(folder, HEAD + "description: D\ndisable: [be-brief]\n" + OVERRIDE)
    text = constitution_text(path)
    flat = tmp_path / "elsewhere" / "constitution.yaml"
    flat.parent.mkdir()
    flat.write_text(text)
    assert text.startswith("# Put together by rlaif from mine.yaml and what it includes: base.yaml\n")
    assert "include:" not in text
    assert "override" not in text
    assert load_constitution(flat) == load_constitution(path)


def test_a_run_is_given_one_file_that_is_the_whole_constitution(folder: Path, tmp_path: Path) -> None:
    path = mine(folder, HEAD + OVERRIDE)
    config = parse({"constitution": str(path), "prompts": {"some": {"source": "everyday", "train": 1}},
                    "judge": {"method": "pairwise"}}, where="test")  # fmt: skip
    given = gather(config, RunFolder(tmp_path / "run"))
    kept = tmp_path / "run" / "constitution.yaml"
    write_atomic(kept, given.constitution_yaml)
    (folder / "base.yaml").unlink()
    assert load_constitution(kept) == given.constitution


def test_the_text_of_a_file_that_includes_nothing_is_the_file(folder: Path) -> None:
    path = mine(folder, "# mine\n" + BASE)
    assert constitution_text(path) == "# mine\n" + BASE


def test_thousands_of_wrong_names_are_told_at_once(folder: Path) -> None:
    rules = "".join(f"  - {{id: rule-number-{n}, statement: x}}\n" for n in range(400))
    (folder / "base.yaml").write_text('name: base\nversion: "1"\nprinciples:\n' + rules)
    wrong = ", ".join(f"rul-number-{n}" for n in range(200))
    others = "".join(f"  - {{id: rle-number-{n}, override: true}}\n" for n in range(200))
    path = mine(folder, f"{HEAD}disable: [{wrong}]\nprinciples:\n{others}")
    start = time.process_time()
    with pytest.raises(FileProblems) as caught:
        load_constitution(path)
    assert time.process_time() - start < 2
    assert len(caught.value.problems) == 400
    assert sum("did you mean" in problem.text for problem in caught.value.problems) == MOST_HINTED


def test_many_problems_are_counted_and_not_all_told(folder: Path) -> None:
    many = "".join(f"  - {{id: p{n}, statment: x}}\n" for n in range(50))
    message = problem(folder, 'name: mine\nversion: "1"\nprinciples:\n' + many)
    assert "line 23:" in message
    assert "line 24:" not in message
    assert message.count("unknown key") == 20
    assert "and 30 more" in message
