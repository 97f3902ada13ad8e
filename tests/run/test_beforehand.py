"""What a run opens before its first stage, through `rlaif run`: nothing is made where a later stage could not work."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests import stub_stages
from tests.output import rlaif

OWN = """
def few(prompts, completions):
    return [1.0]
def other(foo, bar, baz):
    return foo
"""


@pytest.fixture
def own(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with functions as rewards."""
    (project.parent / "own_rewards.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(project.parent))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    return "own_rewards"


NO_HELD_OUT = ("prompts.mine.held_out=0", "prompts.everyday.held_out=0")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (NO_HELD_OUT, "no prompts are held out to evaluate on"),
        (("ppo.reward=own_rewards:fwe",), "cannot import the reward function"),
        (("ppo.reward=own_rewards:other",), "cannot be called: missing a required argument: 'baz'"),
        (("ppo.reward=on_topic", "prompts.mine.train=1", "prompts.everyday.train=0"), "there is one alone"),
        (("model.source=COPY",), "no chat template"),
        (("judge.source=COPY",), "no chat template"),
        (("ppo.max_length=81",), "ppo.max_length: ppo would leave out 18 of 18 prompts"),
    ],
)
def test_what_a_later_stage_could_not_work_with_ends_a_run_before_its_first(
    project: Path, own: str, tiny_model: Path, overrides: tuple[str, ...], message: str
) -> None:
    copy = project.parent / "copy"
    shutil.copytree(tiny_model, copy, ignore=lambda *_: ["chat_template.jinja"])
    words = [word for text in overrides for word in ("--set", text.replace("COPY", str(copy)))]
    out = project.parent / "run"
    stub_stages.RAN.clear()
    ended = rlaif("run", project, "--out", out, *words)
    assert ended.exit_code != 0
    assert message in ended.output
    assert stub_stages.RAN == []
    assert not (out / "config.yaml").exists()
    # The check and the dry run know it as well.
    checked, dry = rlaif("check", project, *words), rlaif("run", project, "--dry-run", *words)
    assert (checked.exit_code, dry.exit_code) == (ended.exit_code, ended.exit_code)
    assert message in checked.stdout
    assert message in dry.output


def test_a_stage_is_asked_for_what_it_needs_alone(project: Path) -> None:
    out = project.parent / "run"
    words = [word for text in NO_HELD_OUT for word in ("--set", text)]
    assert rlaif("run", project, "--until", "ppo", "--dry-run", *words).exit_code == 0
    assert rlaif("run", project, "--out", out, "--until", "ppo", *words).exit_code == 0
    # Prompts that nothing was trained on can be held out later, and the stages before stay.
    (project.parent / "more.jsonl").write_text('{"prompt": "What is new?"}\n')
    text = project.read_text().replace("prompts:\n", "prompts:\n  more: {source: more.jsonl, held_out: 1}\n", 1)
    project.write_text(text)
    stub_stages.RAN.clear()
    assert rlaif("run", project, "--out", out, "--resume", "--json", *words).exit_code == 0
    assert stub_stages.RAN == ["evaluate", "report"]


def test_a_run_says_first_what_it_would_leave_out(project: Path) -> None:
    out = project.parent / "run"
    said = rlaif("run", project, "--out", out, "--set", "ppo.max_length=130").stderr
    line = next(line for line in said.splitlines() if "ppo.max_length" in line)
    assert "ppo would leave out" in line
    assert "keeps all" in line
    assert said.index(line) < said.index("card:")
    again = rlaif("run", project, "--out", out, "--resume", "--set", "ppo.max_length=130").stderr
    assert "leave out" not in again


def test_check_calls_a_function_and_warns_of_what_is_left_out(project: Path, own: str) -> None:
    result = rlaif("check", project, "--set", f"ppo.reward={own}:few")
    assert result.exit_code == 2
    assert "returned 1 scores for 2 responses" in result.stdout
    warned = rlaif("check", project, "--set", "ppo.max_length=130")
    assert warned.exit_code == 0
    assert "warning lengths" in warned.stdout
    assert "ok      lengths" in rlaif("check", project).stdout
