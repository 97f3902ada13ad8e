"""Contrast: the margin by hand, what it reads and what it asks."""

from __future__ import annotations

import pytest

from rlaif.core.errors import ConstitutionError
from rlaif.core.records import Comparison, Contrast, ContrastExample, Message, Principle, Prompt
from rlaif.inputs.templates import load_template
from rlaif.judge.methods import contrast
from tests.judge.cases import KIND, MARGINS, MUTE, Recorder, comparison, judge, logistic, only, response


def test_the_contrast_margin_by_hand() -> None:
    label = judge(Recorder(MARGINS), only(KIND), scale=0.5).label([comparison()])[0]
    (verdict,) = label.verdicts
    assert verdict.margin == pytest.approx(0.25 + 0.1)
    assert label.prob_a == verdict.prob_first == pytest.approx(logistic(0.35 / 0.5))
    assert (verdict.order, verdict.method, verdict.judge) == ("none", "contrast", "recorder")
    assert (label.consistency, label.failure) == (None, None)


def test_contrast_judges_no_more_than_the_opening() -> None:
    label = judge(Recorder(MARGINS), only(KIND), opening_tokens=2).label([comparison()])[0]
    assert label.verdicts[0].margin == pytest.approx((0.5 + 0.25) / 2 + 0.1)


def test_a_difference_of_rounding_is_a_tie() -> None:
    table = {
        ("You are kind.", "yes my friend"): (-1.0,),
        ("You are cruel.", "yes my friend"): (-1.5,),
        ("You are kind.", "no"): (-1.0,),
    }
    for other, tie in ((-1.5009, True), (-1.502, False)):
        label = judge(Recorder({**table, ("You are cruel.", "no"): (other,)}), only(KIND)).label([comparison()])[0]
        assert (label.prob_a == 0.5) is tie


def test_contrast_principles_count_by_weight_and_one_without_weight_is_not_asked() -> None:
    model = Recorder(MARGINS)
    label = judge(model, scale=1.0).label([comparison()])[0]
    assert label.prob_a == pytest.approx((logistic(0.35) + 3 * logistic(-0.4)) / 4)
    assert [v.principle_id for v in label.verdicts] == ["kind", "short"]
    assert MUTE.contrast is not None
    assert MUTE.contrast.followed not in {request.messages[0].content for request in model.scores}


def test_contrast_shows_the_conversation_and_the_examples_in_both_lights() -> None:
    examples = (ContrastExample("Hello?", "Hello, friend!", "Go away."),)
    principle = Principle("kind", "Be kind.", contrast=Contrast("You are kind.", "You are cruel.", examples))
    model = Recorder(MARGINS)
    judge(model, only(principle)).label([comparison()])
    assert [[m.content for m in request.messages] for request in model.scores[:2]] == [
        ["You are kind.", "Hello?", "Hello, friend!", "May I?\n\nYou are kind."],
        ["You are cruel.", "Hello?", "Go away.", "May I?\n\nYou are cruel."],
    ]


def test_the_reminder_stands_behind_the_last_question_alone() -> None:
    turns = (
        Message("system", "You sell books."), Message("user", "Hello?"), Message("assistant", "Yes?"),
        Message("user", "May I?"),
    )  # fmt: skip
    template = load_template(contrast.TEMPLATE)
    for remind, last in ((True, "May I?\n\nYou are kind."), (False, "May I?")):
        followed, _ = contrast.contexts(KIND, Prompt(turns), template, remind=remind)
        assert [m.content for m in followed] == ["You are kind.\n\nYou sell books.", "Hello?", "Yes?", last]


def test_contrast_scores_each_response_once_per_principle() -> None:
    model = Recorder(MARGINS)
    prompt = Prompt((Message("user", "May I?"),))
    answers = [response(prompt, text) for text in ("yes my friend", "no", "perhaps")]
    pairs = [Comparison(prompt, a, b) for a in answers for b in answers if a is not b]
    judge(model, only(KIND)).label(pairs)
    assert len(model.scores) == 3 * 2


def test_contrast_that_cannot_score_a_response_says_why() -> None:
    label = judge(Recorder(MARGINS), only(KIND)).label([comparison(b="never scored")])[0]
    assert label.prob_a is None
    assert label.failure is not None
    assert label.failure.kind == "context_overflow"
    assert label.verdicts[0].margin is None


def test_contrast_without_a_pair_names_the_principle() -> None:
    with pytest.raises(ConstitutionError, match="principle bare"):
        judge(Recorder(), only(Principle("bare", "Be bare."))).label([comparison()])
