"""What a server's hints mean, and how a client as a whole keeps to them."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from rlaif.core.errors import BackendError
from rlaif.core.records import Message
from rlaif.lm.protocol import GenerateRequest
from rlaif.lm.server.client import OpenAIModel
from rlaif.lm.server.pace import LONGEST_PAUSE, LONGEST_WAIT, Pace, asked_pause, own_pause
from tests.fault_server import Answer, chat, client, error, last, serving


def asks(number: int) -> list[GenerateRequest]:
    return [GenerateRequest((Message("user", str(n)),), 9, 0.0, 0) for n in range(number)]


def opened(url: str, **fields: Any) -> OpenAIModel:
    return client(url, **({"max_retries": 5, "timeout": 5.0} | fields))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "7200"}, 7200.0),
        ({"retry-after-ms": "40", "retry-after": "3"}, 0.04),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({}, None),
    ],
)
def test_what_a_server_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_pause(headers) == seconds


def test_a_date_is_the_time_until_then() -> None:
    headers = {"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)}
    assert asked_pause(headers) == pytest.approx(90, abs=2)


def test_own_pauses_double_up_to_the_longest_and_differ() -> None:
    for tries, most in ((1, 0.5), (2, 1.0), (3, 2.0), (9, LONGEST_PAUSE)):
        drawn = [own_pause(tries) for _ in range(50)]
        assert most / 2 <= min(drawn) < max(drawn) <= most
        assert len(set(drawn)) > 1


def test_too_many_halves_what_is_in_flight_once_and_answers_let_it_grow() -> None:
    async def most_at_once(pace: Pace) -> int:
        now = most = 0

        async def one() -> None:
            nonlocal now, most
            async with pace:
                now += 1
                most = max(most, now)
                await asyncio.sleep(0.001)
                now -= 1

        await asyncio.gather(*(one() for _ in range(40)))
        return most

    async def scenario() -> list[int]:
        pace, sent = Pace(16), time.monotonic()
        found = [await most_at_once(pace)]
        for _ in range(10):
            pace.too_many(sent)
        found.append(await most_at_once(pace))
        pace.too_many(time.monotonic())
        found.append(await most_at_once(pace))
        for _ in range(4 + 5):
            pace.answered()
        found.append(await most_at_once(pace))
        for _ in range(1000):
            pace.answered()
        return [*found, await most_at_once(pace)]

    assert asyncio.run(scenario()) == [16, 8, 4, 5, 16]


def test_a_pause_holds_for_all_requests_of_the_client() -> None:
    def behaviour(body: dict[str, Any], before: int) -> Answer:
        if last(body) == "0" and before == 0:
            return error(429, "slow down", Retry_After="0.8")
        return Answer(chat("ok").body, hang=0.02)

    with serving(behaviour) as server:
        model = opened(server.url, concurrency=4)
        model.ask(asks(40))
        model.close()
        limited = server.seen[[last(seen.body) for seen in server.seen].index("0")].at
        early = [last(seen.body) for seen in server.seen if limited + 0.3 < seen.at < limited + 0.8]
        assert (early, len(server.seen)) == ([], 41)


def test_a_server_that_allows_few_a_second_slows_the_client_and_fails_no_row() -> None:
    """A bucket of tokens, 60 a second: 64 requests in flight are far too many for it."""
    lock, state = threading.Lock(), [10.0, time.monotonic()]

    def behaviour(body: dict[str, Any], _: int) -> Answer:
        with lock:
            now = time.monotonic()
            state[0] = min(10.0, state[0] + 60 * (now - state[1]))
            state[1] = now
            if state[0] < 1:
                return error(429, "slow down", retry_after_ms="100")
            state[0] -= 1
        return chat(last(body))

    with serving(behaviour) as server:
        model = opened(server.url, concurrency=64)
        answers = model.ask(asks(150))
        model.close()
        assert [answer.text for answer in answers] == [str(n) for n in range(150)]
        assert len(server.seen) < 2 * 150, "most requests are sent when they can be answered"


def test_a_pause_of_hours_ends_the_work_and_says_so() -> None:
    with serving(lambda *_: error(429, "daily limit", Retry_After=str(int(LONGEST_WAIT) * 6))) as server:
        model = opened(server.url)
        began = time.monotonic()
        with pytest.raises(BackendError, match=r"wait 60 minutes.*daily limit"):
            model.ask(asks(20))
        assert time.monotonic() - began < 5
        assert len(server.seen) <= 8
        model.close()


def test_a_server_that_drips_is_given_up_after_the_timeout() -> None:
    raw = b'{"choices": [{"message": {"content": "slow"}}]}'
    with serving(lambda *_: Answer(raw, drip=0.1)) as server:
        model = opened(server.url, timeout=0.5, max_retries=0)
        began = time.monotonic()
        failure = model.ask(asks(1))[0].failure
        assert failure is not None
        assert failure.reason == "no answer within 0.5 s, tried 1 time"
        assert time.monotonic() - began < 2
        model.close()


def test_a_server_can_say_that_another_try_is_of_no_use() -> None:
    with serving(lambda *_: error(500, "broken for good", x_should_retry="false")) as server:
        model = opened(server.url)
        assert model.ask(asks(1))[0].failure is not None
        assert len(server.seen) == 1
        model.close()


def test_an_answer_cut_on_its_way_is_asked_for_again() -> None:
    with serving(lambda _, before: chat("whole") if before else Answer(b'{"choices": [{"mess')) as server:
        model = opened(server.url)
        assert model.ask(asks(1))[0].text == "whole"
        assert len(server.seen) == 2
        model.close()


def test_a_long_call_ends_soon_after_its_server_broke() -> None:
    def behaviour(body: dict[str, Any], _: int) -> Answer:
        return chat("ok") if last(body).isdigit() and int(last(body)) < 50 else error(500, "out of memory")

    with serving(behaviour) as server:
        model = opened(server.url, max_retries=0, concurrency=4)
        with pytest.raises(BackendError, match=r"all of the last \d+ requests failed; the first: .*out of memory"):
            model.ask(asks(1000))
        assert len(server.seen) < 70
        model.close()
