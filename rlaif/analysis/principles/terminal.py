"""What the principles do, on the terminal. Texts of files are shown as they are, never as markup."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rlaif.analysis.principles.attribution import Attribution
from rlaif.analysis.principles.matrix import REDUNDANT
from rlaif.analysis.principles.measure import Influence
from rlaif.analysis.principles.negation import Negation
from rlaif.core.statistics import Estimate
from rlaif.view.text import MISSING, common_decimals, duration, number, percent, percents, visible

NONE = "\u2013"


def rendered(found: Attribution) -> Iterator[RenderableType]:
    """What to print, from the headline to the notes."""
    yield _text(f"{found.run}: {' '.join(f'{found.constitution} {found.version}'.split())}, {found.method}", "bold")
    facts = Table.grid(padding=(0, 2))
    for name, sentence in facts_of(found):
        facts.add_row(name, _text(sentence))
    yield facts
    yield _influences(found)
    for name, sentence in findings(found):
        yield Text.assemble((f"{name}: ", "bold"), visible(sentence))
    if found.negations is not None:
        yield _negations(found.negations, found.method)
    for note in found.notes:
        yield _text(f"note: {note}", "yellow")


def facts_of(found: Attribution) -> list[tuple[str, str]]:
    """What was measured on, and the principles as a whole, each as a name and a sentence."""
    whole, asked = found.overview, found.asked
    basis = "drawn and judged under all principles that apply" if found.sampled else "with the run's own verdicts"
    facts = [
        ("pairs", f"{whole.pairs:,} of {whole.prompts:,} prompts, {basis}; {whole.labelled:,} have a label"),
        ("cost", f"{asked.stored:,} verdicts read, {asked.judged:,} judged"),
        ("all of one mind", "no pair has votes of two principles that prefer an answer"),
    ]
    if whole.shorter is not None:
        facts.append(("shorter answer", f"preferred by {_share(whole.shorter)} of the labels"))
    if asked.calls or asked.cached:
        calls = f"{asked.calls:,} calls, {asked.cached:,} answers from the cache, {duration(asked.seconds)}"
        inverse = "" if found.negations is None else ", the inverses included"
        facts[1] = ("cost", f"{facts[1][1]}; {calls}{inverse}")
    if whole.several:
        facts[2] = (
            "all of one mind",
            f"on {_share(whole.unanimous)} of {whole.several:,} pairs with two voices or more",
        )
        alike = f"; {_share(whole.matched_agreement)} where lengths are alike" if whole.matched_agreement else ""
        facts.insert(3, ("two agree", f"on {_share(whole.agreement)} of their pairs{alike}"))
    if found.gold is not None and whole.gold is not None:
        labels = f"agrees with {_share(whole.gold)} of the labels, and with the shorter answer on"
        about = f"; {found.gold.about}" if found.gold.about else ""
        facts.append(("gold", f"{labels} {_share(whole.gold_shorter)} ({found.gold.name}{about})"))
    return facts


def findings(found: Attribution) -> list[tuple[str, str]]:
    """What the numbers come to, each as a name and a sentence; nothing where there is nothing to tell."""
    rows = []
    silent = [row.id for row in found.principles if row.never_decides]
    if silent:
        rows.append(("never decide", f"{', '.join(silent)} (push the most on no pair; without them no label turns)"))
    alone = [row for row in found.principles if row.alone]
    if alone:
        told = ", ".join(f"{row.id} ({row.alone:,} labels)" for row in alone)
        rows.append(("speak alone", f"{told}; where no other speaks there is nothing to compare with"))
    for group in found.clusters:
        least = f"{percent(group.agreement)} or more of {group.pairs:,} pairs or more"
        rows.append(("repeat each other", f"{', '.join(group.ids)} (every two agree on {least})"))
    if not found.clusters and found.overview.several:
        rows.append(("repeat each other", f"none (no two agree on {REDUNDANT:.0%} of their pairs)"))
    if found.opposed:
        told = ", ".join(f"{row.first} v {row.second} {percent(row.conflict)}" for row in found.opposed[:3])
        rows.append(("most conflict", f"{told} (both clear and opposed, share of their pairs)"))
    return rows


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)


def _share(found: Estimate | None) -> str:
    return MISSING if found is None else f"{percent(found.mean)} ({percents(found.low, found.high)})"


def bounds(found: Estimate) -> str:
    """The interval in whole percent, for a place below the share."""
    return MISSING if found.low is None or found.high is None else f"{100 * found.low:.0f} to {100 * found.high:.0f}"


def _cell(found: Estimate | None) -> Text:
    """The share with its interval below it, on one line of a narrow column."""
    return (
        Text(NONE)
        if found is None
        else _text(f"{percent(found.mean)}\n{bounds(found)}".replace(" to ", "\u00a0to\u00a0"))
    )


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _influences(found: Attribution) -> Table:
    headings = ["principle", "pairs", "decides", "flips\nwithout it", "agrees with\nthe others", "prefers\nshorter"]
    table = _table(*headings, *(["agrees\nwith gold"] if found.gold is not None else []))
    for row in found.principles:
        cells = [_cell(cell) for cell in (row.decided, row.flip_rate, row.others, row.shorter)]
        gold = [_cell(row.gold)] if found.gold is not None else []
        table.add_row(_text(row.id), _pairs(row), *cells, *gold)
    return table


def _pairs(row: Influence) -> Text:
    failed = sum(row.failures.values())
    return _text(f"{row.pairs:,}" + (f"\n{failed:,} failed" if failed else ""))


def _negations(rows: list[Negation], method: str) -> Table:
    table = _table("turned round", "pairs", "turned", "stayed", "so")
    table.columns[-1].justify = "left"
    for row in rows:
        failed = sum(row.failures.values())
        pairs = f"{row.compared:,} of {row.pairs:,}" + (f"\n{failed:,} failed" if failed else "")
        table.add_row(_text(row.id), _text(pairs), _cell(row.turned), _text(stayed(row)), _text(row.verdict))
    about = "the system prompts are swapped, the examples are not" if method == "contrast" else "rule and question"
    table.caption = f"turned round: {about}"
    table.caption_justify = "left"
    return table


def stayed(row: Negation) -> str:
    """The mean of P + P under the inverse - 1 as text."""
    return NONE if row.stayed is None else number(row.stayed.mean, max(3, common_decimals(row.stayed.mean)))
