"""Answers, pairs and labels: what is compared with what, and what a kill may cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.errors import BudgetError, StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import FailedAnswer, PreferenceLabel, Prompt, Response
from rlaif.lm.budget import Budget
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import GenerateRequest, LanguageModel
from rlaif.stages import label
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


def config(judge: dict[str, Any] | None = None, **fields: Any) -> RunConfig:
    return settings(judge=judge, label={"batch_size": 2, "samples": 4, "pairs": 6, **fields})


def work(
    root: Path, setup: RunConfig, prompts: Sequence[Prompt] = PROMPTS, world: World | None = None
) -> tuple[list[Response], list[PreferenceLabel], dict[str, float]]:
    context = context_in(root, "label", world or World(), setup, prompts)
    counts = label.run(context)
    labels = JsonlFile(root / "label" / "labels.jsonl", PreferenceLabel).read()
    return context.responses("label").read(), labels, counts


def test_each_prompt_is_answered_several_times_and_every_pair_is_judged(tmp_path: Path) -> None:
    world = World()
    responses, labels, counts = work(tmp_path, config(), world=world)
    assert Counter(r.prompt_id for r in responses) == {p.id: 4 for p in PROMPTS}
    assert {r.model for r in responses} == {"sft"}
    assert len({(r.prompt_id, r.seed) for r in responses}) == len(responses) == 28
    assert world.opened == ["policy+sft", "judge"]
    for name in PROMPTS:
        pairs = {frozenset((x.comparison.a.id, x.comparison.b.id)) for x in labels if x.comparison.prompt == name}
        assert len(pairs) == 6
    assert len({x.id for x in labels}) == len(labels) == 42
    assert (counts["pairs"], counts["labelled"], counts["failed"]) == (42, 42, 0)
    assert counts["responses_finished"] == sum(r.finish == "stop" for r in responses)


def test_labels_follow_the_judge_under_all_principles(tmp_path: Path) -> None:
    _, labels, counts = work(tmp_path, config())
    for found in labels:
        better = quality(found.comparison.a.text) > quality(found.comparison.b.text)
        assert found.prob_a is not None
        assert (found.prob_a > 0.5) is better
        assert [v.principle_id for v in found.verdicts] == ["kind", "brief"]
        assert found.constitution_hash == CONSTITUTION.hash
    assert 0.5 < counts["mean_confidence"] <= 1
    assert "consistency" not in counts


def test_the_answer_that_stands_as_a_tells_nothing(tmp_path: Path) -> None:
    prompts = [prompt(f"hard question {n}") for n in range(60)]
    responses, labels, _ = work(tmp_path, config(), prompts)
    sampled = {r.id: n for n, r in enumerate(responses)}
    earlier = sum(sampled[x.comparison.a.id] < sampled[x.comparison.b.id] for x in labels)
    better = sum(quality(x.comparison.a.text) > quality(x.comparison.b.text) for x in labels)
    assert len(labels) == 360
    assert 142 < earlier < 218  # 180 with a standard deviation of 9.5
    assert 142 < better < 218


def test_fewer_pairs_than_possible_are_chosen_by_hash_not_by_order(tmp_path: Path) -> None:
    prompts = [prompt(f"hard question {n}") for n in range(60)]
    responses, labels, _ = work(tmp_path, config(pairs=1), prompts)
    assert len(labels) == 60
    place = {r.id: n % 4 for n, r in enumerate(responses)}
    chosen = Counter(frozenset((place[x.comparison.a.id], place[x.comparison.b.id])) for x in labels)
    assert len(chosen) == 6
    assert max(chosen.values()) < 25  # 10 on average


def test_equal_answers_are_not_compared(tmp_path: Path) -> None:
    prompts = [prompt(f"same question {n}") for n in range(20)]  # answers 0, 1 or 2
    responses, labels, _ = work(tmp_path, config(samples=6, pairs=100), prompts)
    assert len(responses) == 120
    assert all(x.comparison.a.text != x.comparison.b.text for x in labels)
    for one in prompts:
        texts = {r.text for r in responses if r.prompt_id == one.id}
        found = [frozenset((x.comparison.a.text, x.comparison.b.text)) for x in labels if x.comparison.prompt == one]
        assert len(found) == len(set(found)) == len(texts) * (len(texts) - 1) // 2


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    named = r"failures\.jsonl: no prompt has two different answers; 4 of the 4 failures are empty: nothing said"
    with pytest.raises(StageError, match=named):
        work(tmp_path, config(), [prompt("fail")])


def test_answers_that_failed_are_kept_counted_and_not_compared(tmp_path: Path) -> None:
    prompts = [prompt("fail"), *PROMPTS]
    responses, labels, counts = work(tmp_path, config(), prompts)
    kept = JsonlFile(tmp_path / "label" / "failures.jsonl", FailedAnswer).read()
    assert [(row.prompt_id, row.model, row.failure.kind) for row in kept] == [(prompts[0].id, "sft", "empty")] * 4
    assert len({row.seed for row in kept}) == 4
    assert (len(responses), len(labels)) == (28, 42)
    assert {n: counts[n] for n in ("prompts", "responses", "responses_failed", "pairs_failed", "failed")} == {
        "prompts": 8,
        "responses": 28,
        "responses_failed": 4,
        "pairs_failed": 0,
        "failed": 4,
    }
    assert counts["failed_empty"] == 4


def test_pairs_that_cannot_be_judged_are_kept_with_their_reason(tmp_path: Path) -> None:
    setup = config(judge={"abstain_below": 0.45})
    _, labels, counts = work(tmp_path, setup)
    without = [x for x in labels if x.prob_a is None]
    assert 0 < len(without) < 42
    assert all(x.failure is not None and x.failure.kind == "abstained" for x in without)
    assert all(len(x.verdicts) == 2 for x in without)
    assert counts["labelled"] == 42 - len(without)
    assert counts["abstained"] == len(without)
    assert counts["pairs_failed"] == counts["failed"] == 0


def test_the_random_judge_opens_no_model(tmp_path: Path) -> None:
    world = World()
    _, labels, _ = work(tmp_path, config(judge={"method": "random"}), world=world)
    assert world.opened == ["policy+sft"]
    assert len({x.prob_a for x in labels}) == 42


def test_the_size_of_a_batch_changes_nothing(tmp_path: Path) -> None:
    one = work(tmp_path / "one", config(batch_size=1))
    assert work(tmp_path / "all", config(batch_size=100)) == one


# --- resume -----------------------------------------------------------------------------------------------------------

MIXED = [*PROMPTS[:3], prompt("fail"), prompt("same question"), *PROMPTS[3:]]


def test_killed_at_any_call_and_resumed_the_files_are_the_same_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    whole, setup = World(), config()
    work(tmp_path / "whole", setup, MIXED, whole)
    expected = content(tmp_path / "whole" / "label")
    assert sorted(expected) == ["failures.jsonl", "labels.jsonl", "responses.jsonl"]
    kills = 0
    for root, world in killed_and_resumed(tmp_path, lambda root, world: work(root, setup, MIXED, world)):
        kills += 1
        assert content(root / "label") == expected
        assert max(world.asked.values()) == 1
        assert world.asked.keys() == whole.asked.keys()
    assert kills >= 8


@pytest.mark.parametrize("name", ["responses.jsonl", "labels.jsonl"])
def test_cut_at_any_line_or_within_one_it_resumes_from_the_cache(tmp_path: Path, name: str) -> None:
    world, setup = World(), config()
    work(tmp_path, setup, MIXED, world)
    expected = content(tmp_path / "label")
    before = world.asked.copy()
    ends = [0] + [n + 1 for n, byte in enumerate(expected[name]) if byte == 10]
    assert len(ends) > 20
    for end in [*ends[::3], *(end + 20 for end in ends[:-1:5])]:
        (tmp_path / "label" / name).write_bytes(expected[name][:end])
        work(tmp_path, setup, MIXED, world)
        assert content(tmp_path / "label") == expected
    again = world.asked - before  # a failure is never cached
    assert all(isinstance(r, GenerateRequest) and r.messages[-1].content == "fail" for r in again)


def test_a_finished_stage_opens_no_model_even_where_answers_failed(tmp_path: Path) -> None:
    _, _, counts = work(tmp_path, config(), MIXED)
    world = World()
    _, _, again = work(tmp_path, config(), MIXED, world)
    assert world.opened == []
    assert again == counts


def test_a_spent_budget_leaves_no_row_behind_and_a_higher_one_the_same_labels(tmp_path: Path) -> None:
    _, whole, _ = work(tmp_path / "whole", config())
    context = context_in(tmp_path / "run", "label", World(), config())
    open_judge = context.open_judge

    def limited(asking: AskingConfig) -> LanguageModel:
        cached = open_judge(asking)
        assert isinstance(cached, CachedModel)
        return CachedModel(cached.inner, cached.path, budget=Budget(max_calls=40))

    context.open_judge = limited
    with pytest.raises(BudgetError, match="18 of 42 items of the stage are left"):
        label.run(context)
    labels = JsonlFile(tmp_path / "run" / "label" / "labels.jsonl", PreferenceLabel)
    assert [x.prob_a for x in labels.read()] == [x.prob_a for x in whole[:24]]
    context.open_judge = open_judge
    label.run(context)
    assert labels.read() == whole
