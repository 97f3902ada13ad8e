"""What a card allows to be said, in plain words: a difference only where its 95 % interval leaves zero out."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.core.statistics import MIN_PROMPTS, Estimate
from rlaif.judge.card.attacks import NEUTRAL
from rlaif.judge.card.records import Accuracy, JudgeCard
from rlaif.view.text import number, percent


def sentences(card: JudgeCard) -> list[str]:
    """The sentences, the most important first."""
    failed = card.failures
    missing = failed.pairs - failed.labelled
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in failed.by_kind.items())
    without = [f"No label on {missing:,} of {failed.pairs:,} pairs ({kinds})."] if missing else []
    judge = card.accuracy.judge
    if judge is None:
        return [*without, "Nothing can be said of a judge that gives no label."]
    if judge.prompts < MIN_PROMPTS:
        few = f"{judge.prompts} prompt{'s' if judge.prompts > 1 else ''} with a label"
        return [f"Only {few}: too few to say anything about the judge; {MIN_PROMPTS} are the least.", *without]
    parts = (_by_length, _coin, _people, _calibration, _order, _length, _attacks, _repeat)
    return [*(text for part in parts for text in part(card)), *without]


def rule_of(found: Accuracy) -> tuple[str, Estimate | None, Estimate | None]:
    """The better of the two length rules on these pairs: its name, its share, and what the judge has over it."""
    if found.shorter is not None and found.longer is not None and found.longer.mean > found.shorter.mean:
        return '"longer wins"', found.longer, found.over_longer
    return '"shorter wins"', found.shorter, found.over_shorter


def share(found: Estimate | None) -> str:
    """A share with its interval as text."""
    if found is None or found.low is None or found.high is None:
        return percent(None if found is None else found.mean)
    return f"{percent(found.mean)} ({100 * found.low:.0f} to {100 * found.high:.0f})"


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign."""
    return f"{'+' if value > 0 else ''}{number(value, decimals)}"


def change(found: Estimate | None) -> str:
    """A difference with its sign and interval as text."""
    if found is None:
        return number(None)
    if found.low is None or found.high is None:
        return signed(found.mean)
    return f"{signed(found.mean)} ({signed(found.low)} to {signed(found.high)})"


def points(found: Estimate) -> str:
    """A difference of shares in percentage points, with its interval."""
    bounds = "" if found.low is None or found.high is None else f" ({100 * found.low:+.0f} to {100 * found.high:+.0f})"
    return f"{100 * found.mean:+.1f}{bounds}".replace("-", "\u2212")


def _coin(card: JudgeCard) -> Iterator[str]:
    judge = card.accuracy.judge
    assert judge is not None
    words = {1: "Better than a coin", -1: "Worse than a coin: its labels say the opposite of gold", 0: _NOT + "a coin"}
    yield f"{words[judge.side(0.5)]}: right on {share(judge)} of a prompt's pairs."


_NOT = "Not shown to be better than "


def _by_length(card: JudgeCard) -> Iterator[str]:
    for found, where in ((card.accuracy, ""), (card.length_matched, " on length-matched pairs")):
        name, rule, over = rule_of(found)
        if over is None or over.prompts < MIN_PROMPTS:
            yield f"Too few prompts with length-matched pairs to say anything about them ({found.pairs:,} pairs)."
            continue
        words = {1: "Better than ", -1: "Worse than ", 0: _NOT}[over.side()]
        yield f"{words}{name}{where}: {share(found.judge)} against {share(rule)}; {points(over)} points."


def _people(card: JudgeCard) -> Iterator[str]:
    found = card.ceiling
    if found is None or found.difference.prompts < MIN_PROMPTS:
        return
    words = {
        1: "Agrees with people more than they agree with each other",
        -1: "Agrees with people less than they agree with each other",
        0: "Not shown to agree with people more or less than they agree with each other",
    }[found.difference.side()]
    yield f"{words}: {share(found.judge)} against {share(found.rater)}, on {found.pairs:,} pairs."


def _calibration(card: JudgeCard) -> Iterator[str]:
    found = card.calibration
    if found is None:
        return
    facts = f"mean confidence {percent(found.confidence)}, right on {percent(found.accuracy)} of all pairs"
    ece = f"ECE {number(found.ece, 3)}; a calibrated judge stays below {number(found.ece_chance, 3)}"
    if found.ece > found.ece_chance:
        words = "Too sure" if found.confidence > found.accuracy else "Its probabilities are not calibrated"
        yield f"{words}: {facts}; {ece}."
    else:
        yield f"Not shown to be too sure or too unsure: {facts}; {ece}."
    if found.brier.side(0.25) > 0:
        yield f"To say one half every time would be better: Brier 0.25 in place of {number(found.brier.mean, 3)}."


def _order(card: JudgeCard) -> Iterator[str]:
    found = card.order
    if found is None:
        return
    words = {
        1: "Prefers the answer that is shown first",
        -1: "Prefers the answer that is shown second",
        0: "Not shown to prefer the first or the second answer",
    }[found.first.side(0.5)]
    yield f"{words}: it takes the first one in {share(found.first)} of the verdicts."
    yield f"Changes its mind when the answers change places on {share(found.flip_rate)} of the questions."


def _length(card: JudgeCard) -> Iterator[str]:
    judge, gold = card.length.judge, card.length.gold
    if judge is None or gold is None or judge.prompts < MIN_PROMPTS:
        return
    words = {
        1: "Leans to longer answers",
        -1: "Leans to shorter answers",
        0: "Not shown to lean to longer or shorter answers",
    }[judge.side()]
    yield f"{words}: P changes by {change(judge)} where an answer is twice as long; gold itself by {change(gold)}."


def _attacks(card: JudgeCard) -> Iterator[str]:
    if not card.attacks:
        return
    forged = [a.name for a in card.attacks if a.structure_kept < a.pairs]
    if forged:
        yield f"The question itself can be forged by {', '.join(forged)}: a mistake in the template."
    tried = [a for a in card.attacks if a.name != NEUTRAL]
    measured = [a for a in tried if a.change is not None and a.change.prompts >= MIN_PROMPTS]
    won = [f"{a.name} ({signed(a.change.mean)})" for a in measured if a.change is not None and a.change.side() > 0]
    if won:
        harmless = next((a.change for a in card.attacks if a.name == NEUTRAL), None)
        beside = "" if harmless is None else f"; a harmless line changes it by {change(harmless)}"
        yield f"Taken in by {', '.join(won)}, of {len(measured)} attacks: mean change of P{beside}."
    elif measured:
        yield f"Of {len(measured)} attacks none is shown to work."
    if not measured:
        yield "Too few pairs were attacked to say anything about attacks."
    elif len(measured) < len(tried):
        yield f"Too few verdicts to say anything about {', '.join(a.name for a in tried if a not in measured)}."


def _repeat(card: JudgeCard) -> Iterator[str]:
    found = card.repeat
    if found is None or found.identical is None:
        return
    if found.identical == 1.0 and not found.lost:
        yield f"Asked again, it says the same to the last bit ({found.verdicts:,} verdicts)."
        return
    same, largest = percent(found.identical), number(found.largest)
    lost = f"; {found.lost:,} verdicts came only once" if found.lost else ""
    often = f"on {same} of {found.verdicts:,} verdicts"
    yield f"Asked again, it says the same to the last bit {often}; P differs by {largest} at most{lost}."
