"""Halves of the labels that share no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaif.analysis.recover.measure import accuracy
from rlaif.analysis.recover.split import prompt_groups, split_labels
from rlaif.core.errors import DataError
from rlaif.core.records import Comparison, Message, Prompt, Response
from rlaif.inputs.comparisons import read_comparisons
from tests.analysis.recover.cases import comparisons, labels


def test_halves_share_no_prompt_and_do_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    pairs = comparisons(10, 3)
    for name, order in (("one", pairs), ("two", pairs[::-1])):
        labels(tmp_path / f"{name}.jsonl", lambda pair: 0.9, order)
    one, two = (split_labels(read_comparisons(tmp_path / f"{name}.jsonl"), 100) for name in ("one", "two"))
    halves = [{p.comparison.prompt.id for p in part} for part in (one.training, one.held_out)]
    assert [len(half) for half in halves] == [5, 5]
    assert not halves[0] & halves[1]
    assert {p.comparison.prompt.id for p in two.training} == halves[0]


def talks(path: Path, *conversations: Sequence[str]) -> Path:
    """Labelled pairs on conversations whose turns are by the user and the assistant."""
    pairs = []
    for talk in conversations:
        prompt = Prompt(tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(talk)))
        yes, no = (Response(prompt.id, text, "m", 0, 1.0, "stop", 1) for text in ("yes", "no"))
        pairs.append(Comparison(prompt, yes, no))
    return labels(path, lambda pair: 0.9, pairs)


def test_prompts_that_are_nearly_one_are_in_one_half_and_count_as_one(tmp_path: Path) -> None:
    spellings = [[(f"What is {n}?",), (f"what  IS {n}",), (f"What is {n}?", "A number.", "Why?")] for n in range(40)]
    file = read_comparisons(talks(tmp_path / "l.jsonl", *(talk for talks in spellings for talk in talks)))
    split = split_labels(file, 100)
    halves = [{p.comparison.prompt.id for p in part} for part in (split.training, split.held_out)]
    for n in range(40):
        ids = {pair.comparison.prompt.id for pair in file.pairs[3 * n : 3 * n + 3]}
        assert ids <= halves[0] or ids <= halves[1]
    assert (split.counts()["training_prompts"], split.counts()["held_out_prompts"]) == (20, 20)
    assert {pair.group for pair in split.training} <= halves[0]
    assert len({pair.group for pair in split_labels(file, 20).training}) == 20
    found = accuracy([0.9] * 60, split.held_out, seed=0, resamples=100)
    assert found is not None
    assert (found.n, found.prompts) == (60, 20)
    few = read_comparisons(talks(tmp_path / "few.jsonl", *(talk for talks in spellings[:3] for talk in talks)))
    with pytest.raises(DataError, match="has 1 prompts"):
        split_labels(few, 100)


def test_conversations_that_only_begin_alike_are_prompts_of_their_own(tmp_path: Path) -> None:
    """Files where all conversations begin with the same turn could not be halved else."""
    file = read_comparisons(talks(tmp_path / "l.jsonl", *(("Hi", "Hello!", f"What is {n}?") for n in range(8))))
    groups = prompt_groups([pair.comparison.prompt for pair in file.pairs])
    assert groups == {pair.comparison.prompt.id: pair.comparison.prompt.id for pair in file.pairs}


def test_a_limit_takes_a_pair_of_every_prompt_before_a_second(tmp_path: Path) -> None:
    split = split_labels(read_comparisons(labels(tmp_path / "l.jsonl", lambda pair: 0.9, comparisons(10, 3))), 7)
    prompts = [p.comparison.prompt.id for p in split.training]
    assert len(prompts) == 7
    assert len(set(prompts)) == 5
    assert split.counts()["not_used"] == 16
