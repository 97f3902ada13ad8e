"""Supervised fine-tuning of a LoRA adapter on encoded examples, with the loss on the response only.

TRL's SFTTrainer does it, on rows that are tokenised here. It brings what is easily got wrong: the loss as a mean over
the tokens of a whole batch, whatever its parts, and the accuracy beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import SFTConfig as Arguments
from trl import SFTTrainer

from rlaif.config import SftConfig
from rlaif.core.files import MetricsLog
from rlaif.core.progress import Progress
from rlaif.core.records import SftExample
from rlaif.lm.local.load import LoadedModel, encode_chat, encode_text, lora_config, takes_lora
from rlaif.training import hf_trainer

Row = dict[str, list[int]]


def encode_example(tokenizer: Any, example: SftExample) -> Row:
    """`input_ids` of chat and response, and `labels`, -100 where no loss is taken: all of the prompt."""
    prompt = encode_chat(tokenizer, example.prompt.messages)
    end = [tokenizer.eos_token_id] if example.finish == "stop" else []
    response = encode_text(tokenizer, example.response) + end
    return {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}


def train(
    loaded: LoadedModel,
    rows: Sequence[Row],
    config: SftConfig,
    *,
    seed: int,
    checkpoints: Path,
    metrics: MetricsLog,
    progress: Progress,
) -> Any:
    """The PEFT model, trained on the rows; from the last checkpoint of the same work, where there is one."""
    plan = hf_trainer.plan(
        config,
        [len(row["input_ids"]) for row in rows],
        seed=seed,
        checkpoints=checkpoints,
        decisive=("sft", seed, config.model_dump(exclude={"save_steps"}), loaded.fingerprint, rows),
        device=loaded.device,
    )
    with hf_trainer.quiet(), takes_lora(loaded.name):
        trainer = SFTTrainer(
            model=loaded.model,
            args=hf_trainer.on_one_device(
                Arguments(
                    **plan.arguments,
                    max_length=None,  # nothing is cut: over-long rows are left out and counted
                    packing=False,
                    dataset_kwargs={"skip_prepare_dataset": True},
                    gradient_checkpointing=False,
                    bf16=loaded.dtype == torch.bfloat16,  # autocast; the LoRA weights themselves stay float32
                )
            ),
            train_dataset=Dataset.from_list([rows[i] for i in plan.order]),
            processing_class=loaded.tokenizer,
            peft_config=lora_config(config),
        )
    hf_trainer.train("sft", trainer, plan.schedule, {"mean_token_accuracy": "token_accuracy"}, metrics, progress)
    return trainer.model
