"""What words tell of labels: all where a word decides, nothing where a coin does, and no side."""

from __future__ import annotations

import random

from rlaif.analysis.sources.learnable import by_words
from rlaif.core.records import Comparison, PreferenceLabel, Prompt, Response

WORDS = ["bread", "water", "rain", "stone", "hope", "slow", "green", "river"]


def label(number: int, a: str, b: str, prob_a: float | None) -> PreferenceLabel:
    prompt = Prompt.of_text(f"Question {number // 2}")  # two pairs a prompt
    first, second = (Response(prompt.id, text, "sft", number, 1.0, "stop", 1) for text in (a, b))
    return PreferenceLabel(Comparison(prompt, first, second), prob_a, ())


def labels(how: str, n: int = 80, seed: int = 0) -> list[PreferenceLabel]:
    """Two answers of four words each; "kind" is preferred where it stands, or by a coin."""
    draw, made = random.Random(seed), []
    for number in range(n):
        sides = [" ".join(draw.choices(WORDS, k=4)) for _ in "ab"]
        kind = draw.randrange(2)
        sides[kind] += " kind"
        preferred = kind if how == "word" else draw.randrange(2)
        made.append(label(number, sides[0], sides[1], 0.9 if preferred == 0 else 0.1))
    return made


def share(found: list[PreferenceLabel]) -> float:
    votes = [vote for _, vote in by_words(found) if vote is not None]
    return sum(votes) / len(votes)


def test_a_word_that_decides_is_learnt_on_other_prompts() -> None:
    assert share(labels("word")) == 1.0


def test_a_coin_is_not_learnt() -> None:
    # 400 pairs: a standard deviation of 2.5 points, were the pairs each for itself
    assert 0.38 < sum(share(labels("coin", seed=seed)) for seed in range(5)) / 5 < 0.6


def test_the_side_of_an_answer_tells_nothing() -> None:
    turned = [label(n, x.comparison.b.text, x.comparison.a.text, 1 - x.prob_a)
              for n, x in enumerate(labels("word")) if x.prob_a is not None]  # fmt: skip
    assert share(turned) == 1.0
    # A is always preferred, whatever it says: words do not tell it, since each pair is seen in both orders
    sided = [label(n, x.comparison.a.text, x.comparison.b.text, 0.9) for n, x in enumerate(labels("coin"))]
    assert share(sided) < 0.7


def test_what_cannot_be_asked_is_left_out() -> None:
    one = labels("word", 2)
    assert by_words(one) == []  # a single prompt
    assert by_words([]) == []
    undecided = [label(n, "a", "b", prob) for n, prob in enumerate((0.5, None, 0.5, None))]
    assert by_words(undecided) == []
    assert [vote for _, vote in by_words([label(n, "!", "?", 0.9) for n in range(4)])] == [0.5] * 4


def test_each_label_keeps_its_prompt() -> None:
    made = labels("word", 12)
    assert [prompt for prompt, _ in by_words(made)] == [x.comparison.prompt.id for x in made]
