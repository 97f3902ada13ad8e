"""Forward passes over rollouts: in micro-batches, each process its share, joined again in the rollouts' order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.lm.local.packing import Row
from rlaif.training.ppo.policy_model import Adapter, PolicyModel
from rlaif.training.ppo.processes import Processes
from rlaif.training.ppo.rollout import Rollouts, together


@dataclass(frozen=True, slots=True)
class Forward:
    """The model's passes, `micro_batch_size` responses at a time; the `samples` of a prompt are one process's work."""

    model: PolicyModel
    micro_batch_size: int
    samples: int
    processes: Processes

    def tokens(
        self, rollouts: Rollouts, adapter: Adapter | None, compute: Callable[[Tensor, list[Row]], tuple[Tensor, ...]]
    ) -> list[Tensor]:
        """(B, T) each: what `compute` makes, under one adapter, of the (N, H) states of each micro-batch's tokens."""
        mine = self._share_of(rollouts)
        parts = []
        with self.model.using(adapter):
            for chosen in self.micro_batches(mine):
                micro = rollouts.rows(chosen)
                flat = self.model.response_states(micro)
                parts.append([found.cpu() for found in compute(flat, micro)])
        lengths = [len(rollouts.responses[row]) for row in mine]
        tensors = [torch.split(torch.cat(found), lengths) for found in zip(*parts, strict=True)]
        whole = self.processes.joined(mine, list(zip(*tensors, strict=True)))
        return [rollouts.padded(found) for found in zip(*whole, strict=True)]

    def scores(self, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """(B, M) normalised scores of each reward model; (B, T) their mean of what stands before each token."""
        mine = self._share_of(rollouts)
        columns, running = [], []
        for member in self.model.members:
            with self.model.using(member):
                found = [self.model.scores(rollouts.rows(rows), member) for rows in self.micro_batches(mine)]
            columns.append(torch.cat([scores for scores, _ in found]))
            running.append([part for _, parts in found for part in parts])
        so_far = [torch.stack(parts).mean(0) for parts in zip(*running, strict=True)]
        whole = self.processes.joined(mine, list(zip(torch.stack(columns, 1), so_far, strict=True)))
        return torch.stack([scores for scores, _ in whole]), rollouts.padded([part for _, part in whole])

    def share(self, rows: Sequence[int]) -> list[int]:
        """The places among `rows` that are this process's work."""
        return self.processes.share(len(rows), self.samples)

    def _share_of(self, rollouts: Rollouts) -> list[int]:
        return self.processes.share(len(rollouts), together(rollouts.prompts, self.samples))

    def micro_batches(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """The rows in pieces."""
        for start in range(0, len(rows), self.micro_batch_size):
            yield list(rows[start : start + self.micro_batch_size])
