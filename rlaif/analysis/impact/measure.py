"""What an edit comes to: flips and shifts of the labels with intervals, overall and by group, and pairs to read.

Everything is paired: a pair is compared with itself under both constitutions, differences are averaged per prompt,
and prompts are what the bootstrap resamples (rlaif.core.statistics).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlaif.analysis.impact.relabel import Relabelled, VerdictCount
from rlaif.constitution.diff import Difference
from rlaif.core.records import Comparison, Constitution, Failure, PreferenceLabel, Principle, Prompt
from rlaif.core.statistics import MIN_PROMPTS, Estimate, Keyed, agree, mean, mean_share, preferred, share_difference
from rlaif.judge.aggregate import ALONE, votes


@dataclass(frozen=True, slots=True)
class PrincipleEdit:
    """One principle on both sides; `before` is None for an added one, `after` for a dropped one."""

    id: str
    kind: str
    words: str
    before: Principle | None
    after: Principle | None


def edits(before: Constitution, after: Constitution, difference: Difference) -> list[PrincipleEdit]:
    """One edit per principle of either side: those of `after` in its order, then the dropped ones."""
    old, new = ({p.id: p for p in constitution.principles} for constitution in (before, after))
    changes = {change.id: change for change in difference.changes if change.kind != "dropped"}
    found = []
    for name, principle in new.items():
        change = changes.get(name)
        if change is None:
            found.append(PrincipleEdit(name, "unchanged", "unchanged", old[name], principle))
        else:
            previous = None if change.kind == "added" else old[change.was or name]
            found.append(PrincipleEdit(name, change.kind, change.words, previous, principle))
    dropped = [change for change in difference.changes if change.kind == "dropped"]
    return found + [PrincipleEdit(change.id, change.kind, change.words, old[change.id], None) for change in dropped]


@dataclass(frozen=True, slots=True)
class PairGroup:
    """The pairs of some prompts. `kind` is "all", "slice" or "tag".

    `compared` of the `pairs` have a label on both sides; `flips` of these prefer another response now, one to or
    from exactly 0.5 counted half, as in win rates. `flip_rate`, `shift` (new `prob_a` - old) and `moved` (its absolute
    value) are means over prompts, None where nothing is compared. Where prompts all have one flip rate a bootstrap has
    no width, and the interval of `flip_rate` is Wilson's, of prompts; where no label moved it has none. `appeared` and
    `vanished` count labels by why there was, or is, none: "abstained" or "failed". `unlabelled` pairs have no label on
    either side.
    """

    kind: str
    name: str
    prompts: int
    pairs: int
    compared: int
    flips: float
    flip_rate: Estimate | None
    shift: Estimate | None
    moved: Estimate | None
    appeared: dict[str, int]
    vanished: dict[str, int]
    unlabelled: int


@dataclass(frozen=True, slots=True)
class PromptMove:
    """A prompt whose labels moved: of its `compared` pairs, `flips` prefer another response (a half for to or from
    exactly 0.5), and `moved` is the mean of |new - old|."""

    prompt: Prompt
    compared: int
    flips: float
    moved: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often the judge prefers what the file's own labels prefer, under each constitution, and the paired
    difference (new - old), all means over prompts. Of `pairs` with a preference in the file and a label on both sides;
    a label of exactly 0.5 agrees by half."""

    pairs: int
    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class PrincipleImpact:
    """One principle: what the edit was, in a word and in words, and the verdicts under it that the new labels need."""

    id: str
    kind: str
    edit: str
    needed: int
    reused: int
    judged: int


@dataclass(frozen=True, slots=True)
class PairVote:
    """What one principle says of a pair: P(A is better), the mean over the orders, or the kind of the failure that
    silences it, as one failed order does in the label."""

    weight: float
    prob_a: float | None
    failure: str | None


@dataclass(frozen=True, slots=True)
class VoteChange:
    """A principle whose say on a pair changed; None on a side where the pair is not judged under it."""

    principle: str
    edit: str
    before: PairVote | None
    after: PairVote | None


@dataclass(frozen=True, slots=True)
class PairChange:
    """A pair whose label moved, with the principles whose say changed."""

    comparison: Comparison
    prob_before: float
    prob_after: float
    flipped: bool
    votes: tuple[VoteChange, ...]


def groups(pairs: Sequence[Relabelled], *, seed: int, resamples: int) -> tuple[list[PairGroup], list[str]]:
    """All pairs, then every slice and tag with at least MIN_PROMPTS prompts; and the slices and tags with fewer."""
    members: dict[tuple[str, str], list[Relabelled]] = {}
    for pair in pairs:
        prompt = pair.before.comparison.prompt
        parts = [("slice", prompt.slice)] if prompt.slice else []
        for key in (*parts, *(("tag", tag) for tag in dict.fromkeys(prompt.tags))):
            members.setdefault(key, []).append(pair)
    found, small = [_group("all", "all pairs", pairs, seed, resamples)], []
    for (kind, name), part in sorted(members.items()):
        prompts = len({pair.before.comparison.prompt.id for pair in part})
        if prompts >= MIN_PROMPTS:
            found.append(_group(kind, name, part, seed, resamples))
        else:
            small.append(f"{kind} {name} ({prompts})")
    return found, small


def _group(kind: str, name: str, pairs: Sequence[Relabelled], seed: int, resamples: int) -> PairGroup:
    flips: list[Keyed] = []
    shifts: list[Keyed] = []
    appeared, vanished = {"abstained": 0, "failed": 0}, {"abstained": 0, "failed": 0}
    unlabelled = 0
    for pair in pairs:
        old, new = pair.before.prob_a, pair.after.prob_a
        if old is not None and new is not None:
            prompt = pair.before.comparison.prompt.id
            flips.append((prompt, 1 - agree(new, old)))
            shifts.append((prompt, new - old))
        elif old is None and new is None:
            unlabelled += 1
        elif old is None:
            appeared[_why(pair.before.failure)] += 1
        else:
            vanished[_why(pair.after.failure)] += 1
    moved = [(prompt, None if shift is None else abs(shift)) for prompt, shift in shifts]
    # Where no label moved at all there is nothing to estimate: the edit does not reach these pairs.
    share = mean_share if any(value for _, value in shifts) else mean
    rate = share(flips, seed=seed, resamples=resamples)
    shift, size = (mean(values, seed=seed, resamples=resamples) for values in (shifts, moved))
    prompts = len({pair.before.comparison.prompt.id for pair in pairs})
    number = sum(value for _, value in flips if value is not None)
    return PairGroup(
        kind, name, prompts, len(pairs), len(flips), number, rate, shift, size, appeared, vanished, unlabelled
    )


def agreement(
    pairs: Sequence[Relabelled], given: Mapping[str, float], *, seed: int, resamples: int
) -> Agreement | None:
    """The agreement with labels that are `given` by comparison id; None where no pair can be compared."""
    old: list[Keyed] = []
    new: list[Keyed] = []
    for pair in pairs:
        comparison, truth = pair.before.comparison, given.get(pair.before.comparison.id, 0.5)
        if truth != 0.5 and pair.before.prob_a is not None and pair.after.prob_a is not None:
            for values, prob in ((old, pair.before.prob_a), (new, pair.after.prob_a)):
                values.append((comparison.prompt.id, agree(prob, truth)))
    before, after = (mean_share(values, seed=seed, resamples=resamples) for values in (old, new))
    difference = share_difference(new, old, seed=seed, resamples=resamples)
    if before is None or after is None or difference is None:
        return None
    return Agreement(len(old), before, after, difference)


def _why(failure: Failure | None) -> str:
    return "abstained" if failure is not None and failure.kind == "abstained" else "failed"


def principle_impacts(edits: Sequence[PrincipleEdit], tallies: dict[str, VerdictCount]) -> list[PrincipleImpact]:
    """One line per principle of either side; a dropped one needs no verdict."""
    found = []
    for edit in edits:
        tally = VerdictCount() if edit.after is None else tallies[edit.id]
        found.append(PrincipleImpact(edit.id, edit.kind, edit.words, tally.needed, tally.reused, tally.judged))
    return found


def prompt_moves(pairs: Sequence[Relabelled]) -> list[PromptMove]:
    """The prompts whose labels moved, those with the largest share of flips first, then by how far they moved."""
    members: dict[str, list[tuple[Prompt, float, float]]] = {}
    for pair in pairs:
        old, new, prompt = pair.before.prob_a, pair.after.prob_a, pair.before.comparison.prompt
        if old is not None and new is not None:
            flip = 1 - agree(new, old)
            members.setdefault(prompt.id, []).append((prompt, flip, abs(new - old)))
    found = [
        PromptMove(part[0][0], len(part), sum(flip for _, flip, _ in part), sum(size for *_, size in part) / len(part))
        for part in members.values()
        if any(size for *_, size in part)
    ]
    return sorted(found, key=lambda move: (-move.flips / move.compared, -move.moved, move.prompt.id))


def most_changed(
    pairs: Sequence[Relabelled], edits: Sequence[PrincipleEdit], limit: int, panel: Mapping[str, float] = ALONE
) -> list[PairChange]:
    """The `limit` pairs to read: those that flipped, then the others, each by how far `prob_a` moved, ties in the order
    of ids; those that did not move are left out."""
    moved = []
    for pair in pairs:
        old, new = pair.before.prob_a, pair.after.prob_a
        if old is not None and new is not None and old != new:
            flipped = preferred(old) != preferred(new)
            moved.append((not flipped, -abs(new - old), pair.before.comparison.id, old, new, pair))
    moved.sort(key=lambda item: item[:3])
    return [
        PairChange(pair.before.comparison, old, new, not stayed, tuple(_votes(pair, edits, panel)))
        for stayed, _, _, old, new, pair in moved[:limit]
    ]


def _votes(pair: Relabelled, edits: Sequence[PrincipleEdit], panel: Mapping[str, float]) -> Iterator[VoteChange]:
    for edit in edits:
        before, after = _vote(pair.before, edit.before, panel), _vote(pair.after, edit.after, panel)
        if before != after:
            yield VoteChange(edit.id, edit.words, before, after)


def _vote(label: PreferenceLabel, principle: Principle | None, panel: Mapping[str, float]) -> PairVote | None:
    verdicts = [] if principle is None else [v for v in label.verdicts if v.principle_id == principle.id]
    if principle is None or not verdicts:
        return None
    (found,) = votes(verdicts, [principle], panel)
    return PairVote(principle.weight, found.prob_a, None if found.failure is None else found.failure.kind)
