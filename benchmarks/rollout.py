"""Tokens per second of rlaif's sampling with its decoder and without it, and of transformers' `generate`.

    python benchmarks/rollout.py [--batches 1,8,32] [--dtypes float32,bfloat16] [--new 64] [--rounds 3] [--greedy 16]

The same random prompts of --prompt tokens, the same number of new tokens each (hardly any of them ends an answer;
tokens are counted), sampled at temperature 1 from the whole distribution. The ways take turns within one process, and
the first round of each does not count; printed are medians and spreads by the process's own CPU time, making the
decoder included, since a PPO step does that every time. Greedy answers of --greedy tokens are compared too: in float32
they have to be equal.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import machine

from rlaif.config import ModelConfig
from rlaif.lm.local.causal_lm import CausalLM, sample
from rlaif.lm.local.cpu.decoder import LlamaDecoder
from rlaif.lm.local.load import load_model

NEVER = [0]
"""<|endoftext|> of SmolLM2: it hardly says that. transformers is kept from it altogether."""


def main() -> None:
    given = _arguments()
    print(f"{machine()}; {torch.get_num_threads()} thread(s); {given.model}; {given.prompt} + {given.new} tokens\n")
    print("| dtype, batch | way | tokens/s (median) | spread | x generate | its greedy answers are generate's |")
    print("|---|---|---|---|---|---|")
    for dtype in given.dtypes.split(","):
        model = load_model(ModelConfig.model_validate({"source": given.model, "dtype": dtype})).model
        for batch in map(int, given.batches.split(",")):
            _measure(model, batch, f"{dtype}, {batch}", given)


def _measure(model: Any, batch: int, title: str, given: argparse.Namespace) -> None:
    """Prints the rows of one batch size."""
    lm, draw = CausalLM(model), torch.Generator().manual_seed(0)
    ids = torch.randint(100, model.config.vocab_size, (batch, given.prompt), generator=draw)

    def ours(decoder: LlamaDecoder | None, new: int, temperature: float) -> list[list[int]]:
        options: dict[str, Any] = {"max_new_tokens": new, "temperature": temperature}
        return [row.ids for row in sample(lm, ids.tolist(), seeds=range(batch), ends=NEVER, decoder=decoder, **options)]

    @torch.no_grad()
    def generate(new: int, temperature: float) -> list[list[int]]:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), min_new_tokens=new, max_new_tokens=new, eos_token_id=NEVER,
            pad_token_id=0, **(sampling if temperature else {"do_sample": False}),
        )  # fmt: skip
        return [list(row) for row in out[:, given.prompt :].tolist()]

    ways: dict[str, Callable[[int, float], list[list[int]]]] = {
        "transformers generate": generate,
        "rlaif, without a decoder": lambda new, temperature: ours(None, new, temperature),
        "rlaif": lambda new, temperature: ours(LlamaDecoder.of(lm, batch), new, temperature),
    }
    greedy = {name: way(given.greedy, 0.0) for name, way in ways.items()}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            tokens = sum(map(len, way(given.new, 1.0)))
            if turn:
                rates[name].append(tokens / (time.process_time() - start))
    base = statistics.median(rates["transformers generate"])
    for name, found in rates.items():
        rate, spread = statistics.median(found), f"{min(found):.1f}-{max(found):.1f}"
        same = sum(mine == theirs for mine, theirs in zip(greedy[name], greedy["transformers generate"], strict=True))
        print(f"| {title} | {name} | {rate:.1f} | {spread} | {rate / base:.2f} | {same} of {batch} |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="as in model.source")
    parser.add_argument("--batches", default="1,8,32", help="answers at a time")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--greedy", type=int, default=16, help="tokens of the greedy answers that are compared")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    return parser.parse_args()


if __name__ == "__main__":
    main()
