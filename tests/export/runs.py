"""A run on the tiny model with everything that can be exported, its adapters being random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from rlaif.config import LoraTable, Pooling
from rlaif.core.files import JsonlFile, RunFolder, path_hash
from rlaif.core.records import (
    Comparison,
    Failure,
    Message,
    PreferenceLabel,
    Principle,
    Prompt,
    Response,
    SftExample,
    StageRecord,
    Verdict,
)
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load, parse
from rlaif.lm.local.load import load_model, lora_config, model_fingerprint, save_adapter
from rlaif.training.rewards.model import RewardModel

RULES = """name: ours
version: "2"
principles:
  - {id: kind, statement: Be kind.}
  - {id: brief, statement: Be brief.}
"""
RANKS = {"sft": 4, "ppo": 6}
MEAN, STD = 0.3, 2.0
"""By which the reward's scores are normalised."""


def record(stage: str, inputs: dict[str, str], **counts: float) -> StageRecord:
    return StageRecord(stage, {}, "", inputs, counts, 90.0, 1.5, {"torch": "2.6"}, "abc", 0, "a CPU, 2 cores", "", "")


def write_adapter(run: RunFolder, stage: str, base: Any, adapters: tuple[Path, ...], rank: int) -> None:
    """A random adapter with an effect, as the stage would have trained it."""
    loaded = load_model(base, adapters)
    torch.manual_seed(rank)
    peft = get_peft_model(loaded.model, lora_config(LoraTable(lora_r=rank, lora_alpha=2 * rank + 1)))
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    save_adapter(peft, run.file(stage, "adapter"), merged=loaded.merged)


def make_config(root: Path, model: Path, dtype: str = "float32", given: str | None = None) -> RunFolder:
    """A run with its config and constitution, and no stage; with `given`, labels of the user's own."""
    run = RunFolder(root)
    tables: dict[str, Any] = {"prompts": {"hard": {"source": "hard.jsonl"}, "easy": {"source": "everyday"}}}
    tables |= {"model": {"source": str(model), "dtype": dtype, "device": "cpu"}}
    tables |= {} if given is None else {"label": {"source": given}}
    root.mkdir(parents=True)
    run.config_path.write_text(dump_yaml(parse(tables, where="test").model_dump(mode="json")))
    run.constitution_path.write_text(RULES)
    return run


def make_run(
    root: Path, model: Path, *, dtype: str = "float32", pooling: Pooling = "mean", given: str | None = None
) -> RunFolder:
    """The run, finished from sft to ppo; with `given`, reward model and PPO stand on the model itself."""
    run = make_config(root, model, dtype, given)
    base, sft = load(run.config_path).model, run.file("sft", "adapter")
    own = {"model": model_fingerprint(base)}
    start: tuple[Path, ...] = ()
    if given is None:
        write_adapter(run, "sft", base, (), RANKS["sft"])
        run.finish(record("sft", own))
        own, start = {**own, "sft/adapter": path_hash(sft)}, (sft,)
    write_adapter(run, "ppo", base, start, RANKS["ppo"])
    run.finish(record("ppo", own, steps=3))
    write_reward(run, base, start, pooling)
    run.finish(record("reward", own))
    return run


def write_reward(run: RunFolder, base: Any, start: tuple[Path, ...], pooling: Pooling) -> None:
    """A random reward model."""
    reward = RewardModel.new(load_model(base, start), LoraTable(lora_r=3, lora_alpha=6), seed=1, pooling=pooling)
    torch.manual_seed(5)
    for name, weight in reward.peft_model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    reward.head.weight.data.normal_()
    reward.mean, reward.std = MEAN, STD
    reward.save(run.file("reward", "adapter"))


# --- records ----------------------------------------------------------------------------------------------------------

KIND, BRIEF = Principle("kind", "Be kind."), Principle("brief", "Be brief.")


def answer(prompt: Prompt, text: str, finish: Any = "stop") -> Response:
    return Response(prompt.id, text, "sft", 0, 1.0, finish, len(text.split()))


def verdict(pair: Comparison, rule: Principle, prob_a: float | None, order: Any = "ab") -> Verdict:
    shown = None if prob_a is None else 1 - prob_a if order == "ba" else prob_a
    failure = Failure("refused", "will not say") if prob_a is None else None
    return Verdict(pair.id, rule.id, rule.hash, "pairwise", order, "judge", shown, failure=failure)


def label(prompt: Prompt, a: str, b: str, prob_a: float | None, constitution: str, **fields: Any) -> PreferenceLabel:
    """A label under two principles, the first asked in both orders."""
    pair = Comparison(prompt, answer(prompt, a), answer(prompt, b, fields.pop("finish", "stop")))
    kind = prob_a if prob_a is None else min(1.0, prob_a + 0.1)
    votes = (verdict(pair, KIND, kind), verdict(pair, KIND, prob_a, "ba"), verdict(pair, BRIEF, prob_a))
    return PreferenceLabel(pair, prob_a, votes, constitution_hash=constitution, judge_card="card", **fields)


def add_records(run: RunFolder, constitution: str) -> list[PreferenceLabel]:
    """The labels, prompts and SFT examples that are now in the run: four with a preference, a tie, two without."""
    hard = [Prompt((Message("user", f"Hard question {n}?"),), "hard", columns=f'{{"n": {n}}}') for n in range(4)]
    talk = (
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello."),
        Message("user", "How?"),
    )
    easy = Prompt(talk, slice="easy", tags=("chat",), source="everyday")
    labels = [
        label(hard[0], "I can help you.", "No.", 0.9, constitution),
        label(hard[1], "No.", "Let us bake bread.", 0.25, constitution, finish="length"),
        label(hard[2], "Yes.", "Perhaps.", 0.55, constitution, consistency=0.5),
        label(easy, "Well, thank you.", "Bad.", 0.8, constitution),
        label(hard[3], "One.", "Two.", 0.5, constitution),
        label(hard[3], "Three.", "Four.", None, constitution, failure=Failure("refused", "will not say")),
        label(hard[3], "Five.", "Six.", None, constitution, failure=Failure("abstained", "unsure")),
    ]
    JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).append(labels)
    JsonlFile(run.file("prompts", "train.jsonl"), Prompt).append([*hard, easy])
    examples = [
        SftExample(hard[0], "I would rather help you.", "revision", "t1"),
        SftExample(hard[1], "It goes on and", "revision", "t2", finish="length"),
        SftExample(easy, "Well, thank you.", "helpful", "t3"),
    ]
    JsonlFile(run.file("sft", "examples.jsonl"), SftExample).append(examples)
    run.finish(record("label", {}, labels=7, judge_calls=21, judge_prompt_tokens=900))
    return labels
