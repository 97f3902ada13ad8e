"""The figures of an impact in words, the same on the terminal and on the page."""

from __future__ import annotations

from rlaif.analysis.impact.downstream import (
    MeasureChange,
    PolicyImpact,
    RevisionImpact,
    RewardImpact,
    Wins,
    Work,
)
from rlaif.analysis.impact.impact import Cost
from rlaif.analysis.impact.measure import Agreement, PairGroup
from rlaif.core.statistics import Estimate
from rlaif.view.text import MISSING, common_decimals, duration, interval, number, percent, percents

Row = tuple[str, str]
"""What is measured, and the figure with its interval."""


def labels_line(group: PairGroup) -> str:
    """How many labels appeared and vanished, and why they were, or are, missing."""
    appeared, vanished = (
        ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) for counts in (group.appeared, group.vanished)
    )
    return (
        f"appeared {sum(group.appeared.values())}{f' (before: {appeared})' if appeared else ''}, "
        f"vanished {sum(group.vanished.values())}{f' (now: {vanished})' if vanished else ''}, "
        f"none on either side {group.unlabelled}"
    )


def cost_line(cost: Cost) -> str:
    """Verdicts needed, reused and judged, and what the judging took."""
    share = f" ({percent(cost.judged / cost.needed)})" if cost.needed else ""
    return (
        f"{cost.needed:,} verdicts needed, {cost.reused:,} reused, {cost.judged:,} judged{share}: "
        f"{cost.calls:,} calls, {cost.cached:,} answers from the cache, {duration(cost.seconds)}"
    )


def flips_line(group: PairGroup) -> str:
    """The rate, which is a mean over prompts, and the count, which is over pairs, told apart."""
    rate = group.flip_rate
    if rate is None:
        return "no pair has a label under both constitutions"
    bounds = percents(rate.low, rate.high)
    share = f"on average {percent(rate.mean)} of a prompt's labels flip ({bounds})"
    return f"{share}; {number(group.flips)} of {group.compared:,} pairs"


def agreement_line(found: Agreement) -> str:
    """Agreement with the file's own labels before and now, and the paired difference."""
    change = found.difference
    bounds = ""
    if change.low is not None and change.high is not None and change.low != change.high:
        bounds = f" ({_points(change.low)} to {_points(change.high)})"  # none where no prompt differs from another
    return (
        f"with the file's own labels on {found.pairs:,} pairs: {_share(found.before)} before, "
        f"{_share(found.after)} now; {_points(change.mean)} points{bounds}"
    )


def revision_rows(found: RevisionImpact) -> list[Row]:
    """What the edit did to the revisions; the last row, as of the others, is the cost."""
    return [
        ("answers that differ", f"{_share(found.changed)} of {found.prompts:,} prompts"),
        ("drawn principles differ", f"{found.redrawn:,} of {found.prompts:,} prompts"),
        ("first answer replaced", f"{found.replaced_before:,} before, {found.replaced_after:,} now"),
        *(_win_row(wins) for wins in found.wins),
        ("words, now - before", estimate_text(found.words)),
        ("cost", work_line(found.work)),
    ]


def reward_rows(found: RewardImpact) -> list[Row]:
    """What the new labels did to the reward model."""
    return [
        ("pairs ordered otherwise", f"{_share(found.flips)} of {found.pairs:,} pairs"),
        ("rank correlation", f"{number(found.correlation, 3)} of the scores of {found.responses:,} responses"),
        ("size of the shift", f"{estimate_text(found.moved)} standard deviations, mean of |new - old|"),
        (
            "held-out accuracy",
            f"{percent(found.accuracy_before)} before, {percent(found.accuracy_after)} now, each by its own labels",
        ),
        ("cost", work_line(found.work)),
    ]


def policy_rows(found: PolicyImpact) -> list[Row]:
    """What the edit did to the trained policy, in one line for each win rate; the measures are a table of their own."""
    return [
        ("held-out prompts", f"{found.prompts:,}"),
        *(_win_row(wins) for wins in found.wins),
        ("cost", work_line(found.work)),
    ]


def measure_cells(change: MeasureChange) -> tuple[str, str, str, str, str]:
    """Slice, measure, mean before, mean now, paired difference."""
    places = common_decimals(change.before.mean, change.after.mean, change.difference.mean)
    return (
        change.slice or "all",
        change.name,
        number(change.before.mean, places),
        number(change.after.mean, places),
        estimate_text(change.difference),
    )


def estimate_text(found: Estimate | None) -> str:
    """ "0.12 (0.08 to 0.20)"."""
    if found is None:
        return MISSING
    places = common_decimals(found.mean, found.low, found.high)
    bounds = "" if found.low is None else f" ({interval(found.low, found.high, places)})"
    return f"{number(found.mean, places)}{bounds}"


def work_line(work: Work) -> str:
    """What the stages that were done again took, and where they lie."""
    return f"{work.calls:,} calls, {work.cached:,} answers from the cache, {duration(work.seconds)}; in {work.folder}"


def _win_row(wins: Wins) -> Row:
    rate = wins.rate
    name = f"new wins, judged under the {wins.under}" + (f", {rate.slice}" if rate.slice else "")
    if rate.rate is None and not rate.unscored:
        return name, "no answer differs"
    if rate.rate is None:
        return name, f"{MISSING} ({rate.unscored:,} without a label)"
    unscored = f", {rate.unscored:,} without a label" if rate.unscored else ""
    return name, f"{percent(rate.rate)} ({percents(rate.low, rate.high)}) of {rate.scored:,}{unscored}"


def _share(found: Estimate | None) -> str:
    return MISSING if found is None else f"{percent(found.mean)} ({percents(found.low, found.high)})"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\u2212")
