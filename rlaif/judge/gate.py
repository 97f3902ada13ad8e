"""Whether a run's judge may make labels: its card must be there and reach what the config asks for."""

from __future__ import annotations

import json
from typing import Any

from rlaif.config import RunConfig
from rlaif.core.errors import StageError
from rlaif.core.files import RunFolder
from rlaif.judge.card_file import reading_card

WAY_OUT = "or accept the judge as it is: --accept-uncarded-judge"


def card_of_run(run: RunFolder) -> dict[str, Any] | None:
    """The card that the `card` stage wrote, as it stands in card/card.json; None where that is not finished."""
    path = run.file("card", "card.json")
    if run.record("card") is None:
        return None
    with reading_card(path):
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        card["id"], card["accuracy"], card["length_matched"], card["failures"]
    return card


def passed_card(run: RunFolder, config: RunConfig) -> str:
    """The id of the run's card; "" where the config does not ask for one.

    Raises StageError where there is none, or where it does not reach the thresholds of the config's `card` table.
    """
    if not config.card.required:
        return ""
    card = card_of_run(run)
    if card is None:
        raise StageError(
            "no card says what the judge is worth",
            where=str(run.root),
            remedy=f"measure it: rlaif card --run {run.root}; {WAY_OUT}",
        )
    short = shortfalls(card, config)
    if short:
        raise StageError(
            f"the judge is below what the config asks for: {'; '.join(short)}",
            where=str(run.file("card", "card.json")),
            remedy="choose another judge, method or wording of the principles (docs/trust-a-judge.md), lower the "
            f"threshold, {WAY_OUT}",
        )
    return str(card["id"])


def shortfalls(card: dict[str, Any], config: RunConfig) -> list[str]:
    """One phrase for each threshold of the config that the card does not reach. A figure that was not measured reaches
    a threshold of 0 alone."""
    asked, failures, found = config.card, card["failures"], []
    gold = card["subject"]["gold"]
    for name, about, least in (
        ("accuracy", "accuracy", asked.min_accuracy),
        ("length_matched", "length-matched accuracy", asked.min_length_matched),
    ):
        measured = card[name]["judge"]
        if measured is None and least > 0:
            found.append(f"{about} on {gold} could not be measured, card.min_{name} is {least:.0%}")
        elif measured is not None and measured["mean"] < least:
            found.append(f"{about} {measured['mean']:.1%} on {gold}, card.min_{name} is {least:.0%}")
    share = 1 - failures["labelled"] / failures["pairs"] if failures["pairs"] else 0.0
    if share > asked.max_failed:
        found.append(f"{share:.1%} of the pairs have no label, card.max_failed is {asked.max_failed:.0%}")
    return found
