"""Where rollouts come from: the policy's own merged weights, on the machine that trains; each process samples some."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config import PpoConfig
from rlaif.lm.decode import sample
from rlaif.models import encode_chat, end_ids
from rlaif.records import Prompt, record_seed
from rlaif.training.adapters import PolicyModel
from rlaif.training.processes import ALONE, Processes
from rlaif.training.rollout import Rollouts


class LocalSampler:
    """Samples from the policy, `batch_size` responses at a time; that changes memory and speed only."""

    def __init__(
        self, model: PolicyModel, config: PpoConfig, *, seed: int, batch_size: int, processes: Processes = ALONE
    ) -> None:
        self.model, self.config, self.seed, self.batch_size = model, config, seed, batch_size
        self.processes = processes
        self.ends = end_ids(model.loaded.tokenizer, model.loaded.model)

    def sample(self, prompts: Sequence[Prompt], step: int) -> Rollouts:
        """One response per prompt. Prompts of like length stand together."""
        tokenizer = self.model.loaded.tokenizer
        rows = sorted(
            ((encode_chat(tokenizer, p.messages), i, p) for i, p in enumerate(prompts)), key=lambda r: len(r[0])
        )
        mine = self.processes.share(len(rows), self.config.samples_per_prompt)
        found = []
        with self.model.merged() as lm:
            for start in range(0, len(mine), self.batch_size):
                chosen = [rows[number] for number in mine[start : start + self.batch_size]]
                found += sample(
                    lm,
                    [ids for ids, _, _ in chosen],
                    max_new_tokens=self.config.max_new_tokens,
                    temperature=self.config.temperature,
                    seeds=[self.seed_of(step, i) for _, i, _ in chosen],
                    ends=self.ends,
                )
        sampled = self.processes.joined(mine, found)
        return Rollouts(
            prompts=tuple(p for _, _, p in rows),
            prompt_ids=tuple(tuple(ids) for ids, _, _ in rows),
            responses=tuple(tuple(s.ids) for s in sampled),
            finish=tuple(s.finish for s in sampled),
        )

    def seed_of(self, step: int, place: int) -> int:
        """The seed that the response to the step's prompt number `place` is drawn with."""
        return record_seed(self.seed, "ppo", step, place)
