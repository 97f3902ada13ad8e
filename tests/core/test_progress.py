"""Progress as a log and as a terminal shows it; what is said stays text."""

from __future__ import annotations

import pytest

from rlaif.core.progress import Bars, Lines, Progress, Silent, choose


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (Lines(every=0.0), "  work: 4/4 pairs, 0 s left  [red]all\n"),
        (Lines(every=60.0), ""),
        (Silent(), ""),
    ],
    ids=["lines", "too early for a line", "silent"],
)
def test_lines_say_how_far_it_is_and_how_long_it_takes(
    progress: Progress, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.task("work", 4, "pairs") as task:
        task.advance(4, "[red]all")
    assert capsys.readouterr() == ("", shown)


def test_bars_read_nothing_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars()
    bars.say("[red]done")
    with bars.task("[red]work", 4, "pairs") as task:
        task.advance(2, "[red]half")
    shown = capsys.readouterr().err
    assert all(words in shown for words in ("[red]done", "[red]work", "2/4", "pairs"))


def test_a_log_gets_lines_and_the_quiet_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(choose(), Lines), "capsys is no terminal"
    assert isinstance(choose(quiet=True), Silent)
