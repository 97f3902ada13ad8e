"""The scorer `relevance`: is the answer one to its question?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlaif.core.records import Message
from rlaif.gold.minilm import Embed
from rlaif.inputs.prompt_sets import load_prompts, text_key

QUESTIONS = ("everyday", "sounds-dangerous")
"""The prompt sets that rlaif ships, whose questions are those that an answer is *not* to."""
OTHERS = 321
"""Their prompts; only the length of a progress bar depends on it."""
RELEVANT_ABOVE = 0.95
"""Share of the other questions that an answer must be nearer to its own question than."""


class RelevanceScorer:
    """1 where the embedding of a response is nearer to its question than to 95 % of the questions that rlaif ships,
    else 0.

    What is asked is the same for every response, so the score depends on no other response. A question of the set that
    is the prompt itself is not among the others. A response without a word is to no question: 0.
    """

    def __init__(self, questions: Sequence[str], embed: Embed) -> None:
        self._embed, self._others = embed, embed(questions)
        self._keys = np.array([_question_key(text) for text in questions])
        self.about = (
            f"share of answers that address their question: by MiniLM embeddings the answer is nearer to its question "
            f"than to {RELEVANT_ABOVE:.0%} of {len(questions)} other questions that rlaif ships; says nothing of "
            f"whether it is right"
        )
        self.quality: dict[str, float | None] = {}

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """1 or 0 per response."""
        if not responses:
            return []
        asked, answers = self._embed(prompts), self._embed(responses)
        found: list[float | None] = []
        for prompt, text, question, answer in zip(prompts, responses, asked, answers, strict=True):
            others = (self._others @ answer)[self._keys != _question_key(prompt)]
            near = float(answer @ question) > float(np.quantile(others, RELEVANT_ABOVE))
            found.append(float(near and bool(text.strip())))
        return found


def open_relevance(embed: Embed) -> RelevanceScorer:
    """The scorer on the shipped prompt sets; raises GoldMissing where MiniLM is not installed."""
    questions = [prompt.text for name in QUESTIONS for prompt in load_prompts(name, name)]
    return RelevanceScorer(questions, embed)


def _question_key(text: str) -> str:
    """Equal for questions that differ in case, spacing and punctuation only."""
    return text_key((Message("user", text),))
