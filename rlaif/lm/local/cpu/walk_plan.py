"""The plan of a walk: rows in sorted order, each computed from where it leaves the row before it.

Sorted, rows are a walk through the tree of their beginnings. A buffer of keys and values holds the row the walk is at;
the next row overwrites it from the first token that differs. So every distinct beginning (system prompt, examples,
conversation, answer) is computed once, however many levels the rows share and without being told what they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from rlaif.lm.local.packing import Row

Ids = tuple[int, ...]

SHARED = 48
"""Ids that rows have in common for a beginning to be worth keeping for later calls."""


@dataclass(frozen=True, slots=True)
class WalkStep:
    """Tokens of one row to be computed, from position `start` on.

    Before that, `load` = (ids of a kept beginning, number of them to put into the buffer); after it, `keep` the
    beginning with these ids, which the buffer then holds.
    """

    ids: Ids
    start: int
    load: tuple[Ids, int] | None = None
    keep: Ids | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Walk:
    """Steps in order. `places[i]`: for each target token of row i the number, among all tokens of the steps, of the
    one that predicts it. `held`: the ids in the buffer afterwards."""

    steps: list[WalkStep]
    places: list[list[int]]
    held: Ids


def plan(rows: Sequence[Row], held: Ids = (), kept: Collection[Ids] = ()) -> Walk:
    """The walk over rows (context ids, target ids), beginning with the ids `held` in the buffer and others `kept`.

    The last token of a target predicts nothing that is asked for and is left out. No context may be empty.
    """
    sequences = [(*context, *target[:-1]) if target else () for context, target in rows]
    steps: list[WalkStep] = []
    places: list[list[int]] = [[] for _ in rows]
    numbers = [-1] * len(held)  # of the tokens in the buffer; -1: their states are not of this walk
    total = 0
    for prefix, group in groups(sequences):
        known = max(kept, key=lambda ids: common(ids, prefix), default=())
        for index in group:
            ids, first = sequences[index], len(rows[index][0]) - 1
            start, load = common(held, ids), None
            if index == group[0] and common(known, prefix) > start:
                load = (known, common(known, prefix))
                numbers = numbers[:start] + [-1] * (load[1] - start)
                start = load[1]
            start = next((place for place in range(first, start) if numbers[place] < 0), start)
            if start < len(ids):
                keep = prefix if index == group[0] and len(group) > 1 and common(known, prefix) < len(prefix) else None
                steps.append(WalkStep(ids[start:], start, load, keep or None))
                numbers = numbers[:start] + list(range(total, total + len(ids) - start))
                total += len(ids) - start
                held = ids
            places[index] = numbers[first : first + len(rows[index][1])]
    return Walk(steps, places, held)


def groups(sequences: Sequence[Ids]) -> Iterator[tuple[Ids, list[int]]]:
    """(shared ids, indices): the sequences in sorted order, empty ones left out.

    Neighbours are a group while they share SHARED ids and no less than half of what the group shares so far.
    """
    group: list[int] = []
    prefix: Ids = ()
    for index in sorted((i for i, ids in enumerate(sequences) if ids), key=lambda i: sequences[i]):
        ids = sequences[index]
        shared = common(prefix, ids)
        if group and (shared < SHARED or 2 * shared < len(prefix)):
            yield prefix, group
            group = []
        prefix = ids[:shared] if group else ids
        group.append(index)
    if group:
        yield prefix, group


def passes(steps: Sequence[WalkStep], tokens: int) -> Iterator[list[WalkStep]]:
    """The steps in parts of `tokens` tokens; one that does not fit is cut."""
    part: list[WalkStep] = []
    room = tokens
    for step in steps:
        while len(step.ids) > room:
            part.append(replace(step, ids=step.ids[:room], keep=None))
            step = replace(step, ids=step.ids[room:], start=step.start + room, load=None)
            yield part
            part, room = [], tokens
        part.append(step)
        room -= len(step.ids)
    if part:
        yield part


def common(a: Ids, b: Ids) -> int:
    """How many ids the two begin with in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # by halves: comparing slices costs far less than comparing ids one by one
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
