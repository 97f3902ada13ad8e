"""A judge's card on the terminal. Texts of files and models are shown as they are, never as markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rlaif.config import JudgeConfig
from rlaif.core.statistics import Estimate
from rlaif.gold.scorers import MATCHED
from rlaif.judge.card.records import Accuracy, FittedMap, JudgeCard
from rlaif.judge.card.verdict import change, points, share
from rlaif.view.text import duration, interval, number, percent, visible

NONE = "\u2013"
MOST_GROUPS = 30


def rendered(card: JudgeCard) -> Iterator[RenderableType]:
    """What to print, from the headline to the notes."""
    subject = card.subject
    yield plain(f"{subject.model} by {subject.method}, on {subject.gold}: card {card.id}", "bold")
    for sentence in card.verdict:
        yield Text.assemble("\u2022 ", visible(sentence))
    facts = Table.grid(padding=(0, 2))
    for name, sentence in facts_of(card):
        facts.add_row(name, plain(sentence))
    yield facts
    yield table(ACCURACY_HEAD, accuracy_rows(card))
    if card.calibration is not None:
        yield table(BIN_HEAD, bin_rows(card))
    if card.attacks:
        yield table(ATTACK_HEAD, [[row[0], *row[2:]] for row in attack_rows(card)])
    if len(card.groups) > 1:
        yield table(GROUP_HEAD, group_rows(card)[:MOST_GROUPS])
        if len(card.groups) > MOST_GROUPS:
            yield plain(f"{len(card.groups) - MOST_GROUPS} more groups: --json, --html")
    for note in card.notes:
        yield plain(f"note: {note}", "yellow")


def facts_of(card: JudgeCard) -> list[tuple[str, str]]:
    """Who judged what and how, and every figure that stands in no table, each as a name and a sentence."""
    subject, failed = card.subject, card.failures
    version = " ".join(f"{subject.constitution} {subject.constitution_version}".split())
    facts = [
        ("judge", f"{subject.model} ({subject.fingerprint or 'no model'}); {_settings(card)}"),
        ("template", subject.template_hash or "none"),
        ("constitution", f"{version} ({subject.constitution_hash}), {len(subject.principles)} principles"),
        ("gold", f"{failed.pairs:,} pairs of {failed.prompts:,} prompts: {subject.gold_about} ({subject.gold_hash})"),
        ("labels", f"{failed.labelled:,} of {failed.pairs:,}{kinds(failed.by_kind)}"),
        (
            "verdicts",
            f"{failed.verdicts:,}, failed {sum(failed.failed_verdicts.values()):,}{kinds(failed.failed_verdicts)}",
        ),
    ]
    if card.calibration is not None:
        found, brier = card.calibration, card.calibration.brier
        spread = "" if brier.low is None else f" ({interval(brier.low, brier.high, 3)})"
        facts.append(("Brier", f"{number(brier.mean, 3)}{spread}; one half everywhere has 0.25"))
        chance = (
            f"a calibrated judge with these confidences stays below {number(found.ece_chance, 3)} in 95 of 100 cases"
        )
        facts.append(("ECE", f"{number(found.ece, 3)}; {chance}"))
        facts += [(f"map: {entry.map.kind}", _map(entry)) for entry in card.maps]
    if card.order is None:
        facts.append(("order", f"{subject.method} shows one answer at a time: there is no order to prefer"))
    else:
        gap = f"mean |P \u2212 P after the swap| {number(card.order.gap, 3)}"
        facts.append(
            ("swap", f"another answer on {share(card.order.flip_rate)} of {card.order.asked:,} questions; {gap}")
        )
        facts.append(("place", f"the first one is preferred in {share(card.order.first)} of the verdicts"))
    facts.append(("length-matched", f"the numbers of characters differ by at most {MATCHED:.0%} of the longer one"))
    if card.length.judge is not None:
        slopes = f"{change(card.length.judge)} where an answer is twice as long; gold {change(card.length.gold)}"
        facts.append(("length", f"P changes by {slopes}"))
    if card.ceiling is not None:
        people = (
            f"one rater and the mean of the others agree on {share(card.ceiling.rater)} of {card.ceiling.pairs:,} pairs"
        )
        facts.append(("people", f"{people}, the judge and these others on {share(card.ceiling.judge)}"))
    facts += _cost(card)
    return facts


def _settings(card: JudgeCard) -> str:
    """The method, and the settings that are not the default."""
    fields, chosen = JudgeConfig.model_fields, card.subject.settings
    known = ("method", "panel")
    other = [f"{name} {value}" for name, value in chosen.items() if name not in known and value != fields[name].default]
    panel = [f"{m['name']} ({m['method']}, weight {m['weight']:g}) votes beside" for m in chosen["panel"]]
    return ", ".join([f"method {chosen['method']}", *other, *panel])


def _map(entry: FittedMap) -> str:
    """What a calibration map is, and what it does to pairs that it was not fitted on."""
    kind = "" if entry.map.temperature is None else f"T {number(entry.map.temperature, 2)}; "
    score = f"Brier {number(entry.brier.mean, 3)}, {change(entry.change)} against none"
    return f"{kind}on pairs left out of the fit {score}, ECE {number(entry.ece, 3)}"


def _interval(found: Estimate) -> str:
    """The interval of a share in whole percent behind it, or nothing."""
    return "" if found.low is None or found.high is None else f" ({100 * found.low:.0f} to {100 * found.high:.0f})"


def _cost(card: JudgeCard) -> list[tuple[str, str]]:
    repeat = card.repeat
    total = ("calls", f"{card.calls:,} made, {card.cached:,} answers known from before")
    if repeat is None or not repeat.asked:
        return [total]
    same = f"{percent(repeat.identical)} of {repeat.verdicts:,} verdicts identical"
    largest = f"largest difference {number(repeat.largest)}; {repeat.lost:,} came only once"
    each = [value / repeat.asked for value in (repeat.seconds, repeat.calls, repeat.tokens)]
    cost = f"{number(each[0], 3)} s, {number(each[1], 1)} calls and {number(each[2], 0)} tokens"
    return [
        ("asked again", f"{same}, {largest}"),
        ("a verdict costs", f"{cost} ({repeat.asked:,} of them in {duration(repeat.seconds)}, nothing cached)"),
        total,
    ]


def kinds(found: Mapping[str, int]) -> str:
    """ " (3 refused, 1 parse)", or nothing."""
    return f" ({', '.join(f'{count:,} {kind}' for kind, count in found.items())})" if found else ""


ACCURACY_HEAD = ("accuracy", "pairs", "judge", "shorter wins", "longer wins")


def accuracy_rows(card: JudgeCard) -> list[list[str]]:
    """All pairs and the length-matched ones, and what the judge has over each rule."""
    rows = []
    for name, found in (("all pairs", card.accuracy), ("length-matched", card.length_matched)):
        rows.append([name, f"{found.pairs:,}", *(share(part) for part in (found.judge, found.shorter, found.longer))])
        rows.append(["judge less rule", "", "", *_over(found)])
    return rows


def _over(found: Accuracy) -> list[str]:
    return [NONE if over is None else points(over) for over in (found.over_shorter, found.over_longer)]


BIN_HEAD = ("confidence", "pairs", "mean", "right")


def bin_rows(card: JudgeCard) -> list[list[str]]:
    """One row per bin of confidence."""
    bins = [] if card.calibration is None else card.calibration.bins
    return [
        [
            f"{b.low:.1f} to {b.high:.1f}",
            f"{b.pairs:,}",
            *(NONE if value is None else percent(value) for value in (b.confidence, b.accuracy)),
        ]
        for b in bins
    ]


ATTACK_HEAD = ("attack", "judged", "change of P", "won over", "structure")


def attack_rows(card: JudgeCard) -> list[list[str]]:
    """One row per attack: its name, what it is, and the cells under ATTACK_HEAD."""
    return [
        [
            a.name,
            a.about,
            f"{a.judged:,} of {a.pairs:,}{kinds(a.failures)}",
            NONE if a.change is None else "none, exactly" if a.moved == 0 else change(a.change),
            NONE if a.won is None else f"{percent(a.won.mean)} of {a.lost_before:,}{_interval(a.won)}",
            "kept" if a.structure_kept == a.pairs else f"changed on {a.pairs - a.structure_kept:,}",
        ]
        for a in card.attacks
    ]


GROUP_HEAD = ("group", "pairs", "judge", "shorter wins")


def group_rows(card: JudgeCard) -> list[list[str]]:
    """One row per tag."""
    return [[g.tag, f"{g.pairs:,}", share(g.judge), share(g.shorter)] for g in card.groups]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The rows under the heads, names to the left and figures to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, heading in enumerate(head):
        table.add_column(heading, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(_cell(cell) if place else cell) for place, cell in enumerate(row)))
    return table


def _cell(text: str) -> str:
    """The cell with what stands in brackets on a line of its own, which no narrow column breaks."""
    return text.replace(" (", "\n(").replace(" to ", "\u00a0to\u00a0")


def plain(text: str, style: str = "") -> Text:
    """The text as it is, never as markup."""
    return Text(visible(text), style=style)
