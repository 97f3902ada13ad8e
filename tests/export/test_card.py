"""What stands in a card is shown, whatever it says."""

from __future__ import annotations

from markdown_it import MarkdownIt

from rlaif.export.card import code, fenced, judge_line, plain, table
from tests.fakes import judge_card
from tests.output import EVIL

HOSTILE = "a | b\n# c <img src=x> [d](http://e) `f` *g* &amp; ![h](i) \u202e"


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def test_a_name_cannot_become_markup() -> None:
    for text in (HOSTILE, EVIL):
        page = rendered(f"# {plain(text)}\n\n{table(['x', 'y'], [[text, code('z')]])}")
        assert not any(tag in page for tag in ("<img", "<script", "<a ", "<em>", "<h2", "\u202e"))
        assert page.count("<td>") == 2
        assert "<code>z</code>" in page


def test_a_text_stays_between_its_fences() -> None:
    text = "one\n```\n<b>two</b>\n`````"
    page = rendered(fenced(text, "yaml") + "\n\nafter")
    assert "&lt;b&gt;two&lt;/b&gt;" in page
    assert "<p>after</p>" in page


def test_the_judge_in_a_line() -> None:
    card = judge_card(0.75)
    said = judge_line(card)
    assert said.startswith("Judge: ")
    assert f"(card `{card.id}`)" in said
    assert "not measured" in judge_line(None)
