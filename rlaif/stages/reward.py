"""The `reward` stage: trains the reward model on soft AI labels, and says how far it agrees with those held out.

1. All responses to a prompt are encoded once and serve all of its pairs, in one optimiser step (InstructGPT,
   2203.02155, section 3.5): cheaper than pair by pair, and a response is not fitted several times an epoch.
2. The loss is the soft-label form, averaged over the pairs of the batch; labels are never hardened.
3. Prompts, not pairs, are held out: pairs of one prompt share their responses.
4. An ensemble is several adapters trained one after the other on the same base, labels and training prompts, each from
   a seed of its own: that of the first is the run's.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile, MetricsLog, write_atomic
from rlaif.core.records import PreferenceLabel, Prompt, Response, record_seed
from rlaif.lm.local.load import LoadedModel, context_length, load_model
from rlaif.stages.context import StageContext
from rlaif.training import hf_trainer as loop
from rlaif.training.preference_metrics import agreement, held_out_report, label_entropy
from rlaif.training.rewards.model import RewardModel, encoded, pad_right, preference_loss


@dataclass(frozen=True, slots=True)
class Pair:
    """One label: places of the two responses in their prompt's group, and P(a is preferred)."""

    a: int
    b: int
    prob_a: float


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A prompt with its distinct responses, their token ids, and its labelled pairs."""

    prompt: Prompt
    responses: tuple[Response, ...]
    sequences: tuple[list[int], ...]
    pairs: tuple[Pair, ...]


def run(context: StageContext) -> dict[str, float]:
    """Counts of the stage, after every member's adapter and `reward/held_out.json` have been written."""
    config = context.config.reward
    labels = JsonlFile(context.run.file("label", "labels.jsonl"), PreferenceLabel).read()
    loaded = load_model(context.config.model, (context.adapter("sft"),))
    limit = min(config.max_length, context_length(loaded.model))
    groups, dropped = group_by_prompt(labels, loaded, limit)
    if dropped:
        context.progress.say(f"  reward: {dropped} labels have a response longer than {limit} tokens and are left out")
    train, held_out = split(groups, share=config.held_out, seed=context.config.seed)
    if not train or not held_out:
        raise StageError(
            f"{len(labels)} labels of which {sum(label.prob_a is not None for label in labels)} have a preference, "
            f"on {len(groups)} prompts: at least 2 labelled prompts are needed, one of them to hold out",
            where=str(context.run.file("label", "labels.jsonl")),
            remedy="look at the failures of the label stage; use more prompts, lower judge.abstain_below, "
            "or raise reward.max_length",
        )
    members = [_member(context, loaded, number, train, groups) for number in range(config.members)]
    report = _report(held_out, members)
    write_atomic(context.folder / "held_out.json", json.dumps(report, indent=1))
    first = members[0]
    train_margins, train_labels = _margins(train, members), [pair.prob_a for group in train for pair in group.pairs]
    counts = {
        "pairs_train": len(train_labels),
        "pairs_held_out": report["pairs"],
        "prompts_train": len(train),
        "prompts_held_out": len(held_out),
        "unlabelled": sum(label.prob_a is None for label in labels),
        "dropped_too_long": dropped,
        "steps": sum(len(member.metrics) for member in members),
        "loss_first": first.metrics[0]["loss"],
        "loss_last": first.metrics[-1]["loss"],
        "label_entropy_train": label_entropy(train_labels),
        "accuracy_train": agreement(train_margins, train_labels),
        "score_mean": first.mean,
        "score_std": first.std,
        **{name: report[name] for name in ("accuracy", "log_loss", "brier", "ece", "label_entropy", "length_accuracy")},
        "disagreement": report.get("disagreement"),
    }
    return {name: float(value) for name, value in counts.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Member:
    """One trained reward model: its raw scores of every response by prompt id, its constants, its metrics rows."""

    raw: dict[str, list[float]]
    mean: float
    std: float
    metrics: list[dict[str, Any]]


def _member(
    context: StageContext,
    loaded: LoadedModel,
    number: int,
    train: Sequence[PromptGroup],
    groups: Sequence[PromptGroup],
) -> Member:
    """Member `number` from 0: trained and saved, unless it was before the stage was cut.

    Its seed draws the start of its adapter and the order of the prompts; base, labels and held-out prompts are shared.
    """
    seed = context.config.seed if number == 0 else record_seed(context.config.seed, "reward member", number) % (1 << 31)
    folder = context.run.file("reward", context.config.reward.adapters[number])
    log = _metrics(context, number)
    model = RewardModel.new(loaded, context.config.reward, seed=seed)
    there = folder.is_dir()
    if there:
        model.restore(folder)
        rows = log.read()
    else:
        if number:
            context.progress.say(f"  reward: member {number + 1} of {context.config.reward.members}")
        rows = _train(context, model, train, log, seed=seed)
    raw = {group.prompt.id: model.raw_of(group.sequences, context.config.model.batch_size) for group in groups}
    everything = [score for scores in raw.values() for score in scores]
    if not there:
        model.mean, model.std = fmean(everything), pstdev(everything)
    if not (math.isfinite(model.std) and model.std > 0):
        raise StageError(
            "the reward model gives every response the same score",
            where=str(folder),
            remedy="train longer (reward.epochs), raise reward.learning_rate, or make more labels",
        )
    if not there:
        _save(context, model, folder)
    model.unload()
    return Member(raw, model.mean, model.std, rows)


def _metrics(context: StageContext, number: int) -> MetricsLog:
    """metrics.jsonl of the first member, metrics-2.jsonl of the second, ..."""
    return context.metrics if number == 0 else MetricsLog(context.folder / f"metrics-{number + 1}.jsonl")


def group_by_prompt(
    labels: Iterable[PreferenceLabel], loaded: LoadedModel, limit: int
) -> tuple[list[PromptGroup], int]:
    """(prompts with at least one labelled pair, each response encoded once; labels left out for their length)."""
    by_prompt: dict[str, list[PreferenceLabel]] = {}
    for label in labels:
        if label.prob_a is not None:
            by_prompt.setdefault(label.comparison.prompt.id, []).append(label)
    groups, dropped = [], 0
    for own in by_prompt.values():
        prompt = own[0].comparison.prompt
        responses = {r.id: r for label in own for r in (label.comparison.a, label.comparison.b)}
        ids = {key: encoded(loaded, prompt, r.text, finished=r.finish == "stop") for key, r in responses.items()}
        place = {key: i for i, key in enumerate(key for key in ids if len(ids[key]) <= limit)}
        pairs = tuple(
            Pair(place[label.comparison.a.id], place[label.comparison.b.id], label.prob_a)
            for label in own
            if label.prob_a is not None and {label.comparison.a.id, label.comparison.b.id} <= place.keys()
        )
        dropped += len(own) - len(pairs)
        if pairs:
            kept = tuple(responses[key] for key in place)
            groups.append(PromptGroup(prompt, kept, tuple(ids[key] for key in place), pairs))
    return groups, dropped


def split(groups: Sequence[PromptGroup], *, share: float, seed: int) -> tuple[list[PromptGroup], list[PromptGroup]]:
    """(train, held out): a `share` of the prompts, at least one, chosen by the hash of seed and prompt id."""
    ranked = sorted(groups, key=lambda group: record_seed(seed, "held-out", group.prompt.id))
    count = min(len(ranked), max(1, round(share * len(ranked))))
    chosen = {group.prompt.id for group in ranked[:count]}
    train = [group for group in groups if group.prompt.id not in chosen]
    return train, [group for group in groups if group.prompt.id in chosen]


def collate(groups: Sequence[PromptGroup]) -> dict[str, Tensor]:
    """One batch: every response of the prompts once, and the pairs as row numbers.

    `input_ids` (B, T) padded on the right, `lengths` (B,); `row_a`, `row_b`, `prob_a` (pairs,).
    """
    ids, lengths = pad_right([sequence for group in groups for sequence in group.sequences])
    rows: list[tuple[int, int, float]] = []
    start = 0
    for group in groups:
        rows += [(start + pair.a, start + pair.b, pair.prob_a) for pair in group.pairs]
        start += len(group.sequences)
    row_a, row_b, prob_a = zip(*rows, strict=True)
    return {
        "input_ids": ids,
        "lengths": lengths,
        "row_a": torch.tensor(row_a),
        "row_b": torch.tensor(row_b),
        "prob_a": torch.tensor(prob_a, dtype=torch.float32),
    }


class _PreferenceTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with the soft preference loss; its checkpoints hold the adapter and the head, no base."""

    model: RewardModel
    batch_accuracy: float | None = None

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any) -> Any:
        raw = model(inputs["input_ids"], inputs["lengths"])
        margins = raw[inputs["row_a"]] - raw[inputs["row_b"]]
        self.batch_accuracy = agreement(margins.detach().cpu().numpy(), inputs["prob_a"].cpu().numpy())
        loss = preference_loss(margins, inputs["prob_a"])
        return (loss, {"margins": margins}) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.batch_accuracy is not None:
            logs["accuracy"] = self.batch_accuracy
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.model.save(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.restore(Path(resume_from_checkpoint))


def _train(
    context: StageContext, model: RewardModel, groups: Sequence[PromptGroup], log: MetricsLog, *, seed: int
) -> list[dict[str, Any]]:
    """The metrics rows; `model` is trained in place."""
    config = context.config.reward
    schedule = loop.Schedule(rows=len(groups), batch_size=config.batch_size, epochs=config.epochs)
    longest = [max(map(len, group.sequences)) for group in groups]
    order = loop.training_order(longest, schedule, seed)
    data = [(group.sequences, group.pairs) for group in groups]
    decisive = config.model_dump(exclude={"save_steps", "members"})
    decisive |= {} if seed == context.config.seed else {"seed": seed}
    arguments = loop.trainer_arguments(
        output_dir=loop.checkpoint_folder(
            context.folder / "checkpoints", "reward", context.config.seed, decisive, model.loaded.fingerprint, data
        ),
        schedule=schedule,
        learning_rate=config.learning_rate,
        save_steps=config.save_steps,
        seed=seed,
        device=model.loaded.device.type,
    )
    with loop.quiet():
        trainer = _PreferenceTrainer(
            model=model,
            args=loop.on_one_device(TrainingArguments(**arguments)),
            train_dataset=[groups[i] for i in order],
            data_collator=collate,
        )
    return loop.train("reward", trainer, schedule, {"accuracy": "accuracy"}, log, context.progress)


def _save(context: StageContext, model: RewardModel, folder: Path) -> None:
    """Puts the adapter in its place as a whole and removes the checkpoints."""
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save(temporary)
    loop.replace_folder(temporary, folder)
    shutil.rmtree(context.folder / "checkpoints", ignore_errors=True)


def _margins(groups: Sequence[PromptGroup], members: Sequence[Member]) -> list[float]:
    """Log-odds of A over B of every pair: the mean of the members'."""
    return [
        fmean(member.raw[group.prompt.id][pair.a] - member.raw[group.prompt.id][pair.b] for member in members)
        for group in groups
        for pair in group.pairs
    ]


def _report(groups: Sequence[PromptGroup], members: Sequence[Member]) -> dict[str, Any]:
    """What held_out.json says of the reward model; of an ensemble, and then of each member too."""
    pairs = [(group.responses[pair.a], group.responses[pair.b]) for group in groups for pair in group.pairs]
    report = held_out_report(
        _margins(groups, members),
        [pair.prob_a for group in groups for pair in group.pairs],
        [len(a.text) for a, _ in pairs],
        [len(b.text) for _, b in pairs],
    )
    report["prompts"] = len(groups)
    if len(members) == 1:
        return report
    scores = [
        [(member.raw[group.prompt.id][place] - member.mean) / member.std for member in members]
        for group in groups
        for place in range(len(group.responses))
    ]
    report["disagreement"] = fmean(map(pstdev, scores))
    report["members"] = [_report(groups, [member]) for member in members]
    return report
