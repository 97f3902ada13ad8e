"""Splits of an exported data set, by prompt: the prompts of a group are all in one split."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlaif.core.errors import ConfigError, DataError
from rlaif.core.records import content_id

TRAIN = "train"
"""The split that takes what no other does."""
_EXAMPLE = "write the name and the share of the prompts, such as test=0.1; what is left is train"


@dataclass(frozen=True, slots=True)
class DataSplit:
    """A split beside train, with its share of the prompts, above 0 and below 1."""

    name: str
    share: float


def read_splits(given: Sequence[str]) -> tuple[DataSplit, ...]:
    """The splits of `--split test=0.1`. ConfigError for what is none, a name twice, or shares that leave nothing."""
    found: dict[str, DataSplit] = {}
    for text in given:
        name, _, share = text.partition("=")
        problem = ""
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == TRAIN or name in found:
            problem = f"{name!r} is no name for one more split"
        elif not re.fullmatch(r"0?\.\d*[1-9]\d*", share):
            problem = f"{share!r} is no share between 0 and 1"
        if problem:
            raise ConfigError(problem, where=f"--split {text}", remedy=_EXAMPLE)
        found[name] = DataSplit(name, float(share))
    if sum(split.share for split in found.values()) >= 1:
        raise ConfigError(
            "the shares leave no prompt for train", where="--split", remedy="let them add up to less than 1"
        )
    return tuple(found.values())


def draw_splits(first: Mapping[str, str], splits: Sequence[DataSplit], seed: int) -> dict[str, str]:
    """Prompt -> its split. `first`: prompt -> the first prompt of its group, which stays together.

    Groups are drawn by a hash of `seed` and their first prompt; a split takes them up to its share of the prompts and
    never more. Raises DataError for a split that would be empty.
    """
    groups: dict[str, list[str]] = {}
    for prompt, leader in first.items():
        groups.setdefault(leader, []).append(prompt)
    left = sorted(groups, key=lambda leader: content_id(seed, "split", leader))
    found = dict.fromkeys(first, TRAIN)
    for split in splits:
        room, rest = round(split.share * len(first)), []
        for leader in left:
            if len(groups[leader]) <= room:
                room -= len(groups[leader])
                found |= dict.fromkeys(groups[leader], split.name)
            else:
                rest.append(leader)
        left = rest
    for name in (*(split.name for split in splits), TRAIN):
        if name not in found.values():
            raise DataError(
                f"the split {name} would be empty: {len(first):,} prompts in {len(groups):,} groups",
                where="--split",
                remedy="take more prompts, or other shares",
            )
    return found
