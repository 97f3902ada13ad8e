"""The impact of an edit as an answer: for the terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rlaif.analysis.impact.downstream import PolicyImpact, RevisionImpact, RewardImpact, Wins, Work
from rlaif.analysis.impact.impact import Cost, Impact
from rlaif.analysis.impact.measure import Agreement, PairChange, PairGroup, PairVote, PromptMove, VoteChange
from rlaif.core.statistics import MIN_PROMPTS, Estimate
from rlaif.view.answer import INTERVALS, Answer, Example, Facts, Line, Part, Section, Table, below
from rlaif.view.text import MISSING, beginning, common_decimals, duration, interval, number, percent, percents

MOST_PROMPTS = 8, 30
"""Prompts in the table on the terminal and on the page; the JSON object has all."""


def answer(impact: Impact) -> Answer:
    """What the edit changes, from the labels to the policy trained on them."""
    sides = [" ".join(f"{side.name} {side.version}".split()) for side in (impact.before, impact.after)]
    pairs = [_pair(change) for change in impact.examples]
    return Answer(
        verb="rlaif impact",
        title=f"{Path(impact.source).resolve().name} under {sides[1]}",
        about="pairs of answers under another constitution. The labels themselves are not changed. "
        "Texts by models are shown as they are.",
        heading=f"{impact.source}: {' -> '.join(sides)}",
        verdict=[
            impact.unreached or f"label flips: {_flips(impact.groups[0])}",
            *([] if impact.agreement is None else [f"agreement {_agreement(impact.agreement)}"]),
        ],
        sections=[
            Section("Labels", [Facts(list(_facts(impact)))]),
            Section("Principles", [_principles(impact)]),
            Section("Slices and tags", [] if impact.unreached else list(_groups(impact))),
            Section("Prompts", [_prompts(impact.prompts)] if impact.prompts else []),
            Section("Pairs", [Line("The pairs that flipped or moved the most.", "caption"), *pairs] if pairs else []),
            Section("Revisions", [] if impact.revisions is None else list(_revisions(impact.revisions))),
            Section("Reward model", [] if impact.reward is None else list(_reward(impact.reward))),
            Section("Policy", [] if impact.policy is None else list(_policy(impact.policy))),
        ],
        notes=impact.notes,
        footer=f"Made by rlaif from the pairs of {impact.source}. {INTERVALS}",
    )


# ---- the labels -----------------------------------------------------------------------------------------------------


def _facts(impact: Impact) -> Iterator[tuple[str, str]]:
    whole, before, after = impact.groups[0], impact.before, impact.after
    yield "principles", f"{before.principles} before, {after.principles} now"
    if not impact.unreached:
        yield "shift of P(A)", f"{_estimate(whole.shift)}; new \u2212 old, about 0 where A and B are drawn"
        yield "size of the shift", f"{_estimate(whole.moved)}; mean of |new \u2212 old|"
        yield "labels", _labels(whole)
    yield "cost", _cost(impact.cost)


def _flips(group: PairGroup) -> str:
    """The rate, which is a mean over prompts, and the count, which is over pairs, told apart."""
    rate = group.flip_rate
    if rate is None:
        return "no pair has a label under both constitutions"
    share = f"on average {percent(rate.mean)} of a prompt's labels flip ({percents(rate.low, rate.high)})"
    return f"{share}; {number(group.flips)} of {group.compared:,} pairs"


def _labels(group: PairGroup) -> str:
    """How many labels appeared and vanished, and why they were, or are, missing."""
    appeared, vanished = (
        ", ".join(f"{n} {kind}" for kind, n in counts.items() if n) for counts in (group.appeared, group.vanished)
    )
    return (
        f"appeared {sum(group.appeared.values())}{f' (before: {appeared})' if appeared else ''}, "
        f"vanished {sum(group.vanished.values())}{f' (now: {vanished})' if vanished else ''}, "
        f"none on either side {group.unlabelled}"
    )


def _agreement(found: Agreement) -> str:
    """Agreement with the file's own labels before and now, and the paired difference."""
    change = found.difference
    bounds = ""
    if change.low is not None and change.high is not None and change.low != change.high:
        bounds = f" ({_points(change.low)} to {_points(change.high)})"  # none where no prompt differs from another
    return (
        f"with the file's own labels on {found.pairs:,} pairs: {_share(found.before)} before, "
        f"{_share(found.after)} now; {_points(change.mean)} points{bounds}"
    )


def _cost(cost: Cost) -> str:
    share = f" ({percent(cost.judged / cost.needed)})" if cost.needed else ""
    return (
        f"{cost.needed:,} verdicts needed, {cost.reused:,} reused, {cost.judged:,} judged{share}: "
        f"{cost.calls:,} calls, {cost.cached:,} answers from the cache, {duration(cost.seconds)}"
    )


def _principles(impact: Impact) -> Table:
    rows = [(row.id, row.edit, f"{row.needed:,}", f"{row.reused:,}", f"{row.judged:,}") for row in impact.principles]
    changed = [place for place, row in enumerate(impact.principles) if row.kind != "unchanged"]
    return Table(("principle", "edit", "verdicts", "reused", "judged"), rows, texts=(0, 1), strong=changed)


def _groups(impact: Impact) -> Iterator[Part]:
    rows = [
        (
            row.name if row.kind == "all" else f"{row.kind} {row.name}",
            f"{row.prompts:,}",
            f"{row.compared:,}",
            below(_share(row.flip_rate)),
            below(_estimate(row.moved)),
            f"{sum(row.appeared.values()):,}",
            f"{sum(row.vanished.values()):,}",
        )
        for row in impact.groups
    ]
    yield Table(("of", "prompts", "pairs", "flips", "|shift|", "new", "gone"), rows)
    yield Line(
        "Pairs: those with a label on both sides. |shift|: mean of |new \u2212 old|. New and gone: labels that "
        "appeared and vanished.",
        "caption",
    )
    if impact.left_out:
        named, rest = impact.left_out[: MOST_PROMPTS[0]], impact.left_out[MOST_PROMPTS[0] :]
        more = f" and {len(rest)} more" if rest else ""
        yield Line(
            f"Too few prompts for a line of their own (fewer than {MIN_PROMPTS}): {', '.join(named)}{more}", "muted"
        )
        if rest:
            yield Line(f"And too few: {', '.join(rest)}.", "caption")


def _prompts(moves: Sequence[PromptMove]) -> Table:
    flipped = sum(move.flips > 0 for move in moves)
    rows = [
        (beginning(m.prompt.text), m.prompt.slice, f"{m.compared:,}", f"{m.flips:g}", number(m.moved, 3)) for m in moves
    ]
    return Table(
        (f"{len(moves):,} prompts moved, {flipped:,} with a flip", "slice", "pairs", "flips", "|shift|"),
        rows,
        texts=(0, 1),
        most=MOST_PROMPTS[0],
        most_on_page=MOST_PROMPTS[1],
        rest="more prompts that moved less",
    )


def _pair(change: PairChange) -> Example:
    pair = change.comparison
    votes = [
        (vote.principle, vote.edit, _weights(vote), _vote(vote.before), _vote(vote.after)) for vote in change.votes
    ]
    return Example(
        f"P(A) {number(change.prob_before, 3)} \u2192 {number(change.prob_after, 3)}",
        ["flipped" if change.flipped else "", pair.prompt.slice, *pair.prompt.tags, f"pair {pair.id}"],
        pair.prompt,
        [("A", pair.a.text), ("B", pair.b.text)],
        Table(("principle", "edit", "weight", "P(A), was", "now"), votes, texts=(0, 1)),
    )


def _weights(vote: VoteChange) -> str:
    weights = [f"{side.weight:g}" for side in (vote.before, vote.after) if side is not None]
    return " to ".join(dict.fromkeys(weights))


def _vote(vote: PairVote | None) -> str:
    if vote is None:
        return "-"
    return number(vote.prob_a, 3) if vote.failure is None else f"failed: {vote.failure}"


# ---- beyond the labels ----------------------------------------------------------------------------------------------


def _revisions(found: RevisionImpact) -> Iterator[Part]:
    yield Line("The stage revise again under the new constitution, from the same first answers.", "caption")
    yield Facts(
        [
            ("answers that differ", f"{_share(found.changed)} of {found.prompts:,} prompts"),
            ("drawn principles differ", f"{found.redrawn:,} of {found.prompts:,} prompts"),
            ("first answer replaced", f"{found.replaced_before:,} before, {found.replaced_after:,} now"),
            *map(_wins, found.wins),
            ("words, now - before", _estimate(found.words)),
            ("cost", _work(found.work)),
        ]
    )
    for change in found.examples:
        drawn = dict.fromkeys(", ".join(p) or "none" for p in (change.principles_before, change.principles_after))
        sides = [("before", change.before), ("now", change.after)]
        principles = " \u2192 ".join(drawn)
        yield Example("final answer", [f"principle {principles}", change.prompt.slice], change.prompt, sides)


def _reward(found: RewardImpact) -> Iterator[Part]:
    yield Line(
        "The run's reward model against one trained on the new labels, on the responses of the label stage.", "caption"
    )
    yield Facts(
        [
            ("pairs ordered otherwise", f"{_share(found.flips)} of {found.pairs:,} pairs"),
            ("rank correlation", f"{number(found.correlation, 3)} of the scores of {found.responses:,} responses"),
            ("size of the shift", f"{_estimate(found.moved)} standard deviations, mean of |new - old|"),
            (
                "held-out accuracy",
                f"{percent(found.accuracy_before)} before, {percent(found.accuracy_after)} now, each by its own labels",
            ),
            ("cost", _work(found.work)),
        ]
    )
    for change in found.examples:
        title = f"score {number(change.before, 2)} \u2192 {number(change.after, 2)}"
        yield Example(title, [change.prompt.slice], change.prompt, [("", change.response)])


def _policy(found: PolicyImpact) -> Iterator[Part]:
    yield Line(
        "The run's PPO policy against one trained under the new constitution from the same SFT policy, on the held-out "
        "prompts.",
        "caption",
    )
    yield Facts(
        [("held-out prompts", f"{found.prompts:,}"), *map(_wins, found.wins), ("cost", _work(found.work))],
    )
    rows = []
    for change in found.measures:
        places = common_decimals(change.before.mean, change.after.mean, change.difference.mean)
        means = (number(side.mean, places) for side in (change.before, change.after))
        rows.append((change.slice or "all", change.name, *means, below(_estimate(change.difference))))
    yield Table(("of", "measure", "before", "now", "now \u2212 before"), rows, texts=(0, 1))


def _wins(wins: Wins) -> tuple[str, str]:
    rate = wins.rate
    name = f"new wins, judged under the {wins.under}" + (f", {rate.slice}" if rate.slice else "")
    if rate.rate is None and not rate.unscored:
        return name, "no answer differs"
    if rate.rate is None:
        return name, f"{MISSING} ({rate.unscored:,} without a label)"
    unscored = f", {rate.unscored:,} without a label" if rate.unscored else ""
    return name, f"{percent(rate.rate)} ({percents(rate.low, rate.high)}) of {rate.scored:,}{unscored}"


def _work(work: Work) -> str:
    """What the stages that were done again took, and where they lie."""
    return f"{work.calls:,} calls, {work.cached:,} answers from the cache, {duration(work.seconds)}; in {work.folder}"


def _share(found: Estimate | None) -> str:
    return MISSING if found is None else f"{percent(found.mean)} ({percents(found.low, found.high)})"


def _estimate(found: Estimate | None) -> str:
    """ "0.12 (0.08 to 0.20)"."""
    if found is None:
        return MISSING
    places = common_decimals(found.mean, found.low, found.high)
    bounds = "" if found.low is None else f" ({interval(found.low, found.high, places)})"
    return f"{number(found.mean, places)}{bounds}"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "\u2212")
