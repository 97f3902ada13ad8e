"""Documents of prose: what becomes a principle, and what is left out and told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif.constitution.exchange.formats import export_file, import_file
from rlaif.constitution.load import load_constitution
from rlaif.core.errors import ConstitutionError, RlaifError
from tests.constitution.exchange.samples import imported, statements, write

PROSE = """\
---
title: House rules
version: 3
author: us
---
<!-- a draft -->
# Our house

How we want to be answered.

## Kindness

### 1. Be kind {#kind authority=root}

Be kind to
everybody.

Unkind words last.

They hurt.

### Be exact

Do this:

- Give numbers.
- Give *units*, as in
  <b>metres</b>.

## Lists

* **No lists.** Write sentences.
* Never use tables
  - nor charts

Why not? They are ugly.

## Nothing here
"""


def test_a_prose_document(tmp_path: Path) -> None:
    found = imported(tmp_path, "rules.md", PROSE)
    constitution = found.constitution
    assert (constitution.name, constitution.version) == ("house-rules", "3")
    assert constitution.description == "How we want to be answered."
    assert [(p.id, p.statement, p.rationale, p.tags) for p in constitution.principles] == [
        ("kind", "Be kind to everybody.", "Unkind words last.\n\nThey hurt.", ("kindness",)),
        ("be-exact", "Do this:\n- Give numbers.\n- Give units, as in <b>metres</b>.", "", ("kindness",)),
        ("no-lists", "No lists. Write sentences.", "", ("lists",)),
        ("never-use-tables-nor", "Never use tables\n- nor charts", "", ("lists",)),
    ]
    assert found.left_out == {
        "author of the front matter": 1,
        "HTML comment": 1,
        "paragraph beside a list of principles": 1,
        "heading without text": 1,
    }
    assert "2 HTML tags stand in the texts as they were" in found.notes
    assert "headings above the rules became tags" in found.notes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. Be kind.\n2. Be exact.\n", ["Be kind.", "Be exact."]),
        ("Some rules.\n\n- Be kind.\n\n- Be exact,\nalways.\n", ["Be kind.", "Be exact, always."]),
        ("# Rules\n\nFor us.\n\n* Be kind.\n* \n* Be exact.", ["Be kind.", "Be exact."]),
        ("Kind\n====\nBe kind.\n\nExact\n=====\nBe exact.\n", ["Be kind.", "Be exact."]),
        ("# A\nBe kind.\n\n***\n# B\nBe exact.\n", ["Be kind.", "Be exact."]),
        ("# Kind\nBe kind.\n", ["Be kind."]),
        ("## Code\n\n```\n# no heading\n- no item <!-- no comment -->\n```\n",
         ["```\n# no heading\n- no item <!-- no comment -->\n```"]),
        ("## \u4e0d\n\n\\# no \\*mark\\*\n\n## \u4e0d\n\nb", ["# no *mark*", "b"]),
    ],
)  # fmt: skip
def test_plain_documents(tmp_path: Path, text: str, expected: list[str]) -> None:
    constitution = imported(tmp_path, "rules.md", text).constitution
    assert [p.statement for p in constitution.principles] == expected


MARKS = "# @- @1. @a@b@\n@\n\n@```@  @---@===@<!--@-->@*@\\@{#x}@**@: @title: x@\t@\u2028"


def test_a_prose_document_comes_out_as_it_went_in(tmp_path: Path) -> None:
    text = '---\nname: rules\nversion: "3"\n---\n\n# rules\n\nFor us.\n\n## kind\n\nBe kind.\n\nIt helps.\n\nA lot.\n'
    found = imported(tmp_path, "rules.md", text)
    assert export_file(found.constitution, tmp_path / "out.md", "markdown") == {}
    assert (tmp_path / "out.md").read_text().replace("'", '"') == text


def test_boxes_of_tasks_are_no_part_of_a_rule(tmp_path: Path) -> None:
    text = "- [x] Be kind\n- [ ] Be brief\n- [sic] Be odd\n"
    assert statements(imported(tmp_path, "a.md", text)) == ["Be kind", "Be brief", "[sic] Be odd"]


def test_a_list_under_a_heading_with_text_becomes_principles_and_nothing_is_lost(tmp_path: Path) -> None:
    rules = "## Honesty\n\nSay what is true.\n\n- Say when you guess.\n- Mend errors.\n\nIt pays.\n"
    text = f"# Rules\n\n- Be first.\n\n{rules}"
    found = imported(tmp_path, "a.md", text)
    assert [(p.id, p.statement, p.rationale, p.tags) for p in found.constitution.principles] == [
        ("first", "Be first.", "", ()),
        ("honesty", "Say what is true.", "It pays.", ()),
        ("when-guess", "Say when you guess.", "", ("honesty",)),
        ("mend-errors", "Mend errors.", "", ("honesty",)),
    ]
    assert found.left_out == {}


def test_bold_italics_and_links_become_plain_text(tmp_path: Path) -> None:
    text = "- **Be *very* kind**: see [our `rules`](http://a.b/c) ![a dog](d.png) <http://e.f> and 2 \\* 3 &amp; x_y.\n"
    found = imported(tmp_path, "a.md", text)
    assert statements(found) == ["Be very kind: see our `rules` a dog http://e.f and 2 * 3 & x_y."]
    assert found.constitution.principles[0].id == "be-very-kind"
    assert found.left_out == {"address of a link": 1, "address of an image": 1}


def test_two_paragraphs_of_prose_are_two_principles(tmp_path: Path) -> None:
    assert statements(imported(tmp_path, "a.md", "Be kind.\n\nBe exact,\nalways.\n")) == [
        "Be kind.",
        "Be exact, always.",
    ]


def test_marks_of_quotations_are_no_part_of_a_rule(tmp_path: Path) -> None:
    text = "## Tone\n\n> Be kind to\n> everybody.\n>\n> > Unkind words last.\n\n## More\n\n5 > 3, and\n\\> stays.\n"
    found = imported(tmp_path, "a.md", text)
    assert statements(found) == ["Be kind to everybody.", "5 > 3, and > stays."]
    assert found.constitution.principles[0].rationale == "Unkind words last."


def test_a_list_within_an_item_keeps_its_lines(tmp_path: Path) -> None:
    text = "- Do not hurt:\n  - people,\n    old or young\n  - [ ] animals\n- Be kind, as in\n  2024. Always.\n"
    assert statements(imported(tmp_path, "a.md", text)) == [
        "Do not hurt:\n- people, old or young\n- animals",
        "Be kind, as in 2024. Always.",
    ]
    below = import_file(write(tmp_path / "b.md", f"## Rules\n\nThese:\n\n{text}"), tmp_path / "b.yaml")
    listed = "- Do not hurt:\n  - people, old or young\n  - animals\n- Be kind, as in 2024. Always."
    assert statements(below) == [f"These:\n{listed}"]


TABLE = "| rule | why |\n|---|---|\n| Be kind | it lasts |\n"


@pytest.mark.parametrize("table", [TABLE, TABLE.replace("| r", "r").replace("|---|---|", "--- | :--:")])
def test_a_table_is_left_out_and_told(tmp_path: Path, table: str) -> None:
    found = imported(tmp_path, "a.md", f"## Tone\n\n{table}\nBe kind.\n")
    assert statements(found) == ["Be kind."]
    assert found.left_out == {"table": 1}
    with pytest.raises(ConstitutionError, match="tables are not read"):
        import_file(write(tmp_path / "b.md", f"## Tone\n\n{table}"), tmp_path / "b.yaml")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(MARKS.split("@"))))
def test_any_marks_of_markdown_import_or_are_an_error(tmp_path: Path, marks: list[str]) -> None:
    (tmp_path / "out.yaml").unlink(missing_ok=True)
    try:
        imported(tmp_path, "any.md", "".join(marks))
    except RlaifError:
        return
    assert load_constitution(tmp_path / "out.yaml").principles
