"""The models of a run answer a question side by side, and the judge compares the answers."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree, rmtree

import pytest
from typer.testing import CliRunner

import rlaif as package
from rlaif.cli import app
from rlaif.core.records import Message
from rlaif.lm.protocol import GenerateRequest
from rlaif.run.chat import Chat
from tests.output import EVIL, done, rlaif

ASKED = "How do I bake bread?"


@pytest.fixture
def run(finished: Path) -> package.Run:
    return package.open_run(finished / "runs" / "my")


def test_every_trained_model_answers_as_evaluate_has_it_answer(run: package.Run) -> None:
    first, again, other = (Chat(run, seed=seed) for seed in (3, 3, 4))
    answers = first.ask(ASKED).answers
    assert list(answers) == ["base", "sft", "ppo"]
    assert {made.n_tokens <= run.config.evaluate.max_new_tokens for made in answers.values()} == {True}
    assert again.ask(ASKED).answers == answers
    assert other.ask(ASKED).answers != answers
    likeliest = GenerateRequest((Message("system", "Be kind."), Message("user", ASKED)), 4, 0.0, 0)
    told = Chat(run, models=["ppo"], system="Be kind.", max_new_tokens=4, temperature=0).ask(ASKED)
    assert told.answers["ppo"].text == run.policy("ppo").ask([likeliest])[0].text


def test_the_judge_compares_each_answer_with_that_of_the_model_before(run: package.Run) -> None:
    # Small models say the same now and then, and then there is nothing to judge.
    turns = (Chat(run, judge=True, seed=seed).ask(ASKED) for seed in range(20))
    turn = next(turn for turn in turns if len({answer.text for answer in turn.answers.values()}) == 3)
    assert [(said.a, said.b) for said in turn.opinions] == [("sft", "base"), ("ppo", "sft")]
    every = {principle.id for principle in run.constitution.principles if principle.weight}
    judge = package.load_judge(run, constitution=run.constitution, set=["judge.principles=all"])
    for said in turn.opinions:
        assert set(said.principles) == every
        texts = [turn.answers[name].text or "" for name in (said.a, said.b)]
        (label,) = judge.label([package.Comparison.of_texts(ASKED, *texts)])
        assert said.prob_a == label.prob_a


def test_equal_answers_are_not_judged(run: package.Run) -> None:
    talk = Chat(run, models=["base", "sft"], judge=True)
    talk.models["sft"] = talk.models["base"]
    assert talk.ask(ASKED).opinions == ()


def test_a_run_that_has_trained_nothing_has_its_base_answer(run: package.Run, tmp_path: Path) -> None:
    begun = copytree(run.path, tmp_path / "run")
    rmtree(begun / "sft" / "adapter")
    assert list(done("chat", begun, ASKED)["answers"]) == ["base"]
    refused = rlaif("chat", begun, ASKED, "--model", "ppo")
    assert refused.exit_code != 0
    assert "there is no adapter yet" in refused.stderr
    assert "give one of base, sft, ppo" in rlaif("chat", begun, ASKED, "--model", "SFT").stderr


def test_lines_are_questions_and_nothing_in_them_reaches_the_terminal(run: package.Run) -> None:
    typed = f"{ASKED}\n\n  \n{EVIL}\n".encode() + b"half \xff\n"
    words = ["chat", str(run.path), "--model", "base", "--model", "ppo"]
    asked = CliRunner().invoke(app, [*words, "--json"], input=typed)
    assert asked.exit_code == 0, asked.output
    turns = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [turn["question"] for turn in turns] == [ASKED, EVIL, "half \ufffd"]
    assert {tuple(turn["answers"]) for turn in turns} == {("base", "ppo")}
    shown = CliRunner().invoke(
        app, ["chat", str(run.path), "--judge", "--model", "base", "--model", "ppo"], input=typed
    )
    assert shown.exit_code == 0, shown.output
    assert "3. question" in shown.stdout
    assert "PPO to base" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "\u202e" not in shown.stdout
