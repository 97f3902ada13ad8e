"""The answer of `rlaif judge card`: terminal and page say the same, and text stays text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.core.records import Prompt
from rlaif.core.statistics import Estimate
from rlaif.judge.card.answer import answer
from rlaif.judge.card.records import Errors, Group, JudgeCard, SurestError
from rlaif.view.answer import Table, page, rendered
from tests.judge.card.cases import card_of, gullible, length_lover, perfect, write_gold
from tests.output import EVIL, Page, on_terminal


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


def test_the_surest_errors_can_be_read(tmp_path: Path) -> None:
    card = card_of(tmp_path, length_lover, examples=2)
    wrong = round(card.failures.labelled * (1 - card.accuracy.judge.mean)) if card.accuracy.judge else 0
    assert len(card.errors.surest) == 2 < card.errors.pairs < wrong + 9
    for words in (printed(card), Page(page(answer(card))).words):
        words = " ".join(words.split())
        assert f"Judge and gold disagree on {card.errors.pairs} of 48 pairs" in words
        assert "the judge prefers" in words
        assert "my bad answer 0 and more of it" in words
        assert "under good" in words
    none = card_of(tmp_path, perfect)
    assert none.errors.pairs == 0
    assert "Surest errors" not in printed(none)


def test_text_stays_text(card: JudgeCard) -> None:
    hostile = replace(
        card,
        subject=replace(card.subject, model=EVIL, gold=EVIL, gold_about=EVIL, constitution=EVIL, method=EVIL),
        failures=replace(card.failures, by_kind={EVIL: 1}),
        notes=[EVIL],
        errors=Errors(1, [SurestError("x", Prompt.of_text(EVIL), EVIL, EVIL, 0.9, [EVIL], [EVIL])]),
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


def test_a_perfect_judge_reads_well(tmp_path: Path) -> None:
    text = " ".join(printed(card_of(tmp_path, perfect)).split()).replace("\u00a0", " ")
    assert "right on 100.0 % (86 to 100) of a prompt's pairs" in text


def test_a_group_shows_both_length_rules(card: JudgeCard) -> None:
    judge, shorter = Estimate(0.8, 0.7, 0.9, 40, 20), Estimate(0.3, 0.25, 0.45, 40, 20)
    found = replace(card, groups=[Group("kind", 40, judge, shorter), Group("terse", 2, None, None)])
    (table,) = (part for section in answer(found).sections if section.title == "Groups" for part in section.parts)
    assert isinstance(table, Table)
    assert table.rows[0][2:] == ["80.0\u00a0%\n70 to 90", "30.0\u00a0%\n25 to 45", "70.0\u00a0%\n55 to 75"]
    assert table.rows[1][2:] == [table.rows[1][2]] * 3
