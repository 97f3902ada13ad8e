"""`rlaif check`: what fails is named with what to do, and the judge is asked about one pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.check import config as check
from tests.fault_server import Answer, Behaviour, chat, error, serving
from tests.output import rlaif


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("constitution=harmles-and-kind", 3, "failed  constitution"),
        ("prompts.mine.principles=[nowhere]", 2, "'nowhere' is no id or tag"),
        ("prompts.mine.source=none.jsonl", 3, "failed  prompts"),
        ("model.source=./nowhere", 4, "failed  model"),
        ("model.source=nobody/nothing", 4, "HF_HUB_OFFLINE"),
        ("judge.source=./nowhere", 4, "failed  judge"),
        ("ppo.reward=shorter", 2, "failed  config"),
        ("ppo.reward=no_such_module:f", 2, "No module named 'no_such_module'"),
        ("ppo.kl_coeff=1", 2, "did you mean 'kl_coef'"),
        ("ppo.keep=best", 2, "set eval_steps to 1 or more"),
    ],
)
def test_check_names_what_fails_and_what_to_do(project: Path, override: str, code: int, message: str) -> None:
    result = rlaif("check", project, "--set", override)
    assert result.exit_code == code, result.output
    assert message in result.stdout
    found = json.loads(rlaif("check", project, "--set", override, "--json").stdout)
    assert not found["ok"]
    assert [item["exit_code"] for item in found["checks"] if not item["ok"]] == [code]


def test_check_and_the_dry_run_of_given_labels(project: Path) -> None:
    file = project.parent / "pairs.csv"
    rows = [f'"What {n}?",good {n},bad {n}' for n in range(5)]
    file.write_text("\n".join(["prompt,chosen,rejected", *rows, ""]))
    words = ["check", project, "--set", "label.source=pairs.csv"]
    found = json.loads(rlaif(*words, "--json").stdout)["checks"]
    assert found[1]["name"] == "labels"
    assert found[1]["text"] == "5 given, on 5 prompts"
    assert not {"judge", "card", "constitution", "templates"} & {item["name"] for item in found}
    assert "reward would leave out 5 of the first 5 labels" in rlaif(*words, "--set", "reward.max_length=16").stdout
    plan = json.loads(rlaif("run", project, "--dry-run", "--json", *words[2:]).stdout)["stages"]
    assert [row["stage"] for row in plan] == ["label", "reward", "ppo", "evaluate", "report"]
    assert {row["judge_calls"] for row in plan} == {0}
    assert plan[1]["trained_tokens"] > 0
    assert "has no stage sft" in rlaif("run", project, "--dry-run", "--until", "sft", *words[2:]).output
    file.write_text("prompt,chosen\nWhat?,good\n")
    ended = rlaif(*words)
    assert ended.exit_code == 3
    assert "failed  labels" in ended.stdout
    assert "pairs.csv:2: is no comparison, it has only chosen, prompt" in ended.stdout


def test_check_wants_the_gold_that_chooses_the_policy(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "installed", lambda module: module != "vaderSentiment")
    words = ["check", project, "--set", "ppo.eval_steps=5", "--set", "ppo.gold=[sentiment]"]
    measured = rlaif(*words)
    assert measured.exit_code == 0, measured.output
    assert "sentiment" in measured.stdout
    chosen = rlaif(*words, "--set", "ppo.keep=best", "--set", "ppo.best_by=sentiment")
    assert chosen.exit_code != 0
    assert "pip install vaderSentiment" in chosen.stdout


def _asking(url: str) -> list[str]:
    """The options that make a server the judge."""
    fields = ("backend=openai", "method=pairwise", "source=m", "api_key_env=TEST_KEY", f"base_url={url}")
    return [word for field in fields for word in ("--set", f"judge.{field}")]


def _judging(body: dict[str, Any], _: int) -> Answer:
    """Judges by letters, except what is too long for it."""
    shown = body["messages"][-2]["content"]
    if len(shown.split()) > 1000:
        return error(400, "This model's maximum context length is 1000 tokens")
    return chat("A", positions=[("A", -0.5, [("A", -0.5), ("B", -1.0)])])


def test_check_asks_the_judge_about_one_pair(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "right")

    with serving(_judging) as server:
        words = ["check", project, *_asking(server.url)]
        good = rlaif(*words)
        assert good.exit_code == 0, good.stdout
        assert "judged a made-up pair of the longest answers (2 calls, 20 tokens)" in good.stdout
        assert server.seen[0].key == "Bearer right"
        shown = server.bodies()[0]["messages"][-2]["content"]
        assert shown.count("some") >= 80, "as long as label.max_new_tokens lets an answer be"
        overflow = rlaif(*words, "--set", "label.max_new_tokens=600")
        assert (overflow.exit_code, "answers of 600 tokens do not fit" in overflow.stdout) == (4, True)
        assert len(server.seen) == 4
        nothing = rlaif(*words, "--set", "constitution=no-such-file.yaml")
        assert "not asked, because there is nothing to ask about" in nothing.stdout
        assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (lambda *_: error(401, "bad key"), "TEST_KEY"),
        (lambda *_: error(404, "the model `m` does not exist"), "check judge.source"),
        (lambda *_: chat("A"), "no log-probs"),
        (lambda *_: error(500, "still loading"), "still loading"),
    ],
)
def test_check_says_what_is_wrong_with_a_server(project: Path, behaviour: Behaviour, message: str) -> None:
    with serving(behaviour) as server:
        words = ["check", project, *_asking(server.url)]
        wrong = rlaif(*words)
        assert (wrong.exit_code, message in wrong.stdout) == (4, True), wrong.stdout
        assert len(server.seen) <= 2, "nothing is tried again"
    gone = rlaif(*words)
    assert (gone.exit_code, "cannot reach the server" in gone.stdout) == (4, True)


def test_check_says_when_it_is_the_prompt_that_is_too_long_for_the_judge(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "right")
    (project.parent / "long.jsonl").write_text(json.dumps({"prompt": "All of this. " + "long " * 900}) + "\n")
    project.write_text(
        project.read_text().replace("prompts:\n", "prompts:\n  long: {source: long.jsonl, train: 1}\n", 1)
    )
    with serving(_judging) as server:
        found = rlaif("check", project, *_asking(server.url)).stdout
    assert "a prompt of 903 words does not fit" in found
    assert "leave it out: 'All of this. long" in found
