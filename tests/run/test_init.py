"""What `rlaif init` writes."""

from __future__ import annotations

from pathlib import Path

from rlaif.config import RunConfig
from rlaif.judge.load import load, parse
from tests.output import rlaif


def test_init_writes_every_field_with_its_default(project: Path) -> None:
    given = load(project).model_dump()
    defaults = parse({"prompts": given["prompts"]}, where="test").model_dump()
    for name in ("model", "constitution"):
        given.pop(name), defaults.pop(name)
    assert given == defaults
    text = project.read_text()
    assert [part["principles"] for part in given["prompts"].values()] == [
        ["harm", "honesty", "safety", "privacy"],
        ["helpful"],
    ]
    tables = [name for name, info in RunConfig.model_fields.items() if name != "prompts"]
    assert all(f"\n{name}:" in text for name in tables)
    assert "kl_target: null" in text
    assert "clamp: [0.4, 0.6]" in text
    assert "contrast | pairwise | cot | rating | random" in text


def test_init_overwrites_nothing(project: Path) -> None:
    before = project.read_text()
    result = rlaif("init", project.parent)
    assert result.exit_code == 5
    assert "exists and is not overwritten" in result.stderr
    assert project.read_text() == before


def test_what_init_writes_passes_check(project: Path) -> None:
    result = rlaif("check", project)
    assert result.exit_code == 0, result.output
    assert "failed" not in result.stdout
    assert "18 to train on, 6 held out" in result.stdout
