"""The judge itself as the reward, without a reward model in between (d-RLAIF, arXiv 2309.00267, section 2.2.2).

Departure from the paper: instead of rating a response from 1 to 10, which takes a large judge, the response is
compared with the SFT policy's own answers to the same prompt, those that `label` sampled. So every method of judging
serves, one code path does it, and what makes one prompt score higher than another drops out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlaif.core.errors import StageError
from rlaif.core.records import Comparison, Failure, Prompt, Response
from rlaif.judge.judge import Judge
from rlaif.training.ppo.rollout import Rollouts

SPREAD = 0.25
"""A mean probability this far from even scores 1: about a standard deviation, as with a normalised reward model."""


class JudgeReward:
    """Scores responses by how surely the judge prefers them to the reference answers of their prompt."""

    def __init__(self, judge: Judge | None, references: Mapping[str, Sequence[Response]]) -> None:
        """`references`: prompt id -> the SFT policy's answers; the judge is None in a process that asks nothing."""
        self.judge, self.references = judge, references

    def scores(self, rollouts: Rollouts, texts: Sequence[str]) -> Tensor:
        """See `preferred`."""
        return self.preferred(rollouts.prompts, texts)

    def preferred(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """(B,) float32 `opinions`. Raises StageError where the judge says nothing of a response, with its reason."""
        found = self.opinions(prompts, responses)
        for prompt, said in zip(prompts, found, strict=True):
            if isinstance(said, Failure):
                raise StageError(
                    f"the judge cannot score a response: {said.kind}, {said.reason}",
                    where=f"ppo.reward: judge, prompt {prompt.id}",
                    remedy="set judge.abstain_below: 0; with a server, see that it runs. Go on with --resume",
                )
        return torch.tensor(found)

    def opinions(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | Failure]:
        """(mean P(response beats a reference) - 0.5) / 0.25 for each response, or why the judge says nothing of it. An
        empty response loses to every reference."""
        asked = [
            (row, Comparison(prompt, Response(prompt.id, text, "ppo", 0, 0.0, "stop", 0), reference))
            for row, (prompt, text) in enumerate(zip(prompts, responses, strict=True))
            for reference in self.references[prompt.id]
            if text
        ]
        shares: list[list[float]] = [[] if text else [0.0] for text in responses]
        reasons: dict[int, Failure] = {}
        assert self.judge is not None
        labels = self.judge.label([comparison for _, comparison in asked])
        for (row, _), label in zip(asked, labels, strict=True):
            if label.prob_a is not None:
                shares[row].append(label.prob_a)
            elif label.failure is not None:
                reasons.setdefault(row, label.failure)
        unknown = Failure("backend", "the judge gave no reason")
        return [
            (sum(part) / len(part) - 0.5) / SPREAD if part else reasons.get(row, unknown)
            for row, part in enumerate(shares)
        ]
