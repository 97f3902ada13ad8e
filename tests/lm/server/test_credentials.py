"""Keys and passwords: what is refused before anything is sent, and that they show nowhere."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from rlaif.core.errors import BackendError
from rlaif.lm.server.credentials import Credentials, shown
from rlaif.lm.server.rollouts import KEY_ENV, RolloutServer
from tests.fault_server import Answer, FaultServer, chat, client, error, last
from tests.judge.cases import KIND, comparison, judge, only
from tests.lm.server.asked import ask, choose

CANARY = "sk-canary/0123456789-abcdefghij"
URL = "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    "key", [CANARY[:9] + "\n" + CANARY[9:], "sk canary", "sk-\x01canary", "sk-cänary", "sk\x7fcanary"]
)
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(BackendError, match="MY_KEY") as caught:
        client(URL, api_key_env="MY_KEY")
    assert "export MY_KEY" in str(caught.value)
    assert "nary" not in str(caught.value)
    monkeypatch.setenv(KEY_ENV, key)
    with pytest.raises(BackendError, match=KEY_ENV):
        RolloutServer(URL, timeout=1.0, remedy="start it")


def test_blanks_around_a_key_are_taken_off(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {CANARY}\n")
    server, model = start(lambda *_: chat("yes"))
    assert model.ask([ask("q")])[0].text == "yes"
    assert server.seen[0].key == f"Bearer {CANARY}"


def _echo(server: FaultServer, body: dict[str, Any]) -> Answer:
    """The headers of the request, in one of the places where a server may write them."""
    got = "x" * 280 + f" you sent Authorization: {server.seen[-1].key}"
    listed = [(got[-50:], -0.1, [(got[-50:], -0.1)])]
    answers = {
        "status": error(500, got),
        "rejected": error(422, got),
        "long": error(400, f"the prompt is too long: {got}"),
        "detail": Answer({"detail": {"headers": {"authorization": got}}}, status=409),
        "slashes": Answer(json.dumps({"error": got}).replace("/", r"\/").encode(), status=500),
        "page": Answer(f"<html>{got}</html>".encode(), status=502),
        "not json": Answer(got[280:].encode()),
        "error with 200": Answer({"error": {"message": got}}),
        "refused": chat(got, finish="content_filter"),
        "answer": chat(got),
        "menu": chat(got[-50:], positions=listed),
    }
    return answers[last(body)]


def test_a_server_that_echoes_the_key_does_not_get_it_into_any_answer(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    server, model = start(lambda body, _: _echo(server, body))
    names = ["status", "rejected", "long", "detail", "slashes", "page", "not json", "error with 200", "refused"]
    found = repr(model.ask([ask(name) for name in [*names, "answer"]]) + model.ask([choose("menu", "")]))
    assert {seen.key for seen in server.seen} == {f"Bearer {CANARY}"}, "the server did get it"
    assert "canary" not in found
    assert "you sent Authorization: Bearer ***" in found


def test_neither_a_label_nor_the_error_that_ends_a_call_shows_the_key(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    server, model = start(lambda *_: error(500, f"you sent {server.seen[-1].key}"))
    label = judge(model, only(KIND), method="pairwise").label([comparison("Yes.", "No.")])[0]
    assert label.failure is not None
    assert "you sent Bearer ***" in label.failure.reason
    assert "canary" not in repr(label)
    server, model = start(lambda *_: error(401, f"wrong key: {server.seen[-1].key}"))
    with pytest.raises(BackendError, match=r"wrong key: Bearer \*\*\*"):
        model.ask([ask("q")])


def test_what_a_library_says_of_a_request_is_shown_without_the_key(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    _, model = start(lambda *_: chat("yes"))

    async def illegal(*_: Any, **__: Any) -> Any:
        raise openai.OpenAIError(f"Illegal header value b'Bearer {CANARY}'")

    monkeypatch.setattr(model._connection._client, "post", illegal)
    reason = model.ask([ask("q")])[0].failure.reason
    assert "Illegal header value b'Bearer ***'" in reason


def test_a_password_in_the_address_reaches_the_server_and_no_message(start: Any) -> None:
    server, _ = start(lambda body, _: error(404 if last(body) == "end" else 500, f"you sent {server.seen[-1].key}"))
    model = client(server.url.replace("//", "//bob:pass%2Fword@"), max_retries=0)
    assert "Basic ***" in model.ask([ask("q")])[0].failure.reason
    assert server.seen[0].key == "Basic Ym9iOnBhc3Mvd29yZA=="
    with pytest.raises(BackendError) as caught:
        model.ask([ask("end")])
    assert server.url in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("bob", "word", "Ym9i"))
    model.close()
    assert "pass" not in repr(Credentials.of(server.url.replace("//", "//bob:pass%2Fword@"), field="f", key_env="NONE"))


@pytest.mark.parametrize(
    "rest", ["127.0.0.1:99999/v1", "[::1/v1", ":8000/v1", "127.0.0.1:x/v1", "half\ud800/v1", "a\x01b/v1"]
)
def test_an_address_that_is_none_is_refused_without_its_password(rest: str) -> None:
    with pytest.raises(BackendError, match=r"judge\.base_url: http://") as caught:
        client(f"http://bob:secret-word@{rest}")
    assert "secret" not in str(caught.value)


def test_a_word_that_stands_for_no_key_is_left_in_answers(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    _, model = start(lambda *_: chat("The box is EMPTY, or none."))
    assert model.ask([ask("q")])[0].text == "The box is EMPTY, or none."


def test_an_address_is_shown_without_user_and_password() -> None:
    assert shown("https://bob:x@box:9/v1") == "https://box:9/v1"
    assert shown("http://box:9/v1/@me") == "http://box:9/v1/@me"
