"""What the principles do, as an answer: for the terminal and for a page, with the matrix as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlaif.analysis.principles.attribution import Attribution
from rlaif.analysis.principles.matrix import CLEAR, MIN_PAIRS, REDUNDANT
from rlaif.analysis.principles.measure import Influence
from rlaif.analysis.principles.negation import Negation
from rlaif.core.statistics import Estimate
from rlaif.judge.methods.table import find
from rlaif.view.answer import INTERVALS, NONE, Answer, Facts, Figures, Line, Part, Section, Table
from rlaif.view.matrix import heat_map
from rlaif.view.text import MISSING, common_decimals, duration, interval, number, percent, percents


def answer(found: Attribution) -> Answer:
    """Who decides, who repeats whom, who is never heard, and what happens when a principle is turned round."""
    subject = " ".join(f"{found.constitution} {found.version}".split())
    return Answer(
        verb="rlaif principles",
        title=f"The principles of {Path(found.run).resolve().name}",
        about=f"what each principle of {subject} does to the labels, judged by {found.method}.",
        heading=f"{found.run}: {subject}, {found.method}",
        verdict=[f"unanimous {_unanimous(found)}" if found.overview.several else _unanimous(found)],
        sections=[
            Section("In sum", [Facts([*_facts(found), *_findings(found)])]),
            Section("Principles", list(_influences(found))),
            Section("Two by two", list(_pairwise(found))),
            Section("Turned round", list(_negations(found))),
        ],
        notes=found.notes,
        footer=f"Made by rlaif from the labels of the run {found.run}. {INTERVALS}",
    )


def _unanimous(found: Attribution) -> str:
    whole = found.overview
    if not whole.several:
        return "no pair has votes of two principles that prefer an answer"
    return f"on {_share(whole.unanimous)} of {whole.several:,} pairs where two principles or more prefer an answer"


def _facts(found: Attribution) -> Iterator[tuple[str, str]]:
    """What was measured on, and the principles as a whole."""
    whole, asked = found.overview, found.asked
    basis = "drawn and judged under all principles that apply" if found.sampled else "with the run's own verdicts"
    yield "pairs", f"{whole.pairs:,} of {whole.prompts:,} prompts, {basis}; {whole.labelled:,} have a label"
    cost = f"{asked.stored:,} verdicts read, {asked.judged:,} judged"
    if asked.calls or asked.cached:
        cost += f"; {asked.calls:,} calls, {asked.cached:,} answers from the cache, {duration(asked.seconds)}"
        cost += "" if found.negations is None else ", the inverses included"
    yield "cost", cost
    if whole.several:
        alike = f"; {_share(whole.matched_agreement)} where lengths are alike" if whole.matched_agreement else ""
        yield "two agree", f"on {_share(whole.agreement)} of their pairs{alike}"
    if whole.shorter is not None:
        yield "shorter answer", f"preferred by {_share(whole.shorter)} of the labels"
    if found.gold is not None and whole.gold is not None:
        labels = f"agrees with {_share(whole.gold)} of the labels, and with the shorter answer on"
        about = f"; {found.gold.about}" if found.gold.about else ""
        yield "gold", f"{labels} {_share(whole.gold_shorter)} ({found.gold.name}{about})"


def _findings(found: Attribution) -> Iterator[tuple[str, str]]:
    """What the numbers come to; nothing where there is nothing to tell."""
    silent = [row.id for row in found.principles if row.never_decides]
    if silent:
        yield (
            "never decide",
            f"{', '.join(silent)} (on no pair do they weigh most; without them no label changes sides)",
        )
    alone = [f"{row.id} ({row.alone:,} labels)" for row in found.principles if row.alone]
    if alone:
        yield "speak alone", f"{', '.join(alone)}; these labels rest on that principle alone"
    for group in found.clusters:
        least = f"{percent(group.agreement)} or more of {group.pairs:,} pairs or more"
        yield "repeat each other", f"{', '.join(group.ids)} (every two agree on {least})"
    if not found.clusters and found.overview.several:
        yield "repeat each other", f"none (no two agree on {REDUNDANT:.0%} of at least {MIN_PAIRS} pairs)"
    if found.opposed:
        told = ", ".join(f"{row.first} v {row.second} {percent(row.conflict)}" for row in found.opposed[:3])
        yield "most conflict", f"{told} (share of their pairs on which both are clear and disagree)"


def _influences(found: Attribution) -> Iterator[Part]:
    head = ["principle", "pairs", "mean |P \u2212 0.5|", "decides", "flips without it", "shift without it"]
    head += ["agrees with the others", "prefers shorter", "correlation with length"]
    head += ["agrees with gold"] if found.gold is not None else []
    rows = [_influence(row, gold=found.gold is not None) for row in found.principles]
    yield Table(head, rows, page_only=(2, 5, 8))
    yield Line(
        "Decides: share of the labelled pairs judged under it on which it weighs most for the label (weight times "
        "P \u2212 0.5). Without it: the labels made again from the other principles' votes; the others are those. "
        "Prefers shorter: how often it prefers the shorter answer. A dash: there is nothing to measure it on.",
        "caption",
    )


def _influence(row: Influence, *, gold: bool) -> list[str]:
    counts = [f"{row.pairs:,}", *_failed(row.failures), *([f"{row.ties:,} ties"] if row.ties else [])]
    return [
        f"{row.id}\nweight {row.weight:g}, tier {row.priority}",
        "\n".join(counts),
        NONE if row.confidence is None else number(row.confidence, 3),
        _cell(row.decided),
        _cell(row.flip_rate),
        _fine(row.shift),
        _cell(row.others),
        _cell(row.shorter),
        NONE if row.length_correlation is None else number(row.length_correlation, 2),
        *([_cell(row.gold)] if gold else []),
    ]


def _pairwise(found: Attribution) -> Iterator[Part]:
    table = found.matrix
    if len(table.ids) < 2:
        yield Line("There are no two principles with votes.", "caption")
    else:
        yield Figures(
            lambda: [
                heat_map("agreement", "Agreement: share of pairs", table.ids, table.agreement, middle=True),
                heat_map("conflict", "Conflict: clear, opposed", table.ids, table.conflict, middle=False),
            ],
            wide=True,
        )
        yield Line(
            "Numbers are percent of the pairs that both voted on; a dash where there is no such pair. Agreement: both "
            f"prefer the same answer; a tie of one of them counts half. Conflict: both are at least {CLEAR:g} from one "
            "half, on different sides. Principles that vote alike stand beside each other (hierarchical clustering by "
            "the correlation of their votes).",
            "caption",
        )
    if found.opposed:
        rows = [
            (
                f"{two.first} v {two.second}",
                f"{two.pairs:,}",
                percent(two.conflict),
                percent(two.agreement),
                percent(two.matched_agreement),
                number(two.correlation, 2),
            )
            for two in found.opposed
        ]
        yield Table(("most conflict", "pairs", "conflict", "agreement", "of like length", "correlation"), rows, most=5)


def _negations(found: Attribution) -> Iterator[Part]:
    if found.negations is None:
        asked = "--negate 20 judges 20 pairs of each principle under it and under its opposite"
        yield Line(f"Not asked for: {asked}.", "caption")
        return
    yield Table(
        ("turned round", "pairs", "turned", "stayed", "so"), [_negation(row) for row in found.negations], texts=(0, 4)
    )
    if find(found.method).needs_contrast:
        yield Line("Turned round: the system prompts are swapped, the examples are not.", "muted")
        about = (
            "it shows whether the rule's words or the demonstrations decide. Without examples it turns by construction"
        )
        about += " and tests nothing."
    else:
        yield Line("Turned round: rule and question, by a fixed wording.", "muted")
        about = "a judge that reads them turns with it."
    yield Line(
        "Turned: share of the pairs on which the reversed principle prefers the other answer. Stayed: the mean of P "
        "under the principle + P under the reversed one \u2212 1, of the answer that the principle prefers; 0 where "
        f"the two are exact opposites. The reversed principle: {about}",
        "caption",
    )


def _negation(row: Negation) -> list[str]:
    counts = [
        f"{row.compared:,} of {row.pairs:,}",
        *_failed(row.failures),
        *([f"{row.ties:,} ties"] if row.ties else []),
    ]
    return [row.id, "\n".join(counts), _cell(row.turned), _fine(row.stayed), row.verdict]


def _failed(failures: dict[str, int]) -> list[str]:
    return [f"{n:,} {kind}" for kind, n in failures.items()]


def _share(found: Estimate | None) -> str:
    return MISSING if found is None else f"{percent(found.mean)} ({percents(found.low, found.high)})"


def _cell(found: Estimate | None) -> str:
    """The share, and its interval in whole percent."""
    if found is None:
        return NONE
    low, high = found.low, found.high
    return f"{percent(found.mean)}\n" + (
        MISSING if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f}"
    )


def _fine(found: Estimate | None) -> str:
    """A shift of a probability with its interval."""
    if found is None:
        return NONE
    places = max(3, common_decimals(found.mean))
    return f"{number(found.mean, places)}\n{interval(found.low, found.high, places)}"
