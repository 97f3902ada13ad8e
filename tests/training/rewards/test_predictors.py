"""Trivial predictors: each finds what it looks for, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rlaif.core.records import FinishReason, Response
from rlaif.training.rewards.predictors import AnswerPair, accuracy_of, trivial_predictors


def answer(text: str, finish: FinishReason = "stop") -> Response:
    return Response("p", text, "sft", 0, 1.0, finish, 1)


def pairs(chosen: list[Response], rejected: list[Response]) -> list[AnswerPair]:
    """The chosen answer stands as A in every other pair."""
    return [
        AnswerPair(f"p{i}", *((one, other) if i % 2 else (other, one)), 0.9 if i % 2 else 0.1)
        for i, (one, other) in enumerate(zip(chosen, rejected, strict=True))
    ]


def found(made: list[AnswerPair]) -> dict[str, float | None]:
    return {row.name: row.accuracy for row in trivial_predictors(made, made, [0.0] * len(made))}


def test_each_predictor_finds_what_it_looks_for() -> None:
    short, long = [answer("one two")] * 10, [answer("one two three four five six")] * 10
    assert found(pairs(short, long))["length"] == 1.0
    assert found(pairs(long, short))["length"] == 1.0
    assert found(pairs(long, short))["finished"] == 0.5
    ended, cut = [answer("one two")] * 10, [answer("one two", "length")] * 10
    assert found(pairs(ended, cut))["finished"] == 1.0
    assert found(pairs(cut, ended))["length"] == 0.5
    refusing, helping = [answer("I'm sorry, but I can't do that")] * 10, [answer("Here is how you can do it")] * 10
    assert found(pairs(refusing, helping))["refusal opening"] == 1.0
    openings = found(pairs([answer("Great idea then")] * 10, [answer("Bad idea then")] * 10))
    assert openings["first words"] == openings["bag of words"] == 1.0
    endings = found(pairs([answer("so it is great")] * 10, [answer("so it is bad")] * 10))
    assert (endings["first words"], endings["bag of words"]) == (0.5, 1.0)
    assert endings["position"] == 0.5


def test_length_counts_words_and_characters() -> None:
    assert found(pairs([answer("a bc")] * 10, [answer("a bcdefgh")] * 10))["length"] == 1.0  # two words each


def test_the_writer_is_a_predictor_where_writers_differ() -> None:
    one, other = answer("the same"), answer("the same")
    assert "source" not in found(pairs([one] * 10, [other] * 10))
    other = replace(other, model="sft violated", id="")
    told = found(pairs([one] * 10, [other] * 10))
    assert (told["source"], told["bag of words"], told["length"]) == (1.0, 0.5, 0.5)


def test_predictors_are_measured_on_pairs_that_they_were_not_fitted_on() -> None:
    train = pairs([answer("kind words")] * 10, [answer("rude words")] * 10)
    turned = pairs([answer("rude words")] * 4, [answer("kind words")] * 4)
    assert {row.name: row.accuracy for row in trivial_predictors(train, turned, [0.0] * 4)}["bag of words"] == 0.0


def test_the_lead_of_the_model_is_paired() -> None:
    """Right on all eight prompts, where the words tell nothing: a half each time, and no doubt about it."""
    made = pairs([answer("the same")] * 8, [answer("the same")] * 8)
    right = [pair.prob_a - 0.5 for pair in made]
    (told,) = [row for row in trivial_predictors(made, made, right) if row.name == "bag of words"]
    assert (told.accuracy, told.lead) == (0.5, 0.5)
    # Where both tell every label, neither leads.
    made = pairs([answer("kind words")] * 8, [answer("rude words")] * 8)
    (told,) = [row for row in trivial_predictors(made, made, right) if row.name == "bag of words"]
    assert (told.accuracy, told.lead) == (1.0, 0.0)
    assert told.lead_low is not None
    assert told.lead_low < 0 < (told.lead_high or 0)


def test_accuracy_by_hand() -> None:
    rows = [("p", 2.0, 0.9), ("p", -1.0, 0.8), ("q", 0.0, 0.1), ("q", 5.0, 0.5)]
    told = accuracy_of("x", rows)  # right, wrong, a half, and one without a side
    assert (told.accuracy, told.pairs) == (pytest.approx(0.5), 3)
    assert accuracy_of("x", [("p", 1.0, 0.5)]).accuracy is None
