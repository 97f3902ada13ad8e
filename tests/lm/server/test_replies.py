"""Choice probabilities read from lists of likely tokens, with numbers worked by hand."""

from __future__ import annotations

import json
from math import log
from typing import Any

import pytest

from rlaif.lm.server.replies import (
    BrokenReply,
    Position,
    indistinct,
    parse_reply,
    read_choices,
    shorten,
    spell,
    tokens_to_decide,
    without_thinking,
)
from tests.fault_server import chat


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
    with pytest.raises(BrokenReply, match="differ in length"):
        parse_reply(json.dumps(body))


def chat_form(sampled: Any, *top: tuple[str, Any]) -> Any:
    return chat("A", positions=[("A", sampled, top)]).body


def older_form(sampled: Any, *top: tuple[str, Any]) -> Any:
    logprobs = {"tokens": ["A"], "token_logprobs": [sampled], "top_logprobs": [dict(top)]}
    return {"choices": [{"text": "A", "logprobs": logprobs}]}


@pytest.mark.parametrize("form", [chat_form, older_form])
@pytest.mark.parametrize(
    ("sampled", "listed", "reason"),
    [
        (3.0, [("A", 0.0), ("B", -1.0)], "over 0"),
        (-0.1, [("A", 3.0), ("B", 0.0)], "over 0"),
        (-0.1, [("A", 0.00011), ("B", -9.0)], "over 0"),
        (710.0, [("A", 710.0), ("B", 710.0)], "over 0"),
        (1e308, [("A", -0.1), ("B", -3.0)], "over 0"),
        (-0.1, [("A", float("inf")), ("B", -3.0)], "finite"),
        (-0.1, [("A", -0.1), ("B", float("-inf"))], "finite"),
        (float("nan"), [("A", -0.1), ("B", -3.0)], "finite"),
        (-1.7e308, [("A", -0.1), ("B", -1.7e308)], "greater than"),
        pytest.param(-(10**400), [("A", -0.1), ("B", -3.0)], "malformed", id="a number of 401 digits"),
        (True, [("A", -0.1), ("B", -3.0)], "valid number"),
        (-0.1, [("A", False), ("B", -3.0)], "valid number"),
        (-0.1, [("A", "-0.1"), ("B", -3.0)], "valid number"),
        (-0.1, [("A", log(0.7)), ("B", log(0.4))], r"a probability of 1\.1 together"),
    ],
)
def test_numbers_that_no_log_probs_can_have_are_malformed(form: Any, sampled: Any, listed: Any, reason: str) -> None:
    with pytest.raises(BrokenReply, match=reason):
        parse_reply(json.dumps(form(sampled, *listed)))


@pytest.mark.parametrize("form", [chat_form, older_form])
def test_rounding_and_the_values_that_stand_for_never_are_sound(form: Any) -> None:
    body = form(0.00009, ("A", 0.00009), ("B", -9999), ("C", -3.4028234663852886e38), ("D", log(0.005)))
    (position,) = parse_reply(json.dumps(body)).positions or ()
    assert position.logprob == 0.0
    assert position.top == (("A", 0.0), ("B", -9999.0), ("C", -3.4028234663852886e38), ("D", log(0.005)))
    found = read_choices([position], ("A", "B"))
    assert found.logprobs == (0.0, -3.4028234663852886e38), "B cannot happen: it counts as the least of the list"
    assert found.bounds == (1,)


def test_equal_entries_are_one_and_one_text_with_two_log_probs_is_two_tokens() -> None:
    once = parse_reply(json.dumps(chat_form(log(0.6), ("A", log(0.6)), ("A", log(0.6)), ("B", log(0.4))))).positions
    assert read_choices(once or (), ("A", "B")).logprobs == pytest.approx((log(0.6), log(0.4)))
    alike = parse_reply(json.dumps(chat_form(log(0.5), ("A", log(0.5)), ("A", log(0.2)), ("B", log(0.3))))).positions
    assert read_choices(alike or (), ("A", "B")).logprobs == pytest.approx((log(0.7), log(0.3)))
    with pytest.raises(BrokenReply, match="together"):
        parse_reply(json.dumps(chat_form(log(0.6), ("A", log(0.6)), ("A", log(0.5)), ("B", log(0.4)))))


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (["good", " day"], " good day", True),
        (["good", "day"], " good day", True),  # a server that strips blanks
        (["good"], " good day", False),
        (["good", " day", "!"], " good day", False),
        ([], " good", False),
        (["g", "\ufffd", "\ufffd", "n"], " gün", True),
        (["g", "bytes:\\xc3", "bytes:\\xbc", "n"], " gün", True),
        (["g", "\ufffd", "n", "\ufffd"], " gün🙂", True),
        (["\ufffd", "ab", "\ufffd", "b"], "xab", False),
        (["g", "\ufffd", "m"], " gün", False),
        (["g", "\ufffd", "x", "\ufffd", "n"], " gün", False),
        (["\ufffd", "n"], " gum", False),
    ],
)
def test_whether_tokens_spell_a_text(tokens: list[str], text: str, expected: bool) -> None:
    assert spell(tokens, text) is expected


@pytest.mark.parametrize("count", [-1, 10**10, 10**30, 1.5, "many"])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_a_number_of_tokens_that_no_answer_has_is_malformed(name: str, count: Any) -> None:
    body = chat("yes").body
    body["usage"][name] = count
    with pytest.raises(BrokenReply, match=f"usage.{name}"):
        parse_reply(json.dumps(body))


def test_half_a_surrogate_pair_is_a_question_mark() -> None:
    reply = parse_reply(json.dumps(chat("a\ud800b").body))
    assert reply.text == "a?b"
    assert shorten("\udfff x") == "? x"


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("(A) is kind.", "", "(A) is kind."),
        ("<think>\nHm, (B)?\n</think>\n\n(A).", "Hm, (B)?", "(A)."),
        ("Hm, (B)?\n</think>\n(A).", "Hm, (B)?", "(A)."),  # the prompt opened it
        ("<think></think>(A).", "", "(A)."),
        ("\n<think>Hm, (B", "Hm, (B", ""),  # cut
        ("one</think>two</think>\n(A).", "one</think>two", "(A)."),  # a budget that closed it a second time
        ("[THINK]Hm.[/THINK](A).", "Hm.", "(A)."),
        ("A <think> in the middle", "", "A <think> in the middle"),
    ],
)
def test_thinking_in_the_text_is_told_from_the_answer(text: str, thinking: str, answer: str) -> None:
    assert without_thinking(text) == (thinking, answer)


def _parsed(tokens: str, message: dict[str, Any]) -> Any:
    """The reply with that message, whose tokens (parted by bars) all have log-probs."""
    body = chat("", positions=[(token, -0.5, [(token, -0.5)]) for token in tokens.split("|")]).body
    body["choices"][0]["message"] = message
    return parse_reply(json.dumps(body))


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    "tokens",
    [
        "(A|)",  # of the answer alone
        "<think>|(B|) or |(A|)?|</think>|\n\n|(A|)|<end>",
        "(B|) or |(A|)?|</|think|>|\n\n|(A|)",
        "<channel>|(A|)? no, |(B|) is|<channel>|final|(A|)|<end>",  # a mark that nobody knows
    ],
)
def test_log_probs_are_those_of_the_answer_and_not_of_the_thinking(field: str, tokens: str) -> None:
    reply = _parsed(tokens, {"content": "(A)", field: "(B) or (A)?"})
    assert (reply.text, reply.thinking) == ("(A)", "(B) or (A)?")
    assert [position.token for position in reply.positions][:2] == ["(A", ")"]


def test_an_answer_that_the_tokens_do_not_spell_has_no_log_probs() -> None:
    assert _parsed("<think>|x|</think>|(|B|)", {"content": "(A)", "reasoning": "x"}).positions == ()
    assert _parsed("<think>|(A) or|</think>|no", {"content": "(A)", "reasoning": "x"}).positions == ()


def test_a_reply_of_thinking_alone_is_told_apart_by_who_asked() -> None:
    reply = _parsed("(B|) or", {"content": None, "reasoning": "(B) or"})
    assert (reply.unparted, reply.text, reply.thinking) == (True, "", "(B) or")
    closed = _parsed("<think>|x|</think>|", {"content": None, "reasoning": "x"})
    assert (closed.unparted, closed.positions) == (False, ())


def test_log_probs_are_those_of_the_answer_where_the_thinking_is_empty_or_hidden() -> None:
    for message in ({"content": "(A)"}, {"content": "(A)", "reasoning": "\n\n"}):
        reply = _parsed("<think>|\n\n|</think>|\n\n|(A|)", message)
        assert [position.token for position in reply.positions][:2] == ["(A", ")"]


def test_what_is_no_text_is_no_thinking() -> None:
    reply = _parsed("(A|)", {"content": "(A)", "reasoning": {"effort": "low"}, "reasoning_content": ["x"]})
    assert (reply.text, reply.thinking, len(reply.positions)) == ("(A)", "", 2)
