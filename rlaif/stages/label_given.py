"""Labels of the user's own, in the place of the policy's answers and the judge: `label.source`.

The reward model learns what the file says. Labels about the prompts that are held out for `evaluate` are left out:
nothing of the run may have seen those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlaif.core.errors import DataError
from rlaif.core.records import PreferenceLabel, Prompt, content_id
from rlaif.inputs.comparisons import GivenPair, read_comparisons
from rlaif.inputs.prompt_sets import text_key
from rlaif.stages.context import limited

SLICE = "given"
"""Of labels whose row names no slice."""


@dataclass(frozen=True, slots=True)
class GivenLabels:
    """The labels of a file, in its order; how many were left out as they are about a prompt that is held out, and how
    many rows say nothing of which answer is the better one. `notes`: what the user should be told of the file."""

    labels: tuple[PreferenceLabel, ...]
    held_out: int
    unlabelled: int
    notes: tuple[str, ...]

    @property
    def hash(self) -> str:
        """Changes with any label."""
        return content_id([(label.comparison.id, label.prob_a) for label in self.labels])

    @property
    def prompts(self) -> int:
        return len({label.comparison.prompt.id for label in self.labels})

    @property
    def answers(self) -> int:
        """Answers to score, each once."""
        return len({side.id for label in self.labels for side in (label.comparison.a, label.comparison.b)})

    def limited(self, limit: int | None) -> tuple[PreferenceLabel, ...]:
        """The labels of the first `limit` prompts of each slice; all where it is None."""
        prompts = {label.comparison.prompt.id: label.comparison.prompt for label in self.labels}
        kept = {prompt.id for prompt in limited([*prompts.values()], limit)}
        return tuple(label for label in self.labels if label.comparison.prompt.id in kept)


def read_given(source: str, held_out: Sequence[Prompt]) -> GivenLabels:
    """The labels in the file, in any shape of rlaif.inputs.comparisons.

    Raises DataError for a wrong file, naming every wrong row, and where no label with a preference is left.
    """
    path, seen = Path(source), {text_key(prompt.messages) for prompt in held_out}
    file = read_comparisons(path)
    told = [pair for pair in file.pairs if pair.prob_a is not None or pair.failure is not None]
    kept = [pair for pair in told if text_key(pair.comparison.prompt.messages) not in seen]
    unlabelled, lost = len(file.pairs) - len(told), len(told) - len(kept)
    notes = file.notes()
    if unlabelled:
        notes.append(f"left out, as they say nothing of which answer is better, {unlabelled:,} pairs")
    if lost:
        notes.append(f"left out, as their prompts are held out for evaluate, {lost:,} pairs")
    if not any(pair.prob_a is not None for pair in kept):
        why = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(
            f"holds no label to train on{why}",
            where=source,
            remedy="write prompt, chosen and rejected; or prompt, response_a, response_b and prob_a",
        )
    return GivenLabels(tuple(map(_label, kept)), lost, unlabelled, tuple(notes))


def _label(pair: GivenPair) -> PreferenceLabel:
    comparison = pair.comparison
    if not comparison.prompt.slice:
        comparison = replace(comparison, prompt=replace(comparison.prompt, slice=SLICE), id="")
    return PreferenceLabel(
        comparison,
        pair.prob_a,
        pair.verdicts,
        failure=pair.failure,
        constitution_hash=pair.constitution_hash,
        answers="given",
    )
