"""While it trains: what moves, what must not, and what happens when something goes wrong."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rlaif.check.ppo.subject import Deviation, Subject, apart
from rlaif.training.ppo.rollout import NotFiniteError, RolloutBatch
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import RewardScores

FAST: dict[str, Any] = {"learning_rate": 1e-3}


def reference_stays(subject: Subject) -> Iterator[Deviation]:
    """Training moves the policy and never the reference, to the last bit; the frozen weights get no gradient."""
    trainer = subject.trainer(**FAST)
    before, _ = trainer.measure(subject.probe)
    for step in range(2):
        trainer.step(step, subject.of_step(trainer))
    after, _ = trainer.measure(subject.probe)
    for row in range(len(subject.probe)):
        off = apart(after.ref_logprobs[row], before.ref_logprobs[row])
        yield Deviation(f"reference log-probs after two steps, {subject.row(row)}", off)
    yield Deviation("policies that did not move", float(apart(after.logprobs, before.logprobs) < 1e-5))
    trained = {id(parameter) for parameter in trainer.model.trained.values()}
    others = [p for p in trainer.model.peft.parameters() if id(p) not in trained]
    yield Deviation("frozen weights with a gradient", sum(p.grad is not None or p.requires_grad for p in others))


def trained_weights(subject: Subject) -> Iterator[Deviation]:
    """Policy and critic both get a gradient; in a warm-up the critic alone does."""
    trainer = subject.trainer(moved=True)
    batch, _ = trainer.measure(subject.probe)
    subject.move(0.002)
    for warmup in (False, True) if trainer.model.critic is not None else (False,):
        trainer.gradients(batch, range(len(subject.probe)), warmup=warmup)
        policy = [p for name, p in trainer.model.trained.items() if ".policy." in name]
        critic = [p for name, p in trainer.model.trained.items() if ".policy." not in name]
        moved = [sum(p.grad is not None and bool(p.grad.any()) for p in part) for part in (policy, critic)]
        wanted = [0 if warmup else len(policy), len(critic)]
        how = "in a warm-up" if warmup else "in training"
        for name, found, right in zip(("policy", "critic"), moved, wanted, strict=True):
            yield Deviation(f"weights of the {name} with a gradient {how}, off {right}", abs(found - right))


def losses(subject: Subject) -> Iterator[Deviation]:
    """The clipped losses of a mini-batch are those written out in float64, token by token."""
    # Narrow ranges and a long way: some tokens are cut and some are not, up and down.
    trainer = subject.trainer(moved=True, cliprange=0.1, cliprange_value=0.02)
    config, rows = trainer.config, range(len(subject.probe))
    batch, _ = trainer.measure(subject.probe)
    subject.move()
    after, _ = trainer.measure(subject.probe)
    advantages = trainer.advantages(batch, rows).double()
    lengths = [len(response) for response in subject.probe.responses]
    policy = critic = divergence = 0.0
    for row, length in enumerate(lengths):
        of_token = {
            "dapo": 1 / sum(lengths),
            "grpo": 1 / (len(lengths) * length),
            "dr_grpo": 1 / (len(lengths) * config.max_new_tokens),
        }[config.loss_type]
        for t in range(length):
            log_ratio = float(after.logprobs[row, t].double() - batch.logprobs[row, t].double())
            ratio, advantage = math.exp(log_ratio), float(advantages[row, t])
            held = min(max(ratio, 1 - config.cliprange), 1 + config.cliprange)
            policy -= of_token * min(ratio * advantage, held * advantage)
            divergence += (ratio - 1 - log_ratio) / sum(lengths)
            value, old, wanted = (float(part[row, t]) for part in (after.values, batch.values, batch.returns))
            near = min(max(value, old - config.cliprange_value), old + config.cliprange_value)
            critic += max((value - wanted) ** 2, (near - wanted) ** 2) / 2 / sum(lengths)
    found = trainer.gradients(batch, rows, warmup=False)
    written = {"policy_loss": policy, "approx_kl": divergence}
    if trainer.model.critic is not None:
        written["value_loss"] = critic
    for name, right in written.items():
        off = abs(found[name] - right)
        yield Deviation(f"{name} against the one written out", off, subject.rounding * max(1.0, abs(right)))


def optimiser(subject: Subject) -> Iterator[Deviation]:
    """One Adam step of the configured eps a mini-batch, its rate falling linearly to 0, the gradient cut to length."""
    trainer = subject.trainer(max_grad_norm=1e-3)
    config = trainer.config
    each = config.num_ppo_epochs * config.num_mini_batches
    yield Deviation("eps of Adam", abs(trainer.state.optimiser.param_groups[0]["eps"] - config.adam_epsilon), 1e-12)
    for step in range(2):
        trainer.step(step, subject.of_step(trainer))
        wanted = config.learning_rate * (1 - ((step + 1) * each - 1) / (config.steps * each))
        off = abs(trainer.state.optimiser.param_groups[0]["lr"] / wanted - 1)
        yield Deviation(f"learning rate of the last update of step {step + 1}, as a share", off, 1e-6)
    steps = {int(state["step"]) for state in trainer.state.optimiser.state.values()}
    yield Deviation("updates made", max(abs(found - 2 * each) for found in steps))
    batch, _ = trainer.measure(subject.probe)
    trainer.gradients(batch, range(len(subject.probe)), warmup=False)
    length = math.sqrt(sum(float((p.grad**2).sum()) for p in trainer.state.parameters if p.grad is not None))
    yield Deviation("length of the gradient beyond the longest allowed", max(0.0, length - 1e-3), 1e-6)


def mini_batches(subject: Subject) -> Iterator[Deviation]:
    """Every response is in one mini-batch of each pass, with the other samples of its prompt."""
    trainer = subject.trainer()
    size, parts, samples = trainer.config.batch_size, trainer.config.num_mini_batches, subject.samples
    plan = trainer.plan(size, 0)
    for epoch in range(trainer.config.num_ppo_epochs):
        seen = sorted(row for part in plan[epoch * parts : (epoch + 1) * parts] for row in part)
        yield Deviation(f"responses missing or repeated in pass {epoch + 1}", float(seen != list(range(size))))
    split = sum(len({row - row % samples for row in part}) * samples != len(part) for part in plan)
    yield Deviation("mini-batches that part the samples of a prompt", split)


def exploding_update(subject: Subject) -> Iterator[Deviation]:
    """An update that carries the policy too far is undone to the last bit, the rest skipped and counted."""
    trainer = subject.trainer(learning_rate=0.5, max_approx_kl=1e-6)
    trainer.model.load_adapter_state(subject.start)
    _, _, row = trainer.step(0, subject.of_step(trainer))
    planned = trainer.config.num_ppo_epochs * trainer.config.num_mini_batches
    yield Deviation("explosions that skipped no update", float(not 0 < row["skipped_updates"] <= planned))
    kept = planned - row["skipped_updates"]
    if kept == 0:
        moved = sum(not torch.equal(p.cpu(), subject.start[name]) for name, p in trainer.model.trained.items())
        yield Deviation("weights that the undone update has left moved", moved)
        moments = len(trainer.state.optimiser.state_dict()["state"])
        yield Deviation("moments that the undone update has left in Adam", moments)


def not_a_number(subject: Subject) -> Iterator[Deviation]:
    """A loss or score that is not a number stops before the update, with no weight touched."""
    trainer = subject.trainer(moved=True)
    batch, _ = trainer.measure(subject.probe)
    before = {name: p.detach().clone() for name, p in trainer.model.trained.items()}
    broken = replace(batch, advantages=torch.where(batch.response_mask, math.nan, 0.0))
    plan = [list(range(len(subject.probe)))]
    yield Deviation("gradients of NaN that stop nothing", float(not _stops(trainer, broken, plan)))
    moved = sum(not torch.equal(p, before[name]) for name, p in trainer.model.trained.items())
    yield Deviation("weights that a NaN has moved", moved)
    scores = batch.scores.clone()
    scores[1] = math.nan
    try:
        trainer.shaped(subject.probe, batch.logprobs, batch.ref_logprobs, batch.values, RewardScores(scores))
        stopped = False
    except NotFiniteError as problem:
        stopped = list(problem.rows) == [1]
    yield Deviation("scores of NaN not found in their row", float(not stopped))


def _stops(trainer: PpoTrainer, batch: RolloutBatch, plan: list[list[int]]) -> bool:
    """Whether an update on the batch raises NotFiniteError."""
    trainer.plan = lambda size, step: plan  # type: ignore[method-assign]
    try:
        trainer.update(batch, 0)
    except NotFiniteError:
        return True
    return False


def resume(subject: Subject) -> Iterator[Deviation]:
    """A run cut after any step and taken up from its checkpoint equals the uncut one: weights, rates, KL, rows."""
    fields = {**FAST, "kl_target": 1.0, "kl_horizon": 20}
    whole = subject.trainer(**fields)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        for step in range(2):
            whole.step(step, subject.of_step(whole))
        whole.state.save(checkpoint, 2)
        uncut = whole.step(2, subject.of_step(whole))[2]
        wanted, coefficient = whole.model.adapter_state(), whole.state.kl.coefficient
        cut = subject.trainer(**fields)
        yield Deviation("step of the checkpoint", abs(cut.state.restore(checkpoint) - 2))
        resumed = cut.step(2, subject.of_step(cut))[2]
    for name, value in uncut.items():
        if not name.startswith("seconds_"):
            off = 0.0 if value == resumed[name] else abs((value or 0.0) - (resumed[name] or 0.0))
            yield Deviation(f"{name} of the step after the cut", off)
    found = cut.model.adapter_state()
    off = max(apart(found[name], weight) for name, weight in wanted.items())
    yield Deviation("weights after the cut", off)
    yield Deviation("KL coefficient after the cut", abs(cut.state.kl.coefficient - coefficient))
