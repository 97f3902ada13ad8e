"""Memory and CPU time of log-probs and entropies with gradients over a large vocabulary: in pieces against at once.

    python benchmarks/logits_in_pieces.py [--vocabulary 150000] [--tokens 512] [--responses 4]

The model has almost no body, so that what is measured is its output layer. Each row is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date


def measure(kind: str, vocabulary: int, tokens: int, responses: int) -> None:
    """Prints gigabytes above those of the model, and CPU seconds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlaif.config import PpoConfig
    from rlaif.lm.local.load import LoadedModel
    from rlaif.training.ppo import policy_model as adapters

    if kind == "at once":
        adapters.LOGITS = 1 << 62
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    body = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=2 * tokens, **small))
    body = body.eval().requires_grad_(False)
    loaded = LoadedModel(body, None, "body", "body", torch.device("cpu"), torch.float32)
    model = adapters.PolicyModel(loaded, PpoConfig(), seed=0)  # type: ignore[call-arg]
    rows = [([1, 2, 3 + i], [5 + i] * tokens) for i in range(responses)]
    before, start = _peak(), time.process_time()
    logprobs, entropies = model.logprobs_and_entropies(model.response_states(rows), rows)
    torch.autograd.backward(logprobs.sum() + entropies.sum())
    print(f"| {kind} | {_peak() - before:.2f} | {time.process_time() - start:.1f} |")


def _peak() -> float:
    scale = 1e9 if sys.platform == "darwin" else 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--kind")
    given = parser.parse_args()
    if given.kind is not None:
        measure(given.kind, given.vocabulary, given.tokens, given.responses)
        return
    print(f"{given.responses} responses of {given.tokens} tokens, vocabulary {given.vocabulary}; ", end="")
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}, {date.today()}\n")
    print("| logits | peak memory, GB | CPU s |\n|---|---|---|", flush=True)
    for kind in ("at once", "in pieces"):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--kind", kind], check=True)


if __name__ == "__main__":
    main()
