"""`rlaif judge compare` as a user meets it: terminal, JSON object and page, and what text cannot do to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.judge.compare.answer import answer
from rlaif.judge.compare.records import JudgeComparison
from rlaif.view.answer import page, rendered
from tests.judge.card.cases import settings, write_gold
from tests.judge.compare.contests import compared
from tests.output import EVIL, Page, on_terminal, rlaif


def printed(found: JudgeComparison, width: int = 80) -> str:
    return on_terminal(rendered(answer(found)), width)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> JudgeComparison:
    return compared(tmp_path_factory.mktemp("compare"), "perfect", "length", "mute")


def test_terminal_and_page_say_the_same(found: JudgeComparison) -> None:
    text = printed(found)
    assert max(map(len, text.splitlines())) <= 80
    parsed = Page(page(answer(found)))
    for words in (" ".join(text.split()), " ".join(parsed.words.split())):
        words = words.replace("\u00a0", " ")
        for said in (
            found.id, "Chosen by length-matched accuracy", "perfect *", "mean of all", "shorter wins", "behind by",
            "mute could not be chosen", "refused", "perfect, length", "model.source=perfect", "kappa", "both wrong",
            "seconds",
        ):  # fmt: skip
            assert said in words, said
    assert parsed.tags.count("svg") == 2


def test_text_stays_text(found: JudgeComparison) -> None:
    named = [replace(one, name=EVIL + one.name, words=[EVIL], model=EVIL) for one in found.candidates]
    hostile = replace(
        found,
        gold=EVIL,
        gold_about=EVIL,
        constitution=EVIL,
        candidates=named,
        choice=replace(found.choice, winner=named[0].name),
        agreements=[replace(one, one=EVIL, other=EVIL) for one in found.agreements],
        notes=[EVIL],
        verdict=[EVIL, EVIL],
    )
    parsed = Page(page(answer(hostile)))
    assert parsed.open == []
    assert not {"script", "img", "link", "iframe"} & set(parsed.tags)
    assert parsed.handlers == []
    for words in (printed(hostile), parsed.words):
        assert "\x1b" not in words
        assert "\u202e" not in words
        assert "[bold red]" in words


def test_the_verb_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_wrong_words_are_answered(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    gold = write_gold(tmp_path / "gold.jsonl")
    result = rlaif("judge", "compare", *(gold if word == "GOLD" else word for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
