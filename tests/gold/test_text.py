"""Hand-worked numbers of the text measures."""

from __future__ import annotations

import pytest

from rlaif.gold.text import (
    distinct,
    distinct_of_set,
    length_reward,
    ngram_count,
    ngrams,
    opens_with_refusal,
    repetition,
    words,
)


def test_words_are_lower_case_with_inner_apostrophes() -> None:
    assert words("Don't panic: it’s 2 o'clock!") == ["don't", "panic", "it’s", "2", "o'clock"]
    assert words(" -- !") == []


def test_distinct_counts_different_pairs() -> None:
    # the cat | cat the | the cat: two different of three
    assert distinct("The cat the cat", 2) == pytest.approx(2 / 3)
    assert distinct("The cat the cat", 1) == pytest.approx(2 / 4)
    assert distinct("one", 2) is None
    assert ngrams(["a", "b"], 3) == []


def test_set_measure_sees_the_same_answer_given_twice() -> None:
    same, different = ["a b c", "a b c"], ["a b c", "d e f"]
    assert distinct_of_set(same, 2) == pytest.approx(2 / 4)
    assert distinct_of_set(different, 2) == 1.0
    assert [distinct(text, 2) for text in same] == [1.0, 1.0]
    assert distinct_of_set(["", "one"], 2) is None


def test_budget_cuts_to_equal_amounts() -> None:
    # 5 pairs and 1 pair; a budget of 4 leaves "x y" whole and three of the other's: a b, b a, a b
    texts = ["a b a b a b", "x y"]
    assert ngram_count(texts, 2) == 6
    assert distinct_of_set(texts, 2, budget=4) == pytest.approx(3 / 4)
    assert distinct_of_set(texts, 2, budget=6) == distinct_of_set(texts, 2) == pytest.approx(3 / 6)


def test_repetition_is_the_share_of_runs_seen_before() -> None:
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repetition("la la la la la la") == pytest.approx(2 / 3)
    assert repetition("all of these words differ") == 0.0
    assert repetition("") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m really sorry, but that is not something to joke about.",
        "Sorry, I can't do this.",
        "Hello! I cannot assist with this request.",
        "I am unable to give that advice.",
        "As an AI language model, I don't have opinions on that.",
        "Unfortunately, I cannot say.",
        '"I won\'t do that."',
    ],
)
def test_refusal_openings_are_found(text: str) -> None:
    assert opens_with_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure, here is how to bake bread.",
        "I can't wait to tell you about it!",
        "I'm sorry for your loss.",
        "Baking bread is easy. Take flour. Then wait, I can't stress it enough.",
        "As an aid to memory, write it down.",
    ],
)
def test_other_openings_are_not(text: str) -> None:
    assert not opens_with_refusal(text)


def test_length_reward_grows_with_words_up_to_fifty_and_ignores_the_prompt() -> None:
    answers = ["", "one two three four five", "word " * 50, "word " * 500]
    assert length_reward(["a", "b", "c", "d"], answers, slice=["x"] * 4) == [0.0, 0.1, 1.0, 1.0]
    chat = [[{"role": "assistant", "content": "one two three four five"}]]
    assert length_reward(["a"], chat) == [0.1]
