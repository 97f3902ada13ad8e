"""Files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.constitution.exchange.formats import import_file
from rlaif.core.errors import ConstitutionError

JSON_START = b'{"name": "a", "principles": [{"id": "b", "statement": "s", '


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
