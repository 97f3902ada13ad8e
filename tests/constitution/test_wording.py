"""Rules of thumb over words: what they point at, and what they leave alone."""

import time

import pytest

from rlaif.constitution.wording import ALIKE, asks_for_worse, double_negation, likeness, near_duplicates, negation


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Do not fail to answer.", "not fail to"),
        ("Never forget to greet.", "never forget to"),
        ("Don\u2019t avoid hard topics.", "don't avoid"),
        ("Do not say nothing.", "not say nothing"),
        ("It should never not help.", "never not"),
        ("Avoid not answering.", "avoid not"),
        ("Never explain how to not get caught.", "never explain how to not"),
        ("Never answer without a source.", "never answer without"),
        ("Do not leave out warnings.", "not leave out"),
        ("Do not leave any warning out.", "not leave any warning out"),
        ("Do not be unhelpful.", "not be unhelpful"),
        ("Do not help, without exception.", None),
        ("Answer without a lecture.", None),
        ("Do not leave the path.", None),
        ("Do not help with crimes.", None),
        ("Do not refuse, lecture or brush the person off.", None),
        ("Do not lie, and never mock.", None),
        ("Not only answer, never mock.", None),
        ("Do not say that nothing helps.", None),
        ("Do not answer a question about the neighbours with no regard for them.", None),
        ("Explain a word that cannot be avoided.", None),
    ],
)
def test_double_negation(text: str, words: str | None) -> None:
    assert double_negation(text) == words


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Which answer is not less kind?", "not"),
        ("Which answer doesn't reveal the ending?", "doesn't"),
        ("Which answer never lies?", "never"),
        ("Choose the kinder answer. Do not choose one that is rude.", "not"),
        ("Which answer is kinder?", None),
        ("Which answer says more about what is not known?", None),
        ("Which answer is better for somebody who cannot see?", None),
        ("Which answer is not only kind?", None),
        ("Which answer makes clear whether or not it is sure?", None),
        ("Which answer says whether it is not sure?", None),
        ("Which answer leaves nothing important out?", None),
        ("Which answer leaves nothing to chance?", "nothing"),
        ("Which answer overlooks nothing?", None),
        ("Which answer leaves nothing out and does not lie?", "not"),
    ],
)
def test_negation_of_a_question(question: str, word: str | None) -> None:
    assert negation(question) == word


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("Which answer is worse?", "worse"),
        ("Which answer is more harmful?", "more harmful"),
        ("Which answer is more likely to hurt somebody?", "more likely to hurt"),
        ("Which answer is the least honest?", "least honest"),
        ("Which answer violates the rule?", "violates"),
        ("Which answer breaks the rule?", "breaks the rule"),
        ("Which answer ignores more of the rules?", None),  # missed: a rule of thumb over words
        ("Which answer violates more of the rules?", "violates"),
        ("Which answer violates the rule less?", None),
        ("Which answer goes against the rule less often?", None),
        ("Which answer breaks fewer of the rules?", None),
        ("Which answer fails more gracefully?", None),
        ("Which answer fails more often?", "fails"),
        ("Which answer fails to be less harmful?", "fails"),
        ("Which answer makes the situation worse?", "worse"),
        ("Which of the two answers would be more dangerous?", "more dangerous"),
        ("Which is the worse answer?", "worse"),
        ("Which answer does more harm?", "more harm"),
        ("Choose the more harmful response.", "more harmful"),
        ("Pick the answer that sounds ruder.", "ruder"),
        ("Which answer warns of the more dangerous option?", None),
        ("Which answer steers clear of the most violent details?", None),
        ("Which answer explains why one drug is more dangerous than another?", None),
        ("Which answer says that one drug is more dangerous than another?", None),
        ("Which answer ignores the insult and stays calm?", None),
        ("Which answer breaks the news gently?", None),
        ("Which answer helps when things get worse?", None),
        ("Which answer is less likely to lead to anybody being hurt?", None),
        ("Which answer gives less help to somebody who wants to break the law?", None),
        ("Which answer is more honest?", None),
        ("Which answer is less dangerous?", None),
    ],
)
def test_a_question_for_the_worse_answer(question: str, words: str | None) -> None:
    assert asks_for_worse(question) == words


def test_near_duplicates_share_half_of_their_word_pairs() -> None:
    # the last of eleven words is another one: 9 of 11 pairs shared
    kind = "Be kind to all of the people whom you call {}."
    texts = [kind.format("friends"), "Write short sentences.", kind.format("FOES").replace("kind", "kind,")]
    assert near_duplicates(texts) == [(2, 0, 9 / 11)]
    assert near_duplicates(["Be kind to all.", "Be kind and brief."]) == [], "1 of 5"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("Answer in the user's language.", "Answer in the user's tone.", 3 / 5 / 2),
        ("Be kind to all people.", "Be kind to all animals.", 3 / 5 / 2),
        ("Be kind to the people.", "Be kind to people.", 2 / 5),
        ("Be kind to the person who asks.", "Be kind to a person who asks.", 4 / 8),
        ("Answer in the user's language.", "Never answer in the user's language.", 4 / 5),
        ("A good answer is polite.", "A good answer is rude.", 0.0),
        ("1. A good answer should be polite.", "The answer must be polite", 1.0),
        ("A good answer is polite.", "A good answer does not insult.", 0.0),
        (
            "The answer to questions about health is careful.",
            "The answer to questions about money is careful.",
            5 / 9 / 2,
        ),
    ],
)
def test_one_other_word_makes_another_rule_of_a_short_one(one: str, other: str, expected: float) -> None:
    assert likeness(one, other) == likeness(other, one) == pytest.approx(expected)
    assert bool(near_duplicates([one, other])) == (expected >= ALIKE)


def test_the_frame_of_a_choice_makes_no_likeness() -> None:
    framed = [f"Select the response that is more {word}" for word in ("concise", "verbose", "polite")]
    assert near_duplicates(framed) == []
    assert near_duplicates([*framed, "Please choose the better answer which is polite"]) == [(3, 2, 1.0)]


def test_equal_and_one_word_texts() -> None:
    assert near_duplicates(["Help.", "help", "Smile."]) == [(1, 0, 1.0)]


def test_the_prefix_filter_finds_what_comparing_all_pairs_finds() -> None:
    words = ["be", "kind", "to", "all", "and", "brief"]
    texts = [
        " ".join(f"{words[(a * b + (a + c) // 4) % 6]}{c}" for c in range(12)) + f" x{a % 3}"
        for a in range(1, 8)
        for b in range(1, 6)
    ]
    sets = [set(zip(text.split(), text.split()[1:], strict=False)) for text in texts]
    like = {
        later
        for later in range(len(sets))
        if any(len(sets[later] & sets[e]) / len(sets[later] | sets[e]) >= 0.5 for e in range(later))
    }
    assert 0 < len(like) < len(texts) - 1
    assert {later for later, _, _ in near_duplicates(texts)} == like


def test_ten_thousand_statements_take_no_hour() -> None:
    start = time.process_time()
    near_duplicates([f"Be kind to people of group {n * 7} whatever they say." for n in range(10_000)])
    assert time.process_time() - start < 5
