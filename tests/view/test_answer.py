"""The two renderers of an answer: what each shows, and what a text cannot do to them."""

from __future__ import annotations

import io

from rich.console import Console

from rlaif.core.records import Message, Prompt
from rlaif.view.answer import Answer, Example, Facts, Figures, Line, Section, Table, below, page, rendered
from rlaif.view.plots import Point, dots
from tests.output import Page

EVIL = "<script>x</script> [bold red]y[/bold red] \x1b[31m\u202e"
WIDE = Table(
    ("name", "what", "size", "mean of the old and the new ones"),
    [("one", "a text", "1", below("50.0 % (40.0 % to 60.0 %)")), ("two", EVIL, "2", "-"), ("three", "t", "3", "-")],
    texts=(0, 1),
    page_only=(2,),
    most=2,
    rest="more rows",
)


def answer() -> Answer:
    asked = Prompt((Message("system", "Be brief."), Message("user", f"Why? {EVIL}")), slice="hard")
    drawn = [("group", [Point(0, "here", 0.5, 0.4, 0.6)])]
    return Answer(
        verb="rlaif test",
        title=f"Title {EVIL}",
        about="what was done.",
        heading=f"Heading {EVIL}",
        verdict=["the first thing", f"The second {EVIL}"],
        sections=[
            Section("In sum", [Facts([("cost", "nothing")]), Line("explains", "caption"), Line("beware", "warning")]),
            Section("Tables", [WIDE, Figures(lambda: [dots("d", "Dots", drawn, "x"), None])]),
            Section("Nothing", []),
            Section("Texts", [Example("flipped", ["hard", ""], asked, [("A", "yes"), ("B", EVIL)], WIDE)]),
        ],
        notes=["Mind the gap"],
        footer="Made from nothing.",
    )


def printed(width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    for part in rendered(answer()):
        console.print(part)
    return out.getvalue()


def test_both_say_the_same_and_nothing_is_hidden_in_them() -> None:
    text, parsed = printed(), Page(page(answer()))
    assert parsed.open == []
    assert not {"script", "img", "link", "iframe"} & set(parsed.tags)
    assert parsed.handlers == []
    assert all(target.startswith("#") and target[1:] in parsed.ids for target in parsed.targets)
    for words in (" ".join(text.split()), " ".join(parsed.words.split())):
        assert "\x1b" not in words
        assert "\u202e" not in words
        for said in (
            "cost",
            "nothing",
            "beware",
            "a text",
            "40.0 % to 60.0 %",
            "flipped",
            "Mind the gap",
            "[bold red]",
        ):
            assert said in words, said


def test_a_page_has_room_for_what_a_terminal_has_not() -> None:
    text, parsed = printed(), Page(page(answer()))
    assert max(map(len, text.splitlines())) <= 80
    for only in ("explains", "size", "Made from nothing."):
        assert only in parsed.words
        assert only not in text
    assert parsed.tags.count("svg") == 1
    assert "and 1 more rows" in text
    assert "three" not in text
    assert "three" in parsed.words
    assert "Nothing" not in text + parsed.words, "a section without parts is left out"
    assert "The first thing." in parsed.words


def test_an_interval_goes_below_its_figure() -> None:
    assert below("50 % (40 to 60)") == "50 %\n40 to 60"
    assert below("not measured") == "not measured"
