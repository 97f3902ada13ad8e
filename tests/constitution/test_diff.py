"""An edit is told by what it means, above all by whether a judge will see any of it."""

from dataclasses import replace

from rlaif.constitution.diff import diff
from rlaif.records import Constitution, Contrast, Principle, PrincipleTest

KIND = Principle("be-kind", "Be kind.", tags=("tone",), contrast=Contrast("You are kind.", "You are rude."))
BRIEF = Principle("be-brief", "Be brief.", weight=2.0)
TRUE = Principle("be-true", "Say what is true.")


def rules(*principles: Principle, name: str = "mine") -> Constitution:
    return Constitution(name, "1", "", principles)


def test_the_same_principles_under_another_name_do_not_differ() -> None:
    found = diff(rules(KIND, BRIEF), rules(KIND, BRIEF, name="other"))
    assert (found.changes, found.reordered, found.principles, found.judged_anew) == ((), False, 2, 0)


def test_added_and_dropped() -> None:
    found = diff(rules(KIND, BRIEF), rules(BRIEF, TRUE))
    assert [(c.id, c.kind, c.judge_sees, c.judged_anew) for c in found.changes] == [
        ("be-true", "added", True, True),
        ("be-kind", "dropped", True, False),
    ]
    assert (found.reordered, found.judged_anew) == (False, 1)


def test_each_text_a_judge_may_see_is_named_and_means_new_verdicts() -> None:
    edits = {"statement": "Smile.", "critique": "C", "revision": "R", "comparison": "Q"}
    edits |= {"contrast": Contrast("You are kind.", "You are cruel.")}  # type: ignore[dict-item]
    for name, value in edits.items():
        (change,) = diff(rules(KIND), rules(replace(KIND, **{name: value}))).changes  # type: ignore[arg-type]
        assert (change.kind, change.judge_sees, change.judged_anew) == ("changed", True, True)
        assert change.words == f"reworded ({name})"
        (field,) = change.fields
        assert (field.name, field.old, field.new, field.seen) == (name, getattr(KIND, name), value, True)


def test_what_no_judge_sees_needs_no_new_verdict() -> None:
    new = replace(KIND, weight=0.5, priority=2, tags=("style",), rationale="Why", tests=(PrincipleTest("p", "a", "b"),))
    found = diff(rules(KIND), rules(new))
    (change,) = found.changes
    assert (change.judge_sees, change.judged_anew, found.judged_anew) == (False, False, 0)
    assert set(change.words.split("; ")) == {
        "reweighted 1 -> 0.5",
        "moved from tier 1 to 2",
        "retagged +style -tone",
        "other rationale",
        "other tests (0 -> 1)",
    }


def test_a_principle_that_had_no_weight_was_never_judged() -> None:
    off, on = rules(KIND, replace(BRIEF, weight=0.0)), rules(KIND, BRIEF)
    (change,) = diff(off, on).changes
    assert (change.judge_sees, change.judged_anew) == (False, True)
    (change,) = diff(on, off).changes
    assert (change.judge_sees, change.judged_anew) == (False, False)
    (change,) = diff(on, rules(KIND, replace(BRIEF, weight=0.0, statement="Short!"))).changes
    assert (change.judge_sees, change.judged_anew) == (True, False)


def test_another_id_with_the_same_text_is_a_new_name() -> None:
    found = diff(rules(KIND, BRIEF), rules(replace(KIND, id="kindness", weight=3.0), BRIEF))
    (change,) = found.changes
    assert (change.id, change.was, change.kind, change.judged_anew) == ("kindness", "be-kind", "renamed", False)
    assert change.words == "renamed from be-kind; reweighted 1 -> 3"
    assert found.reordered is False


def test_twins_that_are_dropped_are_both_told() -> None:
    found = diff(rules(KIND, replace(KIND, id="twin"), BRIEF), rules(BRIEF))
    assert [(c.id, c.kind) for c in found.changes] == [("be-kind", "dropped"), ("twin", "dropped")]


def test_another_order_is_told_because_other_principles_are_drawn() -> None:
    found = diff(rules(KIND, BRIEF, TRUE), rules(TRUE, KIND, BRIEF))
    assert (found.changes, found.reordered) == ((), True)
    assert diff(rules(KIND, BRIEF), rules(TRUE, KIND, BRIEF)).reordered is False


def test_the_json_holds_the_texts() -> None:
    data = diff(rules(KIND), rules(replace(KIND, contrast=None))).as_json()
    (change,) = data["changes"]
    assert change["fields"][0]["old"] == {"followed": "You are kind.", "violated": "You are rude.", "examples": ()}
    assert change["fields"][0]["new"] is None
