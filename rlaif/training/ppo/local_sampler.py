"""Where rollouts come from: the policy's own merged weights, on the machine that trains; each process samples some.

Another machine's: server_sampler.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rlaif.config import PpoConfig
from rlaif.core.errors import ModelError
from rlaif.core.records import Prompt, record_seed
from rlaif.lm.local.causal_lm import sample
from rlaif.lm.local.cpu.engine import WORTH_PACKING, decoder_for
from rlaif.lm.local.load import encode_chat, end_ids
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.processes import ALONE, Processes
from rlaif.training.ppo.rollout import Rollouts, SamplingError, together


class Sampler(Protocol):
    """What draws the responses of a step."""

    def sample(self, prompts: Sequence[Prompt], step: int) -> Rollouts:
        """One response per prompt; those to the same prompt, which stand side by side, stay so."""

    def close(self) -> None:
        """Called when nothing more will be sampled."""


class LocalSampler:
    """Samples from the policy, `batch_size` responses at a time; that changes memory and speed only."""

    def __init__(
        self, model: PolicyModel, config: PpoConfig, *, seed: int, batch_size: int, processes: Processes = ALONE
    ) -> None:
        self.model, self.config, self.seed, self.batch_size = model, config, seed, batch_size
        self.processes = processes
        self.ends = end_ids(model.loaded.tokenizer, model.loaded.model)

    def sample(self, prompts: Sequence[Prompt], step: int) -> Rollouts:
        """One response per prompt. Prompts of like length stand together. Raises SamplingError where the policy's
        output is not a number."""
        rows = by_length(self.model.loaded.tokenizer, prompts)
        mine = self.processes.share(len(rows), together([p for _, _, p in rows], self.config.samples_per_prompt))
        found = []
        with self.model.merged() as lm:
            worth_it = self.config.max_new_tokens >= WORTH_PACKING
            decoder = decoder_for(lm, rows=self.batch_size) if worth_it else None
            for start in range(0, len(mine), self.batch_size):
                chosen = [rows[number] for number in mine[start : start + self.batch_size]]
                with _sampling_errors():
                    found += sample(
                        lm,
                        [ids for ids, _, _ in chosen],
                        max_new_tokens=self.config.max_new_tokens,
                        temperature=self.config.temperature,
                        seeds=[seed_of(self.seed, step, i) for _, i, _ in chosen],
                        ends=self.ends,
                        decoder=decoder,
                    )
        sampled = self.processes.joined(mine, found)
        return Rollouts(
            prompts=tuple(p for _, _, p in rows),
            prompt_ids=tuple(tuple(ids) for ids, _, _ in rows),
            responses=tuple(tuple(s.ids) for s in sampled),
            finish=tuple(s.finish for s in sampled),
            sampler_logprobs=tuple(tuple(s.logprobs) for s in sampled),
        )

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def _sampling_errors() -> Iterator[None]:
    """Turns the model's word for an output that is not a number, which has no place, into a SamplingError."""
    try:
        yield
    except ModelError as problem:
        if problem.where is not None:
            raise
        raise SamplingError(problem.what) from None


def by_length(tokenizer: Any, prompts: Sequence[Prompt]) -> list[tuple[list[int], int, Prompt]]:
    """(token ids, place among `prompts`, prompt) of each prompt, those of like length together."""
    rows = [(encode_chat(tokenizer, prompt.messages), place, prompt) for place, prompt in enumerate(prompts)]
    return sorted(rows, key=lambda row: len(row[0]))


def seed_of(seed: int, step: int, place: int) -> int:
    """The seed that the response to the step's prompt number `place` is drawn with, in a run of that seed."""
    return record_seed(seed, "ppo", step, place)
