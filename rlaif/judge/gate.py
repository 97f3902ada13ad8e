"""What a run takes from its judge's card: whether the judge may make labels, and the map that calibrates it."""

from __future__ import annotations

from rlaif.config import JudgeConfig, RunConfig
from rlaif.core.errors import StageError
from rlaif.core.files import RunFolder
from rlaif.core.statistics import wilson
from rlaif.judge.calibration import LEAST, CalibrationMap
from rlaif.judge.card.records import JudgeCard, card_file, card_of_run, read_card
from rlaif.view.text import percents

COIN = 0.5
"""The accuracy of one."""
WAY_OUT = "or accept the judge as it is: --accept-uncarded-judge"


def passed_card(run: RunFolder, config: RunConfig) -> str:
    """The id of the run's card; "" where the config does not ask for one, or the labels are not the judge's.

    Raises StageError where there is none, or where it does not reach the thresholds of the config's `card` table.
    """
    if not (config.judged and config.card.required):
        return ""
    card = card_of_run(run)
    if card is None:
        raise StageError(
            "the judge has no card yet",
            where=str(run.root),
            remedy=f"measure it: rlaif card --run {run.root}; {WAY_OUT}",
        )
    short = shortfalls(card, config)
    if short:
        raise StageError(
            f"the judge is below what the config asks for: {'; '.join(short)}",
            where=str(card_file(run)),
            remedy="choose another judge, method or wording of the principles (docs/trust-a-judge.md), lower the "
            f"threshold, {WAY_OUT}",
        )
    return card.id


def shortfalls(card: JudgeCard, config: RunConfig) -> list[str]:
    """One phrase for each threshold of the config that the card does not reach. A figure that was not measured reaches
    a threshold of 0 alone; one that reaches a threshold above COIN must also leave a coin out."""
    asked, failures, found = config.card, card.failures, []
    gold = card.subject.gold
    for name, about, measured, least in (
        ("accuracy", "accuracy", card.accuracy.judge, asked.min_accuracy),
        ("length_matched", "length-matched accuracy", card.length_matched.judge, asked.min_length_matched),
    ):
        if measured is None and least > 0:
            found.append(f"{about} on {gold} could not be measured, card.min_{name} is {least:.0%}")
        elif measured is not None and measured.mean < least:
            found.append(f"{about} {measured.mean:.1%} on {gold}, card.min_{name} is {least:.0%}")
        elif measured is not None and least > COIN and not beyond_coin(measured.mean, measured.prompts):
            low, high = wilson(measured.mean * measured.prompts, measured.prompts)
            found.append(
                f"{about} {measured.mean:.1%} on {measured.prompts} prompts of {gold} may be that of a coin "
                f"(95 % interval {percents(low, high)}): more gold would tell"
            )
    share = 1 - failures.labelled / failures.pairs if failures.pairs else 0.0
    if share > asked.max_failed:
        found.append(f"{share:.1%} of the pairs have no label, card.max_failed is {asked.max_failed:.0%}")
    return found


def beyond_coin(share: float, prompts: int) -> bool:
    """Whether Wilson's 95 % interval of the share lies above COIN, each prompt counting once: pairs of one prompt may
    all come out alike. A coin is taken for a judge in 6 of 100 cases of 4 prompts, and in 4 at most of more."""
    low, _ = wilson(share * prompts, prompts)
    return low is not None and low > COIN


def least_right(prompts: int) -> int | None:
    """On how many of the prompts a judge must be right to be told from a coin; None where all of them are too few."""
    return next((right for right in range(prompts + 1) if beyond_coin(right / max(prompts, 1), prompts)), None)


def calibration_of(config: JudgeConfig, run: RunFolder) -> CalibrationMap | None:
    """The map that the run's judge is calibrated by, from the card in its run folder; None where it is not calibrated.

    Raises StageError where the card has no such map, DataError for what is no card.
    """
    kind = config.calibration
    if kind == "none":
        return None
    for entry in read_card(card_file(run)).maps:
        if entry.map.kind == kind:
            return entry.map
    raise StageError(
        f"the judge's card has no {kind} map, which needs {LEAST[kind]} pairs of gold with a label",
        where=str(card_file(run)),
        remedy="raise card.pairs, choose another card.gold, or set judge.calibration: none",
    )
