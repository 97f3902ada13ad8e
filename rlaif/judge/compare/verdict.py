"""What a comparison of judges allows to be said: a difference only where its interval leaves zero out."""

from __future__ import annotations

from collections.abc import Iterator

from rlaif.core.statistics import MIN_PROMPTS, Estimate
from rlaif.judge.card.verdict import points, rule_of, share
from rlaif.judge.compare.records import MOST_WITHOUT_LABEL, Contender, JudgeComparison
from rlaif.view.text import number


def sentences(found: JudgeComparison) -> list[str]:
    """The sentences, the most important first."""
    winner = found.candidate(found.choice.winner)
    if winner is None:
        return [*_left_out(found), "No judge can be chosen."]
    parts = (_chosen(found, winner), _worth(winner, found), _mean(found), _together(found), _left_out(found))
    return [text for part in parts for text in part]


def by_criterion(candidate: Contender, found: JudgeComparison, *, choosing: bool) -> Estimate | None:
    """What the judge gets by the criterion on one of the parts."""
    part = candidate.choosing if choosing else candidate.reporting
    return (part.accuracy if found.choice.criterion == "accuracy" else part.length_matched).judge


def _chosen(found: JudgeComparison, winner: Contender) -> Iterator[str]:
    choice = found.choice
    own = share(by_criterion(winner, found, choosing=True))
    first = f"Chosen by {choice.criterion} on the choosing part: {winner.name}, {own}"
    second = found.candidate(choice.runner_up)
    if second is None:
        yield f"{first}; no other judge can be chosen."
        return
    yield f"{first}, before {second.name}, {share(by_criterion(second, found, choosing=True))}."
    leads = (("there", choice.lead), ("on the reporting part", choice.lead_after))
    for where, lead in leads:
        if lead is None or lead.prompts < MIN_PROMPTS:
            yield f"Too few prompts to tell the two apart {where}."
        else:
            words = {1: "Better", -1: "Worse", 0: "Not shown to be better"}[lead.side()]
            yield f"{words} than {second.name} {where}: {points(lead)} points, on the prompts that both have."


def _worth(winner: Contender, found: JudgeComparison) -> Iterator[str]:
    """What the chosen one is worth where it was not chosen."""
    part = winner.reporting
    parts = [(part.accuracy, "all pairs"), (part.length_matched, "length-matched pairs")]
    if part.accuracy == part.length_matched:
        parts = [(part.accuracy, "all pairs, which are length-matched")]
    for accuracy, where in parts:
        name, rule, over = rule_of(accuracy)
        judge = accuracy.judge
        if judge is None or over is None or over.prompts < MIN_PROMPTS:
            yield f"On the reporting part there are too few prompts with {where} to say anything."
            continue
        coin = {1: "better than a coin", -1: "worse than a coin", 0: "not shown to be better than a coin"}[
            judge.side(0.5)
        ]
        length = {1: "better than", -1: "worse than", 0: "not shown to be better than"}[over.side()]
        yield f"On the reporting part, {where}: {share(judge)}, {coin}, {length} {name}, {share(rule)}."


def _mean(found: JudgeComparison) -> Iterator[str]:
    mean = found.candidates[-1]
    if mean.behind is None or mean.behind.prompts < MIN_PROMPTS:
        return
    words = {1: "is worse than", -1: "is better than", 0: "is not shown to be better or worse than"}[mean.behind.side()]
    chosen = found.choice.winner
    yield f"The {mean.name} {words} {chosen} on the reporting part: {points(mean.behind)} points between them."


def _together(found: JudgeComparison) -> Iterator[str]:
    known = [one for one in found.agreements if one.kappa is not None]
    if not known:
        return
    most, least = max(known, key=lambda one: one.kappa or 0.0), min(known, key=lambda one: one.kappa or 0.0)
    apart = "" if most is least else f", least {least.one} and {least.other} ({number(least.kappa, 2)})"
    yield f"Most alike are {most.one} and {most.other} (kappa {number(most.kappa, 2)}){apart}."


def _left_out(found: JudgeComparison) -> Iterator[str]:
    for name in found.choice.left_out:
        candidate = found.candidate(name)
        if candidate is not None:
            part = candidate.choosing
            missing = f"no label on {part.pairs - part.labelled:,} of {part.pairs:,} pairs of the choosing part"
            yield f"The judge {name} could not be chosen: {missing}, and {MOST_WITHOUT_LABEL:.0%} may be without."
