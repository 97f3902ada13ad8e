"""An edit is told by what it means, above all by who will see any of it."""

from dataclasses import replace
from typing import Any

import pytest

from rlaif.config import JudgeConfig
from rlaif.constitution.diff import REVISE, Difference
from rlaif.constitution.diff import diff as difference
from rlaif.constitution.render import difference_lines
from rlaif.core.records import Constitution, Contrast, ContrastExample, Message, Principle, PrincipleTest, Prompt
from rlaif.inputs.templates import CRITIQUE, REVISION, load_template
from rlaif.judge.methods.table import METHODS, template_kinds

PAIR = Contrast("You are kind.", "You are rude.")
KIND = Principle("be-kind", "Be kind.", tags=("tone",), contrast=PAIR)
BRIEF = Principle("be-brief", "Be brief.", weight=2.0)
TRUE = Principle("be-true", "Say what is true.")
ASKED = ("pairwise", "cot", "rating", "decision")
"""The methods that show the statement."""


def rules(*principles: Principle, name: str = "mine") -> Constitution:
    return Constitution(name, "1", "", principles)


def diff(old: Constitution, new: Constitution) -> Difference:
    return difference(old, new, METHODS.values())


def test_the_same_principles_under_another_name_do_not_differ() -> None:
    found = diff(rules(KIND, BRIEF), rules(KIND, BRIEF, name="other"))
    assert (found.changes, found.reordered, found.principles) == ((), False, 2)
    assert found.judged_anew == dict.fromkeys(ASKED, 0), "BRIEF has no pair, so contrast refuses it"


def test_added_and_dropped() -> None:
    found = diff(rules(KIND, BRIEF), rules(BRIEF, TRUE))
    assert [(c.id, c.kind, c.statement, c.seen_by, c.judged_anew) for c in found.changes] == [
        ("be-true", "added", "Say what is true.", (*ASKED, "revise"), ASKED),
        ("be-kind", "dropped", "Be kind.", (), ()),
    ]
    assert (found.reordered, found.judged_anew) == (False, dict.fromkeys(ASKED, 1))
    assert diff(rules(BRIEF), rules(KIND)).judged_anew == dict.fromkeys((*ASKED, "contrast"), 1)
    (change,) = diff(rules(KIND), rules(KIND, replace(TRUE, weight=0.0))).changes
    assert (change.kind, change.seen_by, change.judged_anew) == ("added", (), ()), "nobody is shown it yet"


@pytest.mark.parametrize(
    ("name", "value", "seen_by"),
    [
        ("statement", "Smile.", (*ASKED, "revise")),
        ("critique", "C", ("revise",)),
        ("revision", "R", ("revise",)),
        ("comparison", "Q", ("pairwise", "cot", "decision")),
        ("contrast", Contrast("You are kind.", "You are cruel."), ("contrast", "revise")),
    ],
)
def test_each_text_is_named_with_those_who_see_it(name: str, value: Any, seen_by: tuple[str, ...]) -> None:
    (change,) = diff(rules(KIND), rules(replace(KIND, **{name: value}))).changes
    assert (change.kind, change.seen_by) == ("changed", seen_by)
    assert change.judged_anew == tuple(viewer for viewer in seen_by if viewer != "revise")
    assert change.words == f"reworded ({name})"
    (field,) = change.fields
    assert (field.name, field.old, field.new, field.seen) == (name, getattr(KIND, name), value, True)


@pytest.mark.parametrize("few_shots", [0, 2])
@pytest.mark.parametrize("viewer", [*ASKED, "critique", "revision"])
def test_the_shipped_templates_show_what_is_said_here(viewer: str, few_shots: int) -> None:
    """Rendered with every text of a principle changed in turn, a template differs for the texts that it shows."""
    pair = replace(PAIR, examples=(ContrastExample("p", "f", "v"),))
    full = replace(KIND, critique="C", revision="R", comparison="Q", contrast=pair)
    more = replace(pair, examples=(ContrastExample("p", "ff", "vv"),))
    values = {"statement": "S", "critique": "CC", "revision": "RR", "comparison": "QQ", "contrast": more}
    answers: dict[str, object] = dict.fromkeys(
        ("response", "response_a", "response_b", "critique", "rationale"), "text"
    )
    answers["few_shots"] = few_shots
    prompt = Prompt((Message("user", "Hm?"),))

    kinds = {kind.name: kind for kind in (CRITIQUE, REVISION, *template_kinds(JudgeConfig.model_validate({})))}
    kind = kinds[viewer]

    def rendered(principle: Principle) -> object:
        given = {"principle": principle, "prompt": prompt, **answers}
        return load_template(kind).render(**{name: given[name] for name in kind.variables})

    differ = {name for name, text in values.items() if rendered(replace(full, **{name: text})) != rendered(full)}  # type: ignore[arg-type]
    if viewer in ASKED:
        assert differ == set(METHODS[viewer].fields(few_shots=few_shots))
    elif few_shots:
        assert differ == {"statement", viewer, "contrast"} <= set(REVISE)
    else:
        assert "contrast" not in differ


def test_what_no_judge_sees_needs_no_new_verdict() -> None:
    new = replace(KIND, weight=0.5, priority=2, tags=("style",), rationale="Why", tests=(PrincipleTest("p", "a", "b"),))
    found = diff(rules(KIND), rules(new))
    (change,) = found.changes
    assert (change.seen_by, change.judged_anew, found.judged_anew) == ((), (), dict.fromkeys((*ASKED, "contrast"), 0))
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
    assert (change.seen_by, change.judged_anew) == ((), (*ASKED, "contrast"))
    (change,) = diff(on, off).changes
    assert (change.seen_by, change.judged_anew) == ((), ())
    (change,) = diff(on, rules(KIND, replace(BRIEF, weight=0.0, statement="Short!"))).changes
    assert (change.seen_by, change.judged_anew) == ((*ASKED, "revise"), ())


def test_another_id_with_the_same_text_is_a_new_name() -> None:
    found = diff(rules(KIND, BRIEF), rules(replace(KIND, id="kindness", weight=3.0), BRIEF))
    (change,) = found.changes
    assert (change.id, change.was, change.kind, change.judged_anew) == ("kindness", "be-kind", "renamed", ())
    assert change.words == "renamed from be-kind; reweighted 1 -> 3"
    assert found.reordered is False


def test_twins_that_are_dropped_are_both_told() -> None:
    found = diff(rules(KIND, replace(KIND, id="twin"), BRIEF), rules(BRIEF))
    assert [(c.id, c.kind) for c in found.changes] == [("be-kind", "dropped"), ("twin", "dropped")]


def test_another_order_is_told_because_other_principles_are_drawn() -> None:
    found = diff(rules(KIND, BRIEF, TRUE), rules(TRUE, KIND, BRIEF))
    assert (found.changes, found.reordered) == ((), True)
    assert diff(rules(KIND, BRIEF), rules(TRUE, KIND, BRIEF)).reordered is False


def test_an_edit_of_the_statement_alone_does_not_reach_a_judge_that_reads_the_contrast_pair() -> None:
    old, new = rules(KIND), rules(replace(KIND, statement="Never be kind."))
    assert diff(old, new).unreached == ("contrast",)
    told = " ".join(difference_lines(old, new, METHODS.values(), 100))
    assert "under judge.method contrast no label can change: contrast reads the contrast pair, never" in told
    assert diff(old, rules(replace(KIND, rationale="Why"))).unreached == (*ASKED, "contrast")
    assert diff(old, rules(replace(KIND, statement="Never be kind.", weight=2.0))).unreached == ()
    assert diff(old, rules(replace(KIND, statement="Never be kind.", contrast=None))).unreached == (), "it is refused"
    assert diff(old, rules(KIND, BRIEF)).unreached == ()


def test_the_json_holds_the_texts() -> None:
    data = diff(rules(KIND), rules(replace(KIND, contrast=None))).as_json()
    (change,) = data["changes"]
    assert change["fields"][0]["old"] == {"followed": "You are kind.", "violated": "You are rude.", "examples": ()}
    assert change["fields"][0]["new"] is None


def test_the_lines_say_which_two_and_what_a_new_tag_can_do() -> None:
    old, new = rules(KIND), rules(replace(KIND, tags=("a\n+ forged",)), name="other")
    lines = list(difference_lines(old, new, METHODS.values(), 100))
    assert lines[0] == f"mine 1 ({old.hash}) -> other 1 ({new.hash})"
    assert lines[1:3] == [
        "~ be-kind  seen by no model  retagged +a + forged -tone",
        "    slices that choose principles by tag may change",
    ]
    assert lines[-1].startswith(
        "principles that need new verdicts, of 1: pairwise 0, cot 0, rating 0, decision 0, contrast 0;"
    )
