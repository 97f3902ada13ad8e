"""What is checked: a model with its tokenizer, chat template and reward, and a few responses whose truth is known.

The truth is computed before anything of ours touches the model: its own logits, one response at a time, no padding,
no adapter, no cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlaif.config import PpoConfig
from rlaif.core.records import Prompt, record_seed
from rlaif.lm.local.load import LoadedModel, encode_chat, encode_text, end_ids
from rlaif.lm.local.packing import Row
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.rollout import RolloutBatch, Rollouts
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards.sources import Rewards

LENGTHS = (7, 2, 4, 1, 6, 3)
"""Tokens of the probe's responses, two to a prompt: all different, so that every one but the longest is padded."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far `what` is off what it must be, and how far rounding may carry it. Not a number is too far."""

    what: str
    off: float
    limit: float = 0.0

    @property
    def ok(self) -> bool:
        return self.off <= self.limit


Check = Callable[["Subject"], Iterator[Deviation]]
"""A check's name is its function's, its claim the first line of the docstring."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Of the response tokens of one row under the SFT model, at the sampling temperature; both (tokens,) float32."""

    logprobs: Tensor
    entropies: Tensor


@dataclass(slots=True)
class Subject:
    """The model on trial. Checks may train it: `trainer()` puts the adapters back to their start each time."""

    model: PolicyModel
    config: PpoConfig
    prompts: tuple[Prompt, ...]  # shortest first
    probe: Rollouts
    truth: tuple[Truth, ...]  # of each row of the probe
    load: Callable[[], LoadedModel]  # a fresh copy of the SFT model
    rewards: Rewards
    members: tuple[Path, ...] = ()  # folders of the reward models
    seed: int = 0
    start: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rounding(self) -> float:
        """What a log-prob, value or score may differ by between two ways to compute it, in the model's dtype."""
        return 0.25 if self.model.loaded.dtype == torch.bfloat16 else 1e-3

    @property
    def tokenizer(self) -> Any:
        return self.model.loaded.tokenizer

    @property
    def samples(self) -> int:
        return self.config.samples_per_prompt

    def trainer(self, *, moved: bool = False, **fields: Any) -> PpoTrainer:
        """A trainer with some fields of the config changed, its adapters and critic at their start, or `moved` away
        from it by a random step: as if trained."""
        self.model.load_adapter_state(self.start)
        if moved:
            self.move()
        config = PpoConfig.model_validate({**self.config.model_dump(), **fields})
        return PpoTrainer(self.model, config, seed=self.seed, rewards=self.rewards)

    @torch.no_grad()
    def move(self, size: float = 0.02) -> None:
        """Adds a random step of a fixed seed to every trained weight."""
        generator = torch.Generator().manual_seed(1)
        for parameter in self.model.trained.values():
            parameter.add_((torch.randn(parameter.shape, generator=generator) * size).to(parameter.device))

    def row(self, index: int) -> str:
        """A name for a row of the probe."""
        length, last = len(self.probe.responses[index]), self.probe.finish[index]
        return f"response {index + 1} ({length} tokens, {'ended' if last == 'stop' else 'cut off'})"

    def of_step(self, trainer: PpoTrainer) -> list[Prompt]:
        """The prompts of one step of the trainer."""
        count = trainer.config.batch_size // trainer.config.samples_per_prompt
        return [self.prompts[i % len(self.prompts)] for i in range(count) for _ in range(self.samples)]


def open_subject(
    loaded: LoadedModel,
    config: PpoConfig,
    prompts: Sequence[Prompt],
    *,
    load: Callable[[], LoadedModel],
    rewards: Rewards,
    members: Sequence[Path] = (),
    seed: int = 0,
) -> Subject:
    """The subject on `loaded`, which is changed in place. At least one prompt; three of different length are best."""
    ordered = sorted(prompts, key=lambda prompt: len(encode_chat(loaded.tokenizer, prompt.messages)))
    probe = made_probe(loaded, ordered, seed)
    truth = tuple(truth_of(loaded, row, config.temperature) for row in rows_of(probe))
    small = shrunk(config)
    longest = max(len(encode_chat(loaded.tokenizer, p.messages)) for p in ordered) + config.max_new_tokens
    drawn = record_seed(seed, "conformance") % (1 << 31)
    model = PolicyModel(loaded, small, rewards=members, seed=drawn, longest=longest)
    subject = Subject(model, small, tuple(ordered), probe, truth, load, rewards, tuple(members), seed)
    subject.start = model.adapter_state()
    return subject


def shrunk(config: PpoConfig) -> PpoConfig:
    """The config with batches that take seconds: four prompts, eight tokens. What decides a formula stays."""
    samples = min(config.samples_per_prompt, 2)
    small = {
        "steps": 4,
        "batch_size": 4 * samples,
        "samples_per_prompt": samples,
        "micro_batch_size": 3,
        "num_ppo_epochs": 2,
        "num_mini_batches": 2,
        "max_new_tokens": min(8, config.max_new_tokens),
        "warmup_steps": min(1, config.warmup_steps),
        "value_warmup_steps": 0,
        "max_kl": None,
        "max_approx_kl": 1e9,
    }
    return PpoConfig.model_validate({**config.model_dump(), **small})


def made_probe(loaded: LoadedModel, prompts: Sequence[Prompt], seed: int) -> Rollouts:
    """Six responses, two to each of three prompts, that stop or are cut, of random tokens but for the last: its text
    stands in single characters, which no tokenizer would make of it again."""
    tokenizer, ends = loaded.tokenizer, end_ids(loaded.tokenizer, loaded.model)
    size = loaded.model.get_output_embeddings().weight.shape[0]
    allowed = sorted(set(range(min(size, len(tokenizer)))) - set(tokenizer.all_special_ids) - set(ends))
    generator = torch.Generator().manual_seed(record_seed(seed, "probe") % (1 << 31))
    chosen = [prompts[i % len(prompts)] for i in range(3) for _ in range(2)]
    responses = []
    for number, length in enumerate(LENGTHS):
        ids = [allowed[i] for i in torch.randint(len(allowed), (length,), generator=generator).tolist()]
        if number == len(LENGTHS) - 1:
            ids = [token for letter in "end" for token in encode_text(tokenizer, letter)]
        if number % 2 == 0:
            ids[-1] = tokenizer.eos_token_id
        responses.append(tuple(ids))
    return Rollouts(
        prompts=tuple(chosen),
        prompt_ids=tuple(tuple(encode_chat(tokenizer, prompt.messages)) for prompt in chosen),
        responses=tuple(responses),
        finish=tuple("stop" if response[-1] in ends else "length" for response in responses),
    )


@torch.no_grad()
def truth_of(loaded: LoadedModel, row: Row, temperature: float) -> Truth:
    """What the model itself says of one row."""
    logprobs = own_distribution(loaded.model, row, temperature)
    entropies = -torch.where(logprobs > -math.inf, logprobs.exp() * logprobs, 0.0).sum(1)
    return Truth(logprobs[torch.arange(len(row[1])), torch.tensor(list(row[1]))], entropies)


@torch.no_grad()
def own_distribution(model: Any, row: Row, temperature: float) -> Tensor:
    """(tokens, V) log-probs before each response token, of the model's own logits: one row, no padding, no cache."""
    prompt, response = row
    ids = torch.tensor([[*prompt, *response]], device=model.device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    found: Tensor = (logits[0, len(prompt) - 1 : -1].float() / temperature).log_softmax(1).cpu()
    return found


def own_logprobs(model: Any, row: Row, temperature: float) -> Tensor:
    """(tokens,) of the response tokens; see `own_distribution`."""
    return own_distribution(model, row, temperature)[torch.arange(len(row[1])), torch.tensor(list(row[1]))]


def rows_of(rollouts: Rollouts) -> list[Row]:
    """(prompt ids, response ids) of each row. Apart from what the trainer uses, which is on trial."""
    return list(zip(rollouts.prompt_ids, rollouts.responses, strict=True))


def real(batch: RolloutBatch, name: str, row: int) -> Tensor:
    """(tokens,) one tensor of one row without its padding; (1,) of the scores."""
    values: Tensor = getattr(batch, name)
    return values[row][None] if values.ndim == 1 else values[row][: len(batch.rollouts.responses[row])]


def apart(found: Tensor, wanted: Tensor) -> float:
    """The largest difference; infinite where one of the two is not a number or their shapes differ."""
    if found.shape != wanted.shape:
        return math.inf
    distance = float((found - wanted).abs().max()) if found.numel() else 0.0
    return distance if math.isfinite(distance) else math.inf
