"""Ratings on log-probs that are given by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.core.records import Comparison, Contrast, ContrastExample, Failure, Message, Prompt
from rlaif.judge.methods.method import JSON_TOKENS
from rlaif.judge.methods.rating import RATINGS, UNLISTED, mean_rating
from rlaif.lm.protocol import ChoiceLogprobs
from rlaif.lm.server.replies import Position, indistinct, read_choices
from tests.fault_server import Answer, chat, client, last, serving
from tests.judge.cases import KIND, SHORT, Recorder, comparison, judge, logistic, only, response


def digits(of: dict[int, float], others: float = 1e-300) -> tuple[float, ...]:
    """The log-probs of "1" to "9" with these probabilities."""
    return tuple(math.log(of.get(int(name), others)) for name in RATINGS)


SIX = digits({9: 0.05, 1: 0.025, 5: 0.025})  # of 0.1 in all: 4.5 + 0.25 + 1.25
FOUR = digits({4: 0.3})
RATED = [("Answer:\n> yes my friend", SIX), ("Answer:\n> no", FOUR)]


def test_the_difference_of_two_mean_ratings_by_hand() -> None:
    model = Recorder(letters=RATED)
    label = judge(model, only(KIND), method="rating", rating_scale=4.0, scale=123.0).label([comparison()])[0]
    (verdict,) = label.verdicts
    assert verdict.margin == pytest.approx(6 - 4)
    assert label.prob_a == verdict.prob_first == pytest.approx(logistic(2 / 4))
    assert (verdict.order, verdict.method, verdict.raw) == ("none", "rating", "ratings 6.00 and 4.00")
    assert (label.consistency, label.failure) == (None, None)
    assert [request.choices for request in model.choices] == [RATINGS] * 2
    assert all(request.prefix.endswith("(") for request in model.choices)
    assert judge(Recorder(letters=RATED), only(KIND), method="rating").label([comparison()])[0].prob_a == pytest.approx(
        logistic(2)
    )


def test_a_response_is_rated_once_per_principle_and_alone() -> None:
    model = Recorder(letters=[("", SIX)])
    prompt = Prompt((Message("user", "May I?"),))
    answers = [response(prompt, text) for text in ("yes my friend", "no", "perhaps")]
    pairs = [Comparison(prompt, a, b) for a in answers for b in answers if a is not b]
    judge(model, method="rating").label(pairs)
    assert len(model.choices) == 3 * 2
    shown = [[a.text for a in answers if f"> {a.text}" in r.messages[-1].content.splitlines()] for r in model.choices]
    assert sorted(shown) == sorted([[a.text] for a in answers] * 2)
    rules = [p.statement for r in model.choices for p in (KIND, SHORT) if p.statement in r.messages[-1].content]
    assert (rules.count("Be kind."), rules.count("Be brief.")) == (3, 3)


def test_equal_texts_are_rated_alike() -> None:
    pair = comparison("no", "no")
    other = replace(pair, b=replace(pair.b, seed=2, id=""), id="")
    assert judge(Recorder(letters=RATED), only(KIND), method="rating").label([other])[0].prob_a == 0.5


def test_a_response_that_cannot_be_rated_says_why() -> None:
    label = judge(Recorder(letters=RATED), only(KIND), method="rating").label([comparison(b="unheard of")])[0]
    assert (label.prob_a, label.verdicts[0].margin, label.verdicts[0].raw) == (None, None, "")
    assert label.failure == Failure("backend", "no such entry")


def test_no_rating_begins_another_and_a_ten_counts_for_none() -> None:
    assert indistinct(RATINGS) is None
    assert indistinct([*RATINGS, "10"]) == ("1", "10")
    listed = (("9", math.log(0.5)), ("10", math.log(0.3)), ("1", math.log(0.1)), (" 9", math.log(0.1)))
    found = read_choices([Position("9", math.log(0.5), listed)], RATINGS)
    assert found.logprobs is not None
    assert found.logprobs[8] == pytest.approx(math.log(0.6))
    assert found.logprobs[0] == pytest.approx(math.log(0.1))
    assert found.bounds == (1, 2, 3, 4, 5, 6, 7)


@pytest.mark.parametrize("unlisted", [0.004, 0.011])
def test_ratings_that_no_server_listed_may_not_matter(unlisted: float) -> None:
    values = [1e-300] * 7 + [1 - 2 * unlisted] + [unlisted]
    values[0] = unlisted  # 1 and 9 unknown, the rest is 8
    found = mean_rating(ChoiceLogprobs(tuple(map(math.log, values)), bounds=(0, 8)))
    if 2 * unlisted > UNLISTED:
        assert isinstance(found, Failure)
        assert found.kind == "missing_logprobs"
        assert "ratings 1, 9, which may hold 2% of the probability" in found.reason
        assert "judge.api: chat" in found.reason
    else:
        assert found == pytest.approx(8 + unlisted * (1 - 8) + unlisted * (9 - 8))
    assert isinstance(mean_rating(ChoiceLogprobs(tuple(map(math.log, values)))), float), "listed, however small"


@given(st.lists(st.floats(-700, 0), min_size=9, max_size=9), st.floats(-50, 50))
def test_a_mean_rating_is_on_the_scale_whatever_else_is_likely(values: list[float], shift: float) -> None:
    found = mean_rating(ChoiceLogprobs(tuple(values)))
    assert isinstance(found, float)
    assert 1 - 1e-9 <= found <= 9 + 1e-9
    assert mean_rating(ChoiceLogprobs(tuple(v + shift for v in values))) == pytest.approx(found, abs=1e-6)
    assert mean_rating(ChoiceLogprobs(tuple(reversed(values)))) == pytest.approx(10 - found, abs=1e-6)


def test_a_local_model_rates_by_digits_that_share_no_probability(tmp_path: Path) -> None:
    from rlaif.config import ModelConfig
    from rlaif.lm.local.load import load_model
    from rlaif.lm.local.model import LocalModel
    from tests.tiny import make_tiny_model

    folder = make_tiny_model(tmp_path / "tiny")
    model = LocalModel(load_model(ModelConfig(source=str(folder), dtype="float32", device="cpu")))  # type: ignore[call-arg]
    asked: list[ChoiceLogprobs] = []
    ask = model.ask

    def kept(requests):  # type: ignore[no-untyped-def]
        asked.extend(ask(requests))
        return asked

    model.ask = kept  # type: ignore[method-assign]
    label = judge(model, only(KIND), method="rating").label([comparison()])[0]
    assert label.prob_a is not None
    assert 0 < label.prob_a < 1
    assert label.prob_a != 0.5
    for answer in asked:
        assert answer.logprobs is not None
        assert math.fsum(map(math.exp, answer.logprobs)) < 1
        assert answer.bounds == ()


@pytest.mark.parametrize("method", ["pairwise", "rating"])
def test_few_shots_come_from_the_principles_own_examples(method: str) -> None:
    examples = tuple(ContrastExample(f"Q{n}?", f"yes {n}", f"no {n}") for n in range(3))
    principle = replace(KIND, contrast=Contrast("You are kind.", "You are cruel.", examples))
    shown = []
    for few_shots in (0, 2):
        model = Recorder()
        judge(model, only(principle), method=method, few_shots=few_shots).label([comparison()])
        shown.append("\n".join(message.content for message in model.choices[0].messages))
    assert [[f"Q{n}?" in text for n in range(3)] for text in shown] == [[False] * 3, [True, True, False]]


def test_a_rating_in_json_is_the_mean_and_needs_no_log_probs() -> None:
    def behaviour(body: dict[str, Any], _: int) -> Answer:
        kind = "> yes my friend" in last(body)
        return chat(f"<think>{'warm' if kind else 'cold'}</think>" + json.dumps({"rating": 7 if kind else 2}))

    with serving(behaviour) as server:
        model = client(server.url, thinking_tokens=100)
        asked = {"method": "rating", "verdict": "json", "backend": "openai", "source": "m", "rating_scale": 2.0}
        label = judge(model, only(KIND), **asked).label([comparison()])[0]
        model.close()
    (verdict,) = label.verdicts
    assert (verdict.margin, verdict.raw) == (5.0, "ratings 7.00 and 2.00")
    assert label.prob_a == pytest.approx(logistic(5 / 2))
    assert verdict.rationale == "Answer (A): warm\n\nAnswer (B): cold"
    for body in server.bodies():
        assert body["messages"][-1]["role"] == "user", "no answer is begun: the JSON is all of it"
        assert body["max_tokens"] == 100 + JSON_TOKENS
        assert body["response_format"]["json_schema"]["schema"]["properties"]["rating"]["enum"] == list(range(1, 10))


@pytest.mark.parametrize("text", ['{"rating": 10}', '{"rating": "7"}', '{"rating": 7.5}', "7", "{}"])
def test_a_rating_that_is_none_is_a_failure(text: str) -> None:
    with serving(lambda *_: chat(text)) as server:
        model = client(server.url)
        asked = {"method": "rating", "verdict": "json", "backend": "openai", "source": "m"}
        label = judge(model, only(KIND), **asked).label([comparison()])[0]
        model.close()
    assert label.failure is not None
    assert label.failure.kind == "parse"
