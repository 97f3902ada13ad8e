"""The suite: every exact check of PPO, run one after the other on a subject.

Each stands for a defect that some library had for months or years; docs/reference/ppo.md has the list
beside what it found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlaif.check.ppo import batches, off_policy, rewards, start, updates
from rlaif.check.ppo.subject import Check, Deviation, Subject
from rlaif.core.errors import RlaifError
from rlaif.training.ppo.rollout import NotFiniteError

CHECKS: tuple[Check, ...] = (
    start.sft_model,
    start.first_update,
    start.dropout,
    start.precision,
    start.merged_weights,
    start.sampler,
    start.end_token,
    batches.response_mask,
    batches.company,
    batches.accumulation,
    batches.metrics,
    rewards.reward_place,
    rewards.advantages,
    rewards.whitening,
    off_policy.importance_weights,
    rewards.kl_controller,
    rewards.reward_source,
    rewards.reward_model,
    rewards.reward_critic,
    updates.reference_stays,
    updates.trained_weights,
    updates.losses,
    updates.optimiser,
    updates.mini_batches,
    updates.exploding_update,
    updates.not_a_number,
    updates.resume,
)


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What became of one check: the measure furthest beyond (or nearest to) its limit, and how many there were."""

    name: str
    claim: str
    ok: bool
    place: str
    off: float
    limit: float
    measures: int

    @property
    def applies(self) -> bool:
        """False for a check that found nothing to check here, such as that of a reward model where there is none."""
        return self.measures > 0

    def as_json(self) -> dict[str, Any]:
        """The fields, with None for an `off` that is no finite number."""
        return {**asdict(self), "applies": self.applies, "off": self.off if math.isfinite(self.off) else None}

    def __str__(self) -> str:
        """One line: what was found where; for a failure what must be true on a second one."""
        if not self.applies:
            return f"{'absent':<7} {self.name:<17} {self.place}"
        figure = f"{_short(self.off)} off, {_short(self.limit)} allowed" if self.measures else ""
        line = f"{'ok' if self.ok else 'failed':<7} {self.name:<17} {figure}: {self.place}"
        return line if self.ok else f"{line}\n{'':<25} must be true: {self.claim}"


def _short(value: float) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def name_of(check: Check) -> str:
    return str(getattr(check, "__name__", "check")).replace("_", "-")


def claim_of(check: Check) -> str:
    return (check.__doc__ or "").strip().splitlines()[0]


def outcome(check: Check, subject: Subject) -> CheckOutcome:
    """The check's outcome; an error of the user's own parts (reward, template, judge) is a failure with its words."""
    name, claim = name_of(check), claim_of(check)
    measures: list[Deviation] = []
    try:
        measures += check(subject)
    except (RlaifError, NotFiniteError) as problem:
        return CheckOutcome(name, claim, False, str(problem), float("nan"), 0.0, len(measures) + 1)
    if not measures:
        return CheckOutcome(name, claim, True, "does not apply here", 0.0, 0.0, 0)
    worst = max(measures, key=_beyond)
    return CheckOutcome(name, claim, all(m.ok for m in measures), worst.what, worst.off, worst.limit, len(measures))


def _beyond(measure: Deviation) -> tuple[bool, float]:
    """Failed ones first, then by how much of the limit is used up."""
    share = measure.off / max(measure.limit, 1e-12)
    return not measure.ok, math.inf if math.isnan(share) else share


def run(subject: Subject, checks: Sequence[Check] = CHECKS) -> Iterator[CheckOutcome]:
    """The outcomes, in order, each as soon as it is known."""
    for check in checks:
        yield outcome(check, subject)
