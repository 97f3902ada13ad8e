"""`rlaif impact` on a file: options that do not go together, and what is not overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif.view.deliver import refuse_places
from tests.analysis.impact.runs import CONSTITUTION, FILE_PROMPTS, REWORDED, write_constitution, write_pairs
from tests.output import Page, rlaif


def test_the_verb_takes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    new = write_constitution(tmp_path / "new.yaml", REWORDED)
    old = write_constitution(tmp_path / "old.yaml", CONSTITUTION)
    words = ("impact", "--comparisons", pairs, "--from", old, "--to", new, "--set", "judge.backend=scripted")
    result = rlaif(*words, "--json", "--html", tmp_path / "impact.html")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["source"], found["agreement"]["pairs"]) == (str(pairs), FILE_PROMPTS)
    page = " ".join(Page((tmp_path / "impact.html").read_text()).words.split())
    shown = " ".join(rlaif(*words).output.split())
    assert "agreement with the file's own labels on 20 pairs" in page
    assert "agreement with the file's own labels on 20 pairs" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give either --run RUN, or --comparisons FILE"),
        (("--run", "r", "--comparisons", "c"), "give either --run RUN, or --comparisons FILE"),
        (("--comparisons", "c"), "--comparisons needs --from OLD"),
        (("--run", "r", "--from", "x"), "--from goes with --comparisons"),
        (("--run", "r", "--set", "seed=1"), "--set goes with --comparisons"),
        (("--run", "nowhere"), "is not a run of rlaif"),
    ],
)
def test_options_that_do_not_go_together_are_told(words: tuple[str, ...], told: str) -> None:
    result = rlaif("impact", "--to", "harmless-and-kind", *words)
    assert result.exit_code != 0
    assert told in result.output


def test_what_the_answer_is_made_from_is_not_overwritten(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.json")
    before = pairs.read_bytes()
    words = ("impact", "--comparisons", pairs, "--from", "harmless-and-kind", "--to", "harmless-and-kind")
    result = rlaif(*words, "--out", pairs)
    assert result.exit_code == 2, result.output
    assert "is what the answer is made from" in result.output
    assert pairs.read_bytes() == before
    (tmp_path / "old.html").write_text("old")
    kept = rlaif(*words, "--html", tmp_path / "old.html")
    assert kept.exit_code == 5, kept.output
    assert "old.html: exists and is not overwritten" in kept.output
    assert (tmp_path / "old.html").read_text() == "old"
    refuse_places(tmp_path / "old.html", None, None, "impact", replace=True)
