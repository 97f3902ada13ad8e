"""A worker of benchmarks/ppo.py: steps of rlaif's own PpoTrainer; with `--prepare` it makes the workload of all rows.

No response ends before its last token: the token that would end it is one the model does not say in a chat.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from turns import Turns

from rlaif.config import ModelConfig, PpoConfig, PromptSlice
from rlaif.core.records import Message, Prompt
from rlaif.inputs.prompt_sets import split_prompts
from rlaif.lm.local.load import encode_chat, load_model, load_tokenizer, resolve
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.model import RewardModel
from rlaif.training.rewards.sources import Rewards, WeightedReward

LONGEST_PROMPT = 64


def prepare(workload: Path, work: dict[str, Any]) -> None:
    """Adds to the workload: the model's folder, prompts as text and ids, the pad token; and a reward model of ours."""
    folder, _ = resolve(work["source"])
    tokenizer = load_tokenizer(folder)
    asked, _ = split_prompts({"prompts": PromptSlice(source=work["prompts"], train=900, held_out=0)}, 0)
    ids = {prompt.text: encode_chat(tokenizer, prompt.messages) for prompt in asked}
    fitting = sorted((text for text in ids if len(ids[text]) <= LONGEST_PROMPT), key=lambda text: -len(ids[text]))
    chosen = fitting[: work["batch_size"]]
    pad = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    work |= {"model": folder, "texts": chosen, "ids": [ids[text] for text in chosen], "pad": pad}
    model = RewardModel.new(load_model(_model(work)), _config(work), seed=0)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    model.save(workload.parent / "reward")
    workload.write_text(json.dumps(work), encoding="utf-8")


def serve(workload: Path, value: str) -> None:
    """Does a step at each turn until there are none."""
    turns = Turns()
    work: dict[str, Any] = json.loads(workload.read_text(encoding="utf-8"))
    loaded = load_model(_model(work))
    turns.watch([loaded.model.get_input_embeddings()])
    config = _config(work, value=value)
    longest = LONGEST_PROMPT + work["max_new_tokens"]
    model = PolicyModel(loaded, config, rewards=[workload.parent / "reward"], seed=0, longest=longest)
    trainer = PpoTrainer(model, config, seed=0, rewards=Rewards((WeightedReward("model", None),)))
    trainer.sampler.ends = [work["pad"]]
    trainer.measure = turns.marking(lambda: "score", trainer.measure)  # type: ignore[method-assign]
    trainer.update = turns.marking(lambda: "optimise", trainer.update)  # type: ignore[method-assign]
    prompts = [Prompt(messages=(Message("user", text),)) for text in work["texts"]]
    turns.ready(
        held=sum(p.numel() for p in [*model.peft.parameters(), *model.value_head.parameters()]),
        trained=sum(p.numel() for p in model.trained.values()),
    )
    step = 0
    while turns.wait():
        turns.mark("generate")
        rollouts, batch, row = trainer.step(step, prompts)
        assert sorted(rollouts.prompt_ids) == sorted(map(tuple, work["ids"]))
        step += 1
        turns.done(int(batch.response_mask.sum()), skipped_updates=row["skipped_updates"])


def _model(work: dict[str, Any]) -> ModelConfig:
    return ModelConfig.model_validate({"source": work["source"], "dtype": "bfloat16"})


def _config(work: dict[str, Any], **more: Any) -> PpoConfig:
    names = ("batch_size", "max_new_tokens", "num_ppo_epochs", "num_mini_batches", "lora_r", "lora_alpha")
    fields = {name: work[name] for name in names} | {"learning_rate": 1e-5, "steps": 1000, "max_approx_kl": 1e6}
    return PpoConfig.model_validate(
        fields | {"micro_batch_size": work["batch_size"] // work["num_mini_batches"]} | more
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--value", default="adapter", choices=("adapter", "trunk"))
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if given.prepare:
        prepare(given.workload, json.loads(given.workload.read_text(encoding="utf-8")))
    else:
        serve(given.workload, given.value)


if __name__ == "__main__":
    sys.exit(main())
