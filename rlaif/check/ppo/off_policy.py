"""Tokens that another engine sampled weigh what makes up for it; those that the policy sampled weigh 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from rlaif.check.ppo.subject import Deviation, Subject, apart, real

RATIOS = (0.5, 1.5, 5.0)
"""Of the policy's probability of a token to the sampler's, over and over; with a cap of 2 the last one weighs 2."""
WEIGHTS = (0.5, 1.5, 2.0)


def importance_weights(subject: Subject) -> Iterator[Deviation]:
    """A token weighs policy over sampler in the policy's loss, at most the cap; 1 where the policy itself sampled."""
    own = subject.trainer(moved=True, rollouts="local")
    plain, _ = own.measure(subject.probe)
    yield Deviation(
        "weights of the policy's own samples, off 1", apart(plain.importance, torch.ones_like(plain.values))
    )
    trainer = subject.trainer(moved=True, rollouts="server", importance_cap=2.0)
    size = len(subject.probe)
    for how, ratios, weights in (("the policy's", (1.0,), (1.0,)), ("another's", RATIOS, WEIGHTS)):
        lengths = [len(response) for response in subject.probe.responses]
        given = tuple(
            tuple(float(plain.logprobs[row, i]) - math.log(ratios[i % len(ratios)]) for i in range(length))
            for row, length in enumerate(lengths)
        )
        batch, _ = trainer.measure(replace(subject.probe, sampler_logprobs=given))
        taken, wanted = trainer.advantages(batch, range(size)), own.advantages(plain, range(size))
        for row, length in enumerate(lengths):
            right = torch.tensor([weights[i % len(weights)] for i in range(length)])
            off = apart(real(batch, "importance", row), right)
            yield Deviation(f"weights of {how} samples, {subject.row(row)}", off, subject.rounding)
            off = apart(taken[row, :length], wanted[row, :length] * right)
            limit = subject.rounding * 10 * max(1.0, float(wanted.abs().max()))
            yield Deviation(f"weighted advantages of {how} samples, {subject.row(row)}", off, limit)
