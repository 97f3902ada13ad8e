"""A reward behind HTTP gives the scores of PPO, `load_reward` and the exported classifier, and refuses the rest."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

from rlaif.config import Pooling, PpoConfig
from rlaif.core.errors import BackendError, ConfigError
from rlaif.core.files import RunFolder
from rlaif.core.records import Message, Prompt
from rlaif.export import server as module
from rlaif.export.reward import export_reward
from rlaif.export.server import RewardServer
from rlaif.judge.load import load
from rlaif.lm.local.load import load_model
from rlaif.run.open import chat_text, load_reward
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.rewards.for_trainers import PortableReward
from rlaif.training.rewards.model import encoded
from tests.export.runs import make_run
from tests.tiny import CONTEXT

UNGATED = ["card.required=false"]
WEB = httpx.Client(timeout=60, trust_env=False, verify=False)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello.\n"},
    {"role": "user", "content": " How do I bake bread?"},
]
ASKED: list[Any] = ["How do I bake bread?", "Hi", "Listen.\nBe kind.", TALK, "What about <|im_end|> and (A)?"]
SAID = ["Mix flour, water, salt and yeast.", " No.", "Yes, thank you. One, two, three", "", "Perhaps."]
ENDED = [True, True, False, True, True]
LONG = "bread " * CONTEXT
"""The shared test vector; a completion LONG has no score."""


@contextmanager
def serving(reward: Any, chats: Any = None, host: str = "127.0.0.1") -> Iterator[RewardServer]:
    server = RewardServer(host, 0)
    server.listen(reward, chats)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("served") / "run", tiny_model)


@pytest.fixture(scope="module")
def server(run: RunFolder) -> Iterator[RewardServer]:
    with serving(load_reward(run.root, set=UNGATED), chat_text(run.root)) as found:
        yield found


def prompts() -> list[Prompt]:
    return [
        Prompt.of_text(asked) if isinstance(asked, str) else Prompt(tuple(Message(**turn) for turn in asked))
        for asked in ASKED
    ]


def of_ppo(run: RunFolder) -> list[float]:
    """The scores that PPO gives: the reward adapter beside the policy's, on token ids."""
    base = load_model(load(run.config_path).model, (run.file("sft", "adapter"),))
    model = PolicyModel(base, PpoConfig(), rewards=[run.file("reward", "adapter")], seed=0)  # type: ignore[call-arg]
    given = zip(prompts(), SAID, ENDED, strict=True)
    scores, _ = model.scores([encoded(base, prompt, said, finished=ended) for prompt, said, ended in given])
    return [float(score) for score in scores]


@torch.no_grad()
def of_export(run: RunFolder, out: Path) -> list[float]:
    """The scores of the exported classifier, read as its card says."""
    found = export_reward(run, out)
    tokenizer, scores = AutoTokenizer.from_pretrained(out), []
    kind = AutoModelForTokenClassification if found.pooling == "mean" else AutoModelForSequenceClassification
    model = kind.from_pretrained(out, dtype=torch.float32).eval()
    base = load_model(load(run.config_path).model)
    for prompt, said, ended in zip(prompts(), SAID, ENDED, strict=True):
        before, after = encoded(base, prompt, said, finished=ended or found.pooling == "end")
        logits = model(input_ids=torch.tensor([[*before, *after]])).logits[0]
        read = logits[len(before) :, 0].mean() if found.pooling == "mean" else logits[0] + found.offset
        scores.append(float(read))
    assert tokenizer.eos_token_id == base.tokenizer.eos_token_id
    return scores


def as_openrlhf(run: RunFolder) -> dict[str, Any]:
    """What it sends: texts in the chat template, the end token where the answer ended."""
    tokenizer = AutoTokenizer.from_pretrained(load(run.config_path).model.source)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        for prompt in prompts()
    ]
    ends = [tokenizer.eos_token if ended else "" for ended in ENDED]
    queries = [text + said + end for text, said, end in zip(texts, SAID, ends, strict=True)]
    return {"query": queries, "prompts": texts, "labels": [""] * len(texts)}


@pytest.mark.parametrize("pooling", ["mean", "end"])
def test_the_scores_are_equal_everywhere(pooling: Pooling, tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_model, pooling=pooling)
    reward = load_reward(run.root, set=UNGATED)
    known = reward(ASKED, SAID, finished=ENDED)
    assert len(set(known)) == len(known)
    assert known == pytest.approx(of_ppo(run), abs=1e-6, rel=1e-6)
    assert known == pytest.approx(of_export(run, tmp_path / "out"), abs=1e-5, rel=1e-5)
    with serving(reward, chat_text(run.root)) as server:
        body: dict[str, Any] = {"prompts": [*ASKED, "Hi"], "completions": [*SAID, LONG], "finished": [*ENDED, True]}
        answer = WEB.post(f"{server.url}/score", json=body).json()
        served = WEB.post(f"{server.url}/get_reward", json=as_openrlhf(run)).json()
    assert answer["scores"] == [*(pytest.approx(score, abs=1e-6, rel=1e-6) for score in known), None]
    assert answer["failures"][:-1] == [None] * len(known)
    assert answer["failures"][-1]["kind"] == "context_overflow"
    assert served["rewards"] == served["scores"] == pytest.approx(known, abs=1e-6, rel=1e-6)
    assert served["extra_logs"] == {}


def test_many_at_once_have_the_scores_of_one_alone(server: RewardServer) -> None:
    assert server.reward is not None
    alone = [server.reward([asked], [said])[0] for asked, said in zip(ASKED, SAID, strict=True)]

    def ask(place: int) -> Any:
        body = {"prompts": [ASKED[place % 5]], "completions": [SAID[place % 5]]}
        return WEB.post(f"{server.url}/score", json=body).json()["scores"][0]

    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(ask, range(192)))
    assert found == pytest.approx([alone[place % 5] for place in range(192)], abs=1e-6, rel=1e-6)


def test_health_says_what_scores(server: RewardServer) -> None:
    found = WEB.get(f"{server.url}/health").json()
    assert (found["status"], found["run"], found["source"], found["card"]) == ("ok", "run", "model", None)
    assert found["constitution"]["name"] == "ours"
    assert found["says"] == "a judge without a card"


def test_nothing_is_asked_and_nothing_answered(server: RewardServer) -> None:
    found = WEB.post(f"{server.url}/score", json={"prompts": [], "completions": []})
    assert found.json() == {"scores": [], "failures": []}


# --- what is refused --------------------------------------------------------------------------------------------------

PAIR = {"prompts": ["Hi"], "completions": ["No."]}


def error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status
    found = answer.json()["error"]
    return f"{found['what']} -> {found['remedy']}"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"prompts": ["Hi"]}, 422, "completions is missing"),
        ({**PAIR, "labels": [""]}, 422, "there is no field 'labels' here"),
        ({**PAIR, "completion": ["No."]}, 422, "did you mean 'completions'?"),
        ({"prompts": "Hi", "completions": "No"}, 422, "prompts is no list"),
        ({"prompts": ["Hi"], "completions": []}, 422, "completions is no list with one entry for each of prompts"),
        ({**PAIR, "finished": ["yes"]}, 422, "neither true nor false"),
        ({**PAIR, "prompts": [7]}, 422, "7 is neither a text nor a list of messages"),
        ({**PAIR, "prompts": [[]]}, 422, "is neither a text nor a list of messages"),
        ({**PAIR, "prompts": [[{"role": "tool", "content": "x"}]]}, 422, "is no message of a role"),
        ({**PAIR, "prompts": [[{"role": "user", "content": None}]]}, 422, "is no message of a role"),
        ({**PAIR, "prompts": [[{"role": "assistant", "content": "x"}]]}, 422, "a prompt ends with the user's turn"),
        ([], 422, "the body is no object"),
        ({"prompts": ["Hi"] * 1025, "completions": ["No."] * 1025}, 413, "1,025 pairs in one request are above 1,024"),
    ],
)
def test_a_body_that_is_wrong_is_told_what_is_wrong(server: RewardServer, body: Any, status: int, said: str) -> None:
    assert said in error(WEB.post(f"{server.url}/score", json=body), status)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"query": ["xHi"], "prompts": ["Hi"]}, "does not begin with its prompt"),
        ({"query": ["<|im_start|>Hi"], "prompts": ["<|im_start|>Hi"]}, "is no prompt of the chat template"),
        ({"query": [7], "prompts": ["Hi"]}, "query holds something that is no text"),
        ({"query": ["Hi" + LONG], "prompts": ["Hi"]}, "a response has no score (context_overflow)"),
    ],
)
def test_openrlhf_has_an_error_in_place_of_no_reward(server: RewardServer, body: Any, said: str) -> None:
    assert said in error(WEB.post(f"{server.url}/get_reward", json=body), 422)


def test_a_request_that_is_no_request(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    score, typed = f"{server.url}/score", {"Content-Type": "application/json"}
    assert "the body is no JSON" in error(WEB.post(score, content=b'{"prompts": [', headers=typed), 400)
    assert "the body is no JSON" in error(WEB.post(score, content=b"[" * 100_000, headers=typed), 400)
    assert "the body is no JSON" in error(WEB.post(score, content=b"\xff", headers=typed), 400)
    assert "the body is text/plain" in error(WEB.post(score, content=b"{}"), 415)
    assert "says no length" in error(WEB.post(score, content=iter([b"{}"]), headers=typed), 411)
    assert "did you mean '/score'? -> there are POST /score" in error(WEB.post(f"{server.url}/scores", json=PAIR), 404)
    assert "/score does not take GET -> ask POST /score" in error(WEB.get(score), 405)
    assert "/health does not take POST" in error(WEB.post(f"{server.url}/health", json=PAIR), 405)
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    assert "above 1,000" in error(WEB.post(score, content=b"x" * 1_000_000, headers=typed), 413)
    assert WEB.post(score, json=PAIR).status_code == 200


def test_who_hangs_up_or_says_nothing_stops_nobody(server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    for sent in (b"", b"POST /score HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"):
        with socket.create_connection(server.server_address[:2]) as silent:  # type: ignore[arg-type]
            silent.sendall(sent)
            silent.settimeout(10)
            assert silent.recv(100) == b""  # hung up on
    socket.create_connection(server.server_address[:2]).close()  # type: ignore[arg-type]
    assert WEB.post(f"{server.url}/score", json=PAIR).status_code == 200


def failing(problem: Exception) -> PortableReward:
    def answer(calls: Any) -> None:
        for call in calls:
            call.problem = problem

    return PortableReward(answer, "failing", (), {})


def test_a_judge_that_is_down_and_a_fault_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(failing(BackendError("the server is down", remedy="start it"))) as server:
        assert error(WEB.post(f"{server.url}/score", json=PAIR), 502) == "the server is down -> start it"
        WEB.post(f"{server.url}/score", json=PAIR)
    assert capsys.readouterr().err.count("answered 502: the server is down") == 1  # each kind is said once
    with serving(failing(KeyError("x"))) as server:
        assert "KeyError: 'x'" in error(WEB.post(f"{server.url}/score", json=PAIR), 500)


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_other_machines_need_a_token(run: RunFolder, server: RewardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.token == ""
    monkeypatch.setenv("RLAIF_TOKEN", "s3cret")
    with serving(server.reward) as known:
        assert f"rlaif:s3cret@127.0.0.1:{known.server_address[1]}" in known.url
        assert WEB.get(f"{known.url}/health").status_code == 200
        plain = known.url.replace("rlaif:s3cret@", "")
        assert "wants a token" in error(WEB.get(f"{plain}/health"), 401)
        assert "wants a token" in error(WEB.post(f"{plain}/score", json=PAIR, auth=("rlaif", "other")), 401)
        assert WEB.get(f"{plain}/health", headers={"Authorization": "Bearer s3cret"}).status_code == 200
        assert WEB.get(f"{plain}/health", headers={"Authorization": "Basic !"}).status_code == 401
    monkeypatch.delenv("RLAIF_TOKEN")
    everywhere = RewardServer("0.0.0.0", 0)
    assert len(everywhere.token) == 32
    everywhere.server_close()


def test_a_port_or_host_that_cannot_be(server: RewardServer) -> None:
    port = server.server_address[1]
    with pytest.raises(ConfigError, match=rf"port {port} of 127.0.0.1 is in use\n  -> choose another --port"):
        RewardServer("127.0.0.1", int(port))
    with pytest.raises(ConfigError, match="there is no host"):
        RewardServer("no.such.host.invalid", 0)
    with pytest.raises(ConfigError, match=r"192.0.2.1 is no address of this machine"):
        RewardServer("192.0.2.1", 0)


def test_what_is_sent_is_plain_json(server: RewardServer) -> None:
    answer = WEB.post(f"{server.url}/score", json=PAIR)
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.text) == answer.json()
