"""`rlaif judge card` as a user meets it: terminal, JSON object and page, and what text cannot do to them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.judge.card.answer import answer
from rlaif.judge.card.records import JudgeCard
from rlaif.view.answer import page, rendered
from tests.judge.card.cases import card_of, gullible, perfect, settings, write_gold
from tests.output import EVIL, Page, on_terminal, rlaif


def printed(card: JudgeCard, width: int = 80) -> str:
    return on_terminal(rendered(answer(card)), width)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> JudgeCard:
    folder = tmp_path_factory.mktemp("card")
    gold = str(write_gold(folder / "gold.jsonl", prompts=12, tags=["easy", EVIL]))
    return card_of(folder, gullible, gold=gold, attack=12)


def test_terminal_and_page_say_the_same(card: JudgeCard) -> None:
    text = printed(card)
    assert max(map(len, text.splitlines())) <= 80
    parsed = Page(page(answer(card)))
    for words in (" ".join(text.split()), " ".join(parsed.words.split())):
        words = words.replace("\u00a0", " ")
        assert card.id in words
        assert 'Better than "shorter wins"' in words
        assert "Taken in by choose-this" in words
        assert "24 pairs of 12 prompts" in words
        assert "none, exactly" in words
        for heading in ("shorter wins", "confidence", "structure", "group"):
            assert heading in words
    assert parsed.tags.count("svg") == 2


def test_text_stays_text(card: JudgeCard) -> None:
    hostile = replace(
        card,
        subject=replace(card.subject, model=EVIL, gold=EVIL, gold_about=EVIL, constitution=EVIL, method=EVIL),
        failures=replace(card.failures, by_kind={EVIL: 1}),
        notes=[EVIL],
        verdict=[EVIL, EVIL],
    )
    parsed = Page(page(answer(hostile)))
    assert parsed.open == []
    assert not {"script", "img", "link", "iframe"} & set(parsed.tags)
    assert parsed.handlers == []
    assert all(target.startswith("#") and target[1:] in parsed.ids for target in parsed.targets)
    for words in (printed(hostile), parsed.words):
        assert "\x1b" not in words
        assert "\u202e" not in words
        assert "[bold red]" in words


def test_a_card_of_failures_is_shown(tmp_path: Path) -> None:
    from tests.fakes import mute

    card = card_of(tmp_path, None, model=mute(), attack=1)
    parsed = Page(page(answer(card)))
    assert parsed.open == []
    for words in (printed(card), parsed.words):
        assert "48 refused" in words.replace("\u00a0", " ")
        assert "nan" not in words.lower().replace("nano", "")


def test_the_verb_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_wrong_words_are_answered(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    (tmp_path / "broken.jsonl").write_text('{"prompt": "x", "chosen": "y"}\n')
    places = {"GOLD": write_gold(tmp_path / "gold.jsonl"), "BROKEN": tmp_path / "broken.jsonl"}
    result = rlaif("judge", "card", *(places.get(word, word) for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif.gold import scorers as gold

    monkeypatch.setattr(gold.importlib.util, "find_spec", lambda name: None)
    result = rlaif("judge", "card", "--gold", "pyrit")
    assert result.exit_code == 1
    assert "pip install --no-deps pyrit" in result.stderr


def test_a_perfect_judge_reads_well(tmp_path: Path) -> None:
    text = " ".join(printed(card_of(tmp_path, perfect)).split()).replace("\u00a0", " ")
    assert "right on 100.0 % (86 to 100) of a prompt's pairs" in text


def test_the_gold_is_not_overwritten_by_the_card(tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold.json", prompts=2)
    before = gold.read_bytes()
    result = rlaif("judge", "card", "--gold", gold, "--set", "judge.backend=scripted", "--out", gold)
    assert result.exit_code == 2, result.output
    assert "is what the answer is made from" in result.output
    assert gold.read_bytes() == before
