"""Chains of critique and revision: what is kept, what is accepted, and what a kill may cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import RunConfig
from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import FailedAnswer, Prompt, RevisionTrace, record_seed
from rlaif.lm.protocol import GenerateRequest
from rlaif.stages import revise
from tests.stages.runs import (
    CONSTITUTION,
    PROMPTS,
    World,
    content,
    context_in,
    killed_and_resumed,
    prompt,
    quality,
    settings,
)


def config(**fields: Any) -> RunConfig:
    return settings(revise={"batch_size": 3, "rounds": 2, "candidates": 2, **fields})


def work(
    root: Path, setup: RunConfig, prompts: Sequence[Prompt] = PROMPTS, world: World | None = None
) -> tuple[list[RevisionTrace], dict[str, float]]:
    context = context_in(root, "revise", world or World(), setup, prompts)
    counts = revise.run(context)
    return context.traces(), counts


def asked(world: World, words: str) -> list[GenerateRequest]:
    return [r for r in world.asked if isinstance(r, GenerateRequest) and words in r.messages[-1].content]


def test_every_candidate_is_kept_and_the_best_that_passes_the_gate_is_accepted(tmp_path: Path) -> None:
    traces, counts = work(tmp_path, config(rounds=1, candidates=3), [prompt(f"hard question {n}") for n in range(20)])
    kinds = set()
    for trace in traces:
        (turn,) = trace.rounds
        assert len(turn.revisions) == 3
        before = quality(trace.response.text)
        found = [quality(r.response.text) for r in turn.revisions if r.response is not None]
        for revision, number in zip(turn.revisions, found, strict=True):
            assert revision.prob_better == pytest.approx(1 / (1 + 2.718281828459045 ** ((before - number) / 100)))
            assert len(revision.verdicts) == 1
            assert revision.verdicts[0].principle_id == turn.principle_id
        assert [r.accepted for r in turn.revisions] == [n == max(found) and n > before for n in found]
        assert quality(trace.final.text) == max(before, *found)
        assert trace.revised == (max(found) > before)
        kinds.add(trace.revised)
    assert kinds == {True, False}
    assert counts["revisions"] == 60
    assert counts["accepted"] == counts["revised"] == sum(t.revised for t in traces)


def test_the_gate_is_the_threshold(tmp_path: Path) -> None:
    for gate, name in ((1.0, "shut"), (0.0, "open"), (0.9, "narrow")):
        traces, counts = work(tmp_path / name, config(rounds=1, candidates=1, gate=gate))
        revisions = [r for t in traces for turn in t.rounds for r in turn.revisions]
        assert len(revisions) == 5
        expected = [True] * 5 if gate == 0 else [r.prob_better is not None and r.prob_better > gate for r in revisions]
        assert [r.accepted for r in revisions] == expected
        assert counts["accepted"] == sum(expected)


def test_a_revision_that_the_judge_cannot_weigh_is_rejected_with_its_reason(tmp_path: Path) -> None:
    traces, counts = work(tmp_path, config(rounds=1, candidates=1), [prompt("strange 1"), prompt("good 1")])
    revision = traces[0].rounds[0].revisions[0]
    assert revision.response is not None
    assert (revision.prob_better, revision.accepted) == (None, False)
    assert revision.failure is not None
    assert revision.failure.kind == "context_overflow"
    assert traces[0].final == traces[0].response
    assert (counts["failed"], counts["failed_context_overflow"]) == (1, 1)


def test_without_a_gate_the_judge_cannot_stop_a_revision(tmp_path: Path) -> None:
    traces, _ = work(tmp_path, config(rounds=1, candidates=1, gate=0), [prompt("strange 1")])
    assert traces[0].rounds[0].revisions[0].accepted
    assert traces[0].revised


def test_a_revision_that_repeats_the_answer_is_none(tmp_path: Path) -> None:
    traces, counts = work(tmp_path, config(rounds=1, candidates=1, gate=0), [prompt("parrot 1"), prompt("good 1")])
    revision = traces[0].rounds[0].revisions[0]
    assert revision.response is not None
    assert (revision.response.text, revision.accepted) == (traces[0].response.text, False)
    assert [trace.revised for trace in traces] == [False, True]
    assert counts["accepted"] == 1


def test_an_abstention_is_counted_and_no_failure(tmp_path: Path) -> None:
    setup = settings(judge={"abstain_below": 0.49}, revise={"rounds": 1, "candidates": 1})
    _, counts = work(tmp_path, setup, [prompt("good 1"), prompt("good 2")])
    assert (counts["revisions"], counts["abstained"], counts["failed"]) == (2, 2, 0)


def test_a_critique_that_finds_nothing_ends_the_chain(tmp_path: Path) -> None:
    world = World()
    traces, counts = work(tmp_path, config(rounds=3), [prompt("spotless question"), prompt("hard question")], world)
    assert [len(trace.rounds) for trace in traces] == [1, 3]
    assert traces[0].rounds[0].critique.no_change
    assert traces[0].rounds[0].revisions == ()
    assert not traces[0].revised
    assert counts["no_change"] == 1
    assert not [r for r in asked(world, "Rewrite") if "spotless question" in r.messages[-1].content]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("No change needed.", True),
        ("no changes are needed", True),
        ('"No change needed."', True),
        ("No revision needed", True),
        ("The answer is rude. No change needed otherwise.", False),
        ("Nothing kind is said here.", False),
        ("No changeling should be mocked.", False),
        ("", False),
    ],
)
def test_what_counts_as_no_change(text: str, ends: bool) -> None:
    assert bool(revise.NO_CHANGE.match(text)) is ends


def test_a_round_starts_from_the_last_accepted_answer(tmp_path: Path) -> None:
    world = World()
    prompts = [prompt(f"hard question {n}") for n in range(8)]
    traces, _ = work(tmp_path, config(candidates=1), prompts, world)
    outcomes = set()
    for trace in traces:
        first, second = trace.rounds
        accepted = [r.response for r in first.revisions if r.accepted]
        standing = accepted[0] if accepted else trace.response
        assert standing is not None
        question = trace.prompt.text
        critiques = [r for r in asked(world, "Criticise") if question in r.messages[-1].content]
        assert {r.seed for r in critiques} == {first.critique.seed, second.critique.seed}
        (request,) = [r for r in critiques if r.seed == second.critique.seed]
        assert f"> {standing.text}\n" in request.messages[-1].content
        (rewrite,) = [r for r in asked(world, "Rewrite") if r.seed == record_seed(3, "revision", trace.prompt.id, 1, 0)]
        assert f"> {standing.text}\n" in rewrite.messages[-1].content
        assert second.critique.text in rewrite.messages[-1].content
        outcomes.add(bool(accepted))
    assert outcomes == {True, False}


def test_principles_are_drawn_per_prompt_and_round_by_weight(tmp_path: Path) -> None:
    traces, _ = work(tmp_path, config(rounds=3, candidates=1), [prompt(f"hard question {n}") for n in range(60)])
    drawn = [turn.principle_id for trace in traces for turn in trace.rounds]
    assert 95 < drawn.count("brief") < 145  # weight 2 of 3 in 180 draws: 120, standard deviation 6.3
    assert any(len({turn.principle_id for turn in trace.rounds}) == 2 for trace in traces)


def test_slices_that_are_not_revised_are_answered_only(tmp_path: Path) -> None:
    world = World()
    traces, counts = work(tmp_path, config(), world=world)
    assert [(t.prompt.slice, bool(t.rounds)) for t in traces] == [("hard", True)] * 5 + [("easy", False)] * 2
    assert not [r for r in asked(world, "easy question") if r.messages[-1].content != r.messages[0].content]
    assert counts["traces"] == 7
    assert all(trace.constitution_hash == CONSTITUTION.hash for trace in traces)


def test_failures_are_kept_and_counted(tmp_path: Path) -> None:
    prompts = [prompt("fail"), prompt("mute question"), prompt("stuck question"), prompt("hard question")]
    traces, counts = work(tmp_path, config(), prompts)
    assert [t.prompt.text for t in traces] == ["mute question", "stuck question", "hard question"]
    mute, stuck, _ = traces
    assert len(mute.rounds) == 2  # a critique that failed does not end the chain: another principle may be drawn
    assert [turn.critique.failure and turn.critique.failure.kind for turn in mute.rounds] == ["empty", "empty"]
    assert all(turn.revisions == () and not turn.critique.no_change for turn in mute.rounds)
    revisions = [r for turn in stuck.rounds for r in turn.revisions]
    assert [(r.response, r.accepted, r.failure and r.failure.kind) for r in revisions] == [(None, False, "empty")] * 4
    assert not mute.revised
    assert not stuck.revised
    kept = JsonlFile(tmp_path / "revise" / "failures.jsonl", FailedAnswer).read()
    assert [(row.prompt_id, row.model, row.failure.kind) for row in kept] == [(prompts[0].id, "base", "empty")]
    assert {name: counts[name] for name in ("prompts", "unanswered", "traces", "failed", "failed_empty")} == {
        "prompts": 4,
        "unanswered": 1,
        "traces": 3,
        "failed": 1 + 2 + 4,
        "failed_empty": 7,
    }


def test_no_answer_at_all_is_an_error(tmp_path: Path) -> None:
    named = r"failures\.jsonl: the model answered no prompt; 2 of the 2 failures are empty: nothing said"
    with pytest.raises(StageError, match=named):
        work(tmp_path, config(), [prompt("fail 1"), prompt("fail 2")])


def test_a_repeated_prompt_is_worked_on_once(tmp_path: Path) -> None:
    traces, counts = work(tmp_path, config(), [prompt("hard"), prompt("other"), prompt("hard"), prompt("hard")])
    assert [t.prompt.text for t in traces] == ["hard", "other"]
    assert counts["traces"] == 2


def test_the_size_of_a_batch_changes_nothing(tmp_path: Path) -> None:
    one, _ = work(tmp_path / "one", config(batch_size=1))
    all_, _ = work(tmp_path / "all", config(batch_size=100))
    assert one == all_


def test_another_seed_gives_other_answers(tmp_path: Path) -> None:
    one, _ = work(tmp_path / "one", settings(seed=1))
    two, _ = work(tmp_path / "two", settings(seed=2))
    assert all(a.response.text != b.response.text for a, b in zip(one, two, strict=True))


# --- resume -----------------------------------------------------------------------------------------------------------

MIXED = [*PROMPTS[:4], prompt("fail"), *PROMPTS[4:], prompt("spotless question")]


def test_killed_at_any_call_and_resumed_the_files_are_the_same_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    whole, setup = World(), config()
    work(tmp_path / "whole", setup, MIXED, whole)
    expected = content(tmp_path / "whole" / "revise")
    assert sorted(expected) == ["failures.jsonl", "traces.jsonl"]
    kills = 0
    for root, world in killed_and_resumed(tmp_path, lambda root, world: work(root, setup, MIXED, world)):
        kills += 1
        assert content(root / "revise") == expected
        twice = [request for request, times in world.asked.items() if times > 1]
        assert all(isinstance(r, GenerateRequest) and r.messages[-1].content == "fail" for r in twice)
        assert world.asked.keys() == whole.asked.keys()
    assert kills > 10


def test_cut_at_any_line_or_within_one_it_resumes_from_the_cache(tmp_path: Path) -> None:
    world, setup = World(), config()
    work(tmp_path, setup, MIXED, world)
    expected = content(tmp_path / "revise")
    file = tmp_path / "revise" / "traces.jsonl"
    ends = [0] + [n + 1 for n, byte in enumerate(expected["traces.jsonl"]) if byte == 10]
    assert len(ends) == 1 + 8
    before = world.asked.copy()
    for end in [*ends, *(end + 20 for end in ends[:-1])]:
        file.write_bytes(expected["traces.jsonl"][:end])
        work(tmp_path, setup, MIXED, world)
        assert content(tmp_path / "revise") == expected
    again = world.asked - before  # a failure is never cached
    assert all(isinstance(r, GenerateRequest) and r.messages[-1].content == "fail" for r in again)


def test_a_finished_stage_opens_no_model_even_where_answers_failed(tmp_path: Path) -> None:
    _, counts = work(tmp_path, config(), MIXED)
    world = World()
    _, again = work(tmp_path, config(), MIXED, world)
    assert world.opened == []
    assert again == counts


def test_in_the_context_of_a_principle_nothing_is_criticised_and_the_model_answers_as_who_follows_it(
    tmp_path: Path,
) -> None:
    world = World()
    traces, counts = work(tmp_path, config(method="context", rounds=1, candidates=2), PROMPTS[:3], world)
    assert not asked(world, "Criticise")
    assert not asked(world, "Rewrite")
    assert counts["revisions"] == 2 * counts["rounds"] == 2 * len(traces)
    followed = [
        r for r in world.asked if isinstance(r, GenerateRequest) and r.messages[0].content.startswith("You follow.")
    ]
    assert len(followed) == counts["revisions"]
    questions = {prompt.messages[-1].content for prompt in PROMPTS[:3]}
    assert {request.messages[-1].content for request in followed} == questions  # no reminder behind them
    for trace in traces:
        (turn,) = trace.rounds
        assert turn.critique is None
        assert [r.response is not None for r in turn.revisions] == [True, True]
