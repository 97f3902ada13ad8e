"""The row `trl` of benchmarks/ppo_learning.py: TRL 1.12's PPOTrainer on a reward that both sides compute from ids.

Environment as for trl_ppo.py. Prints a line of JSON a step. The pad token and the batches are set as there, and why.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Body(torch.nn.Module):
    """Its last hidden state at each place is the reward of the response up to there."""

    def __init__(self, paid: list[int], vocabulary: int, context: int, scale: float) -> None:
        super().__init__()
        worth = torch.zeros(vocabulary)
        worth[paid] = scale
        self.register_buffer("worth", worth)
        self.context = context

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        worth = self.worth[input_ids]
        worth[:, : self.context] = 0
        places = (torch.arange(input_ids.shape[1]) - self.context + 1).clamp(min=1)
        return SimpleNamespace(hidden_states=[(worth.cumsum(1) / places)[..., None]])


class Reward(torch.nn.Module):
    """The parts of a sequence classifier that TRL asks for."""

    base_model_prefix = "body"

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body, self.score = body, torch.nn.Identity()


class Told(TrainerCallback):  # type: ignore[misc]
    """Prints each step's mean score and KL."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "objective/scores" in logs:
            print(json.dumps({"score": logs["objective/scores"], "kl": logs["objective/kl"]}), file=self.answers)
            self.answers.flush()


def main() -> None:
    told = Told()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    work: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    tokenizer.pad_token_id, tokenizer.padding_side = work["pad"], "left"
    policy = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    critic = AutoModelForSequenceClassification.from_pretrained(work["model"], num_labels=1, dtype=torch.float32)
    critic.config.pad_token_id = work["pad"]
    vocabulary = policy.config.vocab_size
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(Path(sys.argv[1]).parent / "trl"),
            per_device_train_batch_size=work["batch_size"],
            gradient_accumulation_steps=1,
            num_mini_batches=work["num_mini_batches"],
            num_ppo_epochs=work["num_ppo_epochs"],
            total_episodes=work["batch_size"] * work["steps"],
            response_length=work["max_new_tokens"],
            temperature=1.0,
            learning_rate=work["learning_rate"],
            kl_coef=work["kl_coef"],
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            num_sample_generations=0,
            save_strategy="no",
            logging_steps=1,
            local_rollout_forward_batch_size=work["batch_size"],
            seed=int(sys.argv[2]),
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=Reward(Body(work["paid"], vocabulary, len(work["ids"][0]), work["scale"])),
        value_model=critic,
        # As often as fills a batch: with fewer prompts TRL waits for one for ever.
        train_dataset=Dataset.from_list([{"input_ids": ids} for ids in work["ids"]] * work["batch_size"]),
        callbacks=[told],
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=work["lora_r"], lora_alpha=work["lora_alpha"], target_modules="all-linear"
        ),
    )
    trainer.train()
    os._exit(0)


if __name__ == "__main__":
    main()
