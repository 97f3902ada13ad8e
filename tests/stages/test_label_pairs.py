"""Pairs by contrast: contexts, draws, confirmation, balance, and what a kill may cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import RunConfig
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import (
    Comparison,
    Constitution,
    Contrast,
    ContrastExample,
    FailedAnswer,
    FinishReason,
    PreferenceLabel,
    Principle,
    Prompt,
    Response,
    content_id,
)
from rlaif.inputs.templates import load_template
from rlaif.judge.confounds import confounds
from rlaif.judge.methods import contrast
from rlaif.lm.protocol import GenerateRequest, ScoreRequest
from rlaif.stages import label
from rlaif.stages.label_pairs import BASE, FOLLOWED, POLICY, VIOLATED, balanced, own_answers
from tests.stages.runs import (
    CONSTITUTION,
    PROMPTS,
    Said,
    World,
    content,
    context_in,
    killed_and_resumed,
    prompt,
    quality,
    settings,
)

EXAMPLE = ContrastExample("Hi", "Hello!", "Go away.")


def rule(name: str, weight: float = 1.0, **fields: Any) -> Principle:
    return Principle(name, f"Be {name}.", weight=weight, contrast=Contrast("You follow.", "You violate.", **fields))


def config(judge: dict[str, Any] | None = None, **fields: Any) -> RunConfig:
    return settings(judge=judge, label={"batch_size": 2, "answers": "contrast", "pairs": 3, **fields})


def work(
    root: Path,
    setup: RunConfig,
    prompts: Sequence[Prompt] = PROMPTS,
    world: World | None = None,
    constitution: Constitution = CONSTITUTION,
) -> tuple[list[Response], list[PreferenceLabel], dict[str, float]]:
    context = context_in(root, "label", world or World(), setup, prompts)
    context.constitution = constitution
    counts = label.run(context)
    labels = JsonlFile(root / "label" / "labels.jsonl", PreferenceLabel).read()
    return context.responses("label").read(), labels, counts


def followed_is_better(found: PreferenceLabel) -> bool:
    """What the judge of the tests says: the higher number is better."""
    pair = found.comparison
    first, second = (pair.a, pair.b) if pair.a.model.endswith(FOLLOWED) else (pair.b, pair.a)
    return quality(first.text) > quality(second.text)


def test_both_answers_are_sampled_in_the_contexts_that_the_method_scores_in(tmp_path: Path) -> None:
    world, rules = World(), replace(CONSTITUTION, principles=(rule("kind", examples=(EXAMPLE,)),))
    responses, labels, _ = work(tmp_path, config(pairs=1), [PROMPTS[0]], world, rules)
    sampled = [request for request in world.asked if isinstance(request, GenerateRequest)]
    scored = {request.messages for request in world.asked if isinstance(request, ScoreRequest)}
    both = contrast.contexts(rules.principles[0], PROMPTS[0], load_template(contrast.TEMPLATE))
    assert [request.messages for request in sampled] == list(both)
    assert scored == set(both)
    question = "hard question 0\n\nYou violate."
    assert [message.content for message in both[1]] == ["You violate.", "Hi", "Go away.", question]
    assert [response.model for response in responses] == [POLICY + FOLLOWED, POLICY + VIOLATED]
    assert {labels[0].comparison.a.model, labels[0].comparison.b.model} == {POLICY + FOLLOWED, POLICY + VIOLATED}
    assert (labels[0].answers, labels[0].principle_id) == ("contrast", "kind")


def test_each_prompt_makes_its_number_of_pairs_of_fresh_answers(tmp_path: Path) -> None:
    world = World()
    responses, labels, counts = work(tmp_path, config(), world=world)
    assert Counter(r.prompt_id for r in responses) == {p.id: 6 for p in PROMPTS}
    assert len({(r.prompt_id, r.seed) for r in responses}) == len(responses) == 42
    assert Counter(x.comparison.prompt.id for x in labels) == {p.id: 3 for p in PROMPTS}
    assert world.opened == ["policy+sft", "judge"]
    assert (counts["pairs"], counts["pairs_contrast"], counts["failed"]) == (21, 21, 0)
    assert counts["labelled"] == counts["labelled_contrast"] == 21 - counts["disagreed"]


def test_the_model_before_sft_writes_the_pairs_where_that_is_asked_for(tmp_path: Path) -> None:
    world = World()
    responses, labels, counts = work(tmp_path / "apart", config(contrast_from="base"), world=world)
    assert world.opened == ["policy", "judge"]  # nothing of SFT is loaded
    assert {response.model for response in responses} == {BASE + FOLLOWED, BASE + VIOLATED}
    assert counts["labelled"] == 21 - counts["disagreed"] > 0
    assert any(followed_is_better(x) for x in labels)
    # the policy's own answers stay the SFT policy's
    world = World()
    setup = config(contrast_from="base", answers="both", samples=2)
    responses, _, counts = work(tmp_path / "both", setup, world=world)
    assert world.opened == ["policy+sft", "policy", "judge"]
    assert Counter(response.model for response in responses) == {POLICY: 14, BASE + FOLLOWED: 21, BASE + VIOLATED: 21}
    assert own_answers(responses).keys() == {prompt.id for prompt in PROMPTS}
    with pytest.raises(ConfigError, match="contrast_from is for pairs by contrast"):
        config(answers="policy", contrast_from="base")


def test_the_judge_confirms_under_the_drawn_principle_alone(tmp_path: Path) -> None:
    _, labels, counts = work(tmp_path, config())
    for found in labels:
        assert [verdict.principle_id for verdict in found.verdicts] == [found.principle_id]
        if followed_is_better(found):
            assert found.prob_a == found.verdicts[0].prob_a
            assert found.failure is None
        else:
            assert found.prob_a is None
            assert found.failure is not None
            assert found.failure.kind == "disagreed"
            assert re.search(r"P\(better\) 0\.[0-4]", found.failure.reason)
    assert counts["disagreed"] == sum(not followed_is_better(x) for x in labels)
    assert 0 < counts["disagreed"] < 21
    assert counts["pairs_failed"] == 0


def test_without_confirmation_nobody_is_asked(tmp_path: Path) -> None:
    world = World()
    _, labels, counts = work(tmp_path, config(confirm=False, contrast_prob=0.8), world=world)
    assert world.opened == ["policy+sft"]
    assert all(x.prob_a == (0.8 if x.comparison.a.model.endswith(FOLLOWED) else 1 - 0.8) for x in labels)
    assert {x.verdicts for x in labels} == {()}
    assert {x.principle_id for x in labels} == {"kind", "brief"}
    assert {x.constitution_hash for x in labels} == {CONSTITUTION.hash}
    assert (counts["labelled"], counts["disagreed"]) == (21, 0)
    assert counts["mean_confidence"] == pytest.approx(0.8)


def test_a_judge_by_another_method_confirms_too(tmp_path: Path) -> None:
    _, labels, counts = work(tmp_path, config(judge={"method": "random"}))
    assert {verdict.method for x in labels for verdict in x.verdicts} == {"random"}
    assert counts["labelled"] + counts["disagreed"] == 21
    assert 3 < counts["disagreed"] < 18  # 10.5 with a standard deviation of 2.3


def test_principles_are_drawn_by_weight_anew_for_each_pair(tmp_path: Path) -> None:
    prompts = [prompt(f"hard question {n}") for n in range(60)]
    _, labels, _ = work(tmp_path, config(confirm=False), prompts)
    drawn = Counter(x.principle_id for x in labels)
    assert 42 < drawn["kind"] < 78  # a third of 180, with a standard deviation of 6.3
    of_a_prompt = Counter(len({x.principle_id for x in labels if x.comparison.prompt == p}) for p in prompts)
    assert of_a_prompt[2] > 20  # two thirds of 60 are expected to draw both


def test_a_slice_draws_its_own_principles(tmp_path: Path) -> None:
    setup = config(confirm=False)
    easy = setup.prompts["easy"].model_copy(update={"principles": ["brief"]})
    setup = setup.model_copy(update={"prompts": {**setup.prompts, "easy": easy}})
    _, labels, _ = work(tmp_path, setup)
    assert {x.principle_id for x in labels if x.comparison.prompt.slice == "easy"} == {"brief"}
    assert {x.principle_id for x in labels if x.comparison.prompt.slice == "hard"} == {"kind", "brief"}


def test_the_answer_that_stands_as_a_tells_nothing(tmp_path: Path) -> None:
    _, labels, _ = work(tmp_path, config(confirm=False), [prompt(f"hard question {n}") for n in range(60)])
    assert (
        63 < sum(x.comparison.a.model.endswith(FOLLOWED) for x in labels) < 117
    )  # 90 with a standard deviation of 6.7


def test_both_brings_the_pairs_of_the_policy_as_they_are_alone(tmp_path: Path) -> None:
    _, labels, counts = work(tmp_path / "both", config(answers="both"))
    _, alone, _ = work(tmp_path / "policy", config(answers="policy"))
    _, by_contrast, _ = work(tmp_path / "contrast", config())
    assert [x for x in labels if x.answers == "policy"] == alone
    assert [x for x in labels if x.answers == "contrast"] == by_contrast
    assert (counts["pairs"], counts["pairs_contrast"]) == (42, 21)
    assert not {"pairs_contrast", "disagreed", "pairs_identical"} & set(label.label_counts(alone))


def test_answers_that_are_alike_make_no_pair(tmp_path: Path) -> None:
    prompts = [prompt(f"same question {n}") for n in range(20)]  # answers 0, 1 or 2
    responses, labels, counts = work(tmp_path, config(), prompts)
    assert len(responses) == 120
    assert all(x.comparison.a.text != x.comparison.b.text for x in labels)
    assert counts["pairs_identical"] == 60 - len(labels)
    assert 8 < counts["pairs_identical"] < 32  # 20 with a standard deviation of 3.7


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no prompt has two different answers; 6 of the 6 failures are empty"):
        work(tmp_path, config(), [prompt("fail")])


def test_an_answer_that_failed_is_kept_with_its_context(tmp_path: Path) -> None:
    _, labels, counts = work(tmp_path, config(), [prompt("fail"), *PROMPTS])
    kept = JsonlFile(tmp_path / "label" / "failures.jsonl", FailedAnswer).read()
    assert Counter(row.model for row in kept) == {POLICY + FOLLOWED: 3, POLICY + VIOLATED: 3}
    assert (len(labels), counts["responses_failed"], counts["failed_empty"]) == (21, 6, 6)


def test_no_preference_at_all_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"none of 21 pairs has a preference: .*abstained.*judge\.abstain_below"):
        work(tmp_path, config(judge={"abstain_below": 0.499999}))


def test_a_slice_without_a_preference_is_said(tmp_path: Path) -> None:
    # The judge sees the violating answer as the better one wherever the numbers say so; one pair is all the slice has.
    prompts = [*(prompt(f"hard question {n}") for n in range(8)), prompt("fail", "easy")]
    context = context_in(tmp_path, "label", World(), config(), prompts)
    context.progress = said = Said()
    label.run(context)
    assert said.lines == ["  label: no pair of the slice easy has a preference: it has no pair"]


def test_contexts_are_no_references_of_the_policy() -> None:
    mine, follows, violates = (
        Response("p", "text", model, 0, 1.0, "stop", 1) for model in (POLICY, POLICY + FOLLOWED, BASE + VIOLATED)
    )
    assert own_answers([follows, mine, violates]) == {"p": [mine]}


# --- balance ----------------------------------------------------------------------------------------------------------


def made(
    number: int, chosen: tuple[int, FinishReason], rejected: tuple[int, FinishReason], name: str = "hard"
) -> PreferenceLabel:
    """A label whose chosen and rejected answers have these lengths and ends."""
    one = prompt(f"question {number}", name)
    a, b = (Response(one.id, "x" * n, "sft", number, 1.0, end, n) for n, end in (chosen, rejected))
    turned = number % 2
    return PreferenceLabel(
        Comparison(one, b, a) if turned else Comparison(one, a, b), 0.1 if turned else 0.9, (), answers="contrast"
    )


LONG = [made(n, (9, "stop"), (5, "stop")) for n in range(5)]
SHORT = [made(n, (5, "stop"), (9, "stop")) for n in range(10, 12)]
ALIKE = [made(20, (7, "stop"), (7, "stop"))]
ENDED = [made(n, (5, "stop"), (9, "length")) for n in range(30, 33)]
CUT = [made(n, (9, "length"), (5, "stop")) for n in range(40, 44)]
ELSEWHERE = [made(n, (9, "stop"), (5, "stop"), "easy") for n in range(50, 52)]


def test_of_each_kind_as_many_are_kept_as_of_its_opposite_in_the_slice() -> None:
    labels = [*LONG, *SHORT, *ALIKE, *ENDED, *CUT, *ELSEWHERE]
    found = balanced(labels, 3)
    kept = [sum(x.prob_a is not None for x in found if x.id in {y.id for y in part}) for part in
            (LONG, SHORT, ALIKE, ENDED, CUT, ELSEWHERE)]  # fmt: skip
    assert kept == [2, 2, 1, 3, 3, 0]
    measured = confounds([x for x in found if x.prob_a is not None])
    assert (measured.longer_wins, measured.finished_wins) == (0.5, 0.5)
    out = [x.failure for x in found if x.failure is not None]
    assert {failure.kind for failure in out} == {"unbalanced"}
    assert "prefer the longer than the opposite: P(A better) 0." in out[0].reason
    assert "the longer and the only one that was cut" in next(f.reason for f in out if "cut" in f.reason)


def test_the_surplus_is_chosen_by_hash_not_by_order() -> None:
    out = {x.id for x in balanced([*LONG, *SHORT], 3) if x.prob_a is None}
    assert {x.id for x in balanced([*SHORT, *reversed(LONG)], 3) if x.prob_a is None} == out
    assert len({frozenset(x.id for x in balanced([*LONG, *SHORT], s) if x.prob_a is None) for s in range(9)}) > 2


def test_labels_of_the_policy_are_not_balanced() -> None:
    labels = [replace(x, answers="policy") for x in LONG]
    assert balanced(labels, 3) == labels


def test_a_balanced_stage_keeps_as_many_long_wins_as_short_ones(tmp_path: Path) -> None:
    prompts = [prompt(f"hard question {n}") for n in range(40)]
    _, plain, before = work(tmp_path / "plain", config(confirm=False), prompts)
    _, labels, counts = work(tmp_path / "balanced", config(confirm=False, balance=True), prompts)
    assert [x.id for x in labels] == [x.id for x in plain]
    assert before["unbalanced"] == 0
    assert 0.5 not in (before["longer_wins"], before["finished_wins"])
    assert counts["unbalanced"] == before["labelled"] - counts["labelled"] > 0
    assert (counts["longer_wins"], counts["finished_wins"]) == (0.5, 0.5)
    _, _, confirmed = work(tmp_path / "confirmed", config(balance=True), prompts)
    # the judge prefers the higher number, so where it agrees the longer one always wins: nothing is its opposite
    assert "longer_wins" not in confirmed
    assert confirmed["finished_wins"] == 0.5
    assert confirmed["disagreed"] > 30


# --- resume -----------------------------------------------------------------------------------------------------------

MIXED = [*PROMPTS[:3], prompt("fail"), prompt("same question"), *PROMPTS[3:]]


@pytest.mark.parametrize("fields", [{"answers": "both", "balance": True}, {"confirm": False, "balance": True}])
def test_killed_at_any_call_and_resumed_the_files_are_the_same_and_nothing_is_asked_twice(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    whole, setup = World(), config(**fields)
    _, labels, _ = work(tmp_path / "whole", setup, MIXED, whole)
    expected = content(tmp_path / "whole" / "label")
    assert any(x.failure is not None and x.failure.kind == "unbalanced" for x in labels)
    kills = 0
    for root, world in killed_and_resumed(tmp_path, lambda root, world: work(root, setup, MIXED, world)):
        kills += 1
        assert content(root / "label") == expected
        assert max(world.asked.values()) == 1
        assert world.asked.keys() == whole.asked.keys()
    assert kills >= 5


@pytest.mark.parametrize("name", ["responses.jsonl", "labels.jsonl"])
def test_cut_at_any_line_it_resumes_to_the_same_balance(tmp_path: Path, name: str) -> None:
    setup = config(balance=True)
    work(tmp_path, setup, MIXED)
    expected = content(tmp_path / "label")
    ends = [0] + [n + 1 for n, byte in enumerate(expected[name]) if byte == 10]
    for end in [*ends[::4], ends[2] + 20]:
        (tmp_path / "label" / name).write_bytes(expected[name][:end])
        work(tmp_path, setup, MIXED)
        assert content(tmp_path / "label") == expected


def test_a_finished_stage_opens_no_model(tmp_path: Path) -> None:
    setup, world = config(balance=True), World()
    _, _, counts = work(tmp_path, setup, MIXED)
    assert work(tmp_path, setup, MIXED, world)[2] == counts
    assert world.opened == []


def test_the_size_of_a_batch_changes_nothing(tmp_path: Path) -> None:
    one = work(tmp_path / "one", config(batch_size=1, answers="both", balance=True))
    assert work(tmp_path / "all", config(batch_size=100, answers="both", balance=True)) == one


def test_another_seed_draws_other_answers(tmp_path: Path) -> None:
    first, _, _ = work(tmp_path / "first", config())
    second, _, _ = work(tmp_path / "second", config().model_copy(update={"seed": 4}))
    assert content_id([r.seed for r in first]) != content_id([r.seed for r in second])
