"""Ids, seeds and the principles' draw: equal content, equal id; every field that matters changes it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaif.core.records import (
    Comparison,
    Constitution,
    Contrast,
    Critique,
    Failure,
    Message,
    PreferenceLabel,
    Principle,
    Prompt,
    Response,
    Revision,
    RevisionRound,
    RevisionTrace,
    Rollout,
    Verdict,
    content_id,
    from_json,
    record_seed,
    to_json,
)

PROMPT = Prompt((Message("user", "How are you?"),), slice="a")


def response(text: str = "Fine.", **values: object) -> Response:
    fields = {"model": "base", "seed": 1, "temperature": 1.0, "finish": "stop", "n_tokens": 2, **values}
    return Response(PROMPT.id, text, **fields)  # type: ignore[arg-type]


def verdict(**values: object) -> Verdict:
    fields = {"method": "pairwise", "order": "ab", "judge": "j", "prob_first": 0.8, **values}
    return Verdict("c", "kind", "h", **fields)  # type: ignore[arg-type]


def constitution(*weights: float) -> Constitution:
    return Constitution("c", "1", "", tuple(Principle(f"p{n}", "Be kind.", weight=w) for n, w in enumerate(weights)))


def test_content_id_is_fixed_for_all_time() -> None:
    # Ids stand in files of users: sha256 of '["a",1,null]', so that no change of the code can move them unnoticed.
    assert content_id("a", 1, None) == "0ae764bffd3a17b6"
    assert content_id({"b": 1, "a": 2}) == content_id({"a": 2, "b": 1})
    assert content_id("1") != content_id(1)
    assert content_id("a", "b") != content_id("ab")


def test_ids_come_from_the_content_that_matters() -> None:
    assert PROMPT.id == replace(PROMPT, slice="b", tags=("x",), source="s", id="").id
    assert PROMPT.id != Prompt((Message("user", "How are you"),)).id
    assert response().id == response(finish="length", n_tokens=9).id
    for other in (response("Well."), response(model="sft"), response(seed=2), response(temperature=0.5)):
        assert other.id != response().id
    assert replace(PROMPT, id="given").id == "given"


@given(st.integers(0, 2**40), st.text())
def test_record_seeds_fit_63_bits_and_differ_by_part(seed: int, part: str) -> None:
    value = record_seed(seed, "label", part)
    assert 0 <= value < 2**63
    assert value == record_seed(seed, "label", part)
    assert len({value, record_seed(seed + 1, "label", part), record_seed(seed, "revise", part)}) == 3


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.floats(0, 1))
def test_records_survive_json(text: str, prob: float) -> None:
    trace = RevisionTrace(
        PROMPT,
        response(text),
        (
            RevisionRound(
                1,
                "kind",
                Critique(text, no_change=False, seed=3, failure=Failure("parse", text)),
                (Revision(None, None, accepted=False, failure=Failure("empty", "nothing")),),
            ),
        ),
        "hash",
    )
    label = PreferenceLabel(
        Comparison(PROMPT, response(text), response("b")), prob, (verdict(prob_first=None, margin=prob),)
    )
    for record in (trace, label):
        assert from_json(type(record), json.loads(json.dumps(to_json(record)))) == record


def test_a_label_of_before_there_was_a_source_reads_as_one_of_the_policy() -> None:
    label = PreferenceLabel(Comparison(PROMPT, response("a"), response("b")), 0.7, (verdict(),))
    old = {name: value for name, value in to_json(label).items() if name not in ("answers", "principle_id")}
    read = from_json(PreferenceLabel, old)
    assert read == label
    assert (read.answers, read.principle_id) == ("policy", "")


def test_a_wrong_field_is_named() -> None:
    with pytest.raises(ValueError, match="finish"):
        from_json(Response, {**to_json(response()), "finish": "tired"})
    with pytest.raises(ValueError, match="text"):
        from_json(Response, {name: value for name, value in to_json(response()).items() if name != "text"})


LABEL = PreferenceLabel(Comparison(PROMPT, response("a"), response("b")), 0.7, (verdict(margin=2.5),), 0.9)
OUTSIDE = [7.0, -0.1, float("nan"), float("inf"), True, "0.5"]


@pytest.mark.parametrize("value", OUTSIDE)
@pytest.mark.parametrize(
    ("record", "field"),
    [
        (LABEL, "prob_a"),
        (LABEL, "consistency"),
        (verdict(), "prob_first"),
        (Revision(None, 0.5, accepted=False), "prob_better"),
    ],
)
def test_a_probability_outside_its_range_is_no_record(record: object, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"(?s){field}.*must be a number from 0 to 1"):
        from_json(type(record), {**to_json(record), field: value})
    assert from_json(type(record), {**to_json(record), field: 1}) == replace(record, **{field: 1.0})  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("field", "value"), [("n_tokens", -1), ("n_tokens", True), ("temperature", -0.5), ("temperature", float("nan"))]
)
def test_an_answer_of_negative_length_or_temperature_is_no_record(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"(?s){field}.*must be a number from 0"):
        from_json(Response, {**to_json(response()), field: value})


def test_a_margin_is_any_number() -> None:
    for value in (-12.5, float("-inf"), None):
        assert from_json(Verdict, to_json(verdict(margin=value))).margin == value
    with pytest.raises(ValueError, match=r"(?s)verdicts\.0\.margin.*must be a number"):
        from_json(PreferenceLabel, to_json(replace(LABEL, verdicts=(verdict(margin=float("nan")),))))


def test_records_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        PROMPT.slice = "b"  # type: ignore[misc]


def test_a_swapped_verdict_turns_its_probability_round() -> None:
    assert verdict(order="ab").prob_a == 0.8
    assert verdict(order="none").prob_a == 0.8
    assert verdict(order="ba").prob_a == pytest.approx(0.2)
    assert verdict(order="ba", prob_first=0.0).prob_a == 1.0
    assert verdict(prob_first=None).prob_a is None


def test_swapping_twice_is_the_same_comparison() -> None:
    pair = Comparison(PROMPT, response("a"), response("b"))
    assert pair.swap().a == pair.b
    assert pair.swap().id != pair.id
    assert pair.swap().swap() == pair


def test_the_final_answer_is_the_last_accepted_revision() -> None:
    def turn(*revisions: tuple[str, bool]) -> RevisionRound:
        found = tuple(Revision(response(text), 0.7, accepted) for text, accepted in revisions)
        return RevisionRound(1, "kind", Critique("harsh", no_change=False, seed=1), found)

    first = response("first")
    assert RevisionTrace(PROMPT, first, (), "h").final == first
    assert not RevisionTrace(PROMPT, first, (turn(("worse", False)),), "h").revised
    trace = RevisionTrace(PROMPT, first, (turn(("x", False), ("better", True)), turn(("worse", False))), "h")
    assert trace.final.text == "better"
    assert trace.revised


def test_principles_are_drawn_by_weight() -> None:
    rules = constitution(1.0, 0.0, 3.0)
    counts = Counter(rules.draw(record_seed(0, "test", n)).id for n in range(4000))
    assert counts["p1"] == 0
    assert 900 < counts["p0"] < 1100  # 1000 expected, standard deviation 27
    assert rules.draw(5).id == rules.draw(5).id


def test_a_subset_has_different_principles_with_a_weight_in_their_order() -> None:
    rules = constitution(1.0, 0.0, 3.0, 1.0)
    drawn = [[p.id for p in rules.draw_subset(seed, 2)] for seed in range(2000)]
    assert {tuple(ids) for ids in drawn} == {("p0", "p2"), ("p0", "p3"), ("p2", "p3")}
    # without replacement: p0 and p3 together when p2 is drawn last, 1/5 * 1/4 * 2 = 0.1 of the time
    assert 160 < drawn.count(["p0", "p3"]) < 240  # 200 expected, standard deviation 13
    assert [p.id for p in rules.draw_subset(7, 9)] == ["p0", "p2", "p3"]


def test_a_draw_is_disturbed_only_where_an_edit_wins_it() -> None:
    old = constitution(1.0, 1.0, 1.0)
    new = Principle("new", "Be new.", weight=1.0)
    reworded = replace(old.principles[0], statement="Other words.")
    added = replace(old, principles=(new, old.principles[2], old.principles[1], reworded))
    pairs = [(old.draw(seed).id, added.draw(seed).id) for seed in range(2000)]
    changed = [after for before, after in pairs if before != after]
    assert set(changed) == {"new"}
    assert 440 < len(changed) < 560  # a quarter: 500 expected, standard deviation 19


def test_hashes_change_with_what_a_judge_may_see() -> None:
    principle = Principle("p", "Be kind.")
    for same in (replace(principle, tags=("x",)), replace(principle, rationale="why"), replace(principle, id="q")):
        assert same.hash == principle.hash
    for other in (
        replace(principle, statement="Be nice."),
        replace(principle, critique="What is unkind?"),
        replace(principle, contrast=Contrast("kind", "cruel")),
    ):
        assert other.hash != principle.hash
    assert constitution(1.0, 1.0).hash != constitution(1.0, 2.0).hash


def test_a_constitution_changes_with_its_tags_which_slices_choose_by_and_with_priorities() -> None:
    def tagged(*tags: str, priority: int = 1) -> Constitution:
        return Constitution("c", "1", "", (Principle("kind", "Be kind.", tags=tags, priority=priority),))

    assert tagged("a", "b").hash == tagged("b", "a").hash != tagged("a", "b", priority=2).hash
    assert tagged("a").hash != tagged("a", "b").hash


def test_a_rollout_is_a_flat_line_with_a_column_for_each_source() -> None:
    row = {
        **{"step": 3, "prompt_id": "p", "prompt": "Why?", "response": "So.", "finish": "stop", "score": 0.5},
        **{"score_model": 0.75, "score_short": None, "disagreement": 0.1},
    }
    rollout = Rollout.of_row(row)
    assert rollout.parts == {"score_model": 0.75, "score_short": None, "disagreement": 0.1}
    assert rollout.as_row() == row
    assert list(rollout.as_row()) == list(row), "columns keep their order"
    with pytest.raises(ValueError, match="finish"):
        Rollout.of_row({**row, "finish": "tired"})


def test_columns_change_no_id_while_there_are_none() -> None:
    plain = Prompt.of_text("x")
    assert plain.id == "be03632d178177cf"
    assert Comparison.of_texts("hi", "a", "b").id == "eaa9a1c449f54607"
    other = replace(plain, columns='{"reference": "y"}')
    assert other.id == plain.id
    assert content_id([plain]) != content_id([other]), "what is made from the prompts is out of date"
    assert content_id([plain]) == content_id([{k: v for k, v in to_json(plain).items() if k != "columns"}])


@pytest.mark.parametrize("columns", ["{", "[]", "1", "x", "[" * 100_000])
def test_a_prompt_is_read_with_a_turn_and_sound_columns_or_not_at_all(columns: str) -> None:
    good = to_json(replace(PROMPT, columns='{"reference": "y"}'))
    assert from_json(Prompt, good).own_columns == {"reference": "y"}
    with pytest.raises(ValueError, match="must be a JSON object"):
        from_json(Prompt, {**good, "columns": columns})
    with pytest.raises(ValueError, match="must hold a turn"):
        from_json(Prompt, {**good, "messages": []})
