"""Seconds of a forward pass, and of one with gradients, over responses packed behind their prompt v rows of their own.

    python benchmarks/packing.py [PROMPTS=8] [SAMPLES=8] [TOKENS=12] [REPEATS=5] [MODEL=embedded]

The same PPO policy (LoRA on the frozen model), prompts and responses in both ways, in alternation after one round that
does not count; prints medians and their ratio, and how far the log-probs of the two ways are apart.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

from rlaif.config import ModelConfig, PpoConfig, PromptSlice
from rlaif.inputs.prompt_sets import split_prompts
from rlaif.lm.local.load import encode_chat, load_model
from rlaif.training.ppo.policy_model import PolicyModel


def main(prompts: int = 8, samples: int = 8, tokens: int = 12, repeats: int = 5, source: str = "embedded") -> None:
    loaded = load_model(ModelConfig.model_validate({"source": source}))
    model = PolicyModel(loaded, PpoConfig.model_validate({"value": "trunk"}), seed=0)
    asked, _ = split_prompts({"harmful": PromptSlice(source="do-not-answer", train=prompts, held_out=0)}, 0)
    ids = [encode_chat(loaded.tokenizer, prompt.messages) for prompt in asked]
    draw = torch.Generator().manual_seed(0)
    answers = torch.randint(100, 1000, (prompts * samples, tokens), generator=draw).tolist()
    rows = [(ids[i // samples], answer) for i, answer in enumerate(answers)]
    print(f"{prompts} prompts of {statistics.mean(map(len, ids)):.0f} tokens x {samples} responses of {tokens}\n")

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model.logprobs(model.response_states(rows), rows)

    def gradients() -> torch.Tensor:
        found = model.logprobs(model.response_states(rows), rows)
        found.sum().backward()  # type: ignore[no-untyped-call]
        return found.detach()

    print("| pass | packed, s | rows of their own, s | ratio | log-probs at most apart |\n|---|---|---|---|---|")
    for name, work in (("forward", forward), ("forward and backward", gradients)):
        seconds: dict[bool, list[float]] = {True: [], False: []}
        found: dict[bool, torch.Tensor] = {}
        for repeat in range(repeats + 1):
            for packed in (True, False) if repeat % 2 else (False, True):
                model.lm.packs = packed
                for parameter in model.trained.values():
                    parameter.grad = None
                taken, found[packed] = _timed(work)
                if repeat:
                    seconds[packed].append(taken)
        fast, slow = statistics.median(seconds[True]), statistics.median(seconds[False])
        apart = float((found[True] - found[False]).abs().max())
        print(f"| {name} | {fast:.2f} | {slow:.2f} | {slow / fast:.2f} | {apart:.3f} |", flush=True)


def _timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    found = work().cpu()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))  # type: ignore[arg-type]
