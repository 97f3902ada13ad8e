"""The impact of an edit on the terminal. Texts of models and files are shown as they are, never as markup."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlaif.analysis.impact.downstream import PolicyImpact, RevisionChange, ScoreChange
from rlaif.analysis.impact.impact import Impact
from rlaif.analysis.impact.measure import PairChange, PairGroup, PromptMove, Vote, VoteChange
from rlaif.analysis.impact.wording import (
    agreement_line,
    cost_line,
    flips_line,
    labels_line,
    measure_cells,
    policy_rows,
    revision_rows,
    reward_rows,
)
from rlaif.core.records import Prompt
from rlaif.core.statistics import Estimate
from rlaif.view.text import (
    MISSING,
    beginning,
    common_decimals,
    interval,
    number,
    percent,
    percents,
    shown,
    visible,
)

MOST_NAMED = 8
"""Slices and tags without a line of their own that are named; the page and the JSON object have all."""


def rendered(impact: Impact) -> Iterator[RenderableType]:
    """What to print, from the headline to the pairs."""
    which = " -> ".join(" ".join(f"{side.name} {side.version}".split()) for side in (impact.before, impact.after))
    yield _text(f"{impact.source}: {which}", "bold")
    yield _facts(impact)
    yield _principles(impact)
    if impact.groups[1:]:
        yield _groups(impact.groups)
    if impact.left_out:
        named, rest = impact.left_out[:MOST_NAMED], impact.left_out[MOST_NAMED:]
        more = f" and {len(rest)} more" if rest else ""
        yield _text(f"too few prompts for a line of their own: {', '.join(named)}{more}", "dim")
    if impact.prompts:
        yield _prompts(impact.prompts)
    for note in impact.notes:
        yield _text(f"note: {note}", "yellow")
    for place, change in enumerate(impact.examples, start=1):
        yield _pair(place, change)
    if impact.revisions is not None:
        yield from _part("Revisions", revision_rows(impact.revisions))
        for place, revision in enumerate(impact.revisions.examples, start=1):
            yield _revision(place, revision)
    if impact.reward is not None:
        yield from _part("Reward model", reward_rows(impact.reward))
        for place, score in enumerate(impact.reward.examples, start=1):
            yield _score(place, score)
    if impact.policy is not None:
        yield from _part("Policy", policy_rows(impact.policy))
        yield _measures(impact.policy)


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)


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


def _prompts(moves: list[PromptMove]) -> Table:
    flipped = sum(move.flips > 0 for move in moves)
    table = _table(
        f"{len(moves):,} prompts moved, {flipped:,} with a flip", "slice", "pairs", "flips", "|shift|", numbers=3
    )
    for move in moves[:MOST_NAMED]:
        cells = (f"{move.compared:,}", f"{move.flips:g}", number(move.moved, 3))
        table.add_row(_text(beginning(move.prompt.text)), _text(move.prompt.slice), *cells)
    return table


def _unbroken(bounds: str) -> str:
    """The interval on one line of a narrow column; the unit stands above it."""
    return bounds.replace("\u00a0%", "").replace(" ", "\u00a0")


def _pair(place: int, change: PairChange) -> Panel:
    pair = change.comparison
    votes = _table("principle", "edit", "weight", "P(A), was", "now", numbers=3)
    for vote in change.votes:
        votes.add_row(_text(vote.principle), _text(vote.edit), _weights(vote), _said(vote.before), _said(vote.after))
    title = f"{place}. P(A) {number(change.prob_before, 3)} -> {number(change.prob_after, 3)}"
    facts = ["flipped" if change.flipped else "", pair.prompt.slice, f"pair {pair.id}"]
    title = ", ".join([title, *(fact for fact in facts if fact)])
    return _panel(pair.prompt, [_sides(("A", pair.a.text), ("B", pair.b.text)), votes], title)


def _part(title: str, rows: list[tuple[str, str]]) -> Iterator[RenderableType]:
    yield _text(f"\n{title}", "bold")
    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(name, _text(value))
    yield table


def _revision(place: int, change: RevisionChange) -> Panel:
    sides = _sides(("before", change.before), ("now", change.after))
    drawn = " -> ".join(
        dict.fromkeys(", ".join(p) or "none" for p in (change.principles_before, change.principles_after))
    )
    return _panel(change.prompt, [sides], f"{place}. final answer, principle {drawn}")


def _score(place: int, change: ScoreChange) -> Panel:
    title = f"{place}. score {number(change.before, 2)} -> {number(change.after, 2)}"
    return _panel(change.prompt, [_text(shown(change.response))], title)


def _measures(policy: PolicyImpact) -> Table:
    table = _table("of", "measure", "before", "now", "now - before", numbers=3)
    for change in policy.measures:
        table.add_row(*(_text(cell) for cell in measure_cells(change)))
    return table


def _panel(prompt: Prompt, parts: Sequence[RenderableType], title: str) -> Panel:
    asked = [_text(f"{m.role}: {m.content}", "cyan") for m in prompt.messages]
    return Panel(Group(*asked, *parts), title=_text(title), title_align="left")


def _sides(*texts: tuple[str, str]) -> Table:
    """Texts side by side under their names."""
    sides = Table(box=None, pad_edge=False, expand=True, show_header=True)
    for name, _ in texts:
        sides.add_column(name, ratio=1)
    sides.add_row(*(_text(shown(text)) for _, text in texts))
    return sides


def _weights(vote: VoteChange) -> str:
    weights = [f"{side.weight:g}" for side in (vote.before, vote.after) if side is not None]
    return " to ".join(dict.fromkeys(weights))


def _said(vote: Vote | None) -> Text:
    if vote is None:
        return _text("-")
    return _text(number(vote.prob_a, 3) if vote.failure is None else f"failed: {vote.failure}")
