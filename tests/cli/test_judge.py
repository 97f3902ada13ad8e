"""`rlaif judge card`, `compare` and `serve`: what they print, write and answer, and wrong words."""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import PIPE

import httpx
import pytest

from rlaif import load_reward, open_run
from rlaif.export.server import RewardServer
from rlaif.run.open import chat_text
from tests.judge.card.cases import settings, write_gold
from tests.output import rlaif


def test_card_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    gold, rules = write_gold(tmp_path / "gold.jsonl"), settings(tmp_path).constitution
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    words = ["judge", "card", "--gold", gold, "--set", "judge.backend=scripted", "--set", "judge.method=pairwise"]
    words += ["--constitution", rules, "--pairs", "12", "--attack", "2", "--repeat", "2"]
    result = rlaif(*words, "--json", "--out", out, "--html", html)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads(out.read_text()) == found
    assert (found["format"], found["failures"]["pairs"], found["subject"]["constitution"]) == (2, 12, "rules")
    assert "<!DOCTYPE html>" in html.read_text()
    shown = rlaif(*words)
    assert shown.exit_code == 0, shown.output
    assert found["id"] in shown.stdout
    assert " 4 made" in shown.stdout, "all but the repeated questions is known"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--gold", "none.jsonl"], 2, "there is no such gold"),
        (["--gold", "tests:harmless"], 3, "harmless"),
        (["--gold", "GOLD", "--html", "a.yaml"], 2, "does not end in .html"),
        (["--gold", "GOLD", "--only", "hram"], 3, "did you mean 'harm'"),
        (["--gold", "GOLD", "--set", "judge.method=pairwize"], 2, "judge.method"),
        (["--gold", "BROKEN"], 3, "broken.jsonl:1"),
    ],
)
def test_wrong_words_about_a_card_are_answered(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    (tmp_path / "broken.jsonl").write_text('{"prompt": "x", "chosen": "y"}\n')
    places = {"GOLD": write_gold(tmp_path / "gold.jsonl"), "BROKEN": tmp_path / "broken.jsonl"}
    result = rlaif("judge", "card", *(places.get(word, word) for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = rlaif("judge", "card", "--gold", "pyrit")
    assert result.exit_code == 1
    assert "pip install --no-deps pyrit" in result.stderr


def test_the_gold_is_not_overwritten_by_the_card(tmp_path: Path) -> None:
    gold = write_gold(tmp_path / "gold.json", prompts=2)
    before = gold.read_bytes()
    result = rlaif("judge", "card", "--gold", gold, "--set", "judge.backend=scripted", "--out", gold)
    assert result.exit_code == 2, result.output
    assert "is what the answer is made from" in result.output
    assert gold.read_bytes() == before


def test_compare_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    gold, rules = write_gold(tmp_path / "gold.jsonl"), settings(tmp_path).constitution
    out, html = tmp_path / "c.json", tmp_path / "c.html"
    words = ["judge", "compare", "--gold", gold, "--set", "judge.backend=scripted", "--constitution", rules]
    words += ["--methods", "pairwise,random", "--variant", "first: judge.method=contrast judge.opening_tokens=1"]
    words += ["--only", "good", "--pairs", "20", "--timed", "2"]
    result = rlaif(*words, "--json", "--out", out, "--html", html)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads(out.read_text()) == found
    assert [one["name"] for one in found["candidates"]] == ["pairwise", "random", "first", "mean of all"]
    assert found["candidates"][2]["settings"]["opening_tokens"] == 1
    assert (found["format"], found["principles"], found["candidates"][1]["cost"]) == (1, ["good"], None)
    assert "<!DOCTYPE html>" in html.read_text()
    shown = rlaif(*words, "--timed", "0")
    assert shown.exit_code == 0, shown.output
    assert found["id"] in shown.stdout
    assert "a pair costs" not in shown.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--gold", "GOLD"], 2, "there is no judge to compare"),
        (["--gold", "none.jsonl", "--methods", "pairwise,cot"], 2, "there is no such gold"),
        (["--gold", "GOLD", "--methods", "pairwise,pairwise"], 2, "already is a judge called pairwise"),
        (["--gold", "GOLD", "--methods", "pairwise", "--variant", "x"], 2, "does not begin with a name and a colon"),
        (["--gold", "GOLD", "--methods", "pairwise,cot", "--html", "a.yaml"], 2, "does not end in .html"),
        (["--gold", "GOLD", "--methods", "pairwise,cot", "--choose", "1"], 2, "--choose"),
        (["--gold", "verifiable", "--methods", "pairwise,cot", "--only", "harm"], 2, "brings its own principle"),
    ],
)
def test_wrong_words_about_a_comparison_are_answered(tmp_path: Path, words: list[str], code: int, message: str) -> None:
    gold = write_gold(tmp_path / "gold.jsonl")
    result = rlaif("judge", "compare", *(gold if word == "GOLD" else word for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


# --- serve ------------------------------------------------------------------------------------------------------------


def test_serve_answers_until_ctrl_c(finished: Path) -> None:
    run = finished / "runs" / "my"
    code = "from rlaif.cli import main; main()"
    words = ["judge", "serve", str(run), "--port", "0", "--json"]
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=PIPE, stderr=PIPE, text=True) as served:
        assert served.stdout is not None
        ready = json.loads(served.stdout.readline())
        body = {"prompts": ["Hi"], "completions": ["No."]}
        answer = httpx.post(f"{ready['url']}/score", json=body, timeout=60).json()
        health = httpx.get(f"{ready['url']}/health").json()
        served.send_signal(signal.SIGINT)
        _, said = served.communicate(timeout=60)
    assert served.returncode == 130
    assert said.splitlines() == ["my, model: " + ready["says"], "interrupted"]
    assert answer["scores"] == pytest.approx(load_reward(run)(["Hi"], ["No."]), rel=1e-6)
    assert {name: health[name] for name in ready if name != "url"} == {n: v for n, v in ready.items() if n != "url"}


def test_the_judge_is_served_as_well(finished: Path) -> None:
    run = open_run(finished / "runs" / "my")
    reward = load_reward(run, "judge")
    texts = {prompt.id: [{"role": m.role, "content": m.content} for m in prompt.messages] for prompt in run.prompts()}
    chat = texts[run.responses("label")[0].prompt_id]
    with RewardServer("127.0.0.1", 0) as server:
        server.listen(reward, chat_text(run.path))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        body = {"prompts": [chat] * 2, "completions": ["Kind words.", ""]}
        answer = httpx.post(f"{server.url}/score", json=body, timeout=60).json()
        unknown = httpx.post(f"{server.url}/score", json={"prompts": ["new"], "completions": ["x"]}, timeout=60)
        server.shutdown()
    assert answer["scores"] == reward([chat] * 2, ["Kind words.", ""])
    assert (unknown.status_code, "no answer to compare with" in unknown.text) == (422, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--source", "modle"], 2, "did you mean 'model'?"),
        (["--host", "no.such.host.invalid"], 2, "there is no host"),
        (["--port", "PORT"], 2, "is in use"),
        (["--port", "0", "--set", "card.required=true"], 6, "the judge has no card yet"),
        (["--port", "0", "--tokenizer", "./none"], 4, "no such model folder"),
    ],
)
def test_wrong_words_about_serving_are_answered(finished: Path, words: list[str], code: int, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [port if word == "PORT" else word for word in words]
        result = rlaif("judge", "serve", finished / "runs" / "my", *given)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_what_is_no_run_is_not_served(tmp_path: Path) -> None:
    result = rlaif("judge", "serve", tmp_path)
    assert (result.exit_code, "is not a run of rlaif" in result.stderr) == (5, True)
