"""Direct preference optimisation (arXiv 2305.18290) of a LoRA adapter on labelled pairs, by TRL's DPOTrainer.

TRL brings the pass through the model, log-probabilities without the logits in memory, the reference (the same model
without its adapter) and the batches. Two things are ours:

1. Rows are tokenised here, with the ids that the reward model reads: an answer that was cut off has no end, and text
   that spells a token of the chat format is text.
2. The loss takes each pair's own probability: -p log s(d) - (1 - p) log s(-d) with d = beta (difference of the two
   log-ratios). TRL's `label_smoothing` is one number for all pairs, and its plain loss has none. A label of 0.9 then
   asks for d = log 9, and not for ever more; with "hard" targets p is 1, and the loss is TRL's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig as Arguments
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from rlaif.config import DpoConfig
from rlaif.core.files import MetricsLog
from rlaif.core.progress import Progress
from rlaif.lm.local.load import LoadedModel, lora_config, takes_lora
from rlaif.training import hf_trainer
from rlaif.training.preference_metrics import agreement
from rlaif.training.rewards.model import Targets, preference_loss
from rlaif.training.rewards.preferences import PromptGroup

DpoRow = dict[str, Any]
COLUMNS = ("accuracy", "margin", "reward_chosen", "reward_rejected")
"""What stands in metrics.jsonl beside step, epoch and loss."""


def pair_rows(groups: Sequence[PromptGroup]) -> list[DpoRow]:
    """A row for each pair: `prompt_ids`, `chosen_ids` of the answer that is likelier to be preferred (of a tie the
    first), `rejected_ids` of the other, and `prob`, the probability of the first of them, from 0.5 to 1."""
    rows = []
    for group in groups:
        for pair in group.pairs:
            chosen, rejected = (pair.a, pair.b) if pair.prob_a >= 0.5 else (pair.b, pair.a)
            rows.append(
                {
                    "prompt_ids": list(group.rows[chosen][0]),
                    "chosen_ids": list(group.rows[chosen][1]),
                    "rejected_ids": list(group.rows[rejected][1]),
                    "prob": max(pair.prob_a, 1 - pair.prob_a),
                }
            )
    return rows


@dataclass
class _Collator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's, with the probability of each pair, (N,)."""

    def torch_call(self, examples: list[DpoRow]) -> dict[str, Any]:
        return {**super().torch_call(examples), "prob": torch.tensor([row["prob"] for row in examples])}


class _SoftDpoTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with the loss above, on rows that are tokenised."""

    targets: Targets = "soft"
    measured: dict[str, float] | None = None

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The mean loss over the pairs of the batch, ()."""
        given = {name: value for name, value in inputs.items() if name != "prob"}
        labels = given["input_ids"].masked_fill(given["completion_mask"] == 0, -100)
        tokens = {name: given[name] for name in ("input_ids", "attention_mask")}
        found = model(**tokens, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1)
        before = torch.cat(self.compute_ref_log_probs(self.model, given))  # chosen ones first, as in the batch
        chosen, rejected = (self.beta * (found - before)).chunk(2)
        margin, prob = chosen - rejected, inputs["prob"].to(found.device)
        self._note(chosen.detach(), rejected.detach(), prob)
        return preference_loss(margin, prob, self.targets)

    def _note(self, chosen: Tensor, rejected: Tensor, prob: Tensor) -> None:
        """Keeps what the log shows of the step: the means of the two rewards of DPO, and how often they agree with the
        labels."""
        margin = chosen - rejected
        numbers = (
            agreement(margin.cpu().numpy(), prob.cpu().numpy()),
            *(float(value.mean()) for value in (margin, chosen, rejected)),
        )
        self.measured = {name: value for name, value in zip(COLUMNS, numbers, strict=True) if value is not None}

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.measured is not None:
            logs.update(self.measured)
        super().log(logs, *args, **kwargs)


def train(
    loaded: LoadedModel,
    rows: Sequence[DpoRow],
    config: DpoConfig,
    *,
    seed: int,
    checkpoints: Path,
    metrics: MetricsLog,
    progress: Progress,
) -> Any:
    """The PEFT model, trained on the rows; from the last checkpoint of the same work, where there is one."""
    plan = hf_trainer.plan(
        config,
        [2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows],
        seed=seed,
        checkpoints=checkpoints,
        decisive=("dpo", seed, config.model_dump(exclude={"save_steps"}), loaded.fingerprint, rows),
        device=loaded.device,
    )
    pad = loaded.tokenizer.pad_token_id
    with hf_trainer.quiet(), takes_lora(loaded.name):
        trainer = _SoftDpoTrainer(
            model=loaded.model,
            args=hf_trainer.on_one_device(
                Arguments(
                    **plan.arguments,
                    beta=config.beta,
                    max_length=None,  # nothing is cut: over-long pairs are left out and counted
                    gradient_checkpointing=False,
                    bf16=loaded.dtype == torch.bfloat16,  # autocast; the LoRA weights themselves stay float32
                )
            ),
            data_collator=_Collator(pad_token_id=loaded.tokenizer.eos_token_id if pad is None else pad),
            train_dataset=Dataset.from_list([rows[i] for i in plan.order]),
            processing_class=loaded.tokenizer,
            peft_config=lora_config(config),
        )
    trainer.targets = config.targets
    hf_trainer.train("dpo", trainer, plan.schedule, {name: name for name in COLUMNS}, metrics, progress)
    return trainer.model
