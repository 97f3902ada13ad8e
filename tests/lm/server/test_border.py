"""What passes the border: no redirect, no endless answer, nothing packed in a way that was not asked for."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from rlaif.core.errors import BackendError
from rlaif.lm.server import border, pace
from rlaif.lm.server.rollouts import RolloutServer
from tests.fault_server import Answer, chat, last
from tests.lm.server.asked import ask


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.001)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_names_the_host_without_its_password(start: Any, status: int) -> None:
    other, _ = start(lambda *_: chat("from elsewhere"))
    target = f"http://eve:hush@127.0.0.1:{other.port}/v1/chat/completions?token=hush"
    server, model = start(lambda *_: Answer({}, status=status, headers={"Location": target}), max_retries=3)
    with pytest.raises(BackendError, match=r"judge\.base_url") as caught:
        model.ask([ask("q")])
    assert f"{status} a redirect to http://127.0.0.1:{other.port}, which is not followed" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert (len(server.seen), other.seen) == (1, [])


@pytest.mark.parametrize(
    ("location", "named"), [("/v2/chat", "http://127.0.0.1:"), (None, "nowhere"), ("http://[::1/v1", "nowhere")]
)
def test_a_redirect_to_the_same_host_or_to_none_is_named_too(start: Any, location: str | None, named: str) -> None:
    headers = {} if location is None else {"Location": location}
    _, model = start(lambda *_: Answer({}, status=307, headers=headers))
    with pytest.raises(BackendError, match=f"a redirect to {named}"):
        model.ask([ask("q")])


def test_rollouts_are_not_redirected_either(start: Any) -> None:
    other, _ = start(lambda *_: chat("x"))
    server, _ = start(lambda *_: Answer({}, status=307, headers={"Location": other.url + "/completions"}))
    rollouts = RolloutServer(server.url, timeout=5.0, remedy="start it")
    with pytest.raises(BackendError, match="a redirect to"):
        rollouts.sample("m", [[1]], max_new_tokens=2, temperature=1.0, seeds=[1], ends=[7])
    rollouts.close()
    assert other.seen == []


def _packed(body: bytes, name: str = "gzip", **fields: Any) -> Answer:
    return Answer(body, headers={"Content-Encoding": name}, **fields)


def test_packed_answers_are_read(start: Any) -> None:
    good = json.dumps(chat("ümläut " * 50).body).encode()
    answers = {"gzip": _packed(gzip.compress(good)), "deflate": _packed(zlib.compress(good), "deflate")}
    _, model = start(lambda body, _: answers[last(body)])
    assert [answer.text for answer in model.ask([ask("gzip"), ask("deflate")])] == ["ümläut " * 50] * 2


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_is_read_up_to_a_limit_that_counts_what_is_unpacked(
    start: Any, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(border, "MOST_BYTES", 100_000)
    long = json.dumps(chat("x" * 100_000).body).encode()
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 100_000
    answers = {"plain": Answer(long, status=status), "packed": _packed(bomb, status=status)}
    server, model = start(lambda body, _: answers[last(body)], max_retries=1)
    for result in model.ask([ask("plain"), ask("packed")]):
        assert (result.text, result.failure.kind) == (None, "backend")
        assert result.failure.reason == "the server's answer is longer than 0.1 MB, tried 2 times"
    assert len(server.seen) == 4


def test_a_packed_answer_never_takes_more_memory_than_the_limit(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = zlib.decompressobj

    class Watched:
        def __init__(self, **fields: Any) -> None:
            self.inner = real(**fields)

        def decompress(self, piece: bytes, most: int) -> bytes:
            taken.append(len(found := self.inner.decompress(piece, most)))
            return found

    monkeypatch.setattr(border.zlib, "decompressobj", Watched)
    _, model = start(lambda *_: _packed(gzip.compress(b" " * 100_000_000)))
    assert "longer than 8 MB" in model.ask([ask("q")])[0].failure.reason
    assert sum(taken) <= border.MOST_BYTES + 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (_packed(b"{}", "br"), "packed as 'br'"),
        (_packed(b"{}", "gzip, gzip"), "packed as 'gzip, gzip'"),
        (_packed(b"no gzip"), "not the gzip"),
        (_packed(gzip.compress(b"{}" * 99)[:-9]), "cut on its way"),
    ],
)
def test_what_cannot_be_unpacked_is_asked_again_and_then_a_failure(start: Any, answer: Answer, reason: str) -> None:
    server, model = start(lambda body, before: chat("ok") if last(body) == "q" and before else answer, max_retries=1)
    assert model.ask([ask("q")])[0].text == "ok"
    assert reason in model.ask([ask("stays")])[0].failure.reason
    assert len(server.seen) == 4
