"""Edits by program: exactly what was asked, no other line, or nothing at all."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.constitution.edit import FieldEdit, edit_file, parse_change, with_changes, with_principle, without_principle
from rlaif.constitution.load import load_constitution
from rlaif.core.errors import ConstitutionError
from rlaif.core.shipped import shipped
from rlaif.core.yaml import parse_yaml

SHIPPED = shipped("constitutions")
LIKE = ("example", "harmless-and-kind")
few = settings(max_examples=5, deadline=None)
many = settings(max_examples=30, deadline=None)

MINE = """\
# Ours.
name: mine   # small letters
version: "1"

principles:
  # About money.
  - id: pay
    statement: >   # folded
      Say what it
      costs.
    weight:    2   # twice as much
    tags: [money, 'price list']

  - id: cite
    statement: 'Name the source.'
    # not yet:
    # comparison: Which answer names more sources?
    contrast:   # the pair
      # in one sentence each
      followed: You name sources.
      violated: You make up
        sources.
    tests:
    - prompt: "How many?"
      better: Ten, says the office.
      worse: Many.
  # the end
"""


def changed(text: str, *changes: str) -> str:
    return with_changes(text, Path("mine.yaml"), [parse_change(change) for change in changes])


def lines(old: str, new: str) -> list[str]:
    """What a diff shows: "-" and "+" and the line."""
    marks = difflib.ndiff(old.splitlines(), new.splitlines())
    return [f"{line[0]}{line[2:]}" for line in marks if line[0] in "+-"]


def data(text: str) -> Any:
    return parse_yaml(text, "text", ConstitutionError)[0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("pay.weight=3", ["-    weight:    2   # twice as much", "+    weight: 3      # twice as much"]),
        ("pay.weight=null", ["-    weight:    2   # twice as much"]),
        ("pay.tags=[a]", ["-    tags: [money, 'price list']", "+    tags: [a]"]),
        ("pay.tags.1=b c", ["-    tags: [money, 'price list']", "+    tags: [money, 'b c']"]),
        ("pay.statement=Be: open # always", [
            "-    statement: >   # folded", "-      Say what it", "-      costs.",
            "+    statement: >-   # folded", "+      Be: open # always",
        ]),
        ("pay.priority=2", ["+    priority: 2"]),
        ("pay.critique=null", []),
        ("cite.statement=Name the source.", []),
        ("cite.contrast.violated=You lie.", [
            "-      violated: You make up", "-        sources.", "+      violated: You lie.",
        ]),
        ("cite.tests.0.worse=Some: many", ["-      worse: Many.", '+      worse: "Some: many"']),
        ("cite.tests=null", [
            "-    tests:", '-    - prompt: "How many?"', "-      better: Ten, says the office.", "-      worse: Many.",
        ]),
        ("cite.contrast=null", [
            "-    contrast:   # the pair", "-      # in one sentence each", "-      followed: You name sources.",
            "-      violated: You make up", "-        sources.",
        ]),
        ("pay.contrast={followed: You pay., violated: You steal.}", [
            "+    contrast:", "+      followed: You pay.", "+      violated: You steal.",
        ]),
        ("pay.id=price", ["-  - id: pay", "+  - id: price"]),
        ("version=2", ['-version: "1"', '+version: "2"']),
        ("description=About money.", ["+description: About money."]),
    ],
)  # fmt: skip
def test_one_change_touches_its_own_lines(change: str, expected: list[str]) -> None:
    assert sorted(lines(MINE, changed(MINE, change))) == sorted(expected)


def test_a_field_is_put_where_it_belongs() -> None:
    new = changed(MINE, "pay.comparison=Which answer says what it costs?", "pay.rationale=Nobody likes surprises.")
    wanted = ["# twice as much", "    tags: [money, 'price list']", "    comparison: Which", "", "  - id: cite"]
    assert [part in new for part in wanted] == [True] * 5
    at = [
        new.index(part) for part in ("costs.", "    rationale: Nobody", "    weight:", "    tags:", "    comparison:")
    ]
    assert at == sorted(at)


def test_long_texts_are_folded_and_keep_the_comment_of_their_line() -> None:
    text = " ".join(["Say it plainly: what it costs, when, and to whom."] * 5)
    new = changed(MINE, f"cite.contrast.violated={text}", f"pay.statement={text}")
    assert "    statement: >-   # folded\n" in new
    assert "      violated: >-\n        Say it" in new
    assert max(map(len, new.splitlines())) <= 120
    assert data(new)["principles"][0]["statement"] == data(new)["principles"][1]["contrast"]["violated"] == text


def test_texts_are_taken_as_they_are_unless_quoted() -> None:
    assert parse_change("a.statement=yes: no # maybe") == FieldEdit("a", ("statement",), "yes: no # maybe")
    assert parse_change('a.statement="two\\nlines"') == FieldEdit("a", ("statement",), "two\nlines")
    assert parse_change("a.statement=1.50") == FieldEdit("a", ("statement",), "1.50")
    assert parse_change("a.weight=1.50") == FieldEdit("a", ("weight",), 1.5)
    assert parse_change("version=1.10") == FieldEdit(None, ("version",), "1.10")
    assert parse_change("a.comparison=null").value is None
    assert parse_change("a.comparison='null'").value == "null"
    assert parse_change("a.tests.0.better={{ 7*7 }}").value == "{{ 7*7 }}"


@pytest.mark.parametrize(
    "text", ["a.weight", "weight=2", "=2", "a.=2", ".weight=2", "principles=[]", "a.b c=1", "a.b:=1"]
)
def test_what_is_no_change_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(ConstitutionError, match=r"PRINCIPLE\.FIELD=VALUE"):
        parse_change(text)


def test_a_principle_is_added_like_those_that_are_there() -> None:
    entry = {"id": "short", "statement": "Be short.", "tests": [{"prompt": "p", "better": "b", "worse": "w"}]}
    new = with_principle(MINE, Path("mine.yaml"), entry)
    added = ["", "  - id: short", "    statement: Be short.", "    tests:"]
    added += ["      - prompt: p", "        better: b", "        worse: w"]
    assert lines(MINE, new) == [f"+{line}" for line in added]
    assert new.endswith("worse: w\n  # the end\n")
    flow = 'name: a\nversion: "1"\nprinciples: [{id: a, statement: x}]  # all\n'
    assert with_principle(flow, Path("a.yaml"), {"id": "b", "statement": "y z"}) == flow.replace(
        "x}]  #", "x}, {id: b, statement: y z}] #"
    )


def test_a_principle_is_dropped_and_nothing_else() -> None:
    path = Path("mine.yaml")
    new = without_principle(MINE, path, "pay")
    gone = lines(MINE, new)
    assert all(line.startswith("-") for line in gone)
    assert len(gone) == 6
    assert "  # About money.\n" in new
    assert [entry["id"] for entry in data(without_principle(MINE, path, "cite"))["principles"]] == ["pay"]
    flow = 'name: a\nversion: "1"\nprinciples: [{id: a, statement: x}, {id: b, statement: y}]\n'
    assert "principles: [{id: b, statement: y}]" in without_principle(flow, path, "a")
    assert "principles: [{id: a, statement: x}]" in without_principle(flow, path, "b")
    with pytest.raises(ConstitutionError, match="did you mean 'pay'"):
        without_principle(MINE, path, "pai")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def edit(path: Path, *changes: str) -> None:
    wanted = [parse_change(change) for change in changes]
    edit_file(path, lambda text, where: with_changes(text, where, wanted))


BUILT = """\
name: ours
version: "1"
include: [example]   # shipped
principles:
  - {id: cite, statement: Name the source.}   # ours
"""


def test_an_included_principle_gets_an_override(tmp_path: Path) -> None:
    path = write(tmp_path / "ours.yaml", BUILT)
    edit(path, "no-spoilers.weight=3", "no-spoilers.critique=null", "cite.weight=4")
    found = load_constitution(path)
    spoilers, _, cite = found.principles
    original = load_constitution("example").principles[0]
    assert (spoilers.weight, spoilers.critique, spoilers.contrast) == (3, None, original.contrast)
    assert cite.weight == 4
    text = path.read_text()
    assert "  - {id: cite, statement: Name the source., weight: 4} # ours\n" in text
    assert text.endswith(
        "  - id: no-spoilers\n    override: true\n    critique: null\n    weight: 3\n"
    ) or text.endswith("  - id: no-spoilers\n    override: true\n    weight: 3\n    critique: null\n")
    edit(path, "no-spoilers.contrast.followed=You keep the endings of all stories to yourself.")
    contrast = load_constitution(path).principles[0].contrast
    assert contrast is not None
    assert original.contrast is not None
    assert contrast.followed == "You keep the endings of all stories to yourself."
    assert (contrast.violated, contrast.examples) == (original.contrast.violated, original.contrast.examples)
    edit(path, "no-spoilers.weight=null")
    assert load_constitution(path).principles[0].weight == original.weight


def test_an_override_can_be_the_first_entry_of_a_file(tmp_path: Path) -> None:
    for number, end in enumerate(["", "principles: []\n", "principles:   # none yet\n  []\n"]):
        path = write(tmp_path / f"{number}.yaml", f'name: ours\nversion: "1"\ninclude: [example]\n{end}')
        edit(path, "short-sentences.weight=3")
        assert load_constitution(path).principles[1].weight == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pay.weight=-1", "weight"),
        ("pay.statement=null", "statement: this field is required"),
        ("pay.wieght=1", "did you mean 'weight'"),
        ("pay.id=cite", "already taken"),
        ("pai.weight=1", "did you mean 'pay'"),
        ("zebra.weight=1", "there are: "),
        ("pay.weight=true", "weight"),
        ("cite.contrast.violated=You name sources.", "the same text"),
        ("pay.contrast.followed=You pay.", "violated: this field is required"),
        ("cite.tests.1.better=x", "no number 1"),
        ("cite.statement.x=1", "is a value"),
        ("version=null", "version"),
    ],
)
def test_what_would_not_load_is_refused_and_the_file_stays(tmp_path: Path, change: str, words: str) -> None:
    path = write(tmp_path / "mine.yaml", MINE)
    with pytest.raises(ConstitutionError) as caught:
        edit(path, "pay.rationale=Because.", change)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_text() == MINE
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]


def test_two_changes_that_only_load_together(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", MINE)
    edit(path, "pay.contrast.followed=You pay.", "pay.contrast.violated=You steal.")
    assert "    contrast:\n      followed: You pay.\n      violated: You steal.\n" in path.read_text()


def test_line_ends_and_a_byte_order_mark_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", "\ufeff" + MINE.replace("\n", "\r\n"))
    edit(path, "pay.statement=" + "Say what it costs, and to whom. " * 8)
    raw = path.read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf# Ours.\r\n")
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert b"statement: >-   # folded\r\n" in raw


ENTRY = 'name: a\nversion: "1"\nprinciples:\n'


@pytest.mark.parametrize(
    "entry",
    [
        "  - weight: 2 # w\n    # about id\n    id: a\n    statement: s\n",
        "  - {weight: 2, # w\n     # about id\n     id: a, statement: s}\n",
        "  - {id: a, # about id\n     weight: 2, statement: s}\n",
    ],
)
def test_a_field_is_not_removed_with_a_comment_about_another(entry: str) -> None:
    with pytest.raises(ConstitutionError, match="laid out in a way"):
        changed(ENTRY + entry, "a.weight=null")


@pytest.mark.parametrize(
    ("entry", "left"),
    [
        ("  - weight: 2 # w\n    id: a\n    statement: s\n", "  - id: a\n    statement: s\n"),
        ("  - {weight: 2, # w\n     id: a, statement: s}\n", "  - {id: a, statement: s}\n"),
        ("  - {id: a, weight: 2, # w\n     statement: s}\n", "  - {id: a, statement: s}\n"),
        (
            "  - {id: a, statement: s\n     # about s\n     , weight: 2}\n",
            "  - {id: a, statement: s\n     # about s\n}\n",
        ),
    ],
)
def test_a_removed_first_field_takes_the_comment_on_its_own_line_along(entry: str, left: str) -> None:
    assert changed(ENTRY + entry, "a.weight=null") == ENTRY + left


def test_an_id_of_digits_is_an_id() -> None:
    text = ENTRY + "  - id: '007'\n    statement: s\n"
    assert changed(text, "007.weight=2") == text + "    weight: 2\n"


@pytest.mark.parametrize("keys", ["tests." + "9" * 5000 + ".prompt", "contrast" + ".a" * 3000])
def test_absurd_keys_are_a_mistake_and_no_crash(keys: str) -> None:
    with pytest.raises(ConstitutionError):
        changed(MINE, f"cite.{keys}=2")


def test_a_link_stays_a_link_and_leads_to_the_edited_file(tmp_path: Path) -> None:
    real = write(tmp_path / "real.yaml", MINE)
    link = tmp_path / "link.yaml"
    link.symlink_to("real.yaml")
    edit(link, "pay.weight=3")
    assert link.is_symlink()
    assert "weight: 3      # twice" in real.read_text(encoding="utf-8")


def test_a_read_only_file_stays_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml", MINE)
    path.chmod(0o444)
    with pytest.raises(ConstitutionError, match="read-only"):
        edit(path, "pay.weight=3")
    assert path.read_text(encoding="utf-8") == MINE
    edit(path, "pay.weight=2")  # nothing to change


def test_a_shipped_name_is_no_file_to_edit() -> None:
    with pytest.raises(ConstitutionError, match="not a constitution file of yours"):
        edit_file(Path("example"), lambda text, path: text)


ODD = [
    "{{ 7*7 }}",
    "null",
    "yes",
    "- a",
    "# c",
    "a: b",
    "'",
    "1.0",
    "~",
    "a\tb",
    '"',
    "\u2028x",
    "a\n\n b",
    "word " * 60 + "end",
]
texts = st.text(min_size=1, max_size=60).map(str.strip).filter(bool) | st.sampled_from(ODD)
kinds = {
    "statement": texts, "critique": texts, "comparison": texts, "rationale": st.text(max_size=40) | texts,
    "weight": st.floats(0.5, 1e6) | st.integers(1, 9), "priority": st.integers(1, 9),
    "tags": st.lists(texts, max_size=3),
    "tests": st.lists(st.fixed_dictionaries({"prompt": texts, "better": texts, "worse": texts}), max_size=2),
}  # fmt: skip


@pytest.mark.parametrize("file", LIKE)
@few
@given(st.data())
def test_only_the_lines_of_the_edited_principle_change_in_a_shipped_file(file: str, draw: st.DataObject) -> None:
    only_the_principle_changes(SHIPPED[file].read_text("utf-8"), draw)


@many
@given(st.data())
def test_only_the_lines_of_the_edited_principle_change(draw: st.DataObject) -> None:
    only_the_principle_changes(MINE, draw)


def only_the_principle_changes(text: str, draw: st.DataObject) -> None:
    number = draw.draw(st.integers(0, text.count("\n  - id: ") - 1))
    name = draw.draw(st.sampled_from(sorted(kinds)))
    value = draw.draw(kinds[name] if name == "statement" else st.none() | kinds[name])
    wanted = data(text)
    id = wanted["principles"][number]["id"]
    new = with_changes(text, Path("mine.yaml"), [FieldEdit(id, (name,), value)])
    wanted["principles"][number] = {**wanted["principles"][number], name: value}
    if value is None:
        del wanted["principles"][number][name]
    assert data(new) == wanted
    starts = [n for n, line in enumerate(text.split("\n")) if line.startswith("  - id: ")]
    first = starts[number]
    behind = text.split("\n")[starts[number + 1] :] if number + 1 < len(starts) else []
    assert new.split("\n")[: first + 1] == text.split("\n")[: first + 1]
    assert behind == (new.split("\n")[-len(behind) :] if behind else [])
    comments = [line for line in text.split("\n") if "#" in line]
    within = [line for line in comments if line.strip().startswith(f"{name}:") or name in ("tests", "contrast")]
    assert [line for line in comments if line not in new.split("\n") and line not in within] == []


@many
@given(st.data())
def test_there_and_back_is_the_same_meaning(draw: st.DataObject) -> None:
    id = draw.draw(st.sampled_from(["pay", "cite"]))
    name = draw.draw(st.sampled_from(sorted(kinds)))
    old = next(entry for entry in data(MINE)["principles"] if entry["id"] == id).get(name)
    path = Path("mine.yaml")
    new = with_changes(MINE, path, [FieldEdit(id, (name,), draw.draw(kinds[name]))])
    assert data(with_changes(new, path, [FieldEdit(id, (name,), old)])) == data(MINE)


@pytest.mark.parametrize("file", [*LIKE, None])
@few
@given(texts, st.data())
def test_added_and_dropped_again_is_the_same_text(file: str | None, statement: str, draw: st.DataObject) -> None:
    text = MINE if file is None else SHIPPED[file].read_text("utf-8")
    entry = {"id": "added", "statement": statement, "weight": 2, "tests": draw.draw(kinds["tests"])}
    new = with_principle(text, Path("mine.yaml"), entry)
    assert data(new)["principles"] == [*data(text)["principles"], entry]
    assert without_principle(new, Path("mine.yaml"), "added") == text
