"""A comparison of judges on the terminal. Texts of files and models are shown as they are, never as markup."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rlaif.gold.scorers import MATCHED
from rlaif.judge.card.terminal import NONE, kinds, plain, table
from rlaif.judge.card.verdict import points, share
from rlaif.judge.compare.records import Compared, Part
from rlaif.view.text import number, percent, visible


def rendered(found: Compared) -> Iterator[RenderableType]:
    """What to print, from the headline to the notes."""
    judges = len(found.candidates) - 1
    yield plain(f"{judges} judges on {found.gold}: comparison {found.id}", "bold")
    for sentence in found.verdict:
        yield Text.assemble("\u2022 ", visible(sentence))
    facts = Table.grid(padding=(0, 2))
    for name, sentence in facts_of(found):
        facts.add_row(plain(name), plain(sentence))
    yield facts
    for choosing in (True, False):
        yield table(part_head(found, choosing=choosing), part_rows(found, choosing=choosing))
    if any(candidate.cost for candidate in found.candidates):
        yield table(COST_HEAD, cost_rows(found))
    yield table(AGREEMENT_HEAD, agreement_rows(found))
    for note in found.notes:
        yield plain(f"note: {note}", "yellow")


def facts_of(found: Compared) -> list[tuple[str, str]]:
    """On what was compared, what decides, and who the judges are, each as a name and a sentence."""
    first = found.candidates[0]
    parts = [(f"{part.pairs:,} pairs of {part.prompts:,} prompts") for part in (first.choosing, first.reporting)]
    matched = f"the numbers of characters differ by at most {MATCHED:.0%} of the longer one"
    facts = [
        ("gold", f"{found.gold_about} ({found.gold_hash})"),
        ("split", f"by hash of the prompt, seed {found.seed}: {parts[0]} for choosing, {parts[1]} for reporting"),
        ("criterion", f"{found.choice.criterion} on the choosing part, fixed before anything was judged"),
        ("length-matched", matched),
        ("constitution", f"{found.constitution} ({found.constitution_hash}): {', '.join(found.principles)}"),
    ]
    for candidate in found.candidates:
        if candidate.model:
            words = " ".join(candidate.words) or "as in the config"
            template = f", template {candidate.template_hash}" if candidate.template_hash else ""
            facts.append(
                (candidate.name, f"{words}; {candidate.model} ({candidate.fingerprint or 'no model'}){template}")
            )
    return facts


def part_head(found: Compared, *, choosing: bool) -> tuple[str, ...]:
    """The heads of `part_rows`."""
    last = () if choosing else ("chosen less it",)
    several = ("best of several",) if _several(found) else ()
    return (
        f"{'choosing' if choosing else 'reporting'} part",
        "all pairs",
        "matched",
        "Brier",
        "flips",
        *several,
        *last,
    )


def part_rows(found: Compared, *, choosing: bool) -> list[list[str]]:
    """One row per judge, one for the mean of all, and one for each rule that looks at length alone."""
    rows = []
    for candidate in found.candidates:
        part = candidate.choosing if choosing else candidate.reporting
        chosen = " *" if candidate.name == found.choice.winner else ""
        missing = f" (no label: {part.pairs - part.labelled:,}{kinds(part.failures)})" if part.failures else ""
        last = [] if choosing else [NONE if candidate.behind is None else points(candidate.behind)]
        rows.append([f"{candidate.name}{chosen}{missing}", *_figures(part, several=_several(found)), *last])
    mean = found.candidates[-1].choosing if choosing else found.candidates[-1].reporting
    blank = [NONE] * (len(rows[0]) - 3)
    for name in ("shorter", "longer"):
        rule = [share(getattr(accuracy, name)) for accuracy in (mean.accuracy, mean.length_matched)]
        rows.append([f"{name} wins", *rule, *blank])
    return rows


def _several(found: Compared) -> bool:
    return any(part.best_of is not None for one in found.candidates for part in (one.choosing, one.reporting))


def _figures(part: Part, *, several: bool) -> list[str]:
    brier = NONE if part.calibration is None else number(part.calibration.brier.mean, 3)
    flips = NONE if part.order is None else percent(part.order.flip_rate.mean)
    best = [NONE if part.best_of is None else share(part.best_of)] if several else []
    return [share(part.accuracy.judge), share(part.length_matched.judge), brier, flips, *best]


COST_HEAD = ("a pair costs", "seconds", "calls", "tokens", "measured on")


def cost_rows(found: Compared) -> list[list[str]]:
    """One row per judge with a model."""
    known = [(candidate, candidate.cost) for candidate in found.candidates if candidate.cost is not None]
    return [
        [candidate.name, number(c.seconds, 2), number(c.calls, 1), number(c.tokens, 0), f"{c.pairs:,} pairs"]
        for candidate, c in known
    ]


AGREEMENT_HEAD = ("two judges", "pairs", "agree", "kappa", "both wrong", "by chance")


def agreement_rows(found: Compared) -> list[list[str]]:
    """One row for every two judges."""
    return [
        [
            f"{a.one}, {a.other}",
            f"{a.pairs:,}",
            share(a.agree),
            number(a.kappa, 2) if a.kappa is not None else NONE,
            *(NONE if value is None else percent(value) for value in (a.both_wrong, a.both_wrong_by_chance)),
        ]
        for a in found.agreements
    ]
