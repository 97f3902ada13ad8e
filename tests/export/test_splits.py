"""Splits by prompt: their sizes, what stays together, and what is no split."""

from __future__ import annotations

from collections import Counter

import pytest

from rlaif.core.errors import ConfigError, DataError
from rlaif.export.splits import DataSplit, draw_splits, read_splits

ALONE = {f"p{n}": f"p{n}" for n in range(40)}
TEST, VALIDATION = DataSplit("test", 0.1), DataSplit("validation", 0.25)


def test_each_split_has_its_share_and_train_the_rest() -> None:
    found = draw_splits(ALONE, (TEST, VALIDATION), 0)
    assert Counter(found.values()) == {"test": 4, "validation": 10, "train": 26}
    assert list(found) == list(ALONE)


def test_the_draw_is_by_seed_and_not_by_the_order() -> None:
    found = draw_splits(ALONE, (TEST,), 3)
    assert draw_splits(dict(reversed(ALONE.items())), (TEST,), 3) == found
    assert (
        len({frozenset(p for p, s in draw_splits(ALONE, (TEST,), seed).items() if s == "test") for seed in range(9)})
        > 5
    )


def test_a_group_stays_together_and_no_split_gets_more_than_its_share() -> None:
    groups = {f"p{n}": f"p{n - n % 3}" for n in range(60)}
    for seed in range(20):
        found = draw_splits(groups, (TEST, VALIDATION), seed)
        assert all(found[prompt] == found[leader] for prompt, leader in groups.items())
        assert Counter(found.values()) == {"test": 6, "validation": 15, "train": 39}


def test_a_split_that_would_be_empty() -> None:
    with pytest.raises(DataError, match=r"the split test would be empty: 4 prompts in 4 groups"):
        draw_splits({f"p{n}": f"p{n}" for n in range(4)}, (TEST,), 0)
    with pytest.raises(DataError, match=r"the split test would be empty: 10 prompts in 1 groups"):
        draw_splits({f"p{n}": "p0" for n in range(10)}, (TEST,), 0)


def test_what_is_typed() -> None:
    assert read_splits(["test=0.1", "dev_2=.25"]) == (DataSplit("test", 0.1), DataSplit("dev_2", 0.25))
    assert read_splits([]) == ()


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["test"], "'' is no share between 0 and 1"),
        (["test=1"], "'1' is no share"),
        (["test=0"], "'0' is no share"),
        (["test=0.0"], "'0.0' is no share"),
        (["test=10%"], "'10%' is no share"),
        (["train=0.1"], "'train' is no name"),
        (["../x=0.1"], "'../x' is no name"),
        (["test=0.1", "test=0.2"], "'test' is no name for one more split"),
        (["test=0.5", "dev=0.5"], "leave no prompt for train"),
    ],
)
def test_what_is_no_split(given: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what.replace(".", r"\.")):
        read_splits(given)
