"""Whole cards of judges whose faults are known."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from rlaif.core.errors import ConfigError, ConstitutionError
from rlaif.lm.protocol import ChoiceLogprobs
from rlaif.lm.scripted import ScriptedModel
from tests.fakes import mute
from tests.judge.card.cases import (
    by_wording,
    card_of,
    first_letter,
    length_lover,
    perfect,
    says,
    settings,
    share,
    write_gold,
)


def changing() -> ScriptedModel:
    """A model that says something else whenever it is really asked."""
    times = count(1)
    return ScriptedModel(lambda _: ChoiceLogprobs((0.0, -0.1 * next(times))))


def test_a_perfect_judge(tmp_path: Path) -> None:
    card = card_of(tmp_path, perfect)
    assert share(card.accuracy.judge) == 1.0
    assert share(card.length_matched.judge) == 1.0
    assert card.calibration is not None
    assert card.calibration.ece < 1e-4
    assert card.calibration.brier.mean < 1e-8
    assert card.order is not None
    assert (card.order.flip_rate.mean, card.order.first.mean) == (0.0, 0.5)
    assert card.failures.labelled == card.failures.pairs == 48
    assert card.failures.prompts == 24
    assert says(card, "Better than a coin")
    assert says(card, 'Better than "shorter wins" on length-matched pairs')
    assert says(card, "Not shown to prefer the first or the second answer")


def test_a_judge_that_always_takes_the_first_letter(tmp_path: Path) -> None:
    card = card_of(tmp_path, first_letter)
    assert card.order is not None
    assert (card.order.flip_rate.mean, card.order.first.mean) == (1.0, 1.0)
    assert share(card.accuracy.judge) == 0.5, "both orders cancel, and a tie is half"
    assert says(card, "Prefers the answer that is shown first")
    assert says(card, "Not shown to be better than a coin")


def test_a_judge_that_loves_length_is_the_rule_of_length(tmp_path: Path) -> None:
    card = card_of(tmp_path, length_lover)
    assert share(card.accuracy.judge) == share(card.accuracy.longer)
    assert share(card.accuracy.over_longer) == 0.0
    assert share(card.length.judge) > 0.1
    assert says(card, "Leans to longer answers")
    assert not any(sentence.startswith("Better than") for sentence in card.verdict)


def test_the_card_of_a_judge_behind_a_server_says_that_it_is_asked_in_text(tmp_path: Path) -> None:
    behind = card_of(tmp_path, perfect, "judge.backend=openai", "judge.source=m")
    assert any("asked in text" in note for note in behind.notes)
    assert not any("asked in text" in note for note in card_of(tmp_path, perfect).notes)


def test_a_coin(tmp_path: Path) -> None:
    card = card_of(tmp_path, None, "judge.method=random", attack=4)
    assert (card.repeat, card.order, card.attacks) == (None, None, [])
    assert 0.3 < share(card.accuracy.judge) < 0.7
    assert says(card, "Not shown to be better than a coin")
    assert any("a coin" in note for note in card.notes)
    assert (card.subject.fingerprint, card.subject.template_hash, card.calls) == ("", "", 0)


def test_contrast_has_no_order(tmp_path: Path) -> None:
    card = card_of(tmp_path, by_wording, "judge.method=contrast")
    assert card.order is None
    assert card.notes[-1] == (
        "judge.method contrast reads the contrast pair, never the statement: no figure is about a statement"
    )
    assert share(card.accuracy.judge) == 1.0
    assert card.failures.verdicts == 48, "the principle without a weight is not asked"


def test_a_judge_that_never_answers(tmp_path: Path) -> None:
    card = card_of(tmp_path, None, model=mute(), attack=2)
    assert card.failures.labelled == 0
    assert card.failures.by_kind == {"refused": 48}
    assert card.failures.failed_verdicts == {"refused": 96}
    assert (card.accuracy.judge, card.calibration, card.order, card.length.judge) == (None, None, None, None)
    assert card.repeat is not None
    assert (card.repeat.identical, card.repeat.lost) == (None, 0)
    assert all(a.judged == 0 and a.change is None and a.failures == {"refused": 2} for a in card.attacks)
    assert card.verdict == [
        "No label on 48 of 48 pairs (48 refused).",
        "Nothing can be said of a judge that gives no label.",
    ]


def test_abstentions_are_failures_and_in_no_accuracy(tmp_path: Path) -> None:
    card = card_of(tmp_path, first_letter, "judge.abstain_below=0.1")
    assert card.failures.by_kind == {"abstained": 48}
    assert card.failures.failed_verdicts == {}
    assert card.order is not None
    assert card.order.first.mean == 1.0


def test_asking_again_goes_past_the_cache(tmp_path: Path) -> None:
    steady = card_of(tmp_path / "one", perfect)
    assert steady.repeat is not None
    assert (steady.repeat.identical, steady.repeat.largest) == (1.0, 0.0)
    assert (steady.repeat.asked, steady.repeat.calls) == (8, 8)
    assert steady.repeat.tokens > 8 * 30
    assert steady.calls == 2 * steady.failures.pairs + 8, "what is asked again is asked and paid for"
    restless = card_of(tmp_path / "two", None, model=changing())
    assert restless.repeat is not None
    assert restless.repeat.identical == 0.0
    assert restless.repeat.largest is not None
    assert restless.repeat.largest > 0.02
    assert says(restless, "to the last bit on 0.0 % of 8 verdicts")


def test_few_prompts_say_nothing(tmp_path: Path) -> None:
    few = str(write_gold(tmp_path / "few.jsonl", prompts=3))
    assert card_of(tmp_path, perfect, gold=few).verdict == [
        "Only 3 prompts with a label: too few to say anything about the judge; 10 are the least."
    ]
    one = card_of(tmp_path, perfect, gold=str(write_gold(tmp_path / "one.jsonl", prompts=1)))
    assert one.accuracy.judge is not None
    assert (one.accuracy.judge.low, one.accuracy.judge.high) == (None, None)
    assert "there is a single prompt, so nothing has an interval" in one.notes


def test_unit_tests_are_judged_under_their_own_principle(tmp_path: Path) -> None:
    gold = f"tests:{settings(tmp_path).constitution}"
    card = card_of(tmp_path, perfect, gold=gold)
    assert (card.failures.pairs, card.failures.verdicts, card.subject.principles) == (2, 4, ["good"])
    assert share(card.accuracy.judge) == 1.0
    assert [group.tag for group in card.groups] == ["good"]
    for more in ({"only": ("virtue",)}, {"constitution": "example"}):
        with pytest.raises(ConfigError, match="brings its own principle"):
            card_of(tmp_path, perfect, gold=gold, **more)


def test_only_some_principles(tmp_path: Path) -> None:
    card = card_of(tmp_path, perfect, only=("virtue",))
    assert card.subject.principles == ["good"]
    assert card.subject.constitution_hash != card_of(tmp_path, perfect).subject.constitution_hash
    with pytest.raises(ConstitutionError, match="no principle or tag 'virtu', did you mean 'virtue'"):
        card_of(tmp_path, perfect, only=("virtu",))
    with pytest.raises(ConstitutionError, match="has a weight above 0"):
        card_of(tmp_path, perfect, only=("plain",))
