"""The table of PPO, and what its reward may be made of."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from rlaif.config.fields import ConfigTable, GoldNames, LoraTable, speed_field
from rlaif.core.plugins import short_name

TAKEN = {"score_std"}
"""Columns of ppo/metrics.jsonl that are about the sum."""


NAMED = ("model", "judge", "on_topic")
"""The sources that have a name of their own; rewards/sources.py in training/ makes them. All others are functions."""


class RewardSource(ConfigTable):
    """One part of the reward."""

    source: str = Field(description='"model", "judge", "on_topic" or a Python function "module:function"')
    weight: float = Field(1.0, description="times the source's score; below 0 = a penalty, 0 = logged only")
    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_-]+$", description="of its columns score_NAME; null = the source or function"
    )
    hold: bool = Field(
        False,
        description="a floor and no goal: the weight rises above `weight` while the source's mean is below that of the "
        "first step, and goes back",
    )

    @property
    def called(self) -> str:
        """The name that the source is logged under."""
        return self.name or self.source.rpartition(":")[2]

    @property
    def columns(self) -> tuple[str, str, str]:
        """Its columns in ppo/metrics.jsonl; one that is held has weight_NAME, too."""
        return f"score_{self.called}", f"score_{self.called}_std", f"score_{self.called}_none"

    @model_validator(mode="after")
    def _a_weight_can_be_adapted(self) -> RewardSource:
        if self.hold and self.weight <= 0:
            raise ValueError(f"hold adapts a weight above 0, and that of {self.source} is {self.weight:g}")
        return self

    @model_validator(mode="after")
    def _is_one_of_the_kinds(self) -> RewardSource:
        if self.source not in NAMED and not re.fullmatch(r"[^:\s]+:[^:\s.]+", self.source):
            raise ValueError(f'{self.source!r} is neither {", ".join(NAMED)} nor "module:function"')
        return self


def _listed(value: Any) -> Any:
    """The list of sources behind the short forms: one source, and a source by its mere text."""
    items = value if isinstance(value, list | tuple) else [value]
    return [{"source": item} if isinstance(item, str) else item for item in items]


def _distinct(sources: tuple[RewardSource, ...]) -> tuple[RewardSource, ...]:
    if all(part.weight == 0 for part in sources):
        raise ValueError("no source has a weight: at least one must count")
    for name in NAMED:
        if sum(part.source == name for part in sources) > 1:
            raise ValueError(f"{name} stands there twice: give it once, with the sum of the weights")
    columns = [column for part in sources for column in part.columns] + sorted(TAKEN)
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise ValueError(f"two figures would be logged as {twice}: give one of the sources another name")
    return sources


def _short(sources: tuple[RewardSource, ...]) -> Any:
    """The value as it is written by hand: a plain source is its text, one that stands alone is no list."""
    items = [
        part.source
        if (part.weight, part.name, part.hold) == (1.0, None, False)
        else part.model_dump(exclude_none=True, exclude=None if part.hold else {"hold"})
        for part in sources
    ]
    return items[0] if len(items) == 1 and isinstance(items[0], str) else items


RewardSetting = Annotated[
    tuple[RewardSource, ...],
    BeforeValidator(_listed),
    AfterValidator(_distinct),
    PlainSerializer(_short),
]
"""The sources of the score. Read from "model", "judge", "module:function", a table, or a list of these."""


class PpoConfig(LoraTable):
    """Reinforcement learning against the reward, held near the SFT policy."""

    reward: RewardSetting = Field(
        "model",
        validate_default=True,
        description='"model" = the reward stage, "judge" = the judge itself, "on_topic" = at most 0, less for a '
        'response that fits other prompts as well, or a Python function "module:function"; or a list of these, each as '
        "such or as {source, weight, name, hold}: the score is their weighted sum (docs/train.md)",
    )
    on_topic_nats: float = Field(
        30.0,
        gt=0,
        description="on_topic: how much likelier, in nats, SFT must find what a response says beyond its prompt's own "
        "words after that prompt than after another one for the score 0",
    )
    reward_ensemble: Literal["mean", "worst", "uncertainty"] = Field(
        "mean",
        description="with reward.members: their mean score, the lowest, or the mean less reward_uncertainty times "
        "their variance",
    )
    reward_uncertainty: float = Field(0.5, ge=0, description="what a variance of 1 between the members costs")
    steps: int = Field(10, ge=1, description="rounds of sampling and updating")
    batch_size: int = Field(32, ge=1, description="responses per step")
    samples_per_prompt: int = Field(1, ge=1, description="responses to the same prompt within a step")
    algorithm: Literal["ppo", "reinforce", "rloo", "grpo"] = Field(
        "ppo",
        description="where advantages come from: ppo = GAE over a critic; the others have none: reinforce = the "
        "rewards to come, rloo and grpo = the whole return less that of the prompt's other samples "
        "(docs/reference/ppo.md)",
    )
    baseline: Literal["none", "batch", "prompt"] = Field(
        "none",
        description="ppo, reinforce: what is taken off each score, the mean of the step or that of the prompt's "
        "samples (an easy prompt is no merit of a response)",
    )
    scale_rewards: Literal["none", "batch", "group"] | None = Field(
        None,
        description="scores over their standard deviation in the step (batch) or among the prompt's samples (group); "
        "null = group for grpo, none for the others",
    )
    normalize_advantages: bool | None = Field(
        None, description="advantages to mean 0 and variance 1 over a mini-batch; null = for ppo, not for the others"
    )
    loss_type: Literal["dapo", "grpo", "dr_grpo"] = Field(
        "dapo",
        description="how tokens are averaged: dapo = all tokens of a mini-batch alike, grpo = within each response "
        "first, dr_grpo = summed, over the longest length there can be",
    )
    micro_batch_size: int = speed_field(8, ge=1, description="responses per forward pass with gradients")
    max_new_tokens: int = Field(80, ge=1, description="longest response, in tokens")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-prob in the stage")
    rollouts: Literal["local", "server"] = Field(
        "local",
        description="what samples: local = the machine that trains, server = vLLM at server_url "
        "(docs/reference/scaling.md)",
    )
    importance: Literal["server", "all"] = Field(
        "server",
        description="which tokens weigh what makes up for who sampled them (truncated importance weights): those of a "
        "server, or all, for this machine samples a little otherwise than it trains too, in bfloat16 "
        "(docs/reference/ppo.md)",
    )
    importance_cap: float | None = Field(
        2.0,
        gt=0,
        description="most that a token weighs for who sampled it; null = every token weighs 1",
    )
    max_sampler_gap: float = speed_field(
        0.2, gt=0, description="server: nats per token that its log-probs may be off the policy's; beyond, ppo stops"
    )
    server_url: str = speed_field("http://127.0.0.1:8000/v1", description="server: its address, ending in /v1")
    server_folder: str | None = speed_field(
        None, description="server: where it finds the run's ppo/server folder; null = where it is on this machine"
    )
    server_timeout: float = speed_field(600.0, gt=0, description="server: seconds that an answer may take")
    num_ppo_epochs: int = Field(2, ge=1, description="passes over the responses of a step")
    num_mini_batches: int = Field(2, ge=1, description="optimiser steps per pass")
    kl_coef: float = Field(0.05, ge=0, description="reward taken off per nat of KL to the SFT policy, token by token")
    kl_target: float | None = Field(None, gt=0, description="nats per response; null = fixed kl_coef, else adaptive")
    kl_horizon: int = Field(
        500, ge=1, description="adaptive: responses over which the coefficient may change by a fifth"
    )
    max_kl: float | None = Field(
        None, gt=0, description="nats per response: a step that begins further from SFT is the last; null = none is"
    )
    cliprange: float = Field(0.2, gt=0, description="how far a token's probability ratio may move from 1")
    cliprange_value: float = Field(0.2, gt=0, description="a trained critic: how far a value may move within a step")
    vf_coef: float = Field(0.1, ge=0, description="a trained critic: weight of its loss beside the policy's")
    entropy_coef: float = Field(0.0, ge=0, description="weight of the policy's entropy (nats per token), a bonus")
    gamma: float = Field(1.0, ge=0, le=1, description="ppo, reinforce: discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="ppo: lambda of generalised advantage estimation (GAE)")
    score_clip: float | None = Field(
        None, gt=0, description="scores beyond this, up or down, count as this; null = as they are"
    )
    whiten_rewards: bool = Field(False, description="scale the per-token rewards of a step to unit variance")
    missing_eos_penalty: float = Field(1.0, ge=0, description="taken off the score of a response that did not end")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients longer than this are cut to it")
    max_approx_kl: float = Field(
        0.5, gt=0, description="nats per token within a step; above it the last update is undone, the others skipped"
    )
    value: Literal["adapter", "trunk", "reward"] = Field(
        "adapter",
        description="ppo's critic: a LoRA adapter of its own; a head on the policy's trunk (half the compute); or "
        "reward = what the reward model, and on_topic, score the response so far, which needs no training "
        "(docs/reference/ppo.md)",
    )
    warmup_steps: int = Field(
        0, ge=0, description="first steps over which the learning rate rises: Adam's first updates are mostly noise"
    )
    adam_epsilon: float = Field(
        1e-5,
        gt=0,
        description="Adam's eps; far above the gradient's entries (1e-3 and more) updates follow the gradient itself "
        "at the rate learning_rate / adam_epsilon: better where a few noisy steps must do (docs/reference/ppo.md)",
    )
    value_warmup_steps: int = Field(0, ge=0, description="ppo: first steps that train the critic alone")
    save_steps: int = speed_field(5, ge=1, description="steps between checkpoints: what a crash can cost")
    eval_steps: int = Field(
        0,
        ge=0,
        description="steps between validations, which also stand before the first step and after the last; 0 = none",
    )
    validation_prompts: int = Field(
        64, ge=1, description="training prompts set aside for validation, at most half of them, if eval_steps is not 0"
    )
    gold: GoldNames = Field(
        default=["harm", "toxicity"],
        description="measured in validation: scorers that never saw an AI label, as in evaluate.gold",
    )
    keep: Literal["last", "best"] = Field(
        "last", description="the adapter that the stage leaves: of the last step, or of the best validation"
    )
    best_by: str = Field(
        "harm",
        description="what makes a validation the best: one of ppo.gold; score_NAME, a source of the reward by itself, "
        "which with weight 0 is a proxy held out; or score, the very reward that is optimised (docs/train.md)",
    )
    patience: int = Field(
        0, ge=0, description="keep: best: validations without a new best that end the stage; 0 = all steps"
    )

    @property
    def reward_is_critic(self) -> bool:
        """Whether the reward model is the critic; then it must not read the end of responses alone."""
        return self.algorithm == "ppo" and self.value == "reward"

    def scored_by(self, source: str) -> bool:
        """Whether "model", "judge" or "on_topic" is among the sources of the reward."""
        return any(part.source == source for part in self.reward)

    @model_validator(mode="after")
    def _batches_come_out_even(self) -> PpoConfig:
        prompts, rest = divmod(self.batch_size, self.samples_per_prompt)
        least = 1 if self.samples_per_prompt == 1 else 2
        if rest or prompts < least * self.num_mini_batches:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of samples_per_prompt {self.samples_per_prompt}, and "
                f"each of the {self.num_mini_batches} mini-batches needs {least} prompts or more: batch_size "
                f"{least * self.num_mini_batches * self.samples_per_prompt} would do"
            )
        return self

    @model_validator(mode="after")
    def _fields_fit_the_algorithm(self) -> PpoConfig:
        grouped = self.algorithm in ("rloo", "grpo")
        if self.samples_per_prompt == 1:
            asked = [f"algorithm: {self.algorithm}"] if grouped else []
            asked += [f"baseline: {self.baseline}"] if self.baseline == "prompt" else []
            asked += [f"scale_rewards: {self.scale_rewards}"] if self.scale_rewards == "group" else []
            if asked:
                raise ValueError(f"{asked[0]} compares the samples of a prompt: set samples_per_prompt to 2 or more")
        if grouped and self.baseline != "none":
            raise ValueError(f"algorithm: {self.algorithm} has a baseline of its own: leave baseline out")
        if self.algorithm != "ppo" and self.value_warmup_steps:
            raise ValueError(f"algorithm: {self.algorithm} has no critic to warm up: leave value_warmup_steps at 0")
        if self.reward_is_critic:
            if self.value_warmup_steps:
                raise ValueError("value: reward is a critic that is not trained: leave value_warmup_steps at 0")
            if not self.scored_by("model"):
                raise ValueError('value: reward is the reward model: add "model" to reward, or set value: trunk')
            if self.baseline == "none":
                raise ValueError(
                    "value: reward tells responses apart and not how high scores are: set baseline: prompt, with "
                    "samples_per_prompt 2 or more, or baseline: batch"
                )
            if self.whiten_rewards or self.gamma != 1:
                raise ValueError("value: reward predicts the score as it is: leave whiten_rewards false and gamma 1")
        return self

    @model_validator(mode="after")
    def _something_is_trained(self) -> PpoConfig:
        if self.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens} leaves no room for a prompt within max_length "
                f"{self.max_length}: lower the one or raise the other"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} of {self.steps} steps: leave some at the full rate")
        if self.value_warmup_steps >= self.steps:
            raise ValueError(
                f"value_warmup_steps {self.value_warmup_steps} of {self.steps} steps: the policy would never be trained"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target moves kl_coef by factors, and from 0 it never moves: set kl_coef above 0")
        return self

    @model_validator(mode="after")
    def _the_best_can_be_known(self) -> PpoConfig:
        if self.patience and self.keep != "best":
            raise ValueError(
                "patience stops the stage after its best validation, so it needs keep: best; or set patience: 0"
            )
        if self.keep == "best" and not self.eval_steps:
            raise ValueError("keep: best chooses between validations: set eval_steps to 1 or more")
        measured = (*map(short_name, self.gold), *(part.columns[0] for part in self.reward), "score")
        if self.keep == "best" and self.best_by not in measured:
            raise ValueError(
                f"best_by: {self.best_by} is not measured: add it to gold, or write one of {', '.join(measured)}"
            )
        return self
