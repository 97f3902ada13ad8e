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

from rlaif.constitution.exchange.formats import FORMATS, export_file, import_file
from rlaif.constitution.lint import lint
from rlaif.constitution.load import load_constitution
from rlaif.constitution.starter import write_starter
from rlaif.core.errors import ConstitutionError, RlaifError, RunFolderError
from rlaif.core.records import Constitution, Contrast, ContrastExample, Principle, PrincipleTest
from rlaif.judge.methods.table import taking
from tests.constitution.exchange.samples import ANTHROPIC, COMPARISONS, HANDBOOK, ICAI, imported


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
    assert taking(found.constitution) == ["pairwise", "cot", "rating", "decision", "contrast"]


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


def test_the_help_names_every_format() -> None:
    from rlaif.cli.constitution import FORMAT_NAMES

    assert FORMAT_NAMES.replace(" or ", ", ").split(", ") == list(FORMATS)
