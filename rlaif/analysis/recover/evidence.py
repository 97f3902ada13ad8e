"""What the judge says of pairs under principles, one principle at a time, and under several of them together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlaif.analysis.recover.candidates import equal_constitution
from rlaif.config import JudgeConfig
from rlaif.core.progress import Task
from rlaif.core.records import Failure, Principle, Verdict
from rlaif.inputs.comparisons import GivenPair
from rlaif.judge.judge import Judge
from rlaif.lm.protocol import LanguageModel

CHUNK = 60
"""Pairs in one call of the judge: they share batches, and an answer to two of them is scored once."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The verdicts on `pairs` under each of `principles` alone.

    `probs` (principles, pairs) is P(A is better), NaN where the judge gave no verdict; `verdicts` holds by principle id
    the verdicts of each pair.
    """

    pairs: tuple[GivenPair, ...]
    principles: tuple[Principle, ...]
    verdicts: dict[str, list[tuple[Verdict, ...]]]
    probs: np.ndarray

    def row(self, principle_id: str) -> np.ndarray:
        """P(A is better) of every pair under one principle."""
        found: np.ndarray = self.probs[[p.id for p in self.principles].index(principle_id)]
        return found

    def failures(self) -> Iterator[Failure]:
        """Why verdicts are missing, principle by principle."""
        for principle in self.principles:
            for verdicts in self.verdicts[principle.id]:
                yield from (verdict.failure for verdict in verdicts if verdict.failure is not None)

    def only(self, ids: Sequence[str]) -> Evidence:
        """The same for some of the principles, in the order of `ids`."""
        known = {principle.id: number for number, principle in enumerate(self.principles)}
        chosen = [known[name] for name in ids]
        principles = tuple(self.principles[number] for number in chosen)
        return Evidence(self.pairs, principles, {name: self.verdicts[name] for name in ids}, self.probs[chosen])


class Bench:
    """The configured judge, ready to hear any principles: each counts 1, and an undecided label is no abstention."""

    def __init__(self, config: JudgeConfig, models: Sequence[LanguageModel], seed: int) -> None:
        self.config = config.model_copy(update={"abstain_below": 0.0, "principles": "all"})
        self.models, self.seed = models, seed
        self.name = self.judge(()).name

    def judge(self, principles: Sequence[Principle]) -> Judge:
        """The judge with these principles as its constitution."""
        return Judge(self.config, equal_constitution(principles), models=self.models, seed=self.seed)

    def hear(self, principles: Sequence[Principle], pairs: Sequence[GivenPair], task: Task) -> Evidence:
        """Every pair judged under every principle alone."""
        judge = self.judge(principles)
        verdicts: dict[str, list[tuple[Verdict, ...]]] = {principle.id: [] for principle in principles}
        probs = np.full((len(principles), len(pairs)), np.nan)
        for number, principle in enumerate(judge.constitution.principles):
            for start in range(0, len(pairs), CHUNK):
                part = pairs[start : start + CHUNK]
                labels = judge.label_under([pair.comparison for pair in part], [(principle,)] * len(part))
                verdicts[principle.id] += [label.verdicts for label in labels]
                probs[number, start : start + len(part)] = [
                    np.nan if label.prob_a is None else label.prob_a for label in labels
                ]
                task.advance(len(part))
        return Evidence(tuple(pairs), tuple(principles), verdicts, probs)

    def together(self, evidence: Evidence) -> list[float | None]:
        """The label that all principles of the evidence make of each pair, as the judge settles it; asks nothing."""
        judge = self.judge(evidence.principles)
        found = []
        for place, pair in enumerate(evidence.pairs):
            verdicts = tuple(v for p in evidence.principles for v in evidence.verdicts[p.id][place])
            found.append(judge.settle(pair.comparison, verdicts).prob_a)
        return found
