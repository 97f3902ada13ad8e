"""The labels to explain, in two halves by prompt: one to choose principles on, one to test the choice.

What is called a prompt here is a group of them: prompts that differ in case, spacing or punctuation only, and all
conversations that go on from one. A principle tested on such a prompt's twin would not be tested on anything new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rlaif.core.errors import DataError, near
from rlaif.core.records import Prompt, content_id
from rlaif.inputs.comparisons import ComparisonFile, GivenPair
from rlaif.inputs.prompt_sets import text_key

MIN_PROMPTS = 2
"""Of each half, or no interval could be given."""


@dataclass(frozen=True, slots=True)
class Split:
    """The labels that are used, by halves of the prompts. `unlabelled` pairs have no label, `undecided` exactly 0.5."""

    training: tuple[GivenPair, ...]
    held_out: tuple[GivenPair, ...]
    labelled: int
    unlabelled: int
    undecided: int

    def counts(self) -> dict[str, int]:
        """How many pairs and prompts each half has, and how many pairs are in neither and why."""
        training, held_out = (len({pair.group for pair in part}) for part in (self.training, self.held_out))
        return {
            "training": len(self.training),
            "training_prompts": training,
            "held_out": len(self.held_out),
            "held_out_prompts": held_out,
            "not_used": self.labelled - len(self.training) - len(self.held_out),
            "unlabelled": self.unlabelled,
            "undecided": self.undecided,
        }


def split_labels(file: ComparisonFile, most: int, part: str | None = None) -> Split:
    """The decided labels by halves of their prompts, at most `most` pairs in each; a hash of the prompt says which.

    With `part` only the pairs of that slice, each in the half in which it is without. Where a half has more pairs than
    `most`, every prompt gives its first before any gives its second. Raises DataError for a slice that the file does
    not have, and where fewer than MIN_PROMPTS prompts of a half are used.
    """
    slices = {pair.comparison.prompt.slice for pair in file.pairs}
    if part is not None and part not in slices:
        raise DataError(
            f"has no pair of a slice {part!r}{near(part, slices)}",
            where=str(file.path),
            remedy=f"there are: {', '.join(sorted(slices - {''})) or 'none with a slice'}",
        )
    groups = prompt_groups([pair.comparison.prompt for pair in file.pairs])
    grouped = [replace(pair, group=groups[pair.comparison.prompt.id]) for pair in file.pairs]
    decided = [pair for pair in grouped if pair.prob_a is not None and pair.prob_a != 0.5]
    names = sorted({pair.group for pair in decided}, key=lambda name: content_id("recover", name))
    first = set(names[: (len(names) + 1) // 2])
    used = [pair for pair in grouped if part is None or pair.comparison.prompt.slice == part]
    halves: tuple[list[GivenPair], list[GivenPair]] = ([], [])
    for pair in decided:
        if part is None or pair.comparison.prompt.slice == part:
            halves[pair.group not in first].append(pair)
    unlabelled, labelled = sum(pair.prob_a is None for pair in used), sum(len(half) for half in halves)
    training, held_out = (_at_most(half, most) for half in halves)
    for half, all_of_it in ((training, halves[0]), (held_out, halves[1])):
        number = len({pair.group for pair in half})
        if number < MIN_PROMPTS:
            raise DataError(
                f"has {number} prompts with a preference in one half of the prompts; choosing and testing need "
                f"{MIN_PROMPTS} each",
                where=str(file.path),
                remedy="give more labels; better some hundreds, of at least fifty prompts"
                if len(half) == len(all_of_it)
                else f"judge more pairs of each half than {most}",
            )
    return Split(training, held_out, labelled, unlabelled, len(used) - unlabelled - labelled)


def prompt_groups(prompts: Iterable[Prompt]) -> dict[str, str]:
    """Prompt id -> its group's name, the least id of the prompts that differ from the group's shortest one in case,
    spacing or punctuation at most. Of two conversations with one beginning, which is no prompt itself, each stands
    alone."""
    by_id = {prompt.id: prompt.messages for prompt in prompts}
    keys = {name: text_key(messages) for name, messages in by_id.items()}
    least: dict[str, str] = {}
    for name, key in keys.items():
        least[key] = min(name, least.get(key, name))
    found = {}
    for name, messages in by_id.items():
        beginnings = (text_key(messages[:end]) for end in range(1, len(messages)))
        root = next((key for key in beginnings if key in least), keys[name])
        found[name] = least[root]
    return found


def _at_most(pairs: Sequence[GivenPair], most: int) -> tuple[GivenPair, ...]:
    """The first pair of every prompt, then the second ..., up to `most`; then in file order, so that prompts stay
    together and a batch shares what it has read of them."""
    turns: Counter[str] = Counter()
    ranked = []
    for place, pair in enumerate(pairs):
        ranked.append((turns[pair.group], content_id("recover pair", pair.comparison.id), place))
        turns[pair.group] += 1
    return tuple(pairs[place] for place in sorted(place for _, _, place in sorted(ranked)[:most]))
