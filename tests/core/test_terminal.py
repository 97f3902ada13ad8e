"""What is printed does nothing but stand there."""

from __future__ import annotations

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlaif.core.terminal import console, say, visible

LINK = "\x1b]8;;http://elsewhere\x1b\\here\x1b]8;;\x1b\\"
TURNED = "gnp\u202e"
HALF = "half \ud83d"


def test_visible_leaves_ordinary_writing_alone() -> None:
    plain = "naïve 日本語 עברית می‌خواهم 👩‍🚀\n\tend"
    assert visible(plain) == plain
    assert visible("a\r\nb\rc") == "a\nb⟦U+000D⟧c"


@pytest.mark.parametrize("error", [False, True])
def test_what_is_said_is_written_out(error: bool, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{LINK} {TURNED} {HALF}", error=error)
    printed = capsys.readouterr()
    said, other = (printed.err, printed.out) if error else (printed.out, printed.err)
    assert "⟦U+001B⟧]8;;http://elsewhere" in said
    assert "gnp⟦U+202E⟧ half ⟦U+D83D⟧\n" in said
    assert other == ""


def test_a_console_shows_whatever_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(TURNED, title="[/]")
    table.add_row(LINK)
    table.add_row("[bold]:smile:[/bold] [/]")
    console().print(table, Panel(Text(HALF), title=Text(TURNED)), "[/] loose")
    said = capsys.readouterr().out
    assert not {"\x1b", "\u202e", "\ud83d"} & set(said)
    assert "⟦U+001B⟧]8;;http://elsewhere" in said
    assert "[bold]:smile:[/bold] [/]" in said
    assert "[/] loose" in said
    assert said.count("⟦U+202E⟧") == 2
