"""The labels that `reward` and `dpo` learn from: which of the run's labels count, and what is said of the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import PreferenceLabel
from rlaif.lm.local.load import LoadedModel, context_length
from rlaif.stages.context import StageContext
from rlaif.training.rewards import preferences
from rlaif.training.rewards.preferences import PromptGroup

LEAST = 4
"""Labels with a preference under which nothing is trained."""


@dataclass(frozen=True, slots=True)
class TrainingLabels:
    """The labels in `file`, prompt by prompt, without those that a stage cannot learn from: how many have no
    preference, are too long, or compare an answer with itself."""

    stage: str
    file: Path
    groups: list[PromptGroup]
    total: int
    unlabelled: int
    too_long: int
    identical: int

    @property
    def known(self) -> list[float]:
        """P(A is preferred) of each label that is left."""
        return [pair.prob_a for group in self.groups for pair in group.pairs]

    def refuse(self, *, enough: bool = True, wanted: str = "") -> None:
        """Raises StageError where the labels are fewer than LEAST, not `enough` for the stage, which asks for as many
        as `wanted` says, or all say the same."""
        known = self.known
        if len(known) >= LEAST and len(set(known)) == 1:
            raise StageError(
                f"all {len(known)} labels say the same, P(A is preferred) = {known[0]:g}: there is nothing to learn",
                where=str(self.file),
                remedy="look at some with rlaif show RUN label; choose another judge.method, or a judge whose card is "
                "good",
            )
        if len(known) < LEAST or not enough:
            raise StageError(
                f"{self.total} labels of which {self.total - self.unlabelled} have a preference, on "
                f"{len(self.groups)} prompts: at least {LEAST} labels{wanted} are needed",
                where=str(self.file),
                remedy="look at the failures of the label stage; use more prompts, lower judge.abstain_below, "
                f"or raise {self.stage}.max_length",
            )

    def counts(self) -> dict[str, float]:
        """What was left out, for the stage's record."""
        found = {"unlabelled": float(self.unlabelled), "dropped_too_long": float(self.too_long)}
        return found | ({"dropped_identical": float(self.identical)} if self.identical else {})


def training_labels(context: StageContext, loaded: LoadedModel, max_length: int) -> TrainingLabels:
    """Those of the run for the stage of the context, in rows of at most `max_length` tokens; says what is left out."""
    file = context.run.file("label", "labels.jsonl")
    labels = JsonlFile(file, PreferenceLabel).read()
    limit = min(max_length, context_length(loaded.model))
    groups, too_long, identical = preferences.group_by_prompt(labels, loaded, limit)
    unlabelled = sum(label.prob_a is None for label in labels)
    found = TrainingLabels(context.stage, file, groups, len(labels), unlabelled, too_long, identical)
    for sentence in _left_out(found, {label.comparison.prompt.slice for label in labels}, limit):
        context.progress.say(f"  {context.stage}: {sentence}")
    return found


def _left_out(labels: TrainingLabels, slices: set[str], limit: int) -> Iterator[str]:
    """A sentence for each kind of label that nothing is learnt from, and for each of the slices without any."""
    if labels.too_long:
        yield f"{labels.too_long} labels have a response longer than {limit} tokens and are left out"
    if labels.identical:
        yield f"{labels.identical} labels compare an answer with itself and are left out"
    learner = "the reward model" if labels.stage == "reward" else "the policy"
    for name in sorted(slices - {group.prompt.slice for group in labels.groups}):
        yield f"no label of the slice {name} is left: {learner} learns nothing of it"
