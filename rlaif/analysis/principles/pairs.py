"""The pairs that principles are measured on: their votes and their label, stored or judged under all principles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlaif.core.records import Constitution, PreferenceLabel, content_id
from rlaif.gold.text import alike
from rlaif.judge.aggregate import Settling, Vote, settled, speaking, votes


@dataclass(frozen=True, slots=True)
class VotedPair:
    """One pair: what each principle that was asked says of it, and the label P(A is better) that comes of it."""

    id: str
    prompt_id: str
    lengths: tuple[int, int]
    votes: tuple[Vote, ...]
    settling: Settling

    @property
    def prob_a(self) -> float | None:
        return self._label(self.votes)

    def prob_without(self, principle_id: str) -> float | None:
        """The label of the others; None where they make none."""
        return self._label([vote for vote in self.votes if vote.principle.id != principle_id])

    def deciders(self) -> list[str]:
        """The ids of the principles that push the most towards the label: weight * |P - 0.5|, in the tier that
        speaks. Several where they push alike; none without a label, or with one of exactly 0.5."""
        label = self.prob_a
        if label is None or label == 0.5:
            return []
        side = 1 if label > 0.5 else -1
        pushes = {
            vote.principle.id: side * vote.principle.weight * (vote.prob_a - 0.5)
            for vote in speaking(self.votes, self.settling.tier_margin)
            if vote.prob_a is not None
        }
        strongest = max(pushes.values())
        return [name for name, push in pushes.items() if push == strongest]

    @property
    def length_matched(self) -> bool:
        """Whether the answers are of about the same length."""
        return alike(*self.lengths)

    def _label(self, given: Sequence[Vote]) -> float | None:
        return settled(given, self.settling).prob_a


def voted_pairs(labels: Sequence[PreferenceLabel], constitution: Constitution, settling: Settling) -> list[VotedPair]:
    """One pair per label, in order; lengths are in characters, as in the tests of principles."""
    return [
        VotedPair(
            id=label.comparison.id,
            prompt_id=label.comparison.prompt.id,
            lengths=(len(label.comparison.a.text), len(label.comparison.b.text)),
            votes=tuple(votes(label.verdicts, constitution.principles, settling.panel)),
            settling=settling,
        )
        for label in labels
    ]


def spread(labels: Sequence[PreferenceLabel], seed: int) -> list[PreferenceLabel]:
    """The labels in an order drawn by hash: one pair of every prompt, then a second one of each, and so on.

    So any beginning is spread over the prompts, and a longer one contains the shorter. Which answer stands as A does
    not matter to the draw.
    """
    prompts: dict[str, list[PreferenceLabel]] = {}
    for label in sorted(labels, key=lambda label: _hash(seed, label)):
        prompts.setdefault(label.comparison.prompt.id, []).append(label)
    turns = [(turn, place, label) for place, own in enumerate(prompts.values()) for turn, label in enumerate(own)]
    return [label for _, _, label in sorted(turns, key=lambda item: item[:2])]


def _hash(seed: int, label: PreferenceLabel) -> str:
    pair = label.comparison
    return content_id("principles", seed, pair.prompt.id, *sorted((pair.a.id, pair.b.id)))
