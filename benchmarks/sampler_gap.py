"""How far the distribution that samples is from the one that is trained, by dtype, before the first update of a step.

    python benchmarks/sampler_gap.py [--model embedded] [--responses 8] [--tokens 32]

The policy is a LoRA adapter that has left the SFT model: what samples has it merged into the weights, what is trained
has it beside them. Prints a row a dtype: mean |log-ratio| and KL of sampler to policy, nats a token; then what the
first update sees, whose ratios would all be 1 without rounding: the share of tokens that are clipped, and approx_kl.
"""

from __future__ import annotations

import argparse

import torch
from machine import machine

from rlaif.config import ModelConfig, PpoConfig
from rlaif.inputs.prompt_sets import load_prompts
from rlaif.lm.local.load import load_model
from rlaif.training.ppo import off_policy
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards

MOVED = 0.01
"""Standard deviation of what is added to every weight of the adapter."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    given = parser.parse_args()
    print(machine())
    prompts = load_prompts("everyday", "everyday")[: given.responses // 2]
    asked = [prompt for prompt in prompts for _ in range(2)]
    print(f"{'dtype':>10} {'gap':>8} {'KL':>9} {'nats from SFT':>14} {'clipped':>8} {'approx_kl':>10}")
    for dtype in ("float32", "bfloat16"):
        config = PpoConfig(
            batch_size=len(asked),
            samples_per_prompt=2,
            num_mini_batches=1,
            max_new_tokens=given.tokens,
            algorithm="reinforce",
        )
        loaded = load_model(ModelConfig(source=given.model, dtype=dtype, device="cpu"))  # type: ignore[arg-type]
        model = PolicyModel(loaded, config, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in model.trained.values():
                weight.add_(torch.randn(weight.shape, generator=generator) * MOVED)
        rewards = Rewards.of_function(lambda prompts, completions, **_: [float(len(text)) for text in completions])
        trainer = PpoTrainer(model, config, seed=0, rewards=rewards)
        batch, _ = trainer.measure(trainer.sampler.sample(asked, 0))
        apart = off_policy.mismatch(batch, config)
        # Another order of the responses, as the mini-batches of an update have it.
        seen = trainer.gradients(batch, list(reversed(range(len(asked)))), warmup=False)
        kl = float((batch.logprobs - batch.ref_logprobs)[batch.response_mask].mean())
        print(
            f"{dtype:>10} {apart['sampler_gap']:8.4f} {apart['sampler_kl']:9.5f} {kl:14.3f} "
            f"{seen['clip_fraction']:8.2%} {seen['approx_kl']:10.6f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
