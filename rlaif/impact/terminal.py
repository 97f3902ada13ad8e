"""The impact of an edit on the terminal. Texts of models and files are shown as they are, never as markup."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlaif.evaluation.statistics import Estimate
from rlaif.impact.impact import Cost, Impact
from rlaif.impact.measure import Agreement, PairChange, PairGroup, Vote, VoteChange
from rlaif.report.text import MISSING, common_decimals, duration, interval, number, percent, percents, shown, visible


def rendered(impact: Impact) -> Iterator[RenderableType]:
    """What to print, from the headline to the pairs."""
    which = " -> ".join(" ".join(f"{side.name} {side.version}".split()) for side in (impact.before, impact.after))
    yield _text(f"{impact.source}: {which}", "bold")
    yield _facts(impact)
    yield _principles(impact)
    if impact.groups[1:]:
        yield _groups(impact.groups)
    if impact.left_out:
        yield _text(f"too few prompts for a line of their own: {', '.join(impact.left_out)}", "dim")
    for note in impact.notes:
        yield _text(f"note: {note}", "yellow")
    for place, change in enumerate(impact.examples, start=1):
        yield _pair(place, change)


def labels_line(group: PairGroup) -> str:
    """How many labels appeared and vanished, and why they were, or are, missing."""
    appeared, vanished = (
        ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) for counts in (group.appeared, group.vanished)
    )
    return (
        f"appeared {sum(group.appeared.values())}{f' (before: {appeared})' if appeared else ''}, "
        f"vanished {sum(group.vanished.values())}{f' (now: {vanished})' if vanished else ''}, "
        f"none on either side {group.unlabelled}"
    )


def cost_line(cost: Cost) -> str:
    """Verdicts needed, reused and judged, and what the judging took."""
    share = f" ({percent(cost.judged / cost.needed)})" if cost.needed else ""
    return (
        f"{cost.needed:,} verdicts needed, {cost.reused:,} reused, {cost.judged:,} judged{share}: "
        f"{cost.calls:,} calls, {cost.cached:,} answers from the cache, {duration(cost.seconds)}"
    )


def agreement_line(found: Agreement) -> str:
    """Agreement with the file's own labels before and now, and the paired difference."""
    before, after = (f"{percent(side.mean)} ({percents(side.low, side.high)})" for side in (found.before, found.after))
    change = found.difference
    bounds = "" if change.low is None or change.high is None else f" ({_points(change.low)} to {_points(change.high)})"
    return (
        f"with the file's own labels on {found.pairs:,} pairs: {before} before, {after} now; "
        f"{_points(change.mean)} points{bounds}"
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)


def flips_line(group: PairGroup) -> str:
    """The rate, which is a mean over prompts, and the count, which is over pairs, told apart."""
    rate = group.flip_rate
    if rate is None:
        return "no pair has a label under both constitutions"
    bounds = percents(rate.low, rate.high)
    share = f"on average {percent(rate.mean)} of a prompt's labels flip ({bounds})"
    return f"{share}; {number(group.flips)} of {group.compared:,} pairs"


def _facts(impact: Impact) -> Table:
    whole = impact.groups[0]
    table = Table.grid(padding=(0, 2))
    table.add_row("label flips", _text(flips_line(whole), "bold"))
    table.add_row("shift of P(A)", _shift(whole.shift, "new - old; about 0 where A and B are drawn"))
    table.add_row("size of the shift", _shift(whole.moved, "mean of |new - old|"))
    table.add_row("labels", _text(labels_line(whole)))
    if impact.agreement is not None:
        table.add_row("agreement", _text(agreement_line(impact.agreement)))
    table.add_row("cost", _text(cost_line(impact.cost)))
    return table


def _shift(found: Estimate | None, note: str) -> Text:
    if found is None:
        return _text(MISSING)
    places = common_decimals(found.mean, found.low, found.high)
    bounds = interval(found.low, found.high, places)
    return Text.assemble((number(found.mean, places), "bold"), visible(f"  {bounds}  {note}"))


def _table(*headings: str, numbers: int) -> Table:
    """A table whose last `numbers` columns hold numbers."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index >= len(headings) - numbers else "left")
    return table


def _principles(impact: Impact) -> Table:
    table = _table("principle", "edit", "verdicts", "reused", "judged", numbers=3)
    for row in impact.principles:
        counts = (f"{row.needed:,}", f"{row.reused:,}", f"{row.judged:,}")
        table.add_row(_text(row.id), _text(row.edit, "dim" if row.kind == "unchanged" else "bold"), *counts)
    return table


def _groups(groups: list[PairGroup]) -> Table:
    table = _table("of", "prompts", "pairs", "flips", "|shift|", "new", "gone", numbers=6)
    for row in groups:
        rate, moved = row.flip_rate, row.moved
        name = row.name if row.kind == "all" else f"{row.kind} {row.name}"
        flips = MISSING if rate is None else f"{percent(rate.mean)}\n{_unbroken(percents(rate.low, rate.high))}"
        shift = MISSING if moved is None else f"{number(moved.mean)}\n{_unbroken(interval(moved.low, moved.high))}"
        counts = (f"{sum(row.appeared.values()):,}", f"{sum(row.vanished.values()):,}")
        table.add_row(_text(name), f"{row.prompts:,}", f"{row.compared:,}", _text(flips), _text(shift), *counts)
    return table


def _unbroken(bounds: str) -> str:
    """The interval on one line of a narrow column; the unit stands above it."""
    return bounds.replace("\u00a0%", "").replace(" ", "\u00a0")


def _pair(place: int, change: PairChange) -> Panel:
    pair = change.comparison
    sides = Table(box=None, pad_edge=False, expand=True, show_header=True)
    for name in ("A", "B"):
        sides.add_column(name, ratio=1)
    sides.add_row(*(_text(shown(side.text)) for side in (pair.a, pair.b)))
    votes = _table("principle", "edit", "weight", "P(A), was", "now", numbers=3)
    for vote in change.votes:
        votes.add_row(_text(vote.principle), _text(vote.edit), _weights(vote), _said(vote.before), _said(vote.after))
    title = f"{place}. P(A) {number(change.prob_before, 3)} -> {number(change.prob_after, 3)}"
    facts = ["flipped" if change.flipped else "", pair.prompt.slice, f"pair {pair.id}"]
    title = ", ".join([title, *(fact for fact in facts if fact)])
    parts = [_text(f"{m.role}: {m.content}", "cyan") for m in pair.prompt.messages]
    return Panel(Group(*parts, sides, votes), title=_text(title), title_align="left")


def _weights(vote: VoteChange) -> str:
    weights = [f"{side.weight:g}" for side in (vote.before, vote.after) if side is not None]
    return " to ".join(dict.fromkeys(weights))


def _said(vote: Vote | None) -> Text:
    if vote is None:
        return _text("-")
    return _text(number(vote.prob_a, 3) if vote.failure is None else f"failed: {vote.failure}")
