"""A worker of benchmarks/ppo.py: steps of TRL 1.12's PPOTrainer, the last release that has one. Own environment:

    python3.11 -m venv trl112
    trl112/bin/pip install torch==2.13.0      # or a CPU wheel of it: the index's own brings the GPU libraries
    trl112/bin/pip install trl==1.12.0 transformers==5.23.0 peft==0.21.2 accelerate==1.15.0 datasets==5.2.0

What is set other than TRL sets it, and whom it favours:
1. Gradient checkpointing is off (TRL turns it on): without it TRL is faster and takes more memory.
2. `<|endoftext|>` is the pad token. TRL's masks are `ids != pad`, and SmolLM2's own pad token stands in every chat.
3. `per_device_train_batch_size` is the whole batch and nothing is accumulated: only so does TRL 1.12 make
   `num_mini_batches` optimiser steps per epoch. With accumulation it makes one step where as many were asked for.
`bf16=True` is not among the rows: this trainer does not pass it on to its Accelerator, and it changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import trl.experimental.ppo.ppo_trainer as module
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer
from turns import Turns


class AtItsTurn(TrainerCallback):  # type: ignore[misc]
    """Holds the trainer up before each step until it is its turn."""

    def __init__(self, turns: Turns, batch: int, length: int) -> None:
        self.turns, self.generated = turns, batch * length

    def on_train_begin(self, *_: Any, **named: Any) -> None:
        self._wait()

    def on_step_end(self, *_: Any, **named: Any) -> None:
        self.turns.done(self.generated)
        self._wait()

    def _wait(self) -> None:
        if not self.turns.wait():
            os._exit(0)  # the trainer has no way out of its loop
        self.turns.mark("generate")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--critic", default="full", choices=("full", "lora"))
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    turns = Turns()
    work: dict[str, Any] = json.loads(given.workload.read_text(encoding="utf-8"))
    loading = {"dtype": getattr(torch, given.dtype), "attn_implementation": given.attention}
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    tokenizer.pad_token_id, tokenizer.padding_side = work["pad"], "left"
    policy = AutoModelForCausalLM.from_pretrained(work["model"], **loading)
    reward, critic = (
        AutoModelForSequenceClassification.from_pretrained(work["model"], num_labels=1, **loading) for _ in range(2)
    )
    for classifier in (reward, critic):
        classifier.config.pad_token_id = work["pad"]
    reward.requires_grad_(False)
    lora = {"r": work["lora_r"], "lora_alpha": work["lora_alpha"], "target_modules": "all-linear"}
    turns.watch([part.get_input_embeddings() for part in (policy, reward, critic)])
    if given.critic == "lora":
        critic.model = get_peft_model(critic.model, LoraConfig(**lora))
    trainer = PPOTrainer(
        args=_arguments(work, given.workload.parent / "trl"),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=critic,
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in work["ids"]]),
        callbacks=[AtItsTurn(turns, len(work["ids"]), work["max_new_tokens"])],
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
    )
    # Up to the first forward pass with gradients it scores; `forward` also makes the reference's log-probs.
    module.forward = turns.marking(lambda: "optimise" if torch.is_grad_enabled() else "score", module.forward)
    module.selective_log_softmax = turns.marking(
        lambda: "score" if turns.phase == "generate" else None, module.selective_log_softmax
    )
    held = {id(p): p for part in (trainer.model, trainer.reward_model) for p in part.parameters()}
    turns.ready(
        held=sum(p.numel() for p in held.values()),
        trained=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    )
    trainer.train()


def _arguments(work: dict[str, Any], folder: Path) -> Any:
    batch = len(work["ids"])
    return PPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_mini_batches=work["num_mini_batches"],
        num_ppo_epochs=work["num_ppo_epochs"],
        total_episodes=batch * 1000,
        response_length=work["max_new_tokens"],
        temperature=1.0,
        learning_rate=1e-5,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to=[],
        num_sample_generations=0,
        save_strategy="no",
        logging_steps=1,
        local_rollout_forward_batch_size=batch,
        seed=0,
    )


if __name__ == "__main__":
    sys.exit(main())
