"""vLLM itself, with the embedded model as `rlaif export` writes it: whatever we say of it in the documentation.

On demand: `bash scripts/vllm.sh`, then `pytest -m vllm` (some minutes on two cores; nothing outside
127.0.0.1 is asked).
"""

from __future__ import annotations

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlaif
from rlaif.core.errors import BackendError
from rlaif.core.files import RunFolder
from rlaif.core.records import Failure, Message
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, LanguageModel, ScoreRequest
from rlaif.lm.server import pace
from rlaif.lm.server.batch_files import batch_line, read_results
from rlaif.lm.server.replies import Reply
from rlaif.lm.server.requests import Endpoint
from rlaif.stages import ppo
from tests import tiny, vllm_server
from tests.export.runs import make_run
from tests.fault_server import client
from tests.judge.card.cases import RULES, write_gold
from tests.output import done
from tests.training.tiny_ppo import PROMPTS, ppo_context
from tests.vllm_server import Served, serving

pytestmark = pytest.mark.vllm

SAVED_PENALTY = 1.3
"""Of the served model's generation config, as many an instruct model has one."""
CLOSE = 2e-4
"""By which a log-prob in float32 may differ between vLLM and transformers."""
QUESTIONS = [
    (Message("user", f"{asked} (A) {one} (B) {other} Answer with a letter."),)
    for asked, one, other in (
        ("Which is kinder?", "I hate you.", "I will help you."),
        ("Which is bigger?", "a whale", "a mouse"),
        ("Which is a colour?", "red", "seven"),
    )
]
CHOICES = [ChoiceRequest(asked, ("A", "B"), "(") for asked in QUESTIONS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on the embedded model, in float32, whose adapters are random."""
    return make_run(tmp_path_factory.mktemp("run") / "my", Path("embedded"), pooling="end")


@pytest.fixture(scope="module")
def exported(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its policy as a folder, with a repetition penalty that nobody asked for."""
    folder = tmp_path_factory.mktemp("exported") / "policy"
    done("export", "policy", "--run", run.root, "--out", folder)
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"repetition_penalty": SAVED_PENALTY}))
    return folder


@pytest.fixture(scope="module")
def own(run: RunFolder) -> LanguageModel:
    return rlaif.open_run(run.root).policy("ppo")


@pytest.fixture(scope="module")
def judging(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The model "judge", with the log-probs as PPO's command has them: those after all that the request asks for."""
    words = ["serve", str(exported), "--served-model-name", "judge", "--dtype", "float32", "--max-model-len", "1024"]
    with serving([*words, "--logprobs-mode", "processed_logprobs"], tmp_path_factory.mktemp("log") / "judge") as server:
        yield server


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=600) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def test_it_judges_by_chat_as_the_run_s_own_model_does(judging: Served, own: LanguageModel) -> None:
    model = client(judging.url, source="judge", timeout=600)
    found, wanted = model.ask(CHOICES), own.ask(CHOICES)
    model.close()
    for mine, theirs in zip(wanted, found, strict=True):
        assert theirs.failure is None
        assert mine.logprobs is not None
        assert theirs.logprobs == pytest.approx(mine.logprobs, abs=CLOSE)


def test_without_being_told_it_lists_what_the_saved_penalty_leaves(judging: Served, own: LanguageModel) -> None:
    """Why choices are sent with a penalty of 1: the letters stand in the question, and are made unlikely."""
    body = Endpoint("judge", judging.url).body(CHOICES[0], folded=False)
    assert body.pop("repetition_penalty") == 1.0
    top = post(f"{judging.url}/chat/completions", body)["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    listed = {each["token"]: each["logprob"] for each in top}
    (mine,) = own.ask(CHOICES[:1])
    assert mine.logprobs is not None
    assert abs(listed.get("A", -math.inf) - mine.logprobs[0]) > 10 * CLOSE


def test_it_judges_by_completions(judging: Served, exported: Path) -> None:
    """Letters, and the log-probs of given text, beside plain transformers on the same transcript."""
    from transformers import AutoTokenizer

    model = client(judging.url, source="judge", api="completions", timeout=600)
    tokenizer, plain = AutoTokenizer.from_pretrained(exported), tiny.load(exported)
    given = "Human: Which is bigger?\n\nAssistant:"
    scored, chosen = (
        model.ask([ScoreRequest((Message("user", "Which is bigger?"),), "A whale is.")])[0],
        model.ask([ChoiceRequest(QUESTIONS[1], ("A", "B"), " (")])[0],
    )
    model.close()
    assert chosen.failure is None
    assert scored.failure is None
    context, target = (tokenizer.encode(text, add_special_tokens=False) for text in (given, " A whale is."))
    assert scored.token_logprobs == pytest.approx(tiny.by_forward(plain, context, target).tolist(), abs=10 * CLOSE)


def test_a_card_of_a_judge_behind_it(judging: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    judge = {"backend": "openai", "method": "pairwise", "source": "judge", "base_url": judging.url, "timeout": 600}
    settings = [f"judge.{name}={value}" for name, value in judge.items()]
    settings += [f"constitution={rules}", "evaluate.bootstrap=100"]
    words = [word for setting in settings for word in ("--set", setting)]
    asked = ["--pairs", "6", "--repeat", "4", "--attack", "0"]
    card = done("judge", "card", "--gold", write_gold(tmp_path / "gold.jsonl", 4), *words, *asked)
    assert card["failures"]["labelled"] == card["failures"]["pairs"] == 6
    assert card["accuracy"]["judge"]["mean"] is not None
    repeat = card["repeat"]
    assert (repeat["verdicts"], repeat["lost"]) == (8, 0)
    assert repeat["largest"] < 0.1, "asked again in another batch, it says nearly the same"


def test_ppo_samples_from_it_and_goes_on_when_it_was_killed(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step under the adapter of its own policy; the server is killed after two steps and started again."""
    monkeypatch.setattr(pace, "FIRST_PAUSE", 0.01)
    port = vllm_server.free_port()
    table = {
        **{"rollouts": "server", "server_url": f"http://127.0.0.1:{port}/v1", "server_timeout": 600},
        **{"steps": 3, "save_steps": 1, "batch_size": 4, "micro_batch_size": 4, "max_new_tokens": 8},
        **{"learning_rate": 1e-3, "max_approx_kl": 5.0, "temperature": 1.2},
    }
    context = ppo_context(tmp_path / "ppo", Path("embedded"), run.file("sft", "adapter"), PROMPTS, **table)
    with pytest.raises(BackendError, match="tried 1 time") as problem:
        ppo.run(context)
    variable, program, *words = shlex.split(str(problem.value).splitlines()[-1])
    assert (variable, program) == ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "vllm")

    def kill_after_two_steps(server: Served) -> None:
        while len(context.metrics.read()) < 2:
            time.sleep(0.1)
        server.kill()

    with serving(words, tmp_path / "first.log", port=port) as server:
        threading.Thread(target=kill_after_two_steps, args=(server,), daemon=True).start()
        with pytest.raises(BackendError, match="no answer from the server"):
            ppo.run(context)
    before = context.metrics.read()
    assert [row["step"] for row in before] == [0, 1]
    with serving(words, tmp_path / "second.log", port=port):
        ppo.run(context)
    rows = context.metrics.read()
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert rows[: len(before)] == before
    for row in rows:
        assert abs(row["sampler_kl"]) < 1e-3
        assert row["sampler_gap"] < 1e-3
        assert row["importance_mean"] == pytest.approx(1, abs=1e-3)
    assert max(abs(row["kl"]) for row in rows) > 0.1, "so far has the policy gone, and the samples with it"


def test_run_batch_reads_our_files_and_we_its_errors(exported: Path, own: LanguageModel, tmp_path: Path) -> None:
    endpoint = Endpoint("judge", "http://127.0.0.1/v1")
    long = ChoiceRequest((Message("user", "word " * 2000),), ("A", "B"), "(")
    asked = {"short": CHOICES[0], "long": long}
    requests, results = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    requests.write_bytes(b"".join(batch_line(key, endpoint, each, folded=False) for key, each in asked.items()))
    words = ["run-batch", "-i", str(requests), "-o", str(results), "--model", str(exported)]
    words += ["--served-model-name", "judge", "--dtype", "float32", "--max-model-len", "512", *vllm_server.SMALL]
    ran = subprocess.run(
        [vllm_server.command(), *words], capture_output=True, text=True, env=vllm_server.environment(), check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = {result.key: result.reply for result in read_results(results)}
    assert isinstance(found["short"], Reply)
    (mine,) = own.ask(CHOICES[:1])
    theirs = endpoint.answer(CHOICES[0], found["short"], folded=False)
    assert theirs.logprobs == pytest.approx(mine.logprobs, abs=CLOSE)  # type: ignore[union-attr]
    assert isinstance(found["long"], Failure)
    assert found["long"].kind == "context_overflow"
    assert "maximum context length is 512 tokens" in found["long"].reason


def test_rlaif_serve_by_vllm(run: RunFolder, own: LanguageModel, tmp_path: Path) -> None:
    """The likeliest tokens of the run's own model; nothing stays behind."""
    words = ["serve", str(run.root), "--port", "0", "--engine", "vllm"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rlaif", *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**vllm_server.environment(), "TMPDIR": str(tmp_path)},
        cwd=Path(rlaif.__file__).parents[1],
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("http"))
        url, name = line.split()[0], line.split()[-1]
        assert name == "ppo"
        body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
        found = post(f"{url}/chat/completions", body)["choices"][0]["message"]["content"]
        (mine,) = own.ask([GenerateRequest((Message("user", "Hi"),), 8, 0.0, 0)])
        assert found.strip() == (mine.text or "").strip() != ""
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(120)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("rlaif-serve-")] == []


def test_a_reward_model_has_the_run_s_scores_in_it(run: RunFolder, tmp_path: Path) -> None:
    """By the ids of prompt and answer, and by chat messages and the export's own template."""
    from transformers import AutoTokenizer

    folder = tmp_path / "reward"
    offset = done("export", "reward", "--run", run.root, "--out", folder)["offset"]
    asked, said = ["How do I bake bread?", "Hi", "Listen."], ["Mix flour and water.", "No.", "Yes, thank you."]
    wanted = rlaif.load_reward(run.root, set=["card.required=false"])(asked, said)
    chats = [
        [{"role": "user", "content": one}, {"role": "assistant", "content": other}]
        for one, other in zip(asked, said, strict=True)
    ]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.apply_chat_template(chat, return_dict=False) for chat in chats]
    words = ["serve", str(folder), "--runner", "pooling", "--served-model-name", "reward", "--dtype", "float32"]
    with serving([*words, "--max-model-len", "512"], tmp_path / "log") as server:
        url = server.url.removesuffix("/v1") + "/classify"
        by_ids = [row["probs"] for row in post(url, {"model": "reward", "input": ids})["data"]]
        by_chat = [post(url, {"model": "reward", "messages": chat})["data"][0]["probs"] for chat in chats]
    close = 1e-5 * max(abs(score or 0) for score in wanted)
    for found in (by_ids, by_chat):
        assert [one + offset for (one,) in found] == pytest.approx(wanted, abs=close)
