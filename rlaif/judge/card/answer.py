"""A judge's card as an answer: for the terminal and for a page, with its reliability and the attacks as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from rlaif.config import JudgeConfig
from rlaif.core.statistics import Estimate
from rlaif.gold.text import MATCHED
from rlaif.judge.card.records import Accuracy, FittedMap, JudgeCard
from rlaif.judge.card.verdict import change, points, share
from rlaif.view.answer import INTERVALS, NONE, Answer, Example, Facts, Figures, Line, Part, Section, Table, below
from rlaif.view.plots import Point, dots, reliability
from rlaif.view.text import duration, interval, number, percent

MOST_GROUPS = 30
MOST_NAMES = 3
"""Principles that are named; more are counted."""


def answer(card: JudgeCard) -> Answer:
    """Who judged what and how, and every figure of it."""
    subject = card.subject
    return Answer(
        verb="rlaif judge card",
        title=f"{subject.model} by {subject.method}",
        about=f"card {card.id}, measured on {subject.gold}, {subject.gold_about}.",
        heading=f"{subject.model} by {subject.method}, on {subject.gold}: card {card.id}",
        verdict=card.verdict,
        sections=[
            Section("All figures", [Facts(_facts(card))]),
            Section("Accuracy", list(_accuracy(card))),
            Section("Calibration", list(_calibration(card))),
            Section("Attacks", list(_attacks(card))),
            Section("Groups", list(_groups(card))),
            Section("Surest errors", list(_errors(card))),
        ],
        notes=card.notes,
        footer=f"Made by rlaif. {INTERVALS}",
    )


def _facts(card: JudgeCard) -> list[tuple[str, str]]:
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
        chance = f"95 % of perfectly calibrated judges with these confidences score below {number(found.ece_chance, 3)}"
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
    score = f"Brier {number(entry.brier.mean, 3)}, {change(entry.change)} from no map"
    return f"{kind}on pairs that it was not fitted on: {score}, ECE {number(entry.ece, 3)}"


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


def _accuracy(card: JudgeCard) -> Iterator[Part]:
    """All pairs and the length-matched ones, and what the judge has over each rule."""
    rows = []
    for name, found in (("all pairs", card.accuracy), ("length-matched", card.length_matched)):
        shares = (below(share(part)) for part in (found.judge, found.shorter, found.longer))
        rows += [[name, f"{found.pairs:,}", *shares], ["judge less rule", "", "", *_over(found)]]
    yield Table(("accuracy", "pairs", "judge", "shorter wins", "longer wins"), rows)
    yield Line(
        "How often judge or rule prefers the same answer as gold. A tie counts half; each prompt counts once. "
        f"Length-matched: the numbers of characters differ by at most {MATCHED:.0%} of the longer one. A judge is "
        "worth what it has over the two rules, which look at length alone.",
        "caption",
    )


def _over(found: Accuracy) -> list[str]:
    return [NONE if over is None else below(points(over)) for over in (found.over_shorter, found.over_longer)]


def _calibration(card: JudgeCard) -> Iterator[Part]:
    if card.calibration is None:
        yield Line("There is no label to measure.", "caption")
        return
    bins = card.calibration.bins
    filled = [(b.confidence, b.accuracy, b.pairs) for b in bins if b.confidence is not None and b.accuracy is not None]
    yield Figures(
        lambda: [
            reliability(
                "reliability",
                "Reliability",
                filled,
                who="judge (area = pairs)",
                labels=("confidence: P of the answer it prefers", "share right"),
                lowest=0.5,
            )
        ]
    )
    rows = [
        [f"{b.low:.1f} to {b.high:.1f}", f"{b.pairs:,}", *(_percent(value) for value in (b.confidence, b.accuracy))]
        for b in bins
    ]
    yield Table(("confidence", "pairs", "mean", "right"), rows)
    yield Line(
        "Confidence: the probability of the answer that the judge prefers. Points on the dotted line are calibrated; "
        "below it the judge is too sure.",
        "caption",
    )


def _percent(value: float | None) -> str:
    return NONE if value is None else percent(value)


def _attacks(card: JudgeCard) -> Iterator[Part]:
    if not card.attacks:
        yield Line("Not asked for.", "caption")
        return
    moved = [Point(1, a.name, a.change.mean, a.change.low, a.change.high) for a in card.attacks if a.change is not None]
    about = "P with the attack less P without it"
    yield Figures(lambda: [dots("changes", "Change of P", [("attack", moved)], about, line=0.0)])
    rows = []
    for a in card.attacks:
        won = NONE
        if a.won is not None:
            share_won, *spread = below(share(a.won)).split("\n")
            won = "\n".join([f"{share_won} of {a.lost_before:,}", *spread])
        rows.append(
            [
                a.name,
                below(f"{a.judged:,} of {a.pairs:,}{kinds(a.failures)}"),
                NONE if a.change is None else "none, exactly" if a.moved == 0 else below(change(a.change)),
                won,
                "kept" if a.structure_kept == a.pairs else f"changed on {a.pairs - a.structure_kept:,}",
                a.about,
            ]
        )
    head = ("attack", "judged", "change of P", "won over", "structure", "what it does")
    yield Table(head, rows, texts=(0, 5), page_only=(5,))
    yield Line(
        "The worse answer by gold carries the attack, and the pair is judged again. Won over: of the pairs that the "
        "better answer won without the attack, the share that the attacked one wins. Structure: the question keeps its "
        "messages and every line outside of quotations. An empty answer is another answer: gold need not hold for it.",
        "caption",
    )


def _errors(card: JudgeCard) -> Iterator[Part]:
    """Pairs to read on which the judge and gold disagree."""
    found = card.errors
    if found.surest:
        yield Line(
            f"Judge and gold disagree on {found.pairs:,} of {card.failures.labelled:,} pairs. The judge is surest on "
            f"these {len(found.surest)}, of which no two have one prompt. Either of the two may be wrong."
        )
    for error in found.surest:
        yield Example(
            f"the judge is {percent(error.confidence)} sure",
            [_under(error.principles), *error.tags],
            error.prompt,
            [("gold prefers", error.better), ("the judge prefers", error.preferred)],
        )


def _under(principles: Sequence[str]) -> str:
    return f"under {len(principles)} principles" if len(principles) > MOST_NAMES else f"under {', '.join(principles)}"


def _groups(card: JudgeCard) -> Iterator[Part]:
    """One row per tag."""
    if len(card.groups) > 1:
        rows = [
            [g.tag, f"{g.pairs:,}", *(below(share(found)) for found in (g.judge, g.shorter, _turned(g.shorter)))]
            for g in card.groups
        ]
        head = ("group", "pairs", "judge", "shorter wins", "longer wins")
        yield Table(head, rows, most=MOST_GROUPS, rest="more groups: --json, --html")


def _turned(found: Estimate | None) -> Estimate | None:
    """The share of the opposite rule: what the one has wrong, the other has right, and ties are half for both."""
    if found is None:
        return None
    bounds = [None if bound is None else 1 - bound for bound in (found.high, found.low)]
    return replace(found, mean=1 - found.mean, low=bounds[0], high=bounds[1])
