"""Does it learn as well? The same reward, steps and updates: TRL 1.12's PPOTrainer, and rlaif with each of its critics.

    python benchmarks/ppo_learning.py PYTHON_OF_TRL_1.12 [--steps 24] [--seeds 3] [--plot docs/ppo-learning.png]

The reward is the share of the response's tokens whose text has an "e" in it, times ten: both sides compute it from the
ids. All prompts have one length, nothing ends a response, weights are float32, and the settings that both have are
set alike: LoRA r=16 on all linear layers, learning rate, its decay, KL coefficient, clipping, epochs, mini-batches.
What differs is the critic: in TRL a whole model trained in full, in rlaif a LoRA adapter or a head on the policy.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from machine import machine

from rlaif.config import ModelConfig, PpoConfig, PromptSlice
from rlaif.core.records import Message, Prompt
from rlaif.inputs.prompt_sets import split_prompts
from rlaif.lm.local.load import encode_chat, load_model, load_tokenizer, resolve
from rlaif.stages.ppo import step_prompts
from rlaif.training.ppo.local_sampler import LocalSampler
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards

HERE = Path(__file__).parent
ROWS = ("trl", "rlaif-adapter", "rlaif-trunk")
SETTINGS = {
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "lora_r": 16,
    "lora_alpha": 32,
    "kl_coef": 0.05,
}


def prepare(given: argparse.Namespace) -> dict[str, Any]:
    """The work of all rows: model, prompts of one length, the tokens that are paid."""
    folder, _ = resolve(given.model)
    tokenizer = load_tokenizer(folder)
    asked, _ = split_prompts({"prompts": PromptSlice(source=given.prompts, train=200, held_out=0)}, 0)
    by_length: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for prompt in asked:
        ids = encode_chat(tokenizer, prompt.messages)
        by_length[len(ids)][prompt.text] = ids
    chosen = max(by_length.values(), key=len)
    paid = [token for token in range(len(tokenizer)) if "e" in tokenizer.decode([token])]
    return SETTINGS | {
        "model": folder,
        "source": given.model,
        "texts": list(chosen),
        "ids": list(chosen.values()),
        "pad": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "paid": paid,
        "scale": 10.0,
        "steps": given.steps,
        "batch_size": given.batch_size,
        "max_new_tokens": given.max_new_tokens,
        "learning_rate": given.learning_rate,
    }


def ours(work: dict[str, Any], value: str, seed: int) -> Iterator[dict[str, float]]:
    """Score and KL of each step of rlaif."""
    loaded = load_model(ModelConfig.model_validate({"source": work["source"], "dtype": "float32", "device": "cpu"}))
    names = (*SETTINGS, "steps", "batch_size", "max_new_tokens", "learning_rate")
    fields = {name: work[name] for name in names} | {"value": value, "missing_eos_penalty": 0.0, "max_approx_kl": 1e6}
    config = PpoConfig.model_validate(fields | {"micro_batch_size": work["batch_size"] // work["num_mini_batches"]})
    paid = set(work["paid"])

    def share(prompts: list[str], responses: list[str], completion_ids: list[list[int]]) -> list[float]:
        return [work["scale"] * sum(token in paid for token in ids) / len(ids) for ids in completion_ids]

    model = PolicyModel(loaded, config, seed=seed, longest=len(work["ids"][0]) + work["max_new_tokens"])
    sampler = LocalSampler(model, config, seed=seed, batch_size=work["batch_size"])
    sampler.ends = [work["pad"]]
    trainer = PpoTrainer(model, config, seed=seed, rewards=Rewards.of_function(share), sampler=sampler)
    prompts = [Prompt(messages=(Message("user", text),)) for text in work["texts"]]
    for step in range(work["steps"]):
        _, _, row = trainer.step(step, step_prompts(prompts, config, seed, step))
        yield {"score": row["score"], "kl": row["kl"]}


def theirs(work: Path, python: str, seed: int) -> Iterator[dict[str, float]]:
    """Score and KL of each step of TRL."""
    command = [python, str(HERE / "peers" / "trl_learn.py"), str(work), str(seed)]
    with (
        (work.parent / "trl.log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit((work.parent / "trl.log").read_text()[-2000:])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("trl_python")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--prompts", default="everyday")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    found: dict[str, list[list[dict[str, float]]]] = {name: [] for name in given.rows.split(",")}
    with tempfile.TemporaryDirectory() as name:
        work, path = prepare(given), Path(name) / "work.json"
        path.write_text(json.dumps(work), encoding="utf-8")
        print(f"{len(work['ids'])} prompts of {len(work['ids'][0])} tokens, {given.batch_size} responses of ", end="")
        print(f"{given.max_new_tokens} tokens a step, learning rate {given.learning_rate:g}; {machine()}", flush=True)
        for seed in range(given.seeds):
            for row, curves in found.items():
                if row == "trl":
                    curve = list(theirs(path, given.trl_python, seed))
                else:
                    curve = list(ours(work, row.removeprefix("rlaif-"), seed))
                curves.append(curve)
                print(f"seed {seed} {row}: " + " ".join(f"{step['score']:.1f}" for step in curve), file=sys.stderr)
    print_table(found, given.steps)
    if given.plot is not None:
        plot(found, given.plot)


def print_table(found: dict[str, list[list[dict[str, float]]]], steps: int) -> None:
    """Mean scores of the first and the last quarter of the steps, and the KL of the last one, of each seed."""
    part = max(1, steps // 4)
    print("\n| row | score, first quarter | score, last quarter | of each seed | KL of the last quarter |")
    print("|---|---|---|---|---|")
    for row, curves in found.items():
        first, last = ([_mean(c[:part], "score") for c in curves], [_mean(c[-part:], "score") for c in curves])
        each, kl = ", ".join(f"{value:.2f}" for value in last), _mean([s for c in curves for s in c[-part:]], "kl")
        print(f"| {row} | {statistics.mean(first):.2f} | {statistics.mean(last):.2f} | {each} | {kl:.2f} |")


def _mean(steps: list[dict[str, float]], name: str) -> float:
    return statistics.mean(step[name] for step in steps)


def plot(found: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Mean score by step, a thin line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for number, (row, curves) in enumerate(found.items()):
        for curve in curves:
            axes.plot([step["score"] for step in curve], color=f"C{number}", linewidth=0.6, alpha=0.5)
        means = [statistics.mean(at["score"] for at in steps) for steps in zip(*curves, strict=True)]
        axes.plot(means, color=f"C{number}", linewidth=2, label=row)
    axes.set(xlabel="step", ylabel="score")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
