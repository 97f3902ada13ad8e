"""Two run folders made by hand: who won, what was paired with what, and which way the differences go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaif.analysis.impact.downstream import Work, policy_impact, revision_impact
from rlaif.config import JudgeConfig
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import (
    Constitution,
    Contrast,
    Critique,
    Message,
    Principle,
    Prompt,
    Response,
    Revision,
    RevisionRound,
    RevisionTrace,
)
from rlaif.core.statistics import Draw
from rlaif.judge.judge import Judge
from tests.fakes import scored

KIND = Principle("kind", "Be kind.", contrast=Contrast("You are kind.", "You are cruel."))
PROMPTS = tuple(Prompt((Message("user", f"question {n}"),), slice="hard" if n < 4 else "easy") for n in range(6))
DRAW = Draw(seed=0, resamples=100)
WORK = Work("fork", 1, 2, 3.0)


def likes_gold(messages: Sequence[Message], response: str) -> float:
    """The followed system prompt makes a response with "gold" in it likelier, the violated one less likely."""
    return (1.0 if "gold" in response else -1.0) * (1.0 if messages[0].content == "You are kind." else -1.0)


def judges() -> dict[str, Judge]:
    """Under the new constitution gold is good, under the old one it is bad."""
    turned = Principle("kind", "Be kind.", contrast=Contrast("You are cruel.", "You are kind."))
    return {
        name: Judge(JudgeConfig(), Constitution("c", "1", "", (rule,)), models=[scored(likes_gold)], seed=0)
        for name, rule in (("new", KIND), ("old", turned))
    }  # fmt: skip


def policy_run(folder: Path, texts: dict[tuple[int, int], str]) -> RunFolder:
    """A run whose PPO policy gave `texts`: (prompt, seed) -> answer."""
    run = RunFolder(folder)
    JsonlFile(run.file("prompts", "held_out.jsonl"), Prompt).append(PROMPTS)
    rows = [Response(PROMPTS[n].id, text, "ppo", seed, 1.0, "stop", 1) for (n, seed), text in texts.items()]
    others = [Response(PROMPTS[n].id, "of the SFT model", "sft", 0, 1.0, "stop", 1) for n in range(6)]
    JsonlFile(run.file("evaluate", "responses.jsonl"), Response).append([*rows, *others])
    scores = [
        {
            **{"response_id": r.id, "prompt_id": r.prompt_id, "slice": PROMPTS[n].slice, "model": r.model},
            **{"words": size, "refusal": False},
        }
        for r, (n, _), size in zip(rows, texts, (len(t.split()) for t in texts.values()), strict=True)
    ]
    run.file("evaluate", "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scores))
    return run


def test_the_new_policy_wins_where_its_answers_are_better_under_each_constitution(tmp_path: Path) -> None:
    old = policy_run(tmp_path / "old", {(n, 0): "dust" for n in range(6)})
    new = policy_run(tmp_path / "new", {(n, 0): "gold and more" if n < 4 else "dust" for n in range(6)})
    found = policy_impact(old, new, judges(), WORK, DRAW)
    rates = {(wins.under, wins.rate.slice): wins.rate.rate for wins in found.wins}
    assert rates[("new", "hard")] == 1.0
    assert rates[("old", "hard")] == 0.0
    assert rates[("new", "easy")] == rates[("old", "easy")] == 0.5
    assert rates[("new", "")] == pytest.approx(5 / 6)
    whole = next(wins.rate for wins in found.wins if (wins.under, wins.rate.slice) == ("new", "hard"))
    assert whole.low is not None
    assert whole.low < 1.0, "four wins of four are no certainty"
    words = {change.slice: change for change in found.measures if change.name == "words"}
    assert (words["hard"].before.mean, words["hard"].after.mean, words["hard"].difference.mean) == (1, 3, 2)
    assert words["easy"].difference.mean == 0
    refusal = next(change for change in found.measures if (change.slice, change.name) == ("", "refusal"))
    most = pytest.approx(0.3903, abs=1e-4)  # Wilson's of 0 of 6
    assert (refusal.after.low, refusal.after.high, refusal.difference.high) == (0.0, most, most)


def test_samples_are_paired_by_their_seed(tmp_path: Path) -> None:
    old = policy_run(tmp_path / "old", {(0, 7): "gold", (0, 8): "dust"})
    new = policy_run(tmp_path / "new", {(0, 6): "gold", (0, 7): "dust", (0, 8): "gold"})
    rate = policy_impact(old, new, judges(), WORK, DRAW).wins[0].rate
    assert (rate.scored, rate.rate) == (2, 0.5)  # seed 7 is lost, seed 8 won; 6 has no partner


def revision_run(folder: Path, finals: dict[int, str], principle: str) -> RunFolder:
    run = RunFolder(folder)
    traces = []
    for n, text in finals.items():
        first = Response(PROMPTS[n].id, "dust", "base", 0, 1.0, "stop", 1)
        changed = Response(PROMPTS[n].id, text, "base", 1, 1.0, "stop", 1)
        turn = RevisionRound(0, principle, Critique("", False, 0), (Revision(changed, 0.9, text != "dust"),))
        traces.append(RevisionTrace(PROMPTS[n], first, (turn,), "hash"))
    JsonlFile(run.file("revise", "traces.jsonl"), RevisionTrace).append(traces)
    return run


def test_revisions_are_compared_where_they_differ(tmp_path: Path) -> None:
    old = revision_run(tmp_path / "old", dict.fromkeys(range(4), "dust"), "kind")
    new = revision_run(tmp_path / "new", {0: "gold indeed", 1: "gold", 2: "dust", 3: "dust"}, "calm")
    found = revision_impact(old, new, judges(), WORK, DRAW, examples=1)
    assert (found.prompts, found.redrawn, found.replaced_before, found.replaced_after) == (4, 4, 0, 2)
    assert found.changed is not None
    assert found.changed.mean == 0.5
    assert [(wins.under, wins.rate.rate, wins.rate.scored) for wins in found.wins] == [("new", 1.0, 2), ("old", 0.0, 2)]
    assert found.words is not None
    assert found.words.mean == 0.25
    (example,) = found.examples
    assert (example.before, example.after) == ("dust", "gold indeed")
    assert (example.principles_before, example.principles_after) == (("kind",), ("calm",))
