"""The unit tests of principles for the terminal: a line per principle, then all, then what got no verdict and why."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlaif.judge.tests import Report, Result, Tally, tally
from rlaif.view.text import number, percent, percents, visible


def as_table(report: Report) -> RenderableType:
    """The table and the sentences below it."""
    overall = tally(report.results)
    ordered, unjudged = overall.consistency is not None, overall.judged < overall.tests
    table = Table(title=Text(_title(report)), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("principle", overflow="fold")  # an id may be 64 characters long, a terminal is often 80
    headings = ["passed", "margin", *["orders\nagree"] * ordered, "shorter\nwins", "longer\nwins"]
    headings += ["no\nverdict"] * unjudged
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("failed", overflow="fold")
    for name, results in report.principles.items():
        cells = _cells(tally(results), ordered, unjudged) if results else ["no tests"]
        cells += [""] * (len(headings) - len(cells))
        table.add_row(name, *cells, ", ".join(str(r.number) for r in results if r.passed is False))
    table.add_section()
    table.add_row("all", *_cells(overall, ordered, unjudged), str(overall.judged - overall.passed), style="bold")
    cost = f"The judge was asked {report.calls:,} times; {report.cached:,} answers were known from before."
    lines = [*_sentences(overall), *_unjudged(report.results), *[cost] * (report.method != "random")]
    return Group(table, Text("\n".join(lines)))


def _title(report: Report) -> str:
    constitution = report.constitution
    who = "at random" if report.method == "random" else f"by {report.judge} ({report.method})"
    version = " ".join(constitution.version.split())  # one line, whatever it holds
    return visible(f"{constitution.name} {version}, judged {who}")


def _cells(found: Tally, ordered: bool, unjudged: bool) -> list[str]:
    """The numbers of one line; "-" where no test was judged."""
    if found.judged == 0:
        cells = ["-"] * (4 + ordered)
    else:
        cells = [f"{found.passed} of {found.judged}", number(found.margin, 3)]
        cells += [number(found.consistency, 2)] if ordered else []
        cells += [f"{share:.0%}" for share in (found.shorter_wins, found.longer_wins) if share is not None]
    return [*cells, str(found.tests - found.judged)] if unjudged else cells


def _sentences(found: Tally) -> list[str]:
    if found.judged == 0:
        return ["The judge gave no verdict on any test."]
    return [
        f"Passed {percent(found.rate)} of the tests with a verdict (95 % interval {percents(found.low, found.high)}).",
        f"By length alone: shorter wins {percent(found.shorter_wins)}, longer wins {percent(found.longer_wins)}.",
    ]


def _unjudged(results: Sequence[Result]) -> list[str]:
    """For each kind of failure the tests that it cost a verdict, and the first one's reason (JSON has them all)."""
    places: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for result in results:
        if result.failure is not None:
            places.setdefault(result.failure.kind, []).append(f"{result.principle_id} {result.number}")
            reasons.setdefault(result.failure.kind, result.failure.reason)
    return [
        visible(f"No verdict ({kind}): {', '.join(tests)}. The first: {reasons[kind]}")
        for kind, tests in places.items()
    ]
