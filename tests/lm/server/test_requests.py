"""How a request is put to a server: fields, prefixes, choices, and the older form of completions."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rlaif.core.errors import BackendError
from rlaif.core.records import Message
from rlaif.lm.protocol import ChoiceRequest, ScoreRequest
from rlaif.lm.server.requests import Endpoint
from tests.fault_server import Answer, chat, error, last
from tests.lm.server.asked import ask, choose


def test_a_server_is_known_by_its_model_wherever_it_runs() -> None:
    own = Endpoint("m", "http://127.0.0.1:8000/v1").fingerprint
    assert own == Endpoint("m", "http://127.0.0.1:8000/v1/").fingerprint == Endpoint("m", "http://box:9/v1").fingerprint
    others = {Endpoint("m"), Endpoint("n", "http://box:9/v1"), Endpoint("m", "http://box:9/v1", "completions")}
    assert len({own, *(other.fingerprint for other in others)}) == 4


def test_every_field_of_a_request_reaches_the_server(start: Any) -> None:
    server, model = start(lambda *_: chat("yes"))
    model.ask([ask("q", seed=(5 << 40) + 3, stop=("\n",), temperature=0.5)])
    assert server.bodies() == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "q"}],
            "max_tokens": 9,
            "temperature": 0.5,
            "seed": 3,
            "stop": ["\n"],
        }
    ]


@pytest.mark.parametrize("echoed", ["Critique: ", ""])
def test_a_prefix_is_continued_and_not_part_of_the_result(start: Any, echoed: str) -> None:
    server, model = start(lambda *_: chat(echoed + "too short"))
    assert model.ask([ask("q", prefix="Critique: ")])[0].text == "too short"
    body = server.bodies()[0]
    assert body["messages"][-1] == {"role": "assistant", "content": "Critique: "}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def _no_continuation(body: dict[str, Any], _: int) -> Answer:
    if "continue_final_message" in body:
        return error(400, "Unrecognized request argument supplied: continue_final_message")
    listed = [("A", math.log(0.6)), ("B", math.log(0.3))]
    return chat("So (A)", positions=[("So", -0.5, ()), (" (", -0.1, ()), ("A", math.log(0.6), listed)])


def test_a_server_that_cannot_continue_is_asked_to_begin_with_the_prefix(start: Any) -> None:
    server, model = start(_no_continuation, concurrency=1)
    generations = model.ask([ask("q", prefix="So ("), ask("r", prefix="So (")])
    assert [g.text for g in generations] == ["A)", "A)"]
    # the first was asked twice, the second at once in the form that works
    assert [last(body) for body in server.bodies()] == [
        "So (",
        "q\n\nBegin your answer with exactly: So (",
        "r\n\nBegin your answer with exactly: So (",
    ]
    result = model.ask([choose(prefix="So (")])[0]
    assert result.logprobs == pytest.approx((math.log(0.6), math.log(0.3)))
    assert server.bodies()[-1]["max_tokens"] >= 3


def test_choices_ask_for_the_likeliest_tokens_of_a_greedy_answer(start: Any) -> None:
    listed = [("A", math.log(0.5)), ("B", math.log(0.25))]
    server, model = start(lambda *_: chat("A", positions=[("A", math.log(0.5), listed)]))
    assert model.ask([choose()])[0].logprobs == pytest.approx((math.log(0.5), math.log(0.25)))
    body = server.bodies()[0]
    assert (body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0.0)
    assert body["max_tokens"] <= 4


def test_choices_that_begin_each_other_cost_no_call(start: Any) -> None:
    server, model = start(lambda *_: chat("1"))
    with pytest.raises(BackendError, match="'1' and '10'"):
        model.ask([ChoiceRequest((Message("user", "rate"),), ("1", "2", "10"))])
    assert server.seen == []


def _echo(body: dict[str, Any], _: int) -> Answer:
    prompt = body["prompt"]
    given, said = prompt[: prompt.rindex("Assistant:") + 10], prompt[prompt.rindex("Assistant:") + 10 :]
    words = [" " + word for word in said.split()]
    tokens = ["<s>", given, *words, "!"]
    values = [None, -9.0, *[-float(n + 1) for n in range(len(words))], -7.0]
    choice = {"text": prompt + "!", "finish_reason": "length"}
    return Answer({"choices": [choice | {"logprobs": {"tokens": tokens, "token_logprobs": values}}]})


def test_completions_score_exactly_the_tokens_of_the_response(start: Any) -> None:
    server, model = start(_echo, api="completions")
    messages = (Message("system", "Be kind."), Message("user", "Hi"))
    result = model.ask([ScoreRequest(messages, "good day to I")])[0]
    assert result.token_logprobs == (-1.0, -2.0, -3.0, -4.0)
    assert server.bodies()[0]["prompt"] == "Be kind.\n\nHuman: Hi\n\nAssistant: good day to I"
    assert model.usage.scored_tokens == 4
    assert model.ask([ScoreRequest(messages, "good day to I", 2)])[0].token_logprobs == (-1.0, -2.0)


def test_given_text_cannot_be_scored_without_an_echo(start: Any) -> None:
    listed = {"tokens": ["x"], "token_logprobs": [-1.0]}
    _, model = start(lambda *_: Answer({"choices": [{"text": "x", "logprobs": listed}]}), api="completions")
    with pytest.raises(BackendError, match="given text"):
        model.ask([ScoreRequest((Message("user", "Hi"),), "good")])
    server, chat_model = start(lambda *_: chat("x"))
    with pytest.raises(BackendError, match="completions"):
        chat_model.ask([ScoreRequest((Message("user", "Hi"),), "good")])
    assert server.seen == []


def test_completions_read_choices_of_the_older_form(start: Any) -> None:
    listed = {"tokens": ["A"], "token_logprobs": [-0.7], "top_logprobs": [{"A": -0.7, " B": -1.2}], "text_offset": [9]}
    server, model = start(lambda *_: Answer({"choices": [{"text": "A", "logprobs": listed}]}), api="completions")
    assert model.ask([choose()])[0].logprobs == pytest.approx((-0.7, -1.2))
    assert server.bodies()[0]["prompt"] == "Human: (A) or (B)?\n\nAssistant:("
    assert server.bodies()[0]["logprobs"] == 5
