"""`rlaif judge card` and `rlaif judge compare`: what they print and write, and wrong words."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from tests.judge.card.cases import settings, write_gold
from tests.output import rlaif


def test_card_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    gold, rules = write_gold(tmp_path / "gold.jsonl"), settings(tmp_path).constitution
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    words = ["judge", "card", "--gold", gold, "--set", "judge.backend=scripted", "--set", "judge.method=pairwise"]
    words += ["--constitution", rules, "--pairs", "12", "--attack", "2", "--repeat", "2"]
    result = rlaif(*words, "--json", "--out", out, "--html", html)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads(out.read_text()) == found
    assert (found["format"], found["failures"]["pairs"], found["subject"]["constitution"]) == (2, 12, "rules")
    assert "<!DOCTYPE html>" in html.read_text()
    shown = rlaif(*words)
    assert shown.exit_code == 0, shown.output
    assert found["id"] in shown.stdout
    assert " 4 made" in shown.stdout, "all but the repeated questions is known"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--gold", "none.jsonl"], 2, "there is no such gold"),
        (["--gold", "tests:harmless"], 3, "harmless"),
        (["--gold", "GOLD", "--html", "a.yaml"], 2, "does not end in .html"),
        (["--gold", "GOLD", "--only", "hram"], 3, "did you mean 'harm'"),
        (["--gold", "GOLD", "--set", "judge.method=pairwize"], 2, "judge.method"),
        (["--gold", "BROKEN"], 3, "broken.jsonl:1"),
    ],
)
def test_wrong_words_about_a_card_are_answered(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    (tmp_path / "broken.jsonl").write_text('{"prompt": "x", "chosen": "y"}\n')
    places = {"GOLD": write_gold(tmp_path / "gold.jsonl"), "BROKEN": tmp_path / "broken.jsonl"}
    result = rlaif("judge", "card", *(places.get(word, word) for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = rlaif("judge", "card", "--gold", "pyrit")
    assert result.exit_code == 1
    assert "pip install --no-deps pyrit" in result.stderr


def test_the_gold_is_not_overwritten_by_the_card(tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold.json", prompts=2)
    before = gold.read_bytes()
    result = rlaif("judge", "card", "--gold", gold, "--set", "judge.backend=scripted", "--out", gold)
    assert result.exit_code == 2, result.output
    assert "is what the answer is made from" in result.output
    assert gold.read_bytes() == before


def test_compare_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    gold, rules = write_gold(tmp_path / "gold.jsonl"), settings(tmp_path).constitution
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    words = ["judge", "compare", "--gold", gold, "--set", "judge.backend=scripted", "--constitution", rules]
    words += ["--methods", "pairwise,random", "--variant", "first: judge.method=contrast judge.opening_tokens=1"]
    words += ["--only", "good", "--pairs", "20", "--timed", "2"]
    result = rlaif(*words, "--json", "--out", out, "--html", html)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads(out.read_text()) == found
    assert [one["name"] for one in found["candidates"]] == ["pairwise", "random", "first", "mean of all"]
    assert found["candidates"][2]["settings"]["opening_tokens"] == 1
    assert (found["format"], found["principles"], found["candidates"][1]["cost"]) == (1, ["good"], None)
    assert "<!DOCTYPE html>" in html.read_text()
    shown = rlaif(*words, "--timed", "0")
    assert shown.exit_code == 0, shown.output
    assert found["id"] in shown.stdout
    assert "a pair costs" not in shown.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--gold", "GOLD"], 2, "there is no judge to compare"),
        (["--gold", "none.jsonl", "--methods", "pairwise,cot"], 2, "there is no such gold"),
        (["--gold", "GOLD", "--methods", "pairwise,pairwise"], 2, "already is a judge called pairwise"),
        (["--gold", "GOLD", "--methods", "pairwise", "--variant", "x"], 2, "does not begin with a name and a colon"),
        (["--gold", "GOLD", "--methods", "pairwise,cot", "--html", "a.yaml"], 2, "does not end in .html"),
        (["--gold", "GOLD", "--methods", "pairwise,cot", "--choose", "1"], 2, "--choose"),
        (["--gold", "verifiable", "--methods", "pairwise,cot", "--only", "harm"], 2, "brings its own principle"),
    ],
)
def test_wrong_words_about_a_comparison_are_answered(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    gold = write_gold(tmp_path / "gold.jsonl")
    result = rlaif("judge", "compare", *(gold if word == "GOLD" else word for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
