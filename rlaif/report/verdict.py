"""What the numbers allow one to say, in plain sentences that are computed from the intervals and nothing else."""

from __future__ import annotations

from rlaif.core.evaluation import REFERENCE, Measure, Summary
from rlaif.report.summary import name_of
from rlaif.view.text import common_decimals, interval, is_known, number, percent

LENGTH_GUARD = 0.8
"""Answers shorter than this share of SFT's may owe a better score to their length (arXiv 2310.03716)."""


def headline(summary: Summary | None, part: str | None = None) -> str:
    """One sentence on whether the final policy differs from SFT on gold, on slice `part` (the first)."""
    if summary is None:
        return "No result yet: evaluate is not finished."
    if not summary.measures or not summary.slices:
        return "No result: evaluate measured nothing."
    model = "ppo" if "ppo" in summary.models else next((m for m in summary.models if m != REFERENCE), None)
    if model is None or REFERENCE not in summary.models:
        return "No result: evaluate did not compare a model with SFT."
    main = part if part is not None else summary.slices[0]
    gold = next(iter(summary.golds().items()), None)
    if gold is None:
        return f"No gold score was measured. {_win_sentence(summary, model, main)}".rstrip()
    return compare(summary, model, main, *gold)


def compare(summary: Summary, model: str, part: str, key: str, measure: Measure) -> str:
    """One sentence on `model` against SFT, true to the interval: a difference is claimed only if it excludes 0."""
    cell = summary.cell(model, part, key)
    who, what = _subject(model), measure.name
    difference, low, high = (cell.difference, cell.difference_low, cell.difference_high) if cell else (None,) * 3
    if cell is None or not (is_known(difference) and is_known(low) and is_known(high)):
        return f"Whether {_inside(who)} differs from SFT on {what} ({part} prompts) was not measured."
    if not cell.differs:
        places = common_decimals(difference, low, high)
        return (
            f"No difference shown between {_inside(who)} and SFT on {what}, {part} prompts "
            f"(difference {number(difference, places)}, 95 % interval {interval(low, high, places)}, n = {cell.n})."
        )
    # The interval, not the mean, gives the direction: both agree unless the file is inconsistent.
    lower = high < 0
    near, far = sorted((abs(low), abs(high)))
    places = common_decimals(difference, near, far)
    verdict = "" if measure.better not in ("lower", "higher") else _judged(lower == (measure.better == "lower"))
    return (
        f"{who} is {'lower' if lower else 'higher'} on {what} than SFT by {number(abs(difference), places)} "
        f"(95 % interval {interval(near, far, places)}, {part} prompts, n = {cell.n}){verdict}."
    )


def at_equal_length(summary: Summary, model: str, part: str, key: str, measure: Measure) -> str:
    """One sentence on the size of the model's difference from SFT, and what is left of it at equal length; "" where
    that was not measured."""
    found = summary.at_equal_length(model, part, key)
    if found is None or not is_known(found.difference):
        return ""
    left, low, high = found.difference, found.difference_low, found.difference_high
    places = common_decimals(left, low, high)
    said = (
        f"At equal length {name_of(model)}'s difference from SFT on {measure.name} is {number(left, places)} "
        f"(95 % interval {interval(low, high, places)}, {part} prompts)"
    )
    size = f"; the whole difference is {number(found.effect)} standard deviations of SFT's answers"
    return f"{said}{size if is_known(found.effect) else ''}."


def _subject(model: str) -> str:
    return "The base model" if model == "base" else name_of(model)


def _inside(who: str) -> str:
    """The subject within a sentence."""
    return who.replace("The ", "the ")


def _judged(better: bool) -> str:
    return ", which is better" if better else ", which is worse"


def further(summary: Summary, part: str | None = None) -> list[str]:
    """The sentences that belong beside the headline: other slices, the judge's view, length, the base model."""
    lines: list[str] = []
    if not summary.measures or not summary.slices or REFERENCE not in summary.models:
        return lines
    main = part if part is not None else summary.slices[0]
    slices = [main, *(other for other in summary.slices if other != main)]
    gold = next(iter(summary.golds().items()), None)
    if "ppo" not in summary.models:
        return lines
    if gold is not None:
        lines += [compare(summary, "ppo", name, *gold) for name in slices[1:]]
        lines += [text for name in slices if (text := at_equal_length(summary, "ppo", name, *gold))]
    lines += [text for name in slices if (text := _win_sentence(summary, "ppo", name))]
    lines += [text for name in slices if (text := _length_sentence(summary, "ppo", name))]
    if gold is not None and "base" in summary.models:
        lines.append(compare(summary, "base", main, *gold))
    said = headline(summary, part)
    return [line for line in lines if line not in said]


def _win_sentence(summary: Summary, model: str, part: str) -> str:
    win = summary.win_rate(model, part)
    if win is None or not (is_known(win.rate) and is_known(win.low) and is_known(win.high)):
        return ""
    if win.low > 0.5:
        said = f"The judge prefers {name_of(model)} to SFT"
    elif win.high < 0.5:
        said = f"The judge prefers SFT to {name_of(model)}"
    else:
        said = f"The judge shows no preference between {name_of(model)} and SFT"
    return (
        f"{said} on {part} prompts ({name_of(model)} wins {percent(win.rate)}, 95 % interval {percent(win.low)} to "
        f"{percent(win.high)}, {win.scored} scored, {win.unscored} unscored)."
    )


def _length_sentence(summary: Summary, model: str, part: str) -> str:
    mine, reference = summary.cell(model, part, "words"), summary.cell(REFERENCE, part, "words")
    if mine is None or reference is None or not (is_known(mine.mean) and is_known(reference.mean)):
        return ""
    if reference.mean <= 0:
        return ""
    ratio = mine.mean / reference.mean
    caution = " Part of any difference may be length." if ratio < LENGTH_GUARD or ratio > 1 / LENGTH_GUARD else ""
    return f"{name_of(model)}'s answers have {percent(ratio)} of the words of SFT's on {part} prompts.{caution}"
