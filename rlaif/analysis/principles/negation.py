"""The negation test: turn a principle into its opposite and see whether the judge notices.

`pairwise`, `cot`, `rating`
            the rule and the question are turned round by a fixed wording. A judge that reads them prefers the other
            answer.
`contrast`  followed and violated swapped as a whole would give 1 - P by arithmetic and test nothing. So only the two
            system prompts are swapped, and the examples stay: whether the preference turns says which of the two
            decides, the rule's words or the demonstrations. Without examples it always turns: that tests nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from rlaif.core.progress import Task
from rlaif.core.records import Comparison, PreferenceLabel, Principle
from rlaif.core.statistics import MIN_PROMPTS, Draw, Estimate, Keyed, agree
from rlaif.judge.aggregate import votes
from rlaif.judge.judge import Judge
from rlaif.judge.methods.method import Method
from rlaif.judge.methods.table import in_use

OPPOSITE_RULE = 'Do the opposite of what stands between these marks: "{statement}"'
OPPOSITE_QUESTION = "Which answer goes more against what stands between the marks?"
OPPOSITE_OWN_QUESTION = 'Which answer should lose if one asks "{comparison}"'


@dataclass(frozen=True, slots=True)
class Negation:
    """One principle beside its inverse on the same `pairs`, of which `compared` have a preference under it and a vote
    under the inverse; `ties` are exactly one half under it, `failures` count the others by kind.

    `turned`: share that prefer the other answer under the inverse; one half there is half a turn. `stayed`: the mean of
    P + P under the inverse - 1, P of the answer that the principle prefers: 0 where the two are complements, above 0
    where the preference stays. `by_construction`: the inverse must turn every pair, so nothing is tested.
    """

    id: str
    pairs: int
    compared: int
    ties: int
    failures: dict[str, int]
    turned: Estimate | None
    stayed: Estimate | None
    by_construction: bool
    verdict: str


def inverse(principle: Principle, methods: Sequence[Method]) -> Principle:
    """The principle turned round for the judging methods; its id stays. See the top of this file."""
    if any(method.needs_contrast for method in methods):
        pair = principle.contrast
        assert pair is not None
        principle = replace(principle, contrast=replace(pair, followed=pair.violated, violated=pair.followed))
        if all(method.needs_contrast for method in methods):
            return principle
    own = principle.comparison
    return replace(
        principle,
        statement=OPPOSITE_RULE.format(statement=principle.statement),
        comparison=OPPOSITE_QUESTION if own is None else OPPOSITE_OWN_QUESTION.format(comparison=own),
    )


def negations(labels: Sequence[PreferenceLabel], judge: Judge, size: int, draw: Draw, task: Task) -> list[Negation]:
    """One per principle with a weight: the first `size` of the labels' pairs that it applies to, judged anew under it
    and under its inverse. What was judged before comes from the judge's cache."""
    found = []
    for principle in judge.constitution.principles:
        applies = (label.comparison for label in labels if principle in judge.principles(label.comparison))
        pairs = list(islice(applies, size))
        if pairs:
            found.append(_negation(principle, pairs, judge, draw))
        task.advance()
    return found


def _negation(principle: Principle, pairs: Sequence[Comparison], judge: Judge, draw: Draw) -> Negation:
    methods = in_use(judge.config)
    examples = all(method.needs_contrast for method in methods)
    sides = []
    for asked in (principle, inverse(principle, methods)):
        labels = judge.label_under(pairs, [(asked,)] * len(pairs))
        sides.append([vote for label in labels for vote in votes(label.verdicts, [asked], judge.settling.panel)])
    turned: list[Keyed] = []
    stayed: list[Keyed] = []
    failures: Counter[str] = Counter()
    ties = 0
    for pair, here, there in zip(pairs, *sides, strict=True):
        failure = here.failure or there.failure
        if failure is not None:
            failures[failure.kind] += 1
        elif here.prob_a == 0.5:
            ties += 1
        elif here.prob_a is not None and there.prob_a is not None:
            side = 1 if here.prob_a > 0.5 else -1
            turned.append((pair.prompt.id, 1 - agree(here.prob_a, there.prob_a)))
            stayed.append((pair.prompt.id, side * (here.prob_a + there.prob_a - 1)))
    share = draw.share(turned)
    nothing = bool(ties) and ties == len(pairs)
    empty = examples and principle.contrast is not None and not principle.contrast.examples
    return Negation(
        id=principle.id,
        pairs=len(pairs),
        compared=len(turned),
        ties=ties,
        failures=dict(failures),
        turned=share,
        stayed=draw.mean(stayed),
        by_construction=empty,
        verdict="one half on every pair: nothing to turn" if nothing else _verdict(share, examples, empty),
    )


def _verdict(turned: Estimate | None, examples: bool, by_construction: bool) -> str:
    """What the interval allows to say; with `examples` they, and not the words alone, were shown to the judge."""
    if by_construction:
        return "no examples: turns by construction, tests nothing"
    if turned is None or turned.low is None or turned.high is None:
        return "not measured"
    if turned.prompts < MIN_PROMPTS:
        return "too few prompts"
    if turned.side(0.5) > 0:
        return "turns: the words outweigh the examples" if examples else "turns: the judge notices"
    if turned.side(0.5) < 0:
        return "stays: the examples decide" if examples else "stays: the judge does not notice"
    return "not clear"
