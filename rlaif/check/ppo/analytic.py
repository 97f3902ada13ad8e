"""A problem small enough to write down: what the optimum is, and how near a run of the whole loop comes to it.

Maximising E[r(y)] - beta KL(pi || ref) over all policies has one answer, pi*(y) ~ ref(y) exp(r(y) / beta), whatever the
algorithm. Here a real, tiny language model answers one prompt with one or two tokens of six, so that all 31 answers can
be enumerated. The KL price is taken token by token, and comes to that of the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.config import ModelConfig, PpoConfig
from rlaif.core.records import Message, Prompt
from rlaif.lm.local.load import load_model
from rlaif.lm.local.packing import Row
from rlaif.training.ppo.local_sampler import Sampler
from rlaif.training.ppo.policy_model import Adapter, PolicyModel
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards

WORDS = ("go", "<end>", "cat", "dog", "hen", "owl")
END = 1
PROMPT = (2, 0)
"""cat go. Of two different words: after "go" alone, an answer that begins with "go" would leave the model, which sees
equal tokens as one, where it was."""
HIDDEN = 32
"""Wider than the vocabulary: the policy can become any distribution over it."""


@dataclass(frozen=True, slots=True)
class Objective:
    """E[r], the KL to the reference in nats, and E[r] - beta KL, of one distribution over all answers."""

    reward: float
    kl: float
    value: float


@dataclass(frozen=True, slots=True)
class Solved:
    """A finished run beside the closed form. `distance` is the total variation between the two distributions."""

    algorithm: str
    beta: float
    found: Objective
    optimum: Objective
    start: Objective
    distance: float
    distance_at_start: float
    distances: tuple[float, ...]  # after each step that was looked at


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """The folder, now holding a Llama of one layer over `WORDS` with random weights, and its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="go"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", chat_template="{{ messages[0]['content'] }}"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=HIDDEN,
        intermediate_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=END,
        pad_token_id=END,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.get_input_embeddings().weight.data[END].normal_(std=0.2)  # the pad token's starts at zero
    model.save_pretrained(folder)
    return folder


def answers(tokens: int) -> list[tuple[int, ...]]:
    """All answers of at most `tokens` tokens: those that end, and those that are as long as they may be."""
    open_ones: list[tuple[int, ...]] = [()]
    found: list[tuple[int, ...]] = []
    for _ in range(tokens):
        grown = [(*begun, token) for begun in open_ones for token in range(len(WORDS))]
        found += [answer for answer in grown if answer[-1] == END]
        open_ones = [answer for answer in grown if answer[-1] != END]
    return found + open_ones


def text(answer: Sequence[int]) -> str:
    """What a reward function sees of an answer; different for each."""
    return " ".join(WORDS[token] for token in answer if token != END)


@torch.no_grad()
def distribution(model: PolicyModel, which: Adapter | None, given: Sequence[tuple[int, ...]]) -> Tensor:
    """(N,) float64 probabilities of the answers under one adapter, or under the reference; their sum is 1."""
    rows: list[Row] = [(PROMPT, answer) for answer in given]
    with model.using(which):
        tokens = model.logprobs(model.response_states(rows), rows).double().cpu()
    return torch.stack([part.sum() for part in torch.split(tokens, [len(answer) for answer in given])]).exp()


def objective(of: Tensor, ref: Tensor, rewards: Tensor, beta: float) -> Objective:
    """The three figures of a distribution (N,)."""
    reward, kl = float(of @ rewards), float((of * (of / ref).log()).sum())
    return Objective(reward, kl, reward - beta * kl)


def closed_form(ref: Tensor, rewards: Tensor, beta: float, entropy: float = 0.0) -> Tensor:
    """(N,) the best distribution there is: ~ ref exp(r / beta).

    With a bonus of `entropy` times the entropy it is ~ (ref^beta exp(r))^(1 / (beta + entropy)); for answers of one
    token alone, since the loss counts the entropy of each token given those before it.
    """
    return torch.softmax((beta * ref.log() + rewards) / (beta + entropy), 0)


def table_of_rewards(given: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """A reward between 0 and 1 for each answer, drawn from a fixed seed: nothing to generalise from."""
    draws = torch.rand(len(given), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return {text(answer): float(draw) for answer, draw in zip(given, draws, strict=True)}


def curve_of_optima(folder: Path, *, tokens: int = 2) -> list[tuple[float, float]]:
    """(KL, E[r]) of the optimum from beta 10 down to 0.02: no policy lies above the curve."""
    given = answers(tokens)
    loaded = load_model(ModelConfig.model_validate({"source": str(folder), "dtype": "float32", "device": "cpu"}))
    config = PpoConfig.model_validate({"algorithm": "reinforce", "max_new_tokens": tokens})
    ref = distribution(PolicyModel(loaded, config, seed=0), None, given)
    rewards = _rewards(given)
    betas = [10 ** (1 - step / 20) for step in range(55)]
    points = [objective(closed_form(ref, rewards, beta), ref, rewards, beta) for beta in betas]
    return [(point.kl, point.reward) for point in points]


def solve(
    folder: Path,
    *,
    beta: float,
    tokens: int = 2,
    every: int = 0,
    seed: int = 0,
    sampler: Callable[[PolicyModel, PpoConfig], Sampler] | None = None,
    **fields: Any,
) -> Solved:
    """Trains the model in `folder` (see `write_model`) with kl_coef = beta, and measures it against the closed form.

    `fields` are those of `PpoConfig`. With `every`, the distance is looked at after every so many steps. `sampler`
    makes what samples in the place of the policy.
    """
    given = answers(tokens)
    table = table_of_rewards(given)
    config = PpoConfig.model_validate(
        {
            "kl_coef": beta,
            "max_new_tokens": tokens,
            "missing_eos_penalty": 0.0,
            "cliprange_value": 10.0,
            "vf_coef": 1.0,
            "loss_type": "dr_grpo",
            **fields,
        }
    )
    loaded = load_model(ModelConfig.model_validate({"source": str(folder), "dtype": "float32", "device": "cpu"}))
    model = PolicyModel(loaded, config, seed=seed)
    work = PpoTrainer(
        model,
        config,
        seed=seed,
        rewards=Rewards.of_function(lambda responses: [table[response] for response in responses]),
        sampler=None if sampler is None else sampler(model, config),
        sample_batch_size=config.batch_size,
    )
    ref = distribution(model, None, given)
    rewards = _rewards(given)
    best = closed_form(ref, rewards, beta, config.entropy_coef)
    prompt = Prompt((Message("user", text(PROMPT)),), slice="all")
    distances = []
    for step in range(config.steps):
        work.step(step, [prompt] * config.batch_size)
        if every and step % every == 0:
            distances.append(_apart(distribution(model, "policy", given), best))
    found = distribution(model, "policy", given)
    return Solved(
        algorithm=config.algorithm,
        beta=beta,
        found=objective(found, ref, rewards, beta),
        optimum=objective(best, ref, rewards, beta),
        start=objective(ref, ref, rewards, beta),
        distance=_apart(found, best),
        distance_at_start=_apart(ref, best),
        distances=tuple(distances),
    )


def _rewards(given: Sequence[tuple[int, ...]]) -> Tensor:
    table = table_of_rewards(given)
    return torch.tensor([table[text(answer)] for answer in given], dtype=torch.float64)


def _apart(one: Tensor, other: Tensor) -> float:
    """Total variation: the largest difference of the probabilities of any set of answers."""
    return float((one - other).abs().sum()) / 2
