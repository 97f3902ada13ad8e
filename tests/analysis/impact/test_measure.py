"""Flips, shifts and what moved, on labels small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rlaif.analysis.impact.measure import (
    MIN_PROMPTS,
    PairGroup,
    PairVote,
    PrincipleEdit,
    agreement,
    edits,
    groups,
    most_changed,
    prompt_moves,
)
from rlaif.analysis.impact.relabel import Relabelled
from rlaif.constitution.diff import diff
from rlaif.core.records import (
    Comparison,
    Constitution,
    Failure,
    FailureKind,
    Message,
    Order,
    PreferenceLabel,
    Principle,
    Prompt,
    Response,
    Verdict,
)
from rlaif.judge.methods.table import METHODS
from tests.analysis.impact.runs import comparisons

KIND, BRIEF = Principle("kind", "Be kind."), Principle("brief", "Be brief.", weight=2.0)
MUTE, SAME = Principle("mute", "Say nothing."), Principle("same", "Stay the same.")
Said = float | FailureKind


def prompt(n: int, part: str = "hard", tags: tuple[str, ...] = ()) -> Prompt:
    return Prompt((Message("user", f"question {n}"),), slice=part, tags=tags)


def pair(of: Prompt, before: Said, after: Said, votes: Sequence[tuple[Verdict, ...]] = ((), ())) -> Relabelled:
    """A pair whose label was `before` and is `after`: P(A is better), or why there is none."""
    first = Response(of.id, f"{before}", "sft", 1, 1.0, "stop", 1)
    second = Response(of.id, f"{after}", "sft", 2, 1.0, "stop", 1)

    def label(said: Said, verdicts: tuple[Verdict, ...]) -> PreferenceLabel:
        comparison = Comparison(of, first, second)
        if isinstance(said, float):
            return PreferenceLabel(comparison, said, verdicts)
        return PreferenceLabel(comparison, None, verdicts, failure=Failure(said, ""))

    return Relabelled(label(before, votes[0]), label(after, votes[1]))


def whole(*pairs: Relabelled) -> PairGroup:
    return groups(pairs, seed=0, resamples=200)[0][0]


def test_pairs_that_an_edit_does_not_reach_have_no_flips_for_certain() -> None:
    unmoved = whole(*(pair(prompt(n), 0.6, 0.6) for n in range(10))).flip_rate
    assert unmoved is not None
    assert (unmoved.mean, unmoved.low, unmoved.high) == (0, 0, 0)
    moved = whole(*(pair(prompt(n), 0.6, 0.6 + (n == 0) / 10) for n in range(10))).flip_rate
    assert moved is not None
    assert moved.high is not None
    assert (moved.mean, moved.low) == (0, 0) < (moved.high, 1)


def test_rates_are_means_over_prompts_of_each_prompt_s_pairs() -> None:
    found = whole(pair(prompt(1), 0.8, 0.3), pair(prompt(1), 0.6, 0.7), pair(prompt(2), 0.4, 0.45))
    assert (found.prompts, found.pairs, found.compared, found.flips) == (2, 3, 3, 1)
    assert found.flip_rate is not None
    assert found.shift is not None
    assert found.moved is not None
    assert found.flip_rate.mean == pytest.approx(0.25)  # prompt 1: one of two, prompt 2: none
    assert found.shift.mean == pytest.approx(-0.075)  # (-0.5 + 0.1) / 2 = -0.2 and 0.05
    assert found.moved.mean == pytest.approx(0.175)  # 0.3 and 0.05
    low, high = found.moved.low, found.moved.high
    assert low is not None
    assert high is not None
    assert 0.049 < low < 0.175 < high < 0.301


@pytest.mark.parametrize(("after", "rate", "low", "high"), [(0.7, 0, 0.0, 0.27753), (0.3, 1, 0.72247, 1.0)])
def test_where_prompts_all_agree_the_interval_has_a_width(after: float, rate: int, low: float, high: float) -> None:
    found = whole(*(pair(prompt(n), 0.6 + m / 100, after) for n in range(10) for m in range(3))).flip_rate
    assert found is not None
    # Wilson for 10 prompts, not 30 pairs: z^2 / (n + z^2) = 3.8415 / 13.8415
    assert found.mean == rate
    assert found.low == pytest.approx(low, abs=1e-5)
    assert found.high == pytest.approx(high, abs=1e-5)


@pytest.mark.parametrize(
    ("before", "after", "flips"), [(0.7, 0.5, 0.5), (0.5, 0.2, 0.5), (0.5, 0.5, 0), (0.51, 0.49, 1), (0.9, 0.51, 0)]
)
def test_the_middle_is_half_a_flip_away_from_either_side(before: float, after: float, flips: float) -> None:
    assert whole(pair(prompt(1), before, after)).flips == flips


def test_labels_that_come_and_go_are_counted_apart_and_in_no_rate() -> None:
    found = whole(
        pair(prompt(1), "abstained", 0.6),
        pair(prompt(2), "backend", 0.6),
        pair(prompt(3), "truncated", 0.9),
        pair(prompt(4), 0.6, "abstained"),
        pair(prompt(5), 0.6, "backend"),
        pair(prompt(6), "abstained", "backend"),
        pair(prompt(7), 0.6, 0.4),
    )
    assert found.appeared == {"abstained": 1, "failed": 2}
    assert found.vanished == {"abstained": 1, "failed": 1}
    assert (found.pairs, found.compared, found.unlabelled, found.flips) == (7, 1, 1, 1)
    assert found.flip_rate is not None
    assert (found.flip_rate.mean, found.flip_rate.prompts) == (1.0, 1)


def test_without_two_labels_nothing_is_measured() -> None:
    found = whole(pair(prompt(1), "abstained", 0.6))
    assert (found.flip_rate, found.shift, found.moved, found.flips) == (None, None, None, 0)


def test_only_slices_and_tags_with_enough_prompts_get_a_line() -> None:
    pairs = [pair(prompt(n, "hard", ("law", "law")), 0.8, 0.2) for n in range(MIN_PROMPTS)]
    pairs += [pair(prompt(n, "easy", ("law", "food")), 0.8, 0.7) for n in range(50, 49 + MIN_PROMPTS)]
    found, small = groups(pairs, seed=0, resamples=200)
    assert [(g.kind, g.name, g.prompts, g.flips) for g in found] == [
        ("all", "all pairs", 19, 10),
        ("slice", "hard", 10, 10),
        ("tag", "law", 19, 10),
    ]
    assert small == ["slice easy (9)", "tag food (9)"]


def verdicts(of: Principle, *said: Said, orders: Sequence[Order] = ("none",)) -> tuple[Verdict, ...]:
    return tuple(
        Verdict("c", of.id, of.hash, "pairwise", order, "judge", one if isinstance(one, float) else None)
        if isinstance(one, float)
        else Verdict("c", of.id, of.hash, "pairwise", order, "judge", None, failure=Failure(one, ""))
        for one, order in zip(said, orders, strict=True)
    )


def test_the_pairs_that_moved_the_most_come_first_with_what_changed_their_mind() -> None:
    both: Sequence[Order] = ("ab", "ba")
    new = Principle("new", "Be new.")
    heavy = replace(BRIEF, weight=3.0)
    before = (*verdicts(KIND, 0.9, 0.3, orders=both), *verdicts(BRIEF, 0.4, 0.6, orders=both))
    after = (*verdicts(heavy, 0.4, 0.6, orders=both), *verdicts(new, 0.4, "refused", orders=both))
    changed = [
        PrincipleEdit("kind", "dropped", "dropped", KIND, None),
        PrincipleEdit("brief", "changed", "heavier", BRIEF, heavy),
        PrincipleEdit("new", "added", "added", None, new),
    ]
    pairs = [
        pair(prompt(1), 0.5, 0.6),
        pair(prompt(2), 0.7, 0.4, (before, after)),
        pair(prompt(3), 0.6, 0.6),
        pair(prompt(4), 0.6, "abstained"),
    ]
    found = most_changed(pairs, changed, 5)
    assert [(c.prob_before, c.prob_after, c.flipped) for c in found] == [(0.7, 0.4, True), (0.5, 0.6, True)]
    assert [(v.principle, v.edit, v.before, v.after) for v in found[0].votes] == [
        ("kind", "dropped", PairVote(1.0, 0.8, None), None),  # (0.9 + (1 - 0.3)) / 2
        ("brief", "heavier", PairVote(2.0, 0.4, None), PairVote(3.0, 0.4, None)),
        ("new", "added", None, PairVote(1.0, None, "refused")),
    ]
    assert len(most_changed(pairs, changed, 1)) == 1


def test_a_small_flip_is_shown_before_a_large_move_on_one_side() -> None:
    pairs = [pair(prompt(1), 0.95, 0.55), pair(prompt(2), 0.51, 0.49), pair(prompt(3), 0.9, 0.6)]
    found = most_changed(pairs, [], 2)
    assert [(c.prob_before, c.flipped) for c in found] == [(0.51, True), (0.95, False)]


def constitution(*principles: Principle) -> Constitution:
    return Constitution("test", "1", "", principles)


def test_every_principle_has_both_its_sides() -> None:
    gentle = replace(KIND, id="gentle", weight=2.0)
    plain = Principle("plain", "Be plain.")
    firm = replace(BRIEF, statement="Be very brief.")
    before, after = constitution(KIND, BRIEF, MUTE, SAME), constitution(plain, SAME, firm, gentle)
    assert edits(before, after, diff(before, after, METHODS.values())) == [
        PrincipleEdit("plain", "added", "added", None, plain),
        PrincipleEdit("same", "unchanged", "unchanged", SAME, SAME),
        PrincipleEdit("brief", "changed", "reworded (statement)", BRIEF, firm),
        PrincipleEdit("gentle", "renamed", "renamed from kind; reweighted 1 -> 2", KIND, gentle),
        PrincipleEdit("mute", "dropped", "dropped", MUTE, None),
    ]


def test_the_prompts_that_moved_come_by_their_flips() -> None:
    pairs = [
        pair(prompt(1), 0.6, 0.6),  # did not move
        pair(prompt(2), 0.6, 0.7),
        pair(prompt(3), 0.6, 0.4),
        pair(prompt(3), 0.6, 0.6),
        pair(prompt(4), 0.6, 0.5),
        pair(prompt(5), 0.6, "abstained"),  # nothing to compare
    ]
    found = [(move.prompt.id, move.compared, move.flips, round(move.moved, 9)) for move in prompt_moves(pairs)]
    assert sorted(found[:2]) == sorted([(prompt(3).id, 2, 1, 0.1), (prompt(4).id, 1, 0.5, 0.1)])
    assert found[2:] == [(prompt(2).id, 1, 0, 0.1)]


def all_say(prob: float | None) -> list[PreferenceLabel]:
    return [PreferenceLabel(pair, prob, ()) for pair in comparisons()[:6]]


def test_agreement_by_hand() -> None:
    # Two prompts of three pairs each. The file prefers A in the first prompt, B in the second, and nothing in one pair.
    old, new = all_say(0.7), all_say(0.5)
    given = dict(zip((x.comparison.id for x in old), (1.0, 0.9, 0.5, 0.0, 0.2, 0.4), strict=True))
    found = agreement([Relabelled(a, b) for a, b in zip(old, new, strict=True)], given, seed=0, resamples=100)
    assert found is not None
    assert (found.pairs, found.before.mean, found.after.mean, found.difference.mean) == (5, 0.5, 0.5, 0)
    better = [Relabelled(x, y) for x, y in zip(old, [*old[:3], *all_say(0.1)[3:]], strict=True)]
    found = agreement(better, given, seed=0, resamples=100)
    assert found is not None
    assert (found.before.mean, found.after.mean, found.difference.mean) == (0.5, 1.0, 0.5)
    assert agreement(better, {}, seed=0, resamples=100) is None
    assert (
        agreement([Relabelled(x, y) for x, y in zip(old, all_say(None), strict=True)], given, seed=0, resamples=9)
        is None
    )
