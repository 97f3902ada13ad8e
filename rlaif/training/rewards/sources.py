"""What a response scores: the weighted sum of its sources. The policy's own model scores token ids for the reward
models and `on_topic`, all others read texts.

The two kinds stand apart, since several processes each score their own rows by the model, while functions and the judge
are asked once, about the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.core.errors import StageError
from rlaif.core.records import Prompt
from rlaif.lm.local.load import encode_chat
from rlaif.training.ppo.rollout import Rollouts
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.function import RESUME, FunctionReward, RewardFunction, load_function
from rlaif.training.rewards.topic import other_prompts

DISAGREEMENT = "disagreement"
"""The column of the deviation between the members of an ensemble."""


class TextReward(Protocol):
    """Something that scores texts."""

    def scores(self, rollouts: Rollouts, texts: Sequence[str]) -> Tensor:
        """(B,) float32 scores, NaN where it has nothing to say; raises StageError if it fails."""


OpenJudgeReward = Callable[[], JudgeReward]
SOURCES: Mapping[str, Callable[[OpenJudgeReward], TextReward | None]] = {
    "model": lambda judge: None,  # on the weights that PPO trains, so PPO itself reads the ids
    "judge": lambda judge: judge(),
    "on_topic": lambda judge: None,
}
"""A source that has a name of its own -> what scores the texts. Any other is a function, "module:function"."""


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """One part of the score; `by` is None for what PPO itself measures: the reward model, or whether the response is
    `on_topic`."""

    name: str
    by: TextReward | None
    weight: float = 1.0
    on_topic: bool = False


@dataclass(frozen=True, slots=True)
class RewardScores:
    """What a batch was scored: the sum, and (B,) of each source by itself, NaN where it had nothing to say."""

    scores: Tensor  # (B,) weighted sum
    parts: Mapping[str, Tensor] = field(default_factory=dict)  # "score_NAME" -> (B,) before its weight; "disagreement"


@dataclass(frozen=True, slots=True)
class Rewards:
    """The sources of the score, and how members of an ensemble of reward models become one of them. `others`, for
    `on_topic`: prompt id -> token ids of the prompt to compare with."""

    sources: tuple[WeightedReward, ...]
    ensemble: Literal["mean", "worst", "uncertainty"] = "mean"
    uncertainty: float = 0.5
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of_config(cls, config: PpoConfig, judge: OpenJudgeReward, columns: Sequence[str] = ()) -> Rewards:
        """Those of `ppo.reward`; `judge` is opened if it is among them, `columns` are those of the prompts. Raises
        ConfigError for a function that cannot be imported or called."""
        found = []
        for part in config.reward:
            make = SOURCES.get(part.source)
            by = load_function(part.source, columns) if make is None else make(judge)
            found.append(WeightedReward(part.called, by, part.weight, part.source == "on_topic"))
        return cls(tuple(found), config.reward_ensemble, config.reward_uncertainty)

    def comparing(self, prompts: Sequence[Prompt], tokenizer: Any) -> Rewards:
        """The same, with what `on_topic` needs to score responses to these prompts; ConfigError for one alone."""
        if not self.by_topic:
            return self
        found = other_prompts(prompts)
        return replace(self, others={own: tuple(encode_chat(tokenizer, p.messages)) for own, p in found.items()})

    def weighing(self, weights: Mapping[str, float]) -> Rewards:
        """The same with other weights for the sources that are named."""
        if not weights:
            return self
        return replace(self, sources=tuple(replace(s, weight=weights.get(s.name, s.weight)) for s in self.sources))

    @classmethod
    def of_function(cls, function: RewardFunction, name: str = "function") -> Rewards:
        """One function alone."""
        return cls((WeightedReward(name, FunctionReward(function, name)),))

    @property
    def by_model(self) -> bool:
        """Whether a reward model is among the sources."""
        return any(source.by is None and not source.on_topic for source in self.sources)

    @property
    def by_topic(self) -> bool:
        """Whether `on_topic` is."""
        return any(source.on_topic for source in self.sources)

    @property
    def judges(self) -> list[JudgeReward]:
        """The judge, if it is among the sources."""
        return [source.by for source in self.sources if isinstance(source.by, JudgeReward)]

    def scored(
        self, rollouts: Rollouts, texts: Sequence[str], members: Tensor | None, topic: Tensor | None = None
    ) -> RewardScores:
        """What the responses score; `members` (B, M) are the scores of the reward models, `topic` (B,) those of
        `on_topic`, None without any.

        Raises StageError where a source fails, or where all that have a weight say nothing of a response.
        """
        return self.combined(rollouts, texts, members, self.of_texts(rollouts, texts), topic)

    def of_texts(self, rollouts: Rollouts, texts: Sequence[str]) -> dict[str, Tensor]:
        """Name -> (B,) scores of every source that reads texts, NaN where a function says None; raises StageError where
        one fails."""
        return {source.name: source.by.scores(rollouts, texts) for source in self.sources if source.by is not None}

    def of_members(self, members: Tensor) -> Tensor:
        """(B,) score of the ensemble whose members gave (B, M).

        Worst case and uncertainty weighting (mean less a multiple of the variance) are those of Coste et al.
        (arXiv 2310.02743, section 3).
        """
        match self.ensemble:
            case "mean":
                return members.mean(1)
            case "worst":
                return members.amin(1)
            case "uncertainty":
                return members.mean(1) - self.uncertainty * members.var(1, correction=0)

    def combined(
        self,
        rollouts: Rollouts,
        texts: Sequence[str],
        members: Tensor | None,
        of_texts: Mapping[str, Tensor],
        topic: Tensor | None = None,
    ) -> RewardScores:
        """The sum over what `of_texts`, (B, M) the members of the reward model and (B,) `on_topic` said.

        A source that says nothing of a response is left out of its sum. Raises StageError where all that have a weight
        do.
        """
        parts = dict(of_texts)
        if members is not None:
            score = self.of_members(members)
            parts |= {source.name: score for source in self.sources if source.by is None and not source.on_topic}
        if topic is not None:
            parts |= {source.name: topic for source in self.sources if source.on_topic}
        found = torch.stack([parts[source.name] for source in self.sources], 1)
        weights = torch.tensor([source.weight for source in self.sources])
        # A NaN of a function is its None, one of a model a fault, which must not get lost in the sum.
        models = torch.tensor([source.by is None for source in self.sources])
        says = models | ~torch.isnan(found)
        silent = ~says[:, weights != 0].any(1)
        if silent.any():
            row = int(silent.nonzero()[0])
            raise self._silent(rollouts.prompts[row], texts[row])
        columns = {f"score_{source.name}": parts[source.name] for source in self.sources}
        if members is not None and members.shape[1] > 1:
            columns[DISAGREEMENT] = members.std(1, correction=0)
        return RewardScores(torch.where(says, found * weights, 0.0).sum(1), columns)

    def _silent(self, prompt: Prompt, text: str) -> StageError:
        names = ", ".join(source.name for source in self.sources if source.weight != 0)
        return StageError(
            f"{names} returned None: nothing scores the response {text[:200]!r} to the prompt {prompt.text[:200]!r} "
            f"of slice {prompt.slice!r}",
            where="ppo.reward",
            remedy=f"let one of them score every response, or add a source that does; {RESUME}",
        )


def part_figures(parts: Mapping[str, Tensor]) -> dict[str, float | None]:
    """What metrics.jsonl says of the parts: mean and deviation of each over the responses that it scored and, where
    those are not all, the share of the others; the members' mean disagreement. None where nothing was scored."""
    row: dict[str, float | None] = {}
    for name, values in parts.items():
        given = values[~torch.isnan(values)]
        row[name] = float(given.mean()) if len(given) else None
        if name == DISAGREEMENT:
            continue
        row[f"{name}_std"] = float(given.std(correction=0)) if len(given) else None
        if len(given) < len(values):
            row[f"{name}_none"] = 1 - len(given) / len(values)
    return row


def part_values(parts: Mapping[str, Tensor], row: int) -> dict[str, float | None]:
    """What the parts are for one response; None where a source had nothing to say."""
    return {name: None if torch.isnan(values[row]) else float(values[row]) for name, values in parts.items()}
