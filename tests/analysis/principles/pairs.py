"""Voted pairs made of numbers, one per line of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlaif.analysis.principles.measure import Influence, influences
from rlaif.analysis.principles.pairs import VotedPair
from rlaif.core.records import Failure, Principle
from rlaif.core.statistics import Draw
from rlaif.judge.aggregate import Settling, Vote

DRAW = Draw(seed=1, resamples=20)
FAILED = Failure("parse", "no letter")


def rules(*names: str, weights: Sequence[float] = (), tiers: Sequence[int] = ()) -> list[Principle]:
    return [
        Principle(
            name, f"Be {name}.", weight=weights[n] if weights else 1.0, priority=tiers[n] if tiers else 1
        )
        for n, name in enumerate(names)
    ]  # fmt: skip


def pair(
    number: int,
    principles: Sequence[Principle],
    votes: Sequence[float | Failure | None],
    *,
    lengths: tuple[int, int] = (10, 10),
    margin: float | None = None,
    abstain: float = 0.0,
) -> VotedPair:
    """Pair `number` of a prompt of its own; a vote of None was not asked for."""
    given = tuple(
        Vote(principle, None, None, vote) if isinstance(vote, Failure) else Vote(principle, vote, None, None)
        for principle, vote in zip(principles, votes, strict=True)
        if vote is not None
    )
    return VotedPair(
        f"pair{number}", f"prompt{number}", lengths, given, Settling(tier_margin=margin, abstain_below=abstain)
    )


def influence(
    pairs: Sequence[VotedPair], principles: Sequence[Principle], gold: Mapping[str, float] | None = None
) -> dict[str, Influence]:
    return {row.id: row for row in influences(pairs, principles, gold or {}, DRAW)}
