"""Choice probabilities read from lists of likely tokens, with numbers worked by hand."""

from __future__ import annotations

import json
from math import log

import pytest

from rlaif.lm.server.replies import Position, indistinct, parse_reply, read_choices, tokens_to_decide


def at(sampled: str, **likely: float) -> Position:
    """A position whose likeliest tokens have these probabilities; "_" in a name stands for a blank."""
    top = {name.replace("_", " "): p for name, p in likely.items()}
    return Position(sampled, log(top.get(sampled, 1.0)), tuple((token, log(p)) for token, p in top.items()))


def test_blanks_are_ignored_and_case_is_not() -> None:
    result = read_choices([at("A", A=0.4, _A=0.2, B=0.1, a=0.2, b=0.1)], ("A", "B"))
    assert result.logprobs == pytest.approx((log(0.6), log(0.1)))


def test_a_token_that_begins_one_choice_counts_for_it() -> None:
    result = read_choices([at("Yes", Yes=0.5, No=0.2, N=0.1, Y=0.05)], (" Yes", " Not at all"))
    assert result.logprobs == pytest.approx((log(0.55), log(0.3)))


def test_the_walk_goes_on_while_several_choices_are_open() -> None:
    # 0.8 * (0.75, 0.25), and 0.1 that reaches (A at once
    positions = [Position("(", log(0.8), (("(", log(0.8)), ("(A", log(0.1)))), at("A", A=0.75, B=0.25)]
    assert read_choices(positions, ("(A)", "(B)")).logprobs == pytest.approx((log(0.7), log(0.2)))


def test_a_prefix_that_the_answer_repeats_is_a_condition_and_not_a_part_of_the_probability() -> None:
    positions = [at("The", The=0.5), at(" answer", _answer=0.5), at(" (", **{"_(": 0.5}), at("B", A=0.2, B=0.6)]
    assert read_choices(positions, ("A", "B"), "The answer (").logprobs == pytest.approx((log(0.2), log(0.6)))
    assert read_choices(positions, ("A", "B")).failure is not None


@pytest.mark.parametrize(
    ("listed", "bound"),
    [
        ({"A": 0.5, "C": 0.2}, 0.2),  # the smallest listed one
        ({"A": 0.9, "C": 0.07}, 0.03),  # what is left of 1
        ({"A": 0.95}, 0.05),  # a server that lists the sampled token only
    ],
)
def test_a_choice_that_is_not_listed_gets_the_most_it_can_have(listed: dict[str, float], bound: float) -> None:
    found = read_choices([at("A", **listed)], ("A", "B"))
    assert found.logprobs == pytest.approx((log(listed["A"]), log(bound)))
    assert found.bounds == (1,)


def test_the_bound_of_an_unlisted_choice_counts_the_way_to_it() -> None:
    positions = [at("(", **{"(": 0.5}), at("A", A=0.8)]
    assert read_choices(positions, ("(A)", "(B)")).logprobs == pytest.approx((log(0.4), log(0.1)))


def test_without_a_list_the_sampled_token_is_the_list() -> None:
    result = read_choices([Position("B", log(0.9), ())], ("A", "B"))
    assert result.logprobs == pytest.approx((log(0.1), log(0.9)))


def test_none_listed_is_off_menu_and_says_what_the_model_would_write() -> None:
    result = read_choices([at("Both", Both=0.9), at(" are", _are=0.8)], ("A", "B"))
    assert result.logprobs is None
    assert result.failure is not None
    assert result.failure.kind == "off_menu"
    assert "'Both are'" in result.failure.reason
    assert read_choices([], ("A", "B")).failure is not None


def test_a_token_listed_twice_counts_once_and_no_probability_exceeds_one() -> None:
    twice = Position("A", log(0.6), (("A", log(0.6)), ("A", log(0.6)), ("B", log(0.4))))
    assert read_choices([twice], ("A", "B")).logprobs == pytest.approx((log(0.6), log(0.4)))
    wrong = Position("A", 0.0, (("A", 0.0), (" A", 0.0), ("B", -1.0)))
    assert read_choices([wrong], ("A", "B")).logprobs == (0.0, -1.0)


def test_a_token_past_the_decision_changes_nothing() -> None:
    positions = [at("A", A=0.5, B=0.5), at("B", A=0.1, B=0.9)]
    assert read_choices(positions, ("A", "B")).logprobs == pytest.approx((log(0.5), log(0.5)))


def test_choices_that_begin_each_other_are_found() -> None:
    assert indistinct(("1", "2", "10")) == ("1", "10")
    assert indistinct(("A", " A")) is not None
    assert indistinct(("A", "B", "AB"[1:] + "x")) == ("B", "Bx")
    assert indistinct(("yes", "no")) is None


def test_tokens_to_decide() -> None:
    assert tokens_to_decide(("A", "B")) == 2
    assert tokens_to_decide(("(A)", "(B)")) == 3


def test_lists_of_unequal_length_are_malformed() -> None:
    body = {"choices": [{"text": "x", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0]}}]}
    with pytest.raises(ValueError, match="differ in length"):
        parse_reply(json.dumps(body))
