"""Length, end, first word and refusals of chosen and rejected answers, counted by hand."""

from __future__ import annotations

from rlaif.core.records import Comparison, FinishReason, PreferenceLabel, Prompt, Response
from rlaif.judge.confounds import FirstWord, confounds

PROMPT = Prompt.of_text("How are you?")


def response(text: str, finish: FinishReason = "stop") -> Response:
    return Response(PROMPT.id, text, "sft", 0, 1.0, finish, 3)


def label(a: Response, b: Response, prob_a: float | None) -> PreferenceLabel:
    return PreferenceLabel(Comparison(PROMPT, a, b), prob_a, ())


LABELS = [
    label(response("Well, thanks a lot."), response("Bad", "length"), 0.9),  # the longer wins, and the one that ended
    label(response("Bad"), response("Well, thanks", "length"), 0.2),  # the longer, and the one that was cut
    label(response("Well"), response("I'm sorry, but I can't say"), 0.6),  # the shorter; a refusal loses
    label(response("Good"), response("Well"), 0.7),  # equally long, both ended
    label(response("No longer"), response("No"), 0.5),  # chooses none
    label(response("No longer"), response("No"), None),
]


def test_shares_are_of_the_pairs_that_differ() -> None:
    found = confounds(LABELS)
    assert found.pairs == 4
    assert found.longer_wins == 2 / 3
    assert found.finished_wins == 1 / 2
    assert found.refusal_wins == 0.0


def test_the_words_that_tell_chosen_from_rejected_come_first() -> None:
    # chosen: well, well, well, good; rejected: bad, bad, i'm, well
    assert confounds(LABELS).first_words == (
        FirstWord("bad", 0, 2),
        FirstWord("well", 3, 1),
        FirstWord("good", 1, 0),
        FirstWord("i'm", 0, 1),
    )


def test_the_place_of_an_answer_changes_nothing() -> None:
    turned = [label(x.comparison.b, x.comparison.a, None if x.prob_a is None else 1 - x.prob_a) for x in LABELS]
    assert confounds(turned) == confounds(LABELS)


def test_without_a_difference_there_is_no_share() -> None:
    found = confounds([LABELS[3]])
    assert (found.longer_wins, found.finished_wins, found.refusal_wins) == (None, None, None)
    assert confounds([]).first_words == ()
