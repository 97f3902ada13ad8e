"""Constitutions from and to other formats: files of our own words in the shapes that others write."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif.constitution.exchange.draft import Draft, topic
from rlaif.constitution.exchange.formats import FORMATS, ImportResult, export_file, import_file
from rlaif.constitution.format import MAX_ID, slug
from rlaif.constitution.lint import lint
from rlaif.constitution.load import load_constitution
from rlaif.constitution.starter import write_starter
from rlaif.core.errors import ConstitutionError, RlaifError, RunFolderError
from rlaif.core.records import Constitution, Contrast, ContrastExample, Principle, PrincipleTest
from rlaif.judge.methods.table import taking

ANTHROPIC: dict[str, Any] = {
    "rude0": {
        "prompt": ["\n\nCritiqueRequest: Name what sounds rude.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Say it kindly.\n\nRevision:",
    },
    "vague1": {
        "prompt": ["\n\nCritiqueRequest: Name what stays vague in {{ 7*7 }}.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Say it exactly.\n\nRevision:",
    },
}
COMPARISONS = ["\nPlease choose the kinder answer. Options:", "\nWhich of these answers is more exact? Options:"]
HANDBOOK: dict[str, Any] = {
    "constitutions": [
        {"critic": "Name what sounds rude.", "revision": "Rewrite the response in kind words."},
        {"critic": "Name what stays vague.", "revision": "Rewrite the response with exact numbers."},
    ],
    "system_chat": [],
}
ICAI = "1. Select the response that is kinder\n2. Select the response that is exact"
JSON_START = b'{"name": "a", "principles": [{"id": "b", "statement": "s", '
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


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def imported(folder: Path, file: str, content: Any, **options: Any) -> ImportResult:
    return import_file(write(folder / file, content), folder / "out.yaml", **options)


def test_anthropics_critiques_without_their_frames(tmp_path: Path) -> None:
    found = imported(tmp_path, "Critiques 2.json", ANTHROPIC)
    assert (found.format, found.constitution.name) == ("anthropic", "critiques-2")
    rude, vague = load_constitution(tmp_path / "out.yaml").principles
    assert rude == Principle("rude0", "Say it kindly.", critique="Name what sounds rude.", revision="Say it kindly.")
    assert vague.critique == "Name what stays vague in {{ 7*7 }}."
    assert taking(found.constitution) == ["pairwise", "cot", "rating"]
    assert (
        (tmp_path / "out.yaml").read_text().startswith("# Imported by rlaif from Critiques 2.json: format anthropic, ")
    )


def test_a_frame_is_taken_off_once_and_only_at_the_ends(tmp_path: Path) -> None:
    text = "\n\nCritiqueRequest: Is a CritiqueRequest: or a Critique: named?\n\nCritique:"
    entry = {"prompt": [text, "\n\nHuman: Bare.\n\nAssistant:"], "edit_request": "Revision: stays.", "note": 1}
    found = imported(tmp_path, "a.json", {"Odd Key!": entry})
    first, second = found.constitution.principles
    assert first.critique == "Is a CritiqueRequest: or a Critique: named?"
    assert first.revision == second.revision == "Revision: stays."
    assert (first.id, second.id, second.critique) == ("odd-key", "odd-key-2", "Bare.")
    assert found.left_out == {"note of an entry": 1}
    assert "1 entries had another request for critique; each became a principle of its own" in found.notes


def test_anthropics_comparisons(tmp_path: Path) -> None:
    found = imported(tmp_path, "c.json", COMPARISONS)
    assert found.format == "anthropic-comparisons"
    assert [(p.id, p.comparison) for p in found.constitution.principles] == [
        ("kinder", "Please choose the kinder answer."),
        ("answers-exact", "Which of these answers is more exact?"),
    ]
    again = import_file(tmp_path / "c.json", tmp_path / "again.yaml", format="anthropic")
    assert again.constitution.principles == found.constitution.principles


def test_the_handbooks_chats_become_tests_of_the_principle_they_show(tmp_path: Path) -> None:
    def chat(*contents: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text} for text in contents]

    used = chat(
        "Hi", "Go away!", "Name what sounds rude.", "It is rude.", "Rewrite the response in kind words.", "Hello!"
    )
    other = chat("Hi", "Go away!", "Anything?", "Yes.", "Rewrite the response in kind words.", "Hello!")
    found = imported(tmp_path, "h.json", {**HANDBOOK, "system_chat": [used, other, used[:4]], "model": "x"})
    kind, exact = found.constitution.principles
    assert kind.tests == (PrincipleTest("Hi", "Hello!", "Go away!"),)
    assert (kind.id, exact.id, exact.tests) == ("kind-words", "exact-numbers", ())
    assert found.left_out == {
        "model": 1,
        "critique in a chat of system_chat": 1,
        "chat of system_chat that uses no principle's wordings": 2,
    }


@pytest.mark.parametrize("content", [ICAI, ICAI.replace("1. ", "").replace("2. ", "").split("\n"), None])
def test_any_file_of_an_inverse_cai_run(tmp_path: Path, content: Any) -> None:
    texts = {"0": "Select the response that is kinder", "1": "Select the response that is exact"}
    write(tmp_path / "041_votes_per_cluster.json", {"0": {"for": 3, "against": 1}, "1": {"for": 0, "against": 4}})
    write(tmp_path / "030_distilled_principles_per_cluster.json", texts)
    source = tmp_path / "030_distilled_principles_per_cluster.json"
    if content is not None:
        source = write(tmp_path / "060.json", json.dumps(content))
    found = import_file(source, tmp_path / "out.yaml")
    assert (found.format, [p.statement for p in found.constitution.principles]) == ("icai", list(texts.values()))
    assert found.constitution.principles[0].rationale == "Votes in Inverse CAI: 3 for, 1 against."
    assert "1 principles have more votes against than for: their opposite explains the data" in found.notes


def test_annotated_pairs_are_counted_as_votes(tmp_path: Path) -> None:
    def comparison(default: str, kind: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": "p", "annotations": {"d": {"pref": default}, "k": kind}}

    pairs = {
        "metadata": {"default_annotator": "d"},
        "annotators": {
            "d": {"type": "unknown", "description": "people"},
            "k": {"type": "principle", "description": "Select the kinder response"},
            "q": {"type": "non_preference_principle", "description": "asks a question"},
        },
        "comparisons": [
            comparison("a", {"pref": "a"}), comparison("b", {"pref": "b"}), comparison("b", {"pref": "a"}),
            comparison("a", {"pref": None, "no_pref_reason": "not_applicable"}), {"annotations": None},
        ],
    }  # fmt: skip
    found = imported(tmp_path, "ap.json", pairs)
    (kind,) = found.constitution.principles
    assert kind.rationale == "Votes in Inverse CAI: 2 for, 1 against, 1 not_applicable, 1 missing."
    assert found.left_out == {
        "annotator that is no principle about answers": 2,
        "comparison, of which only the votes are kept": 5,
    }


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


def test_ids_are_short_unique_and_never_empty() -> None:
    draft = Draft("markdown")
    for text in [
        "Be kind!",
        "be kind",
        "be-kind-2",
        "be kind",
        "x" * 100,
        "x" * 100,
        "\u4e0d",
        "\u4e0d",
        "caf\u00e9 d'or",
    ]:
        draft.add(text, statement="s")
    ids = [p["id"] for p in draft.principles]
    assert ids[:4] == ["be-kind", "be-kind-2", "be-kind-2-2", "be-kind-3"]
    assert ids[6:] == ["principle", "principle-2", "cafe-dor"]
    assert len(set(ids)) == len(ids)
    taken = Draft("markdown")
    for text in ["a-2", "a", "a"]:
        taken.add(text, statement="s")
    assert [p["id"] for p in taken.principles] == ["a-2", "a", "a-3"]
    assert max(map(len, ids)) == MAX_ID
    assert len(slug("word " * 40)) <= MAX_ID
    assert topic("Please choose the response that is more honest.") == "honest"


def test_duplicates_are_kept_and_told(tmp_path: Path) -> None:
    data = {"constitutions": HANDBOOK["constitutions"][:1] * 3}
    found = imported(tmp_path, "h.json", data)
    assert [p.id for p in found.constitution.principles] == ["kind-words", "kind-words-2", "kind-words-3"]
    assert "2 of the statements stand more than once; all are kept, with ids of their own" in found.notes


def test_nothing_is_overwritten_and_the_name_must_fit(tmp_path: Path) -> None:
    imported(tmp_path, "a.json", ANTHROPIC, name="mine")
    assert load_constitution(tmp_path / "out.yaml").name == "mine"
    with pytest.raises(RunFolderError, match="not overwritten"):
        import_file(tmp_path / "a.json", tmp_path / "out.yaml")
    with pytest.raises(RunFolderError, match="not overwritten"):
        export_file(load_constitution("example"), tmp_path / "a.json", "json")
    (tmp_path / "link.yaml").symlink_to("nowhere.yaml")
    with pytest.raises(RunFolderError, match="not overwritten"):
        import_file(tmp_path / "a.json", tmp_path / "link.yaml")
    with pytest.raises(RunFolderError, match="not overwritten"):
        write_starter(tmp_path / "link.yaml")
    for out, name in (("b.json", None), ("b.yaml", "My Rules")):
        with pytest.raises(ConstitutionError):
            import_file(tmp_path / "a.json", tmp_path / out, name=name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "link.yaml", "out.yaml"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"", "is empty"),
        ("a.json", b" \n", "is empty"),
        ("a.json", b"x" * 10_000_000, "split the file"),
        ("a.json", b'{"a":\n "\xe9"}', "a.json:2: is not UTF-8"),
        ("a.json", b'{"a": 1,\n}', "a.json:2: is not JSON"),
        ("a.json", b"[" * 100_000, "nested too deep"),
        ("a.json", b'{"a": 1, "a": 2}', "'a' stands twice"),
        ("a.json", b"1" * 10_000, "is not JSON"),
        ("a.json", b"{}", "no known format"),
        ("a.json", b'{"a": 1}', "no known format (keys a)"),
        ("a.json", b'["Be kind."]', "--from anthropic-comparisons or --from icai"),
        ("a.json", b'{"a": {"prompt": [], "edit_request": "x"}}', "'a' lacks a text"),
        ("a.json", b'{"constitutions": [{"critic": 1}]}', "constitutions.0 lacks the text"),
        ("a.json", b'{"name": "a", "principles": [{"id": "b"}]}', "principles.0 lacks id or statement"),
        ("a.json", JSON_START + b'"weight": -1}]}', "makes no constitution"),
        ("a.json", JSON_START + b'"tests": [[]]}]}', "makes no constitution"),
        ("a.yaml", b"name: a", "is YAML"),
        ("a.md", b"Only prose.\n", "no heading"),
        ("a.md", b"## A\n## B\n", "no heading"),
    ],
)  # fmt: skip
def test_bad_files_are_errors_with_a_remedy(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConstitutionError) as caught:
        import_file(tmp_path / name, tmp_path / "out" / "mine.yaml")
    assert words in str(caught.value)
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConstitutionError):
            import_file(path, tmp_path / "out.yaml")


@pytest.mark.parametrize(
    "text", ["a\x00b", "\x1b[31mred", "\ud800", "\u202e", "{{ 7*7 }}", "<script>", "a\u2028b", "- x: &y"]
)
def test_odd_texts_stay_as_they_are(tmp_path: Path, text: str) -> None:
    data = {"constitutions": [{"critic": f"c {text}", "revision": f"r {text}", text: 1}]}
    found = imported(tmp_path, "odd.json", data)
    principle = found.constitution.principles[0]
    assert principle.critique == f"c {text}".replace("\ud800", "\ufffd")
    assert all(key.isprintable() for key in found.left_out)
    head = (tmp_path / "out.yaml").read_text("utf-8").split("name:")[0]
    assert head.replace("\n", "").isprintable()


KEYS = """constitutions critic revision system_chat prompt edit_request 0 name principles id statement tests annotators
    comparisons metadata annotations default_annotator"""
MARKS = "# @- @1. @a@b@\n@\n\n@```@  @---@===@<!--@-->@*@\\@{#x}@**@: @title: x@\t@\u2028"


# --- there and back ---------------------------------------------------------------------------------------------------

texts = st.text(min_size=1, max_size=30).map(str.strip).filter(bool) | st.sampled_from(
    [
        "# a",
        "1. a",
        "- a",
        "\\*",
        "a\n\nb",
        "> a",
        "Critique:",
        "Options:",
        "CritiqueRequest: x",
        "---",
        "<!-- a -->",
        "2. b",
    ]
)
slugs = st.from_regex(r"\A[a-z0-9]{1,8}(-[a-z0-9]{1,8})?\Z")
principles = st.builds(
    Principle,
    id=slugs, statement=texts, rationale=st.just("") | texts, priority=st.integers(1, 3),
    weight=st.sampled_from([0.5, 1.0]),
    tags=st.lists(texts, max_size=2).map(tuple), critique=st.none() | texts, revision=st.none() | texts,
    comparison=st.none() | texts,
    contrast=st.none() | st.builds(
        Contrast, texts.map("You {}".format), texts.map("You don't {}".format),
        st.lists(st.builds(ContrastExample, texts, texts, texts), max_size=1).map(tuple),
    ),
    tests=st.lists(st.builds(PrincipleTest, texts, texts.map("+{}".format), texts.map("-{}".format)), max_size=1)
    .map(tuple),
)  # fmt: skip
constitutions = st.builds(
    Constitution, slugs, texts, st.just("") | texts,
    st.lists(principles, min_size=1, max_size=3, unique_by=lambda p: p.id).map(tuple),
)  # fmt: skip


def words(text: str) -> str:
    """The text as a Markdown paragraph or line holds it: paragraphs of words, and never the character of code 0."""
    text = text.replace("\x00", "\ufffd")
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n[^\S\n]*\n", text) if part.strip())


def held(format: str, c: Constitution) -> Any:
    """What of a constitution the format can hold."""
    given: Mapping[str, Any] = {
        "anthropic": [(p.id, p.critique, p.revision) for p in c.principles],
        "anthropic-comparisons": [p.comparison for p in c.principles],
        "handbook": [(p.critique, p.revision) for p in c.principles],
        "icai": [" ".join(p.statement.split()) for p in c.principles],
        "markdown": (
            c.name,
            c.version,
            words(c.description),
            [(p.id, words(" ".join(p.statement.split())), words(p.rationale)) for p in c.principles],
        ),
        "json": c,
    }
    return given[format]


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(constitutions, st.integers(0, 10**9))
def test_out_and_in_again(tmp_path: Path, format: str, constitution: Constitution, number: int) -> None:
    folder = tmp_path / str(number)
    for path in folder.glob("*"):
        path.unlink()
    own = tuple(
        replace(p, critique=p.critique or "c", revision=p.revision or "r", comparison=p.comparison or "q")
        for p in constitution.principles
    )
    whole = constitution if format == "json" else replace(constitution, principles=own)
    file = folder / ("file.md" if format == "markdown" else "file.json")
    export_file(whole, file, format)
    back = import_file(file, folder / "back.yaml", format=format)
    assert held(format, back.constitution) == held(format, whole)
    assert not [finding for finding in lint(folder / "back.yaml") if finding.severity == "error"]


@pytest.mark.parametrize(
    ("format", "content"),
    [
        ("anthropic", ANTHROPIC),
        ("anthropic-comparisons", COMPARISONS),
        ("handbook", HANDBOOK),
        ("icai", ICAI),
    ],
)
def test_in_and_out_again(tmp_path: Path, format: str, content: Any) -> None:
    found = imported(tmp_path, "in.json", json.dumps(content))
    assert found.format == format
    lost = export_file(found.constitution, tmp_path / "out.json", format)
    assert json.loads((tmp_path / "out.json").read_text()) == content
    assert not {"statement", "critique", "revision", "comparison"} & lost.keys()


def test_a_prose_document_comes_out_as_it_went_in(tmp_path: Path) -> None:
    text = '---\nname: rules\nversion: "3"\n---\n\n# rules\n\nFor us.\n\n## kind\n\nBe kind.\n\nIt helps.\n\nA lot.\n'
    found = imported(tmp_path, "rules.md", text)
    assert export_file(found.constitution, tmp_path / "out.md", "markdown") == {}
    assert (tmp_path / "out.md").read_text().replace("'", '"') == text


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_is_known_by_its_file(tmp_path: Path, format: str) -> None:
    file = tmp_path / ("file.md" if format == "markdown" else "file.json")
    constitution = load_constitution("harmless-and-kind")
    export_file(constitution, file, format)
    if format == "icai":
        assert import_file(file, tmp_path / "a.yaml").format == "icai"
    assert import_file(file, tmp_path / "out.yaml").format == format


def test_what_a_format_cannot_hold_is_counted(tmp_path: Path) -> None:
    constitution = load_constitution("example")
    assert export_file(constitution, tmp_path / "a.json", "json") == {}
    assert export_file(constitution, tmp_path / "b.json", "anthropic") == {
        "statement": 1,
        "own critique, for which general words with the statement stand": 1,
        "own revision, for which general words with the statement stand": 1,
        "name": 1, "version": 1, "description": 1,
        "rationale": 1, "weight": 1, "tags": 1, "comparison": 1, "contrast": 2, "tests": 2,
    }  # fmt: skip
    written = json.loads((tmp_path / "b.json").read_text())
    assert "short, plain sentences" in written["short-sentences"]["prompt"][0]
    with pytest.raises(ConstitutionError, match="did you mean 'handbook'"):
        export_file(constitution, tmp_path / "c.json", "handbok")


def test_show_as_json_can_be_imported(tmp_path: Path) -> None:
    from dataclasses import asdict

    constitution = load_constitution("example")
    data = {"hash": constitution.hash, **asdict(constitution)}
    found = imported(tmp_path, "show.json", data)
    assert found.constitution == constitution
    assert found.left_out == {"hash": 1}
    assert taking(found.constitution) == ["pairwise", "cot", "rating", "contrast"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.just(ICAI),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS.split()),
            inner, max_size=5,
        ),
        max_leaves=15,
    ),
    st.sampled_from([None, *FORMATS]),
    st.integers(0, 10**9),
)  # fmt: skip
def test_any_json_imports_or_is_an_error(tmp_path: Path, data: Any, format: str | None, number: int) -> None:
    folder = tmp_path / str(number)
    folder.mkdir(exist_ok=True)
    (folder / "out.yaml").unlink(missing_ok=True)
    try:
        imported(folder, "any.json", json.dumps(data), format=format)
    except RlaifError:
        assert not (folder / "out.yaml").exists()
    else:
        assert load_constitution(folder / "out.yaml").principles


def statements(found: ImportResult) -> list[str]:
    return [principle.statement for principle in found.constitution.principles]


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


def test_the_help_names_every_format() -> None:
    from rlaif.cli.constitution import FORMAT_NAMES

    assert FORMAT_NAMES.replace(" or ", ", ").split(", ") == list(FORMATS)
