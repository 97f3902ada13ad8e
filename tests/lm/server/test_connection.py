"""Faults on the way to a server: what is tried again, what is a failure, and what ends the batch."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from typing import Any

import pytest

from rlaif.core.errors import BackendError
from tests.fault_server import Answer, Behaviour, chat, client, error, last
from tests.lm.server.asked import ask


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


def test_a_malformed_answer_is_asked_again_within_the_limit(start: Any) -> None:
    def behaviour(body: dict[str, Any], before: int) -> Answer:
        answer, tries = last(body).split(": ")
        return chat("ok") if before == int(tries) else _FAULTS[answer][0]

    names = ["truncated", "html", "null", "no choice", "error with 200", "wrong type"]
    server, model = start(behaviour, max_retries=2)
    assert [answer.text for answer in model.ask([ask(f"{name}: 1") for name in names])] == ["ok"] * len(names)
    for name, answer in zip(names, model.ask([ask(f"{name}: 3") for name in names]), strict=True):
        assert _FAULTS[name][1] in answer.failure.reason
        assert answer.failure.reason.endswith("tried 3 times")
    assert len(server.seen) == 5 * len(names)


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


def test_wrong_settings_are_refused_before_any_call() -> None:
    with pytest.raises(BackendError, match="SOME_KEY"):
        client(None, api_key_env="SOME_KEY")
    with pytest.raises(BackendError, match="http://"):
        client("localhost:8000/v1")


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
