"""Nothing depends on padding, on the company a response is in, or on how a batch is split."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlaif.check.ppo.subject import Deviation, Subject, apart, real
from rlaif.training.ppo.advantages import token_weights
from rlaif.training.ppo.rollout import DERIVED, MEASURED, RolloutBatch, batch_metrics
from rlaif.training.ppo.step import PpoTrainer

TENSORS = ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns")


def company(subject: Subject) -> Iterator[Deviation]:
    """Log-probs, values and scores do not depend on padding, batch, micro-batch or order; nor do the advantages.

    But for values that the reward model makes as critic: these are fitted on the batch.
    """
    trainer = subject.trainer(moved=True)
    size = len(subject.probe)
    whole, _ = trainer.measure(subject.probe)
    order = [*range(1, size, 2), *range(0, size, 2)]  # the two responses to a prompt stand apart
    mixed, _ = trainer.measure(subject.probe.only(order))
    ways = [("in another order", mixed, order)]
    for micro in (1, size):
        other = subject.trainer(moved=True, micro_batch_size=micro)
        ways.append((f"in micro-batches of {micro}", other.measure(subject.probe)[0], list(range(size))))
    for how, batch, rows in ways:
        for name in (*MEASURED, *DERIVED):
            yield from _compared(subject, name, how, batch, rows, whole)
    alone = [trainer.measure(subject.probe.only([row]))[0] for row in range(size)]
    for name in MEASURED:
        if name == "values" and subject.config.reward_is_critic:  # those are fitted on the batch
            continue
        for row, single in enumerate(alone):
            off = apart(real(single, name, 0), real(whole, name, row))
            yield Deviation(f"{name}, alone against padded, {subject.row(row)}", off, _limit(subject, name))


def _compared(
    subject: Subject, name: str, how: str, batch: RolloutBatch, rows: list[int], whole: RolloutBatch
) -> Iterator[Deviation]:
    for place, row in enumerate(rows):
        off = apart(real(batch, name, place), real(whole, name, row))
        yield Deviation(f"{name}, {how}, {subject.row(row)}", off, _limit(subject, name))


def _limit(subject: Subject, name: str) -> float:
    """Rounding adds up over the tokens where sums of log-probs or values enter."""
    return subject.rounding * (10 if name in DERIVED else 1)


def accumulation(subject: Subject) -> Iterator[Deviation]:
    """Loss and gradient of a mini-batch do not depend on micro-batches, order or what stands under the padding."""
    trainer = subject.trainer(moved=True)
    batch, _ = trainer.measure(subject.probe)
    subject.move(0.002)  # so that ratios are not 1
    rows = list(range(len(subject.probe)))
    found, wanted = _gradient(trainer, batch, rows)
    yield Deviation("steps of the policy without an effect", float(found["approx_kl"] == 0))
    junk: dict[str, Any] = {name: torch.where(batch.response_mask, getattr(batch, name), math.nan) for name in TENSORS}
    moved = {name: p.detach().clone() for name, p in trainer.model.trained.items()}
    ways = [("junk under the padding", trainer, replace(batch, **junk), rows), ("order", trainer, batch, rows[::-1])]
    for micro in (1, len(rows)):
        other = subject.trainer(micro_batch_size=micro)
        other.model.load_adapter_state(moved)
        ways.append((f"micro-batches of {micro}", other, batch, rows))
    tolerance = 0.1 if subject.rounding > 0.01 else 2e-3
    for how, work, given, order in ways:
        metrics, gradient = _gradient(work, given, order)
        for name in ("policy_loss", "value_loss", "clip_fraction", "approx_kl"):
            yield Deviation(
                f"{name}, {how}", abs(metrics[name] - found[name]), subject.rounding * max(1.0, found[name])
            )
        length = float(wanted.norm())
        yield Deviation(f"gradient, {how}, as a share of its length", apart_norm(gradient, wanted) / length, tolerance)


def _gradient(work: PpoTrainer, batch: RolloutBatch, rows: list[int]) -> tuple[dict[str, float], Tensor]:
    """What a mini-batch measures, and its gradient as one flat vector; weights without one count as 0."""
    found = work.gradients(batch, rows, warmup=False)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in work.model.trained.values()]
    return found, torch.cat([part.flatten().cpu() for part in parts])


def apart_norm(found: Tensor, wanted: Tensor) -> float:
    """The length of the difference of two vectors; infinite where it is not a number."""
    distance = float((found - wanted).norm())
    return distance if math.isfinite(distance) else math.inf


def metrics(subject: Subject) -> Iterator[Deviation]:
    """Entropy, KL, length and explained variance count real tokens alone, however far the batch is padded."""
    trainer = subject.trainer(moved=True)
    batch, entropy = trainer.measure(subject.probe)
    wide: dict[str, Any] = {name: _widened(getattr(batch, name)) for name in TENSORS}
    padded = replace(batch, response_mask=_widened(batch.response_mask, filler=0), **wide)
    found, wanted = batch_metrics(padded), batch_metrics(batch)
    for name, value in wanted.items():
        limit = 1e-5 * max(1.0, abs(value))
        yield Deviation(f"{name} of a batch padded by three tokens", abs(found[name] - value), limit)
    # From the rows one by one, which have no padding.
    lengths = [len(response) for response in subject.probe.responses]
    yield Deviation("length", abs(wanted["length"] - sum(lengths) / len(lengths)), 1e-5)
    alone = [trainer.measure(subject.probe.only([row])) for row in range(len(lengths))]
    mean = sum(n * own for n, (_, own) in zip(lengths, alone, strict=True)) / sum(lengths)
    yield Deviation("entropy, a mean over tokens", abs(entropy - mean), subject.rounding)
    kls = [float((single.logprobs - single.ref_logprobs).sum()) for single, _ in alone]
    yield Deviation("kl, a mean over responses", abs(wanted["kl"] - sum(kls) / len(kls)), subject.rounding * 10)
    yield Deviation("kl per token", abs(wanted["kl_per_token"] - sum(kls) / sum(lengths)), subject.rounding)
    yield Deviation("eos rate", abs(wanted["eos_rate"] - subject.probe.finish.count("stop") / len(lengths)))


def _widened(values: Tensor, filler: float = math.nan) -> Tensor:
    """(B, T + 3): three more columns of padding that hold `filler`."""
    return torch.cat([values, torch.full((len(values), 3), filler).to(values.dtype)], 1)


def response_mask(subject: Subject) -> Iterator[Deviation]:
    """The mask covers the response with its end token and nothing else, although pad may be the end token."""
    mask = subject.probe.mask
    for row, response in enumerate(subject.probe.responses):
        wanted = torch.arange(mask.shape[1]) < len(response)
        yield Deviation(f"wrong places in the mask, {subject.row(row)}", float((mask[row] != wanted).sum()))
    trainer = subject.trainer(moved=True)
    batch, _ = trainer.measure(subject.probe)
    for row in range(len(mask)):
        beyond = [getattr(batch, name)[row][~mask[row]] for name in ("rewards", "advantages", "returns")]
        yield Deviation(f"rewards under the padding, {subject.row(row)}", float(torch.cat(beyond).abs().sum()))
    # The end token is trained: taken from the policy, its log-prob must have a gradient.
    rows, config = [row for row, finish in enumerate(subject.probe.finish) if finish == "stop"], trainer.config
    weights = token_weights(batch.response_mask[rows], loss_type=config.loss_type, longest=config.max_new_tokens)
    for place, row in enumerate(rows):
        last = weights[place, len(subject.probe.responses[row]) - 1]
        yield Deviation(f"end tokens left out of the loss, {subject.row(row)}", float(last <= 0))
