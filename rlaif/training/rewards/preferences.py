"""Trains a reward model on soft labels: its batches, its loss, its Trainer.

1. All responses to a prompt are encoded once and serve all of its pairs, in one optimiser step (InstructGPT,
   2203.02155, section 3.5): cheaper than pair by pair, and a response is not fitted several times an epoch.
2. The loss is the soft-label form, averaged over the pairs of the batch; labels are never hardened.
3. Prompts, not pairs, are held out: pairs of one prompt share their responses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from rlaif.config import RewardConfig
from rlaif.core.files import MetricsLog
from rlaif.core.progress import Progress
from rlaif.core.records import PreferenceLabel, Prompt, Response, record_seed
from rlaif.lm.local.load import LoadedModel
from rlaif.training import hf_trainer
from rlaif.training.preference_metrics import agreement
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


def train(
    model: RewardModel,
    groups: Sequence[PromptGroup],
    config: RewardConfig,
    *,
    seed: int,
    run_seed: int,
    checkpoints: Path,
    metrics: MetricsLog,
    progress: Progress,
) -> None:
    """Trains `model` in place; from the last checkpoint of the same work, where there is one.

    `seed` is that of this member of an ensemble, `run_seed` that of the first.
    """
    decisive = config.model_dump(exclude={"save_steps", "members"})
    decisive |= {} if seed == run_seed else {"seed": seed}
    data = [(group.sequences, group.pairs) for group in groups]
    plan = hf_trainer.plan(
        config,
        [max(map(len, group.sequences)) for group in groups],
        seed=seed,
        checkpoints=checkpoints,
        decisive=("reward", run_seed, decisive, model.loaded.fingerprint, data),
        device=model.loaded.device,
    )
    with hf_trainer.quiet():
        trainer = _PreferenceTrainer(
            model=model,
            args=hf_trainer.on_one_device(TrainingArguments(**plan.arguments)),
            train_dataset=[groups[i] for i in plan.order],
            data_collator=collate,
        )
    hf_trainer.train("reward", trainer, plan.schedule, {"accuracy": "accuracy"}, metrics, progress)
