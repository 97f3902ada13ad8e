"""Seconds of a PPO step by phase against model size, batch and length of the responses; docs/ppo-scaling.png.

    python benchmarks/ppo_scaling.py [--sizes 10,30,100,300] [--batches 4,16,64] [--lengths 16,48,128] [--steps 2]

Models of Llama's shape with random weights in bfloat16, of about so many millions of parameters beside the embedding of
--vocabulary tokens, the value head on the policy's trunk, LoRA r=16, prompts of 32 tokens, 2 epochs of 2 optimiser
steps. One of the three is varied at a time, the others stand at their middle value. The reward is a Python function.
Seconds are the process's own CPU time, medians of the steps behind the first.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine

from rlaif.config import PpoConfig
from rlaif.core.records import Message, Prompt
from rlaif.lm.local.load import LoadedModel
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards

PHASES = ("generate", "score", "optimise")
SHAPES = {10: (256, 12), 30: (384, 16), 100: (576, 28), 300: (896, 32)}
"""Millions of parameters -> width and layers."""
PROMPT = 32


class NumbersTokenizer:
    """Ids for text and text for ids, without a vocabulary: a prompt is its numbers."""

    eos_token_id, all_special_tokens, added_tokens_decoder = 0, (), {}  # type: ignore[var-annotated]

    def apply_chat_template(self, chat: Any, **_: Any) -> list[int]:
        return list(map(int, chat[-1]["content"].split()))

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(map(str, ids))


def main() -> None:
    given = _arguments()
    values = {name: list(map(int, getattr(given, name).split(","))) for name in ("sizes", "batches", "lengths")}
    print(f"{machine()}; {torch.get_num_threads()} thread(s); CPU seconds of a step\n")
    print("| varied | M parameters | batch | new tokens | " + " | ".join(PHASES) + " | total |\n|" + "---|" * 8)
    found: dict[str, list[tuple[float, list[float]]]] = {}
    for name, options in values.items():
        for option in options:
            middle = {key: some[len(some) // 2] for key, some in values.items()} | {name: option}
            parameters, seconds = _seconds(given, *middle.values())
            at = parameters / 1e6 if name == "sizes" else float(option)
            found.setdefault(name, []).append((at, seconds))
            cells = " | ".join(f"{part:.2f}" for part in [*seconds, sum(seconds)])
            row = f"{parameters / 1e6:.1f} | {middle['batches']} | {middle['lengths']}"
            print(f"| {name} | {row} | {cells} |", flush=True)
    _plot(found, Path(given.out))
    print(f"\nplotted to {given.out}")


def _seconds(given: argparse.Namespace, size: int, batch: int, length: int) -> tuple[int, list[float]]:
    """The model's parameters, and the median CPU seconds of each phase."""
    model = _model(size, given.vocabulary)
    fields = {"batch_size": batch, "micro_batch_size": min(8, batch), "max_new_tokens": length, "value": "trunk"}
    config = PpoConfig.model_validate(fields | {"num_ppo_epochs": 2, "num_mini_batches": 2, "max_approx_kl": 1e6})
    policy = PolicyModel(model, config, seed=0)
    rewards = Rewards.of_function(lambda prompts, responses, **_: [float(len(text)) for text in responses])
    trainer = PpoTrainer(policy, config, seed=0, rewards=rewards)
    trainer.sampler.ends = [0]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1, given.vocabulary, (batch, PROMPT), generator=draw).tolist()
    prompts = [Prompt(messages=(Message("user", " ".join(map(str, row))),)) for row in ids]
    clock: dict[str, list[float]] = {phase: [] for phase in PHASES}
    trainer.sampler.sample = _timed(trainer.sampler.sample, clock["generate"])  # type: ignore[method-assign]
    trainer.measure = _timed(trainer.measure, clock["score"])  # type: ignore[method-assign]
    trainer.update = _timed(trainer.update, clock["optimise"])  # type: ignore[method-assign]
    for step in range(given.steps + 1):
        trainer.step(step, prompts)
    return sum(p.numel() for p in model.model.parameters()), [statistics.median(clock[p][1:]) for p in PHASES]


def _timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def timed(*given: Any) -> Any:
        start = time.process_time()
        made = work(*given)
        seconds.append(time.process_time() - start)
        return made

    return timed


def _model(size: int, vocabulary: int) -> LoadedModel:
    """A model of Llama's shape with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, layers = SHAPES[size]
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=max(n for n in (1, 2, 3) if width // 64 % n == 0),
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)
    return LoadedModel(model, NumbersTokenizer(), f"llama-{size}M", str(size), torch.device("cpu"), torch.bfloat16)


def _plot(found: dict[str, list[tuple[float, list[float]]]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 3.2), layout="constrained")
    labels = {"sizes": "parameters, millions", "batches": "responses a step", "lengths": "new tokens a response"}
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        at = [value for value, _ in points]
        for number, phase in enumerate(PHASES):
            axis.plot(at, [seconds[number] for _, seconds in points], marker="o", label=phase)
        axis.plot(at, [sum(seconds) for _, seconds in points], color="black", linestyle=":", label="step")
        axis.set(xscale="log", yscale="log", xlabel=labels[name])
    axes[0].set_ylabel("CPU seconds of a step")
    axes[0].legend()
    figure.savefig(out, dpi=110)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,30,100,300", help=f"of {', '.join(map(str, SHAPES))}")
    parser.add_argument("--batches", default="4,16,64", help="responses a step")
    parser.add_argument("--lengths", default="16,48,128", help="new tokens a response")
    parser.add_argument("--vocabulary", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=2, help="steps that count")
    parser.add_argument("--out", default="docs/ppo-scaling.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
