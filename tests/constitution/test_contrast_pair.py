"""Contrast pairs that are made from statements: where there is none, and where the statement is another one now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif.constitution.contrast_pair import made_contrast, with_made_contrasts
from rlaif.constitution.lint import lint
from rlaif.constitution.load import load_constitution
from tests.output import rlaif

TEXT = """\
name: kitchen   # ours
version: 1
include: [warm-and-useful]
principles:
  - id: allergens
    statement: >
      Name every allergen.
  - id: grams
    statement: Give weights in grams.
    contrast: {followed: You weigh in grams., violated: You weigh in cups.}   # by hand
"""


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    path = tmp_path / "kitchen.yaml"
    path.write_text(TEXT)
    return path


def codes(path: Path) -> list[str]:
    return [finding.code for finding in lint(path)]


def test_only_what_lacks_a_pair_gets_one(kitchen: Path) -> None:
    text = with_made_contrasts(TEXT, kitchen)
    assert [line for line in TEXT.splitlines() if line not in text.splitlines()] == [], "every line is still there"
    kitchen.write_text(text)
    found = {p.id: p.contrast for p in load_constitution(kitchen).principles}
    assert found["allergens"] == made_contrast("Name every allergen.")
    assert found["allergens"].followed == "You are an assistant whose answers follow this rule: Name every allergen."
    assert found["grams"] is not None
    assert found["grams"].followed == "You weigh in grams."
    assert with_made_contrasts(text, kitchen) == text


def test_a_made_pair_follows_its_statement(kitchen: Path) -> None:
    kitchen.write_text(with_made_contrasts(TEXT, kitchen))
    rlaif("constitution", "set", kitchen, "allergens.statement=Hide every allergen.")
    (stale,) = [f for f in lint(kitchen) if f.code == "C306"]
    assert "only wraps a rule, and not the statement's" in stale.message
    assert json.loads(rlaif("constitution", "draft", kitchen, "--json").stdout)["drafted"] == ["allergens"]
    assert load_constitution(kitchen).principles[-2].contrast == made_contrast("Hide every allergen.")
    (kept,) = [f for f in lint(kitchen) if f.code == "C306"]
    assert "only wraps a rule;" in kept.message


def test_the_verb_says_what_it_made_and_what_to_do(kitchen: Path) -> None:
    assert "C101" in codes(kitchen)
    told = rlaif("constitution", "draft", kitchen)
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith(f"wrote {kitchen}\n1 contrast pair made, for allergens\n")
    assert "A made pair only wraps the statement." in told.stdout
    assert "C101" not in codes(kitchen)
    again = rlaif("constitution", "draft", kitchen)
    assert "stays as it is: every principle has a contrast pair" in again.stdout


def test_an_included_principle_gets_its_pair_in_an_entry_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\nversion: 1\nprinciples: [{id: short, statement: Be brief.}]\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\nversion: 1\ninclude: [base.yaml]\n")
    assert rlaif("constitution", "draft", mine).exit_code == 0
    assert load_constitution(mine).principles[0].contrast == made_contrast("Be brief.")
    assert "override: true" in mine.read_text()
    assert load_constitution(tmp_path / "base.yaml").principles[0].contrast is None


def test_a_shipped_constitution_is_not_edited() -> None:
    assert rlaif("constitution", "draft", "harmless-and-kind").exit_code == 3
