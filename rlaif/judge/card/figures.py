"""What a judge's labels come to against gold: accuracy beside what length alone gets, calibration, order, raters.

Shares are means over prompts of each prompt's share, with intervals from the bootstrap over prompts
(rlaif.core.statistics). Which answer stands as A changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlaif.core.records import PreferenceLabel, Verdict
from rlaif.core.statistics import Draw, Estimate, Keyed, agree, preferred, slope
from rlaif.gold.pairs import GoldPair
from rlaif.judge.card.records import (
    Accuracy,
    Calibration,
    Ceiling,
    ConfidenceBin,
    Errors,
    Group,
    Length,
    OrderBias,
    SurestError,
)

BINS = 5
"""Bins of confidence between 0.5 and 1."""
SIMULATED = 2000


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """A pair of gold with the judge's label on it."""

    pair: GoldPair
    label: PreferenceLabel

    @property
    def prob_right(self) -> float | None:
        """P(the answer that gold prefers is better); None without a label."""
        prob_a = self.label.prob_a
        return prob_a if prob_a is None or self.pair.a_is_better else 1 - prob_a


def failure_kinds(records: Iterable[PreferenceLabel | Verdict]) -> dict[str, int]:
    """How many of the labels or verdicts failed, by kind."""
    return dict(Counter(record.failure.kind for record in records if record.failure is not None))


def accuracy(rows: Sequence[JudgedPair], draw: Draw) -> Accuracy:
    """Of the rows with a label."""
    known = [(row.pair, p) for row in rows if (p := row.prob_right) is not None]
    judge = [(pair.prompt_id, preferred(p)) for pair, p in known]
    shorter = [(pair.prompt_id, shorter_wins(pair)) for pair, _ in known]
    longer = [(prompt, 1 - right) for prompt, right in shorter]
    return Accuracy(
        pairs=len(known),
        judge=share_of(draw, judge),
        shorter=share_of(draw, shorter),
        longer=share_of(draw, longer),
        over_shorter=difference(judge, shorter, draw),
        over_longer=difference(judge, longer, draw),
    )


def shorter_wins(pair: GoldPair) -> float:
    """1 where the answer that gold prefers is the shorter one in characters, 0 where it is the longer, else 0.5."""
    return preferred(0.5 + len(pair.worse.text) - len(pair.better.text))


def share_of(draw: Draw, values: Sequence[Keyed]) -> Estimate | None:
    """The mean share with its interval; without one for a single prompt, which says nothing about others."""
    return _of_several(draw.share(values))


def difference(this: Sequence[Keyed], that: Sequence[Keyed], draw: Draw) -> Estimate | None:
    """The mean difference of two shares with its interval; without one for a single prompt."""
    return _of_several(draw.share_difference(this, that))


def _of_several(found: Estimate | None) -> Estimate | None:
    return replace(found, low=None, high=None) if found is not None and found.prompts == 1 else found


def calibration(rows: Sequence[JudgedPair], draw: Draw) -> Calibration | None:
    """Of the rows with a label; None where there is none."""
    known = [(row.pair.prompt_id, p) for row in rows if (p := row.prob_right) is not None]
    places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in known))}
    brier = draw.mean([(prompt, (1 - p) ** 2) for prompt, p in known])
    if brier is None:
        return None
    confidence = np.array([max(p, 1 - p) for _, p in known])
    right = np.array([preferred(p) for _, p in known])
    place = np.minimum((2 * (confidence - 0.5) * BINS + 1e-9).astype(int), BINS - 1)
    prompts = np.array([places[prompt] for prompt, _ in known])
    drawn = calibrated(confidence, prompts, alike(confidence, right, prompts), draw.seed)
    chance = sorted(_ece(confidence, next(drawn), place) for _ in range(SIMULATED))
    return Calibration(
        brier=brier,
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        ece=_ece(confidence, right, place),
        ece_chance=chance[math.ceil(0.95 * SIMULATED) - 1],
        bins=[_bin(index, confidence[place == index], right[place == index]) for index in range(BINS)],
    )


def alike(confidence: np.ndarray, right: np.ndarray, prompts: np.ndarray) -> float:
    """How alike the pairs (N,) of a prompt come out, 0 to 1: as if drawn apart, to all by one draw.

    The products of what two pairs of a prompt are above their confidence, summed, over what that sum would be if each
    prompt were one draw u and a pair right where u < its confidence: min(c, c') - c c' for a pair of pairs.
    """
    observed = most = 0.0
    for prompt in range(prompts.max() + 1):
        sure = np.sort(confidence[prompts == prompt])
        above = (right - confidence)[prompts == prompt]
        observed += above.sum() ** 2 - (above**2).sum()
        most += 2 * (sure * np.arange(len(sure))[::-1]).sum() - (sure.sum() ** 2 - (sure**2).sum())
    return float(np.clip(observed / most, 0, 1)) if most > 1e-9 else 0.0


def calibrated(confidence: np.ndarray, prompts: np.ndarray, alike: float, seed: int) -> Iterator[np.ndarray]:
    """Draw after draw, which pairs (N,) a judge has right whose accuracy is what its confidence says, and whose pairs
    come out so much alike within a prompt: a pair takes its prompt's draw, or else one of its own."""
    random = np.random.default_rng(seed)
    while True:
        draws = random.random(len(confidence))
        if alike > 0:
            own_prompt = random.random(prompts.max() + 1)[prompts]
            draws = np.where(random.random(len(draws)) < math.sqrt(alike), own_prompt, draws)
        yield draws < confidence


def _ece(confidence: np.ndarray, right: np.ndarray, place: np.ndarray) -> float:
    return float(np.abs(np.bincount(place, right - confidence, minlength=BINS)).sum()) / len(confidence)


def _bin(index: int, confidence: np.ndarray, right: np.ndarray) -> ConfidenceBin:
    low, high = (0.5 + (index + step) / (2 * BINS) for step in (0, 1))
    if not len(confidence):
        return ConfidenceBin(low, high, 0, None, None)
    return ConfidenceBin(low, high, len(confidence), float(confidence.mean()), float(right.mean()))


def order(rows: Sequence[JudgedPair], draw: Draw) -> OrderBias | None:
    """None where no question was answered in both orders."""
    flips: list[Keyed] = []
    first: list[Keyed] = []
    gaps = []
    for row in rows:
        prompt = row.pair.prompt_id
        asked: dict[tuple[str, str], list[float]] = {}
        for verdict in row.label.verdicts:
            if verdict.order != "none" and verdict.prob_a is not None and verdict.prob_first is not None:
                asked.setdefault((verdict.member, verdict.principle_id), []).append(verdict.prob_a)
                first.append((prompt, preferred(verdict.prob_first)))
        for one, other in (both for both in asked.values() if len(both) == 2):
            flips.append((prompt, 1 - agree(one, other)))
            gaps.append(abs(one - other))
    turned, share = share_of(draw, flips), share_of(draw, first)
    if turned is None or share is None:
        return None
    return OrderBias(len(flips), turned, share, math.fsum(gaps) / len(gaps))


def length(rows: Sequence[JudgedPair], draw: Draw) -> Length:
    """Of the rows with a label."""
    judge, gold = [], []
    for row in rows:
        if row.label.prob_a is not None:
            pair = row.pair
            longer = _doublings(pair.comparison.a.text) - _doublings(pair.comparison.b.text)
            judge.append((pair.prompt_id, longer, row.label.prob_a - 0.5))
            gold.append((pair.prompt_id, longer, pair.a_is_better - 0.5))
    fits = [slope(points, seed=draw.seed, resamples=draw.resamples) for points in (judge, gold)]
    return Length(*fits)


def _doublings(text: str) -> float:
    return math.log2(max(1, len(text)))


def ceiling(rows: Sequence[JudgedPair], draw: Draw) -> Ceiling | None:
    """None where no pair with a label has several raters whose others prefer an answer."""
    rater: list[Keyed] = []
    judge: list[Keyed] = []
    for row in rows:
        prob_a, raters = row.label.prob_a, row.pair.raters
        if prob_a is None or len(raters) < 2:
            continue
        own, judged = [], []
        for place, (a, b) in enumerate(raters):
            others = math.fsum(y - x for x, y in (*raters[:place], *raters[place + 1 :]))
            if abs(others) > 1e-9:
                target = preferred(0.5 + others)
                own.append(agree(preferred(0.5 + b - a), target))
                judged.append(agree(prob_a, target))
        if own:
            rater.append((row.pair.prompt_id, math.fsum(own) / len(own)))
            judge.append((row.pair.prompt_id, math.fsum(judged) / len(judged)))
    people, theirs, gap = share_of(draw, rater), share_of(draw, judge), difference(judge, rater, draw)
    if people is None or theirs is None or gap is None:
        return None
    return Ceiling(len(rater), people, theirs, gap)


def errors(rows: Sequence[JudgedPair], most: int) -> Errors:
    """How many pairs the judge has wrong, a tie not being wrong, and at most `most` to read; ties of confidence in the
    order of ids."""
    known = [(p, row.pair.identity, row) for row in rows if (p := row.prob_right) is not None and p < 0.5]
    wrong = sorted(known, key=lambda one: one[:2])
    first: dict[str, SurestError] = {}
    for p, _, row in wrong:
        pair, under = row.pair, dict.fromkeys(verdict.principle_id for verdict in row.label.verdicts)
        found = SurestError(
            pair=pair.comparison.id,
            prompt=pair.comparison.prompt,
            better=pair.better.text,
            preferred=pair.worse.text,
            confidence=1 - p,
            principles=list(under),
            tags=list(pair.tags),
        )
        first.setdefault(pair.prompt_id, found)
    return Errors(len(wrong), list(first.values())[:most])


def groups(rows: Sequence[JudgedPair], draw: Draw) -> list[Group]:
    """One per tag of the pairs, in order of their names; a pair with several tags is in each."""
    by_tag: dict[str, list[JudgedPair]] = {}
    for row in rows:
        for tag in dict.fromkeys(row.pair.tags):
            by_tag.setdefault(tag, []).append(row)
    found = {tag: accuracy(by_tag[tag], draw) for tag in sorted(by_tag)}
    return [Group(tag, part.pairs, part.judge, part.shorter) for tag, part in found.items()]
