"""Anthropic's lists of critiques and comparisons."""

from __future__ import annotations

from pathlib import Path

from rlaif.constitution.exchange.formats import import_file
from rlaif.constitution.load import load_constitution
from rlaif.core.records import Principle
from rlaif.judge.methods.table import taking
from tests.constitution.exchange.samples import ANTHROPIC, COMPARISONS, imported


def test_anthropics_critiques_without_their_frames(tmp_path: Path) -> None:
    found = imported(tmp_path, "Critiques 2.json", ANTHROPIC)
    assert (found.format, found.constitution.name) == ("anthropic", "critiques-2")
    rude, vague = load_constitution(tmp_path / "out.yaml").principles
    assert rude == Principle("rude0", "Say it kindly.", critique="Name what sounds rude.", revision="Say it kindly.")
    assert vague.critique == "Name what stays vague in {{ 7*7 }}."
    assert taking(found.constitution) == ["pairwise", "cot", "rating", "decision"]
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
