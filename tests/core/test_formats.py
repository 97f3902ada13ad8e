"""Configs and run folders of another format: refused before anything else is said of them, with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rlaif as package
from rlaif.core import formats
from rlaif.core.errors import ConfigError
from rlaif.core.formats import FORMAT, OLDEST
from rlaif.judge.load import load
from tests.config.files import MINIMAL, fails
from tests.output import rlaif


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_a_config_has_the_format_that_is_written(file: Path) -> None:
    assert load(file).format == FORMAT
    file.write_text(f"format: {FORMAT}\n{MINIMAL}")
    assert load(file).format == FORMAT


def test_a_newer_one_is_refused_before_its_unknown_fields(file: Path) -> None:
    said = fails(file, f"{MINIMAL}unheard_of: 1\nformat: {FORMAT + 1}\n")
    assert f"{file}:6: was written in format {FORMAT + 1}, and this rlaif ({package.__version__}) reads up to" in said
    assert "pip install --upgrade rlaif-toolkit" in said
    assert "unheard_of" not in said


def test_an_older_one_is_refused_where_it_cannot_be_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = fails(file, f"format: {OLDEST - 1}\n{MINIMAL}")
    assert f"was written in format {OLDEST - 1}, and this rlaif ({package.__version__}) reads from format" in said
    assert "stage.json" in said
    assert "docs/reference/formats.md" in said
    monkeypatch.setattr(formats, "OLDEST", OLDEST - 1)
    load(file)


@pytest.mark.parametrize("value", ["x", "1.5", "true", "null", "[1]"])
def test_what_is_no_number(file: Path, value: str) -> None:
    assert "format must be a number" in fails(file, f"format: {value}\n{MINIMAL}")


@pytest.mark.parametrize(
    "words",
    [
        ("show", "{run}"),
        ("report", "{run}"),
        ("run", "--run", "{run}", "--resume"),
        ("export", "data", "--run", "{run}", "--out", "{run}-out"),
        ("impact", "--run", "{run}", "--to", "harmless-and-kind"),
    ],
)
def test_every_command_refuses_a_run_of_a_newer_version(tmp_path: Path, words: Any) -> None:
    run = tmp_path / "my"
    run.mkdir()
    (run / "config.yaml").write_text(f"format: {FORMAT + 1}\n{MINIMAL}")
    told = rlaif(*(word.format(run=run) for word in words))
    assert told.exit_code == 2, told.output
    assert f"config.yaml:1: was written in format {FORMAT + 1}" in " ".join(told.stderr.split())
    assert [path.name for path in run.iterdir()] == ["config.yaml"], "nothing is written"


def test_python_refuses_it_too(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"format: {FORMAT + 1}\n{MINIMAL}")
    with pytest.raises(ConfigError, match="was written in format"):
        package.open_run(tmp_path)
