"""The answer of `rlaif judge compare`: terminal and page say the same, and text stays text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlaif.judge.compare.answer import answer
from rlaif.judge.compare.records import JudgeComparison
from rlaif.view.answer import page, rendered
from tests.judge.compare.contests import compared
from tests.output import EVIL, Page, on_terminal


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
