"""Parameters held and peak memory of PPO's models: one base with adapters against four models. Two processes, in turn.

    python benchmarks/ppo_memory.py [--model embedded] [--batch 8] [--tokens 112] [--dtype bfloat16]

Both layouts are really built and do what a step does to them: policy and critic a forward and a backward pass and an
Adam step, reference and reward model a forward pass, over the same random tokens. In the four-model layout the policy
and the critic are trained in full, as in InstructGPT; with `four-lora` the policy is a LoRA adapter on a model of its
own and the reference still another one. Peak is the process's largest resident memory, less what it was before any
model was loaded.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import machine

from rlaif.config import ModelConfig, PpoConfig
from rlaif.lm.local.load import autocast, load_model, lora_config
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.rewards.model import RewardModel

LAYOUTS = ("one-trunk", "one-adapter", "four-lora", "four-full")


def main() -> None:
    given = _arguments()
    if given.layout:
        print(_one(given) if given.layout.startswith("one") else _four(given))
        return
    size = f"{given.batch} x {given.tokens} tokens"
    print(f"{machine()}; {given.model} in {given.dtype}, {size}\n")
    print(
        "| layout | parameters held, M | trained, M | peak memory over the start, GB |\n|---|---|---|---|", flush=True
    )
    for layout in LAYOUTS:
        command = [sys.executable, *sys.argv, "--layout", layout]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"| {layout} | {done.stdout.strip().splitlines()[-1]} |", flush=True)


def _one(given: argparse.Namespace) -> str:
    """One frozen base; policy, critic and reward are adapters and heads, the reference is the base."""
    torch.zeros(1).sum()
    before, rows = _peak(), _rows(given)
    config = PpoConfig.model_validate({"value": given.layout.removeprefix("one-")})
    with tempfile.TemporaryDirectory() as name:
        loaded = load_model(_model_config(given))
        RewardModel.new(loaded, config, seed=0).save(Path(name) / "reward")
        del loaded
        loaded = load_model(_model_config(given))
        model = PolicyModel(loaded, config, rewards=[Path(name) / "reward"], seed=0)
    trained = list(model.trained.values())
    optimiser = torch.optim.AdamW(trained)
    with torch.no_grad(), model.using(None):
        model.logprobs(model.response_states(rows), rows)
    model.scores(rows)
    flat = model.response_states(rows)
    loss = model.logprobs(flat, rows).sum()
    if model.critic == "policy":
        (loss + model.values(flat).sum()).backward()
    else:
        loss.backward()  # type: ignore[no-untyped-call]
        with model.using("value"):
            model.values(model.response_states(rows)).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    assert model.value_head is not None
    heads = [model.value_head, *(member.head for member in model.members.values())]
    return _told([*model.peft.parameters(), *(p for head in heads for p in head.parameters())], trained, before)


def _four(given: argparse.Namespace) -> str:
    """Four models: policy, reference, critic and reward model."""
    torch.zeros(1).sum()
    before, rows = _peak(), _rows(given)
    loads = [load_model(_model_config(given)) for _ in range(4)]
    policy, reference, critic, reward = (loaded.model for loaded in loads)
    heads = [torch.nn.Linear(model.config.hidden_size, 1) for model in (critic, reward)]
    critic.requires_grad_(True)
    if given.layout == "four-lora":
        from peft import get_peft_model

        policy = get_peft_model(policy, lora_config(PpoConfig()))
    else:
        policy.requires_grad_(True)
    held = [p for part in (policy, reference, critic, reward, *heads) for p in part.parameters()]
    trained = [p for part in (policy, critic, heads[0]) for p in part.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained)
    ids = torch.tensor([prompt + response for prompt, response in rows])
    start = len(rows[0][0])

    def logprobs(model: Any) -> torch.Tensor:
        base = model.base_model.model if given.layout == "four-lora" and model is policy else model
        states = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, start - 1 : -1]
        logits = base.get_output_embeddings()(states.reshape(-1, states.shape[-1])).float()
        return logits.gather(1, ids[:, start:].reshape(-1, 1)).squeeze(1) - logits.logsumexp(1)

    with autocast(loads[0]):
        with torch.no_grad():
            logprobs(reference)
            heads[1](reward.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, -1].float())
        logprobs(policy).sum().backward()  # type: ignore[no-untyped-call]
        values = heads[0](
            critic.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, start - 1 : -1].float()
        )
        values.sum().backward()
    optimiser.step()
    return _told(held, trained, before)


def _told(held: list[Any], trained: list[Any], before: int) -> str:
    """The cells of a row."""
    count = {id(p): p.numel() for p in held}
    own = {id(p): p.numel() for p in trained}
    return f"{sum(count.values()) / 1e6:.1f} | {sum(own.values()) / 1e6:.1f} | {(_peak() - before) / 1e9:.2f}"


def _peak() -> int:
    """Bytes of memory that the process held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _rows(given: argparse.Namespace) -> list[tuple[list[int], list[int]]]:
    """Prompts and responses of random tokens, half of each row."""
    ids = torch.randint(100, 400, (given.batch, given.tokens), generator=torch.Generator().manual_seed(0)).tolist()
    return [(row[: given.tokens // 2], row[given.tokens // 2 :]) for row in ids]


def _model_config(given: argparse.Namespace) -> ModelConfig:
    return ModelConfig.model_validate({"source": given.model, "dtype": given.dtype, "device": "cpu"})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="as in model.source")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=8, help="sequences in a forward and backward pass")
    parser.add_argument("--tokens", type=int, default=112, help="tokens of a sequence")
    parser.add_argument("--layout", choices=LAYOUTS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
