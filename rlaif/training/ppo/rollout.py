"""What PPO trains on: sampled responses with everything that was measured about them before the first update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlaif.core.records import FinishReason, Prompt
from rlaif.lm.local.packing import Row
from rlaif.training.ppo.formulas import explained_variance

MEASURED = ("logprobs", "ref_logprobs", "values", "scores")
DERIVED = ("rewards", "advantages", "returns")
"""The tensors of a batch: what was measured, and what was made of that."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Sampled token ids. `responses[i]` includes the end-of-turn token when `finish[i]` is "stop"."""

    prompts: tuple[Prompt, ...]
    prompt_ids: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[int, ...], ...]
    finish: tuple[FinishReason, ...]
    sampler_logprobs: tuple[tuple[float, ...], ...] | None = None
    """Of the responses' tokens, as what sampled them says; None where that is not known."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, True = real response token. From lengths, never from `ids != pad`."""
        lengths = torch.tensor([len(r) for r in self.responses])
        return torch.arange(int(lengths.max()))[None] < lengths[:, None]

    @property
    def groups(self) -> Tensor:
        """(B,) numbers from 0 that are equal for responses to the same prompt."""
        numbers: dict[str, int] = {}
        return torch.tensor([numbers.setdefault(prompt.id, len(numbers)) for prompt in self.prompts])

    @property
    def padded_sampler_logprobs(self) -> Tensor | None:
        """(B, T) float32, 0 under padding; None where none were given."""
        given = self.sampler_logprobs
        return None if given is None else self.padded([torch.tensor(row) for row in given])

    def rows(self, chosen: Sequence[int] | None = None) -> list[Row]:
        """(prompt ids, response ids) of the chosen responses, or of all."""
        return [(self.prompt_ids[i], self.responses[i]) for i in (range(len(self)) if chosen is None else chosen)]

    def only(self, chosen: Sequence[int]) -> Rollouts:
        """The chosen responses, in that order."""
        given = self.sampler_logprobs
        return Rollouts(
            prompts=tuple(self.prompts[i] for i in chosen),
            prompt_ids=tuple(self.prompt_ids[i] for i in chosen),
            responses=tuple(self.responses[i] for i in chosen),
            finish=tuple(self.finish[i] for i in chosen),
            sampler_logprobs=None if given is None else tuple(given[i] for i in chosen),
        )

    def padded(self, rows: Sequence[Tensor]) -> Tensor:
        """(B, T) float32 of one tensor per response, 0 under padding."""
        out = torch.zeros(self.mask.shape)
        for index, row in enumerate(rows):
            out[index, : len(row)] = row
        return out


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """One step's rollouts and all that the updates need; never changed. All tensors float32 on the CPU."""

    rollouts: Rollouts
    response_mask: Tensor  # (B, T) bool, True = real response token
    logprobs: Tensor  # (B, T) log pi_old of the sampled tokens, at the sampling temperature
    ref_logprobs: Tensor  # (B, T) log pi_ref of the same tokens
    importance: Tensor  # (B, T) weight of a token for who sampled it; 1 under padding
    values: Tensor  # (B, T) V_old before each token
    scores: Tensor  # (B,) reward of the whole response, penalties included
    parts: Mapping[str, Tensor]  # "score_NAME" -> (B,) what each source said, NaN for nothing; "disagreement"
    rewards: Tensor  # (B, T) per token, after KL shaping
    advantages: Tensor  # (B, T) GAE, not whitened
    returns: Tensor  # (B, T) advantages + values


def together(prompts: Sequence[Prompt], samples: int) -> int:
    """How many neighbours are worked on together: the `samples` of a prompt, where the prompts stand so; else 1."""
    groups = [prompts[start : start + samples] for start in range(0, len(prompts), samples)]
    alike = all(len(group) == samples and len({prompt.id for prompt in group}) == 1 for group in groups)
    return samples if alike else 1


class NotFiniteError(Exception):
    """Something became NaN or infinite; carries the batch and the rows that were at work."""

    def __init__(self, what: str, batch: RolloutBatch, rows: Sequence[int]) -> None:
        self.batch, self.rows = batch, rows
        super().__init__(f"not finite: {what}")


class SamplingError(Exception):
    """The policy's output became NaN or infinite while it sampled; says what."""


def refuse_not_finite(batch: RolloutBatch) -> RolloutBatch:
    """The batch; raises NotFiniteError, with names and rows, if a number of a real token is NaN or infinite: one that
    was measured, or where these are sound, one that was made of them (a bad score spreads over its prompt's samples).
    """
    for names in (MEASURED, DERIVED):
        found: dict[str, list[int]] = {}
        for name in names:
            tensor = getattr(batch, name)
            bad = ~tensor.isfinite() if tensor.ndim == 1 else (~tensor.isfinite() & batch.response_mask).any(1)
            if bad.any():
                found[name] = bad.nonzero().flatten().tolist()
        if found:
            rows = sorted({row for rows in found.values() for row in rows})
            raise NotFiniteError(f"{' and '.join(found)} of {len(rows)} responses", batch, rows)
    return batch


def batch_metrics(batch: RolloutBatch) -> dict[str, float]:
    """What a batch says about the policy that sampled it; nothing under the padding is counted."""
    mask = batch.response_mask
    kl = torch.where(mask, batch.logprobs - batch.ref_logprobs, 0.0)
    finish = batch.rollouts.finish
    return {
        "score": float(batch.scores.mean()),
        "score_std": float(batch.scores.std(unbiased=False)),
        "kl": float(kl.sum(1).mean()),
        "kl_per_token": float(kl.sum() / mask.sum()),
        "length": float(mask.sum(1).float().mean()),
        "eos_rate": sum(reason == "stop" for reason in finish) / len(finish),
        "explained_variance": explained_variance(batch.values, batch.returns, mask),
    }
