"""The client of a rollout server: what it sends, what it takes for an answer, and what it refuses."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from rlaif.core.errors import BackendError
from rlaif.lm.server import pace
from rlaif.lm.server.rollouts import KEY_ENV, Drawn, RolloutServer
from tests.fault_server import Answer, Behaviour, error, serving

END = 7


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.001)


def completion(*ids: int, finish: str = "stop", **fields: Any) -> Answer:
    """A choice as vLLM sends it; a field that is given as None is left out."""
    logprobs = {"tokens": ["?"] * len(ids), "token_logprobs": [-0.5 * (i + 1) for i in range(len(ids))]}
    choice = {"index": 0, "text": "?", "finish_reason": finish, "token_ids": list(ids), "logprobs": logprobs, **fields}
    return Answer({"choices": [{name: value for name, value in choice.items() if value is not None}]})


def ask(behaviour: Behaviour, prompts: list[list[int]], *, timeout: float = 5.0) -> tuple[list[Drawn], list[Any]]:
    """(responses of at most three tokens, bodies seen)."""
    with serving(behaviour) as server:
        client = RolloutServer(server.url, timeout=timeout, remedy="start it")
        try:
            seeds = [2**62 + i for i in range(len(prompts))]
            found = client.sample("policy-3", prompts, max_new_tokens=3, temperature=0.7, seeds=seeds, ends=[END])
            return found, server.seen
        finally:
            client.close()


def test_ids_go_out_and_ids_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, "secret")

    def behaviour(body: dict[str, Any], before: int) -> Answer:
        first = body["prompt"][0]
        answer = completion(first, END) if first == 1 else completion(first, 9, 9, finish="length")
        answer.hang = 0.05 if first == 1 else 0.0
        return answer

    found, seen = ask(behaviour, [[1, 2], [3], [4, 5, 6]])
    assert found[0] == Drawn((1, END), (-0.5, -1.0), "stop")
    assert found[1] == Drawn((3, 9, 9), (-0.5, -1.0, -1.5), "length")
    assert found[2].ids == (4, 9, 9)
    body = next(s.body for s in seen if s.body["prompt"] == [1, 2])
    assert body == {
        **{"model": "policy-3", "prompt": [1, 2], "max_tokens": 3, "seed": 2**62 & 0x7FFFFFFF, "logprobs": 1},
        **{"temperature": 0.7, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
        **{"return_token_ids": True, "stop_token_ids": [END], "include_stop_str_in_output": True},
    }
    assert {s.path for s in seen} == {"/v1/completions"}
    assert {s.key for s in seen} == {"Bearer secret"}
    assert len({s.body["seed"] for s in seen}) == 3


def test_an_end_token_is_an_end_whatever_the_server_calls_it() -> None:
    found, _ = ask(lambda body, before: completion(1, 2, END, finish="length"), [[1]])
    assert found[0].finish == "stop"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (completion(1, END, token_ids=None), "ids of the sampled tokens"),
        (completion(1, END, logprobs=None), "a log-prob for each"),
        (completion(1, END, logprobs={"token_logprobs": [-0.5]}), "a log-prob for each"),
        (completion(1, END, logprobs={"token_logprobs": [-0.5, None]}), "malformed at .*token_logprobs.1"),
        (completion(1, END, prompt_token_ids=[0, 1]), "changes the ids of the prompt"),
        (completion(1, finish="stop"), "cuts the end token off"),
        (completion(1, END, 2, finish="length"), "after an end token"),
        (completion(1, 2, 3, 4, finish="length"), "beyond 3 tokens"),
        (completion(finish="stop"), "nothing at all"),
        (completion(1, 2, finish="length"), "cuts a response at 2 of 3 tokens"),
        (completion(1, 2, END, finish="abort"), "for the reason 'abort'"),
        (Answer({"choices": []}), "malformed at choices"),
        (Answer(b"<html>"), "malformed"),
        (error(400, "prompt is too long"), "does not sample \\(400 prompt is too long\\)"),
        (error(404, "The model `policy-3` does not exist."), "404 The model `policy-3`"),
        (Answer({"detail": "Not Found"}, status=404), "404 Not Found"),
        (error(500, "EngineCore died"), "500 EngineCore died"),
        (error(503, "down"), r"no answer from the server \(503 down\), tried 6 times"),
        (error(429, "later", retry_after="3600"), "wait 60 minutes"),
    ],
)  # fmt: skip
def test_anything_else_is_an_error(answer: Answer, message: str) -> None:
    with pytest.raises(BackendError, match=message) as problem:
        ask(lambda body, before: answer, [[1]])
    assert problem.value.remedy == "start it"
    assert problem.value.where.startswith("http://127.0.0.1:")


def test_silence_is_an_error_and_what_may_pass_is_tried_again() -> None:
    with pytest.raises(BackendError, match=r"no answer within 0.05 s"):
        ask(lambda body, before: Answer(hang=1.0), [[1]], timeout=0.05)

    def recovers(body: dict[str, Any], before: int) -> Answer:
        bad = [error(429, "busy", retry_after_ms="3"), error(502, "gateway"), Answer({}, cut=0)]
        return bad[before] if before < len(bad) else completion(body["prompt"][0], END)

    found, seen = ask(recovers, [[i] for i in range(1, 7)])
    assert [drawn.ids[0] for drawn in found] == [1, 2, 3, 4, 5, 6]
    assert len(seen) == 6 * 4


@pytest.mark.parametrize(
    ("status", "said", "loads"),
    [
        (200, "ok", True),
        (400, "The lora adapter 'a' has already been loaded.", True),
        (404, "The lora adapter 'a' cannot be found.", False),
        (500, "LoRA rank 64 is greater than max_lora_rank 16.", False),
    ],
)
def test_adapters_are_loaded_and_dropped_by_name(status: int, said: str, loads: bool) -> None:
    answer = Answer(b"Success") if status == 200 else error(status, said)
    with serving(lambda body, before: answer) as server:
        client = RolloutServer(server.url, timeout=5, remedy="start it")
        with nullcontext() if loads else pytest.raises(BackendError, match=f"{status} {said[:12]}"):
            client.load_adapter("a", "/x/a")
        client.unload_adapter("a")  # whatever the server says to that
        client.close()
        assert [(s.path, s.body) for s in server.seen] == [
            ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/x/a"}),
            ("/v1/unload_lora_adapter", {"lora_name": "a"}),
        ]  # fmt: skip


def test_an_address_that_is_none() -> None:
    with pytest.raises(BackendError, match="not the address"):
        RolloutServer("localhost:8000", timeout=5, remedy="")


@pytest.mark.slow
def test_llama_cpp_samples_but_does_not_give_the_ids(llama_server: str) -> None:
    """As far as another real server reaches: it says what it serves, takes token ids and samples, and each thing that
    it lacks is named."""
    client = RolloutServer(llama_server, timeout=60, remedy="use vLLM", max_retries=0)
    assert len(client.models()) == 1
    with pytest.raises(BackendError, match="does not load the policy's adapter"):
        client.load_adapter("policy-0", "/nowhere")
    with pytest.raises(BackendError, match="does not return the ids of the sampled tokens"):
        client.sample("any", [[1, 2, 3]], max_new_tokens=3, temperature=1.0, seeds=[1], ends=[2])
    client.close()
