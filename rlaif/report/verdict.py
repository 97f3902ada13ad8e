"""What the numbers allow one to say, in plain sentences that are computed from the intervals and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlaif.core.evaluation import ALIGNED, REFERENCE, HeldOut, Measure, Summary, enough
from rlaif.core.statistics import MIN_PROMPTS
from rlaif.report.controls import Control
from rlaif.report.summary import name_of
from rlaif.view.text import brackets, is_known, number, percent, plain_decimals, sentence, signed

NO_LENGTH = 0.05
"""A difference that shrinks by less than this share at equal length is not explained by length."""
LENGTH_GUARD = 0.8
"""Answers shorter than this share of the others may owe a better score to their length (arXiv 2310.03716)."""
NONE_SHOWN = "none shown"
FEW = "too few prompts"


@dataclass(frozen=True, slots=True)
class Gap:
    """`model` against `other` under a measure: both means, and the paired difference with its 95 % interval, over
    `prompts` (None in files of before)."""

    model: str
    other: str
    part: str
    measure: Measure
    prompts: int | None
    mine: float | None
    theirs: float | None
    difference: float
    low: float
    high: float
    effect: float | None = None
    """The difference in standard deviations of SFT's answers."""

    @property
    def word(self) -> str:
        """What the interval shows: better, worse, more, fewer, none, or that the prompts are too few."""
        return shown_word(self.measure.better, self.low, self.high, self.prompts)

    @property
    def clear(self) -> bool:
        """Whether the interval shows a difference."""
        return self.word not in (NONE_SHOWN, FEW)

    @property
    def on(self) -> str:
        """ "on 24 harmful prompts"."""
        return f"on {'' if self.prompts is None else f'{self.prompts} '}{self.part} prompts"

    @property
    def figures(self) -> str:
        """The difference and its interval: "+0.47 [0.39, 0.55]"."""
        return with_interval(self.difference, self.low, self.high)


def with_interval(value: float, low: float, high: float, decimals: int | None = None) -> str:
    """A difference and its interval: "+0.47 [0.39, 0.55]"."""
    places = plain_decimals(value, low, high) if decimals is None else decimals
    return f"{signed(value, places)} {brackets(low, high, places)}"


def shown_word(better: str | None, low: float, high: float, prompts: int | None) -> str:
    """What the interval of a difference over so many prompts shows: better, worse, more, fewer, or that no difference
    is shown."""
    if not enough(prompts):
        return FEW
    if low <= 0 <= high:
        return NONE_SHOWN
    if better not in ("lower", "higher"):
        return "more" if low > 0 else "fewer"
    return "better" if (low > 0) == (better == "higher") else "worse"


def gap(summary: Summary, model: str, part: str, key: str) -> Gap | None:
    """`model` against SFT, and SFT against the base model for "sft"; None where no interval was measured."""
    if model == REFERENCE:
        against_base = gap(summary, "base", part, key)
        return None if against_base is None else _turned(against_base)
    cell, reference = summary.cell(model, part, key), summary.cell(REFERENCE, part, key)
    if cell is None:
        return None
    difference, low, high = cell.difference, cell.difference_low, cell.difference_high
    if not (is_known(difference) and is_known(low) and is_known(high)):
        return None
    equal = summary.at_equal_length(model, part, key)
    theirs = None if reference is None else reference.mean
    effect = None if equal is None else equal.effect
    measure = summary.measures[key]
    return Gap(model, REFERENCE, part, measure, cell.prompts, cell.mean, theirs, difference, low, high, effect)


def _turned(one: Gap) -> Gap:
    """The same from the other side."""
    difference, low, high = -one.difference, -one.high, -one.low
    effect = None if one.effect is None else -one.effect
    return Gap(
        one.other, one.model, one.part, one.measure, one.prompts, one.theirs, one.mine, difference, low, high, effect
    )


# --- the headline -----------------------------------------------------------------------------------------------------


NOT_COMPARED = "This run compares no models: evaluate is none of its stages."


def headline(summary: Summary | None, part: str | None = None) -> str:
    """One sentence: what changed by how much on the first gold and slice `part` (the first), and what is worse."""
    if summary is None:
        return "No result yet: evaluate is not finished."
    if not summary.measures or not summary.slices:
        return "No result: evaluate measured nothing."
    if REFERENCE not in summary.models or len(summary.models) < 2:
        return "No result: evaluate did not compare a model with SFT."
    model = compared(summary)
    main = part if part is not None else summary.slices[0]
    gold = next(iter(summary.golds()), None)
    if gold is None:
        return f"No gold score was measured. {_win_sentence(summary, model, main)}".rstrip()
    said = [claim(summary, model, main, gold), _length_clause(summary, model, main, gold)]
    return sentence("; ".join(filter(None, [*said, _worse_clause(summary, model, main, gold)])))


def compared(summary: Summary) -> str:
    """The model that the headline is about: PPO, else DPO, else another that stands against SFT, else SFT against
    base."""
    aligned = next((model for model in ALIGNED if model in summary.models), None)
    return aligned or next((model for model in summary.models if model not in (REFERENCE, "base")), REFERENCE)


def claim(summary: Summary, model: str, part: str, key: str) -> str:
    """What the interval says of `model` on `key`, without a full stop: a difference only where it excludes 0."""
    one = gap(summary, model, part, key)
    measure = summary.measures[key]
    what = f"{measure.name} (lower is better)" if measure.better == "lower" else measure.name
    if one is None:
        other = "base" if model == REFERENCE else REFERENCE
        return f"whether {name_of(model)} differs from {name_of(other)} on {what} ({part} prompts) was not measured"
    who, whose = name_of(one.model), name_of(one.other)
    places = min(3, plain_decimals(one.difference, one.low, one.high))
    mine, theirs = number(one.mine, places), number(one.theirs, places)
    if one.word == FEW:
        return (
            f"{one.prompts} {part} prompts are too few to tell {who} from {whose} on {what} ({MIN_PROMPTS} are the "
            f"least): {mine} v {theirs}, {one.figures}"
        )
    if one.word == NONE_SHOWN:
        return f"no difference is shown between {who} and {whose} on {what}: {mine} v {theirs}, {one.figures}, {one.on}"
    begins = f"{who} answers are worse than {whose} answers: they" if one.word == "worse" else f"{who} answers"
    deviations = f", {number(abs(one.effect), 2)} standard deviations" if is_known(one.effect) else ""
    return f"{begins} score {mine} on {what} where {whose} answers score {theirs}: {one.figures}{deviations}, {one.on}"


def _length_clause(summary: Summary, model: str, part: str, key: str) -> str:
    """What length has to do with a difference that is shown; "" where that is not measured."""
    one, equal = gap(summary, model, part, key), summary.at_equal_length(model, part, key)
    if one is None or not one.clear:
        return ""
    if equal is None:
        words = gap(summary, model, part, "words") if "words" in summary.measures else None
        ratio = words.mine / words.theirs if words and is_known(words.mine) and words.theirs else 1.0
        return "" if LENGTH_GUARD <= ratio <= 1 / LENGTH_GUARD else f"at {percent(ratio)} of the words of the other"
    left, low, high = equal.difference, equal.difference_low, equal.difference_high
    if not (is_known(left) and is_known(low) and is_known(high)):
        return ""
    figures = with_interval(left, low, high)
    if low <= 0 <= high:
        return f"at equal length no difference is shown ({figures})"
    if (low > 0) != (one.low > 0):
        return f"at equal length it is the other way round ({figures})"
    share = 1 - left / one.difference
    return (
        "length explains none of it" if share < NO_LENGTH else f"length explains {share:.0%} of it".replace("%", " %")
    )


def _worse_clause(summary: Summary, model: str, part: str, key: str) -> str:
    """Which other measures are worse on which slice; "" where nothing else was measured."""
    others = [
        (name, other)
        for name in [part, *(name for name in summary.slices if name != part)]
        for other, measure in summary.measures.items()
        if measure.better in ("lower", "higher") and (name, other) != (part, key)
    ]
    found = {place: one for place in others if (one := gap(summary, model, *place)) is not None}
    if all(one.word == FEW for one in found.values()):
        return ""
    worse: dict[str, list[str]] = {}
    for (name, _), one in found.items():
        if one.word == "worse":
            worse.setdefault(one.measure.name, []).append(name)
    several = len(summary.slices) > 1
    if not worse:
        return "nothing else is shown to be worse" + (" on any slice" if several else "")
    itself = gap(summary, model, part, key)
    begins = "also worse: " if itself is not None and itself.word == "worse" else "worse: "
    return begins + _listed(
        [f"{name} ({', '.join(slices)} prompts)" if several else name for name, slices in worse.items()]
    )


def _listed(names: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# --- beside it --------------------------------------------------------------------------------------------------------


def further(summary: Summary, part: str | None = None, controls: Sequence[Control] = ()) -> list[str]:
    """The sentences beside the headline: the other slices, the controls, SFT against base, the judge's view."""
    if not summary.measures or not summary.slices or REFERENCE not in summary.models:
        return []
    main = part if part is not None else summary.slices[0]
    gold = next(iter(summary.golds()), None)
    lines: list[str] = []
    aligned = [model for model in ALIGNED if model in summary.models]
    if gold is not None and aligned:
        lines += on_other_slices(summary, main)
        lines += [sentence(claim(summary, model, main, gold)) for model in aligned[1:]]
        lines += [line for line in [_controls_sentence(summary, main, gold, controls)] if line]
    if gold is not None and "base" in summary.models:
        lines.append(sentence(claim(summary, REFERENCE, main, gold)))
    lines += [text for model in aligned if (text := _win_sentence(summary, model, main))]
    said = headline(summary, part)
    return [line for line in lines if line.rstrip(".") not in said]


def on_other_slices(summary: Summary, part: str | None) -> list[str]:
    """A sentence on the first gold for every slice but the one of the headline."""
    gold, model = next(iter(summary.golds()), None), compared(summary)
    main = part if part is not None else next(iter(summary.slices), None)
    return [] if gold is None else [sentence(claim(summary, model, s, gold)) for s in summary.slices if s != main]


def _controls_sentence(summary: Summary, part: str, key: str, controls: Sequence[Control]) -> str:
    """Which controls move gold less than the model of the headline does: those whose interval and its do not meet."""
    ours = gap(summary, compared(summary), part, key)
    compared_with = [(control.name, control.summary, "ppo") for control in controls]
    compared_with += [(name_of(m), summary, m) for m in summary.models if m not in ("base", REFERENCE, *ALIGNED)]
    if ours is None or ours.word == FEW or not compared_with:
        return ""
    flip = -1 if ours.measure.better == "lower" else 1
    low, places = min(flip * ours.low, flip * ours.high), plain_decimals(ours.difference, ours.low, ours.high)
    less: list[str] = []
    rest: list[str] = []
    for name, other, model in compared_with:
        theirs = gap(other, model, part, key) if key in other.measures else None
        if theirs is None:
            rest.append(f"{name} (not measured)")
            continue
        told = f"{name} {with_interval(theirs.difference, theirs.low, theirs.high, places)}"
        below = max(flip * theirs.low, flip * theirs.high) < low
        (less if below else rest).append(told)
    if not rest:
        return f"Every control gains less over its own SFT: {', '.join(less)}."
    said = f"Not shown to gain less over its own SFT: {', '.join(rest)}."
    return f"{said} Controls that gain less: {', '.join(less)}." if less else said


def _win_sentence(summary: Summary, model: str, part: str) -> str:
    win = summary.win_rate(model, part)
    if win is None or not (is_known(win.rate) and is_known(win.low) and is_known(win.high)):
        return ""
    if not enough(win.prompts):
        said = f"{win.prompts} prompts are too few to say whether the judge prefers {name_of(model)} or SFT"
    elif win.low > 0.5:
        said = f"The judge prefers {name_of(model)} to SFT"
    elif win.high < 0.5:
        said = f"The judge prefers SFT to {name_of(model)}"
    else:
        said = f"The judge shows no preference between {name_of(model)} and SFT"
    return (
        f"{said} on {part} prompts ({name_of(model)} wins {percent(win.rate)}, 95 % interval {percent(win.low)} to "
        f"{percent(win.high)}, {win.scored} scored, {win.unscored} unscored)."
    )


def reward_sentence(held_out: HeldOut | None) -> str:
    """How well the reward model tells the held-out pairs apart, beside the best trivial predictor; in runs without
    those beside the rule that the shorter one wins."""
    if held_out is not None and held_out.verdict:
        return held_out.verdict
    if held_out is None or not is_known(held_out.accuracy):
        return ""
    said = f"The reward model is right on {percent(held_out.accuracy)}"
    if held_out.pairs is not None:
        said += f" of {held_out.pairs} held-out pairs"
    if is_known(held_out.length_accuracy):
        said += f"; “the shorter one wins” on {percent(held_out.length_accuracy)}"
    return f"{said}."


# --- what else explains it --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shift:
    """A row of "what else explains it": both means, the difference with its interval, and what that shows."""

    name: str
    about: str
    word: str
    figures: str
    means: str = ""


def explanations(summary: Summary, part: str | None = None) -> dict[str, list[Shift]]:
    """Of the model of the headline, by slice, `part` first, the rows of "what else explains it": what is left of the
    first gold at equal length, its size in standard deviations, then every measure; a slice where nothing was measured
    is left out."""
    model = compared(summary)
    if model not in summary.models or model == REFERENCE or REFERENCE not in summary.models:
        return {}
    found = {
        name: list(_shifts(summary, model, name)) for name in sorted(summary.slices, key=lambda name: name != part)
    }
    return {name: rows for name, rows in found.items() if rows}


def _shifts(summary: Summary, model: str, part: str) -> Iterator[Shift]:
    gold = next(iter(summary.golds()), None)
    for key, measure in summary.measures.items():
        one = gap(summary, model, part, key)
        if one is None:
            continue
        places = min(3, plain_decimals(one.difference, one.low, one.high))
        means = f"{number(one.theirs, places)} → {number(one.mine, places)}"
        if key == "words" and is_known(one.mine) and one.theirs:
            means += f" (× {number(one.mine / one.theirs, 2)})"
        yield Shift(measure.name, measure.about, one.word, one.figures, means)
        equal = summary.at_equal_length(model, part, key)
        if key != gold or equal is None:
            continue
        left = (equal.difference, equal.difference_low, equal.difference_high)
        effect = (equal.effect, equal.effect_low, equal.effect_high)
        for name, about, (value, low, high) in (
            ("at equal length", "what is left of the difference at equal word count", left),
            ("in standard deviations", "the difference in those of SFT's answers", effect),
        ):
            yield from _bare(name, about, measure, value, low, high, one.prompts)


def _bare(
    name: str,
    about: str,
    measure: Measure,
    value: float | None,
    low: float | None,
    high: float | None,
    prompts: int | None,
) -> Iterator[Shift]:
    """The row of a difference that has no two means, where it was measured."""
    if is_known(value) and is_known(low) and is_known(high):
        word, figures = shown_word(measure.better, low, high, prompts), with_interval(value, low, high)
        yield Shift(f"{measure.name}, {name}", about, word, figures)
