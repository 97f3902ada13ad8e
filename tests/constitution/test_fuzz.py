"""Whatever stands in a file: a ConstitutionError with a remedy, or it loads; never another exception."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlaif.constitution.format import ConstitutionFile, ContrastEntry, OverrideEntry, PrincipleEntry
from rlaif.constitution.lint import lint
from rlaif.constitution.load import constitution_text, load_constitution
from rlaif.core.errors import ConstitutionError
from rlaif.core.files import write_atomic
from rlaif.core.records import Constitution
from rlaif.core.shipped import shipped
from rlaif.core.yaml import dump_yaml

EXAMPLE = shipped("constitutions")["example"].read_bytes()
quick = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

KEYS = sorted(
    {
        *ConstitutionFile.model_fields,
        *PrincipleEntry.model_fields,
        *OverrideEntry.model_fields,
        *ContrastEntry.model_fields,
    }
)
words = st.text(max_size=8) | st.sampled_from(["a", "b-1", "1", "example"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner),
    max_leaves=12,
)
texts = st.text(min_size=1).map(str.strip).filter(bool)
slugs = st.from_regex(r"\A[a-z0-9]{1,8}(-[a-z0-9]{1,8})?\Z")
examples = st.fixed_dictionaries({"prompt": texts, "followed": texts, "violated": texts})
principles = st.fixed_dictionaries(
    {"id": slugs, "statement": texts},
    optional={
        "rationale": st.text(),
        "priority": st.integers(1, 9),
        "weight": st.floats(0.001, 1e6),
        "tags": st.lists(texts, max_size=3),
        "critique": texts,
        "comparison": st.none() | texts,
        "contrast": st.fixed_dictionaries(
            {"followed": texts.map("You a {}".format), "violated": texts.map("You b {}".format)},
            optional={"examples": st.lists(examples, max_size=2)},
        ),
        "tests": st.lists(
            st.fixed_dictionaries(
                {"prompt": texts, "better": texts.map("+{}".format), "worse": texts.map("-{}".format)}
            ),
            max_size=3,
        ),
    },
)
lists = st.lists(principles, min_size=1, max_size=4, unique_by=lambda p: str(p["id"]))
files = st.fixed_dictionaries(
    {"name": slugs, "version": texts, "principles": lists}, optional={"description": st.text()}
)
MARKS = "a|1|é|name|principles|id|2001-01-01|0001-01-01T00:00:00+23:59|: |- |  |\t|[|}|&x |*x|<<|? |>|'|\"|#"
TAGS = "!!int |!!float |!!set |!!omap |!!timestamp |!!binary |!a |%YAML 1.1\n|---\n|\n|\x00|\ud7ff|\ufeff"
marks_of_yaml = st.sampled_from([*MARKS.split("|"), *TAGS.split("|"), "|"])


def loaded(path: Path) -> Constitution | None:
    """The constitution, or None for a proper error; the linter has to agree about which of the two it is."""
    broken = {finding.code for finding in lint(path) if finding.severity == "error"}
    try:
        constitution = load_constitution(path)
    except ConstitutionError:
        constitution = None
    assert (constitution is None) == bool(broken)
    return constitution


@quick
@given(st.binary(max_size=60), st.integers(0, len(EXAMPLE)), st.integers(0, 40))
def test_bytes_put_into_a_good_file(tmp_path: Path, junk: bytes, place: int, removed: int) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(EXAMPLE[:place] + junk + EXAMPLE[place + removed :])
    loaded(path)


@quick
@given(st.lists(marks_of_yaml, max_size=25))
def test_marks_of_yaml_in_any_order(tmp_path: Path, marks: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("".join(marks), encoding="utf-8")
    loaded(path)


@quick
@given(values, st.lists(values, max_size=3))
def test_any_data_under_the_known_keys(tmp_path: Path, other: Any, entries: list[Any]) -> None:
    path = tmp_path / "mine.yaml"
    whole = {"name": "a", "version": "1", "principles": entries}
    for data in (other, whole, {**whole, **other} if isinstance(other, dict) else [other]):
        path.write_text(json.dumps(data), encoding="utf-8")
        loaded(path)


@quick
@given(files, files)
def test_a_good_file_loads_and_composed_files_keep_their_meaning_as_one(tmp_path: Path, base: Any, more: Any) -> None:
    write_atomic(tmp_path / "base.yaml", dump_yaml(base))
    assert loaded(tmp_path / "base.yaml") is not None
    taken = {p["id"] for p in base["principles"]}
    for entry in more["principles"]:
        entry["override"] = entry["id"] in taken
    write_atomic(tmp_path / "mine.yaml", dump_yaml({**more, "include": ["base.yaml"]}))
    composed = loaded(tmp_path / "mine.yaml")
    assert composed is not None
    assert {p.id for p in composed.principles} == taken | {p["id"] for p in more["principles"]}
    write_atomic(tmp_path / "flat.yaml", constitution_text(tmp_path / "mine.yaml"))
    assert loaded(tmp_path / "flat.yaml") == composed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: mine\n\tversion: 1\n", "mine.yaml:2"),
        (b"name: mine\nname: mine\n", "line 2: the key 'name' stands twice"),
        (b"name: &a mine\nversion: *a\n", "alias"),
        (b"name: mine\nversion: '\xe9'\n", "mine.yaml:2: is not UTF-8"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "alias"),
        (b"x" * 10_000_000, "split the file"),
        (b"- " * 5000, "mine.yaml"),
        (b"", "mapping"),
    ],
)
def test_bad_files_that_people_write(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConstitutionError) as caught:
        load_constitution(path)
    assert words in str(caught.value)
    assert caught.value.remedy
