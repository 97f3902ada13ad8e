"""Trains a reward model on soft labels: its batches, its loss, its Trainer.

1. All responses to a prompt are encoded once and serve all of its pairs, in one optimiser step (InstructGPT,
   2203.02155, section 3.5): cheaper than pair by pair, and a response is not fitted several times an epoch.
   A step computes the batch in micro-batches of whole prompts, and counts its pairs as one batch all the same.
2. The loss is the soft-label form, averaged over the pairs of the batch; labels are not hardened.
   `reward.targets` turns them into sides, or into sides with a margin, for comparison; ties count in the soft form.
3. Prompts, not pairs, are held out: pairs of one prompt share their responses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

from rlaif.config import RewardConfig
from rlaif.core.errors import StageError
from rlaif.core.files import MetricsLog, write_folder
from rlaif.core.progress import Progress
from rlaif.core.records import PreferenceLabel, Prompt, Response, record_seed
from rlaif.lm.local.causal_lm import SHORT
from rlaif.lm.local.cpu import engine
from rlaif.lm.local.load import LoadedModel
from rlaif.lm.local.packing import Row
from rlaif.training import hf_trainer
from rlaif.training.preference_metrics import agreement
from rlaif.training.rewards.early_stop import LOSS, EarlyStop
from rlaif.training.rewards.model import RewardModel, Targets, encoded, preference_loss, row_length
from rlaif.training.rewards.predictors import AnswerPair


@dataclass(frozen=True, slots=True)
class Pair:
    """One label: places of the two responses in their prompt's group, P(a is preferred), the principle that it was
    made under ("" = several), and how its answers came about."""

    a: int
    b: int
    prob_a: float
    principle: str = ""
    answers: str = "policy"


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """A prompt with its distinct responses, their rows (prompt ids, response ids), and its labelled pairs."""

    prompt: Prompt
    responses: tuple[Response, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]

    @property
    def tokens(self) -> int:
        """Those of the prompt once and of all responses: what a forward pass computes."""
        return len(self.rows[0][0]) + sum(len(response) for _, response in self.rows)


def group_by_prompt(
    labels: Iterable[PreferenceLabel], loaded: LoadedModel, limit: int
) -> tuple[list[PromptGroup], int, int]:
    """(prompts with at least one labelled pair, each response encoded once; labels left out for their length, and for
    comparing what is token for token the same)."""
    by_prompt: dict[str, list[PreferenceLabel]] = {}
    for label in labels:
        if label.prob_a is not None:
            by_prompt.setdefault(label.comparison.prompt.id, []).append(label)
    groups, too_long, identical = [], 0, 0
    for own in by_prompt.values():
        prompt = own[0].comparison.prompt
        responses = {r.id: r for label in own for r in (label.comparison.a, label.comparison.b)}
        ids = {key: encoded(loaded, prompt, r.text, finished=r.finish == "stop") for key, r in responses.items()}
        place = {key: i for i, key in enumerate(key for key in ids if row_length(ids[key]) <= limit)}
        pairs = tuple(
            Pair(
                place[label.comparison.a.id],
                place[label.comparison.b.id],
                label.prob_a,
                _principle(label),
                label.answers,
            )
            for label in own
            if label.prob_a is not None and {label.comparison.a.id, label.comparison.b.id} <= place.keys()
        )
        too_long += len(own) - len(pairs)
        rows = tuple(ids[key] for key in place)
        different = tuple(pair for pair in pairs if rows[pair.a] != rows[pair.b])
        identical += len(pairs) - len(different)
        if different:
            kept = tuple(responses[key] for key in place)
            groups.append(PromptGroup(prompt, kept, rows, different))
    return groups, too_long, identical


def _principle(label: PreferenceLabel) -> str:
    known = {verdict.principle_id for verdict in label.verdicts}
    return label.principle_id or (known.pop() if len(known) == 1 else "")


def half(groups: Sequence[PromptGroup], *, seed: int) -> list[PromptGroup]:
    """Half of the prompts, rounded up, chosen by the hash of seed and prompt id: what a member of an ensemble sees."""
    ranked = sorted(groups, key=lambda group: record_seed(seed, "half", group.prompt.id))
    kept = {group.prompt.id for group in ranked[: (len(ranked) + 1) // 2]}
    return [group for group in groups if group.prompt.id in kept]


def with_a_side(groups: Sequence[PromptGroup]) -> list[PromptGroup]:
    """The groups without pairs labelled exactly 0.5, and without those that have no other: hard targets and margins
    cannot use them."""
    kept = [replace(group, pairs=tuple(pair for pair in group.pairs if pair.prob_a != 0.5)) for group in groups]
    return [group for group in kept if group.pairs]


def answer_pairs(groups: Sequence[PromptGroup]) -> list[AnswerPair]:
    """The pairs of all groups, in their order."""
    return [
        AnswerPair(group.prompt.id, group.responses[pair.a], group.responses[pair.b], pair.prob_a)
        for group in groups
        for pair in group.pairs
    ]


def split(groups: Sequence[PromptGroup], *, share: float, seed: int) -> tuple[list[PromptGroup], list[PromptGroup]]:
    """(train, held out): a `share` of the prompts, at least one, chosen by the hash of seed and prompt id."""
    ranked = sorted(groups, key=lambda group: record_seed(seed, "held-out", group.prompt.id))
    count = min(len(ranked), max(1, round(share * len(ranked))))
    chosen = {group.prompt.id for group in ranked[:count]}
    train = [group for group in groups if group.prompt.id not in chosen]
    return train, [group for group in groups if group.prompt.id in chosen]


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Every response of some prompts once, and the pairs as places among them."""

    rows: tuple[Row, ...]
    row_a: Tensor  # (pairs,)
    row_b: Tensor  # (pairs,)
    prob_a: Tensor  # (pairs,)

    @classmethod
    def of(cls, groups: Sequence[PromptGroup]) -> PairBatch:
        """That of the groups."""
        places: list[tuple[int, int, float]] = []
        start = 0
        for group in groups:
            places += [(start + pair.a, start + pair.b, pair.prob_a) for pair in group.pairs]
            start += len(group.rows)
        row_a, row_b, prob_a = zip(*places, strict=True)
        rows = tuple(row for group in groups for row in group.rows)
        return cls(rows, torch.tensor(row_a), torch.tensor(row_b), torch.tensor(prob_a, dtype=torch.float32))


def micro_batches(groups: Sequence[PromptGroup], size: int) -> list[PairBatch]:
    """The groups in order, so many at a time that they have at most `size` responses, but at least one."""
    parts: list[list[PromptGroup]] = []
    for group in groups:
        if not parts or sum(len(other.rows) for other in parts[-1]) + len(group.rows) > size:
            parts.append([])
        parts[-1].append(group)
    return [PairBatch.of(part) for part in parts]


class _PreferenceTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with the soft preference loss; its checkpoints hold the adapter and the head, no base."""

    model: RewardModel
    batch_accuracy: float | None = None
    targets: Targets = "soft"
    centering: float = 0.0
    early_stop: EarlyStop | None = None

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """The loss over all pairs of the batch, (); its gradient is added up one micro-batch after the other."""
        model.train()
        parts: list[PairBatch] = inputs["parts"]
        pairs = sum(len(part.prob_a) for part in parts)
        total, margins = torch.zeros((), device=self.args.device), []
        for part in parts:
            with self.compute_loss_context_manager():
                raw = model(part.rows)
                margin = raw[part.row_a.to(raw.device)] - raw[part.row_b.to(raw.device)]
                loss = preference_loss(margin, part.prob_a.to(raw.device), self.targets)
                if self.centering:
                    loss = loss + self.centering * (raw[part.row_a] + raw[part.row_b]).square().mean()
                loss = loss * (len(margin) / pairs)
            self.accelerator.backward(loss)
            total += loss.detach()
            margins.append(margin.detach().cpu())
        self.batch_accuracy = agreement(torch.cat(margins).numpy(), torch.cat([p.prob_a for p in parts]).numpy())
        return total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.batch_accuracy is not None:
            logs["accuracy"] = self.batch_accuracy
        if "loss" in logs and self.early_stop is not None and self.early_stop.loss is not None:
            logs[LOSS] = self.early_stop.loss
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
    validation: Sequence[PromptGroup] = (),
    seed: int,
    run_seed: int,
    checkpoints: Path,
    metrics: MetricsLog,
    progress: Progress,
) -> None:
    """Trains `model` in place; from the last checkpoint of the same work, where there is one.

    With `validation` prompts it ends by `reward.patience`, with the weights that had the lowest loss on these. `seed`
    is that of this member of an ensemble, `run_seed` that of the first. Raises StageError where no pair has a side and
    `reward.targets` needs one.
    """
    validated = bool(validation)
    if config.targets != "soft":
        groups, validation = with_a_side(groups), with_a_side(validation)
    if not groups or validated > bool(validation):
        raise StageError(
            f"every label to {'validate' if groups else 'train'} on is exactly 0.5, so none has a side",
            where=f"reward.targets: {config.targets}",
            remedy="set reward.targets: soft, or make more labels",
        )
    decisive = config.model_dump(exclude={"save_steps", "members", "micro_batch_size", "pooling"})
    decisive |= {} if seed == run_seed else {"seed": seed}
    data = [(group.rows, group.pairs) for group in groups]
    short = max(row_length(row) for group in groups for row in group.rows) <= SHORT
    model.writes_out = short and engine.takes_eager_attention(model.lm[0])
    plan = hf_trainer.plan(
        config,
        [group.tokens for group in groups],
        seed=seed,
        checkpoints=checkpoints,
        decisive=("reward", run_seed, decisive, model.pooling, model.loaded.fingerprint, data),
        device=model.loaded.device,
    )
    with hf_trainer.quiet():
        trainer = _PreferenceTrainer(
            model=model,
            args=hf_trainer.on_one_device(TrainingArguments(**plan.arguments)),
            train_dataset=[groups[i] for i in plan.order],
            data_collator=lambda chosen: {"parts": micro_batches(chosen, config.micro_batch_size)},
        )
    trainer.targets, trainer.centering = config.targets, config.centering
    columns = {"accuracy": "accuracy", LOSS: LOSS}
    if not validation:
        hf_trainer.train("reward", trainer, plan.schedule, columns, metrics, progress)
        return
    folder = Path(trainer.args.output_dir)
    best, checkpoint = folder / "best", hf_trainer.last_checkpoint(folder)
    trainer.early_stop = EarlyStop(
        lambda: validation_loss(model, validation, config.targets),
        lambda: write_folder(best, model.save),
        patience=config.patience,
        schedule=plan.schedule,
        metrics=metrics,
    )
    trainer.add_callback(trainer.early_stop)
    if checkpoint is None or not trainer.early_stop.stopped(hf_trainer.step_of(checkpoint)):
        hf_trainer.train("reward", trainer, plan.schedule, columns, metrics, progress)
    model.restore(best)


def validation_loss(model: RewardModel, groups: Sequence[PromptGroup], targets: Targets) -> float:
    """The loss over all pairs of the groups as the model is; raises StageError where it is no number."""
    batch = PairBatch.of(groups)
    raw = torch.tensor(model.raw_of(batch.rows))
    loss = preference_loss(raw[batch.row_a] - raw[batch.row_b], batch.prob_a, targets).item()
    if not math.isfinite(loss):
        raise StageError(
            f"the loss on the validation prompts is {loss}",
            where="reward",
            remedy="lower reward.learning_rate, or set model.dtype: float32",
        )
    return loss
