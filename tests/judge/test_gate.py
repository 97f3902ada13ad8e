"""When a judge may make labels: a coin passes seldom, and what was right on all of enough prompts passes."""

from __future__ import annotations

from math import comb

import pytest

from rlaif.judge.gate import beyond_coin, least_right, shortfalls
from rlaif.judge.load import default_config
from tests.fakes import judge_card


def passing(prompts: int) -> float:
    """How often a fair coin is right on as many of the prompts as the gate asks for."""
    least = least_right(prompts)
    return 0.0 if least is None else sum(comb(prompts, right) for right in range(least, prompts + 1)) / 2**prompts


def test_a_coin_passes_seldom_whatever_the_number_of_prompts() -> None:
    assert [least_right(n) for n in (0, 1, 2, 3, 4, 6, 10, 24)] == [None, None, None, None, 4, 6, 9, 17]
    assert passing(4) == pytest.approx(1 / 16)
    assert max(passing(n) for n in range(5, 120)) < 0.04
    assert passing(24) == pytest.approx(0.032, abs=0.001), "15 of 24, which is 60 %, would be passed by 15 coins in 100"


def test_of_pairs_that_share_prompts_only_the_prompts_count() -> None:
    assert beyond_coin(0.7, 40)
    assert not beyond_coin(0.7, 10)


@pytest.mark.parametrize(
    ("accuracy", "pairs", "least", "said"),
    [
        (0.75, 40, 0.6, ""),
        (0.65, 40, 0.6, "may be that of a coin"),
        (0.75, 8, 0.6, "75.0% on 8 prompts of stub may be that of a coin"),
        (0.55, 400, 0.6, "card.min_accuracy is 60%"),
        (0.65, 40, 0.5, ""),
        (0.2, 40, 0.0, ""),
    ],
)
def test_a_threshold_above_one_half_asks_for_more_than_a_coin(
    accuracy: float, pairs: int, least: float, said: str
) -> None:
    config = default_config([f"card.min_accuracy={least}"])
    found = shortfalls(judge_card(accuracy, pairs=pairs, labelled=pairs), config)
    assert (said in "; ".join(found).replace("\u00a0", " ")) if said else found == []
