"""A gold scorer of the tests' own, which a reward that is pushed too far contradicts."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.gold import scorers as gold
from rlaif.gold.scorers import Entry
from tests.training.toy_rewards import some_e


class SomeE:
    """Stands for `sentiment`: best where about a fifth of the letters are e, while the reward wants all of them."""

    about = "planted"

    def __init__(self) -> None:
        self.quality: dict[str, float | None] = {}

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        return list(some_e(list(prompts), list(responses)))


ENTRY = Entry("planted gold (higher is better)", "higher", lambda embed: SomeE())


def plant() -> None:
    """From now on `sentiment` is the planted one."""
    gold.SCORERS["sentiment"] = ENTRY
