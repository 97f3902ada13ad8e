"""What a token is rewarded with, against numbers worked by hand; and that the reward is the same wherever it is asked.

The hand-worked case has three responses: three tokens that ended, two that were cut off, one that ended.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.check.ppo.subject import Deviation, Subject, apart, rows_of
from rlaif.training.ppo.advantages import values_of_reward
from rlaif.training.ppo.formulas import KlController
from rlaif.training.ppo.rollout import RolloutBatch, Rollouts
from rlaif.training.ppo.step import PpoTrainer, whitens
from rlaif.training.rewards.model import RewardModel
from rlaif.training.rewards.sources import RewardScores

LOGPROBS = torch.tensor([[-1.0, -2.0, -0.5], [-1.0, -3.0, math.nan], [-0.2, math.nan, math.nan]])
REF_LOGPROBS = torch.tensor([[-1.5, -1.5, -0.5], [-1.0, -2.0, math.nan], [-0.2, math.nan, math.nan]])
VALUES = torch.tensor([[0.5, 0.4, 0.2], [0.1, 0.3, math.nan], [1.0, math.nan, math.nan]])
SCORES = torch.tensor([2.0, -1.0, 4.0])
PLAIN: dict[str, Any] = {
    "whiten_rewards": False,
    "baseline": "none",
    "scale_rewards": "none",
    "score_clip": None,
    "gamma": 1.0,
    "value": "adapter",
}
"""Fields that would change the hand-worked numbers, at what they were worked out for."""

BY_HAND = {
    # Surprises: -0.15, -0.15, 1.8 | 0.2, -1.7 | 3; each advantage is its own and half (lambda) the next one.
    "ppo": [[0.225, 0.75, 1.8], [-0.65, -1.7, 0.0], [3.0, 0.0, 0.0]],
    # The rewards to come: -0.05 + 0.05 + 2, 0.05 + 2, 2 | 0 - 1.4, -1.4 | 4.
    "reinforce": [[2.0, 2.05, 2.0], [-1.4, -1.4, 0.0], [4.0, 0.0, 0.0]],
    # Whole returns 2, -1.4, 4; less 1.3, 3 and 0.3, the means of the other two.
    "rloo": [[0.7, 0.7, 0.7], [-4.4, -4.4, 0.0], [3.7, 0.0, 0.0]],
    # Scores 2, -1.5, 4 over their deviation 2.78388 (+ 1e-4), plus KL 0, 0.1, 0; less their mean 0.57213.
    "grpo": [[0.14627, 0.14627, 0.14627], [-1.01093, -1.01093, 0.0], [0.86466, 0.0, 0.0]],
}
"""Advantages of the hand-worked case with lambda 0.5, by algorithm. All three responses are to one prompt."""


def _hand_worked(subject: Subject, *, lengths: tuple[int, ...] = (3, 2, 1), **fields: Any) -> RolloutBatch:
    trainer = subject.trainer(**{**PLAIN, **fields})
    rollouts = Rollouts(
        prompts=tuple(subject.prompts[0] for _ in lengths),
        prompt_ids=tuple((0,) for _ in lengths),
        responses=tuple(tuple(range(n)) for n in lengths),
        finish=("stop", "length", "stop"),
    )
    values = VALUES if trainer.config.algorithm == "ppo" else torch.zeros_like(VALUES)
    logprobs, ref_logprobs, values = (t.nan_to_num(nan=-77.0) for t in (LOGPROBS, REF_LOGPROBS, values))
    return trainer.shaped(rollouts, logprobs, ref_logprobs, values, RewardScores(SCORES))


def reward_place(subject: Subject) -> Iterator[Deviation]:
    """The score lands on the last real token, end token included, less a penalty if none came; KL on every one."""
    batch = _hand_worked(subject, kl_coef=0.1, missing_eos_penalty=0.5)
    # -0.1 * (log-prob - reference): -0.05, 0.05, 0 | 0, 0.1 | 0; plus 2 | -1 - 0.5 | 4 on the last ones.
    wanted = torch.tensor([[-0.05, 0.05, 2.0], [0.0, -1.4, 0.0], [4.0, 0.0, 0.0]])
    for row, place in ((row, place) for row in range(3) for place in range(3)):
        off = apart(batch.rewards[row, place], wanted[row, place])
        yield Deviation(f"reward of token {place + 1} of hand-worked response {row + 1}", off, 1e-6)
    yield Deviation("scores as logged", apart(batch.scores, torch.tensor([2.0, -1.5, 4.0])), 1e-6)


def advantages(subject: Subject) -> Iterator[Deviation]:
    """Advantages and returns are those worked by hand; nothing is taken from beyond the last token."""
    batch = _hand_worked(subject, kl_coef=0.1, missing_eos_penalty=0.5, lam=0.5, scale_rewards=None)
    wanted = torch.tensor(BY_HAND[subject.config.algorithm])
    for row in range(3):
        off = apart(batch.advantages[row], wanted[row])
        yield Deviation(f"advantages of hand-worked response {row + 1}", off, 1e-4)
    if subject.config.algorithm == "ppo":
        returns = torch.tensor([[0.725, 1.15, 2.0], [-0.55, -1.4, 0.0], [4.0, 0.0, 0.0]])
        yield Deviation("returns of the hand-worked responses", apart(batch.returns, returns), 1e-5)


def whitening(subject: Subject) -> Iterator[Deviation]:
    """Advantages are centred and scaled over a mini-batch's real tokens where so configured; returns never are."""
    trainer = subject.trainer(moved=True)
    batch, _ = trainer.measure(subject.probe)
    if not whitens(subject.config):
        kept = trainer.advantages(batch, range(len(subject.probe)))
        yield Deviation("advantages against those of the batch", apart(kept, batch.advantages))
        return
    for rows in ([0, 2, 3], list(range(len(subject.probe)))):
        mask = batch.response_mask[rows]
        found = trainer.advantages(batch, rows)[mask]
        yield Deviation(f"mean advantage of {len(rows)} responses", abs(float(found.mean())), 1e-4)
        yield Deviation(
            f"spread of the advantages of {len(rows)} responses", abs(float(found.std(unbiased=False)) - 1), 1e-3
        )
    if subject.config.algorithm == "ppo":
        off = apart(batch.returns, torch.where(batch.response_mask, batch.advantages + batch.values, 0.0))
        yield Deviation("returns against plain advantages + values", off, 1e-4)


def kl_controller(subject: Subject) -> Iterator[Deviation]:
    """An adaptive KL coefficient rises above its target and falls below it, by a fifth at most; a fixed one stays."""
    for target, kl, responses, wanted in (
        (6.0, 60.0, 100, 0.12),  # far above: clipped to a fifth
        (6.0, 6.6, 100, 0.11),
        (6.0, 0.0, 50, 0.09),  # far below, for half a horizon
        (None, 60.0, 100, 0.1),
    ):
        controller = KlController(0.1, target=target, horizon=100)
        controller.update(kl, responses)
        name = f"coefficient after a KL of {kl:g} nats with target {target}"
        yield Deviation(name, abs(controller.coefficient - wanted), 1e-9)
    trainer = subject.trainer(kl_target=1e-6, kl_horizon=1, kl_coef=0.1, max_approx_kl=1e9)
    subject.move()
    _, _, row = trainer.step(0, subject.of_step(trainer))
    risen = 0.12 if row["kl"] > 0 else 0.08
    yield Deviation("coefficient after a step", abs(trainer.state.kl.coefficient - risen), 1e-9)


def reward_source(subject: Subject) -> Iterator[Deviation]:
    """Each source gives a response one finite number, or none, the same again and in other company."""
    trainer = subject.trainer()
    size = len(subject.probe)
    first, again = (_said(trainer, subject.probe) for _ in range(2))
    order = list(range(size))[::-1]
    turned = _said(trainer, subject.probe.only(order))
    for name, row in ((name, row) for name in first for row in range(size)):
        off = _apart(again[name][row], first[name][row])
        yield Deviation(f"{name} asked twice, {subject.row(row)}", off, subject.rounding)
        off = _apart(turned[name][order.index(row)], first[name][row])
        yield Deviation(f"{name} in another order, {subject.row(row)}", off, subject.rounding)


def _said(trainer: PpoTrainer, rollouts: Rollouts) -> dict[str, Tensor]:
    """The score of each response and what each source makes of it."""
    batch, _ = trainer.measure(rollouts)
    return {"score": batch.scores, **batch.parts}


def _apart(one: Tensor, other: Tensor) -> float:
    """The difference, 0 where a source says nothing both times."""
    return 0.0 if torch.isnan(one) and torch.isnan(other) else apart(one, other)


def reward_model(subject: Subject) -> Iterator[Deviation]:
    """Each reward model, saved and loaded, gives the same scores to the last bit, and PPO's copy agrees with it."""
    rows = rows_of(subject.probe)
    for number, reward in enumerate(subject.members):
        first = RewardModel.load(reward, subject.load())
        raw = first.raw_of(rows)
        with tempfile.TemporaryDirectory() as folder:
            first.save(Path(folder))
            del first
            again = RewardModel.load(Path(folder), subject.load())
        for row, (one, other) in enumerate(zip(raw, again.raw_of(rows), strict=True)):
            yield Deviation(f"score after loading {reward.name}, {subject.row(row)}", abs(one - other))
        wanted = (torch.tensor(raw) - again.mean) / again.std
        found = subject.trainer(moved=True).forward.scores(subject.probe)[0][:, number]
        for row in range(len(subject.probe)):
            limit = subject.rounding / min(again.std, 1.0)
            yield Deviation(
                f"score of PPO's copy of {reward.name}, {subject.row(row)}", apart(found[row], wanted[row]), limit
            )
        spread: Tensor = wanted - wanted.mean()
        yield Deviation("reward models that score all alike", float(spread.abs().max() == 0))


def reward_critic(subject: Subject) -> Iterator[Deviation]:
    """As critic the reward model reads what stands before a token alone; how much it says is fitted on other prompts.

    Worked by hand: two prompts with two responses. Before their second token, less the prompt's mean, stand 0.5, -0.5
    and -1, 1, and the scores are 0.5, -0.5 and -2, 2: slopes 1 and 2, each used on the other prompt.
    """
    if not subject.members:
        return
    so_far = torch.tensor([[0.0, 0.5], [0.0, -0.5], [0.0, 1.0], [0.0, 3.0]])
    scores, groups = torch.tensor([1.0, 0.0, 0.0, 4.0]), torch.tensor([0, 0, 1, 1])
    found = values_of_reward(so_far[:, :, None], scores, torch.ones_like(so_far, dtype=torch.bool), groups)
    wanted = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, -1.0], [0.0, 1.0]])
    yield Deviation("values of the hand-worked responses", apart(found, wanted), 1e-5)
    rows = rows_of(subject.probe)
    prefixes = [(prompt, response[:place]) for prompt, response in rows for place in range(len(response))]
    told, narrowest = torch.zeros(len(prefixes)), 1.0
    for folder in subject.members:
        reward = RewardModel.load(folder, subject.load())
        reward.pooling = "last" if reward.pooling == "end" else reward.pooling  # no end token stands there yet
        told += (torch.tensor(reward.raw_of(prefixes)) - reward.mean) / reward.std / len(subject.members)
        narrowest = min(narrowest, reward.std)
    told = torch.where(torch.tensor([bool(response) for _, response in prefixes]), told, 0.0)
    trainer = subject.trainer(moved=True)
    before = trainer.forward.scores(subject.probe)[1][subject.probe.mask]
    yield Deviation("what PPO's copies say of prefixes", apart(before, told), subject.rounding / narrowest)
    if subject.config.reward_is_critic and len(subject.prompts) > 2:  # with fewer the probe leaves nothing to fit
        batch, _ = trainer.measure(subject.probe)
        yield Deviation("values before the first token", float(batch.values[:, 0].abs().max()))
        yield Deviation("values that are all alike", float(batch.values.abs().max() == 0))
