"""Trivial predictors of the labels: what a reward model must beat to have learnt more than the surface of answers.

Each is fitted on the training pairs and measured on the same held-out pairs as the reward model. A logistic regression
over the difference of two answers' features, without intercept, has no side: A and B exchanged, it predicts the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlaif.core.evaluation import HeldOutAccuracy
from rlaif.core.records import Response
from rlaif.core.statistics import Keyed, pooled_share, pooled_share_difference
from rlaif.gold.text import opens_with_refusal, words

RESAMPLES = 2000
SOURCE = "source"
"""The predictor that is told who wrote an answer. No text says that, so a reward model need not beat it."""


Features = Callable[[Sequence[Response]], Any]


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to a prompt and P(a is preferred)."""

    prompt_id: str
    a: Response
    b: Response
    prob_a: float


Judged = tuple[str, float, float]
"""A held-out pair as something tells it: prompt id, margin of A over B, P(a is preferred) by the label."""


def accuracy_of(name: str, pairs: Sequence[Judged]) -> HeldOutAccuracy:
    """How often predictions have the side of the labels. A margin of 0 counts one half; labels of exactly 0.5 have no
    side and are left out."""
    found = pooled_share(_right(pairs), seed=0, resamples=RESAMPLES)
    if found is None:
        return HeldOutAccuracy(name, None, None, None, 0)
    return HeldOutAccuracy(name, found.mean, found.low, found.high, found.n)


def _right(pairs: Sequence[Judged]) -> list[Keyed]:
    """1, 0 or a half for each pair whose label has a side."""
    return [
        (prompt_id, float((np.sign(margin) * np.sign(prob_a - 0.5) + 1) / 2))
        for prompt_id, margin, prob_a in pairs
        if prob_a != 0.5
    ]


def trivial_predictors(
    train: Sequence[AnswerPair], held_out: Sequence[AnswerPair], model: Sequence[float]
) -> tuple[HeldOutAccuracy, ...]:
    """The accuracy on `held_out` of each predictor fitted on `train`, and the lead of the reward model, whose margins
    of the same pairs are `model`.

    The predictors are length, end, refusal, first words, a bag of words, side; and, where the answers of a pair come
    from different models or contexts, which of these wrote it.
    """
    own = _right([(pair.prompt_id, margin, pair.prob_a) for pair, margin in zip(held_out, model, strict=True)])

    def measured(name: str, margins: Sequence[float]) -> HeldOutAccuracy:
        rows = [(pair.prompt_id, float(margin), pair.prob_a) for pair, margin in zip(held_out, margins, strict=True)]
        lead = pooled_share_difference(own, _right(rows), seed=0, resamples=RESAMPLES)
        found = accuracy_of(name, rows)
        return found if lead is None else replace(found, lead=lead.mean, lead_low=lead.low, lead_high=lead.high)

    def fitted(name: str, features: Features) -> HeldOutAccuracy:
        return measured(name, _margins(train, held_out, features))

    made = [
        fitted(name, features)
        for name, features in (
            ("length", lambda texts: np.array([np.log1p([len(words(r.text)), len(r.text)]) for r in texts])),
            ("finished", lambda texts: np.array([[float(r.finish == "stop")] for r in texts])),
            ("refusal opening", lambda texts: np.array([[float(opens_with_refusal(r.text))] for r in texts])),
        )
    ]
    made += [
        measured("first words", _by_count(train, held_out, _opening)),
        measured("bag of words", margins_by_words(train, held_out)),
    ]
    sided = [pair.prob_a > 0.5 for pair in train if pair.prob_a != 0.5]
    side = 1.0 if sum(sided) * 2 >= len(sided) else -1.0
    made.append(measured("position", [side] * len(held_out)))
    writers = sorted({response.model for pair in train for response in (pair.a, pair.b)})
    if any(pair.a.model != pair.b.model for pair in train):
        made.append(fitted(SOURCE, lambda texts: np.array([[float(r.model == w) for w in writers] for r in texts])))
    return tuple(made)


def margins_by_words(train: Sequence[AnswerPair], held_out: Sequence[AnswerPair]) -> Sequence[float]:
    """By how much A is preferred in each pair of `held_out`, in log-odds, by the words and pairs of neighbouring words
    that its answers have and those of `train` had; 0 where they tell nothing."""
    return _by_count(train, held_out, _text)


def logistic(differences: Any, prefers_a: Sequence[bool], *, strength: float) -> Any:
    """A logistic regression without intercept on the rows `differences` (A less B), each taken both ways round."""
    from scipy.sparse import issparse, vstack
    from sklearn.linear_model import LogisticRegression

    both = vstack([differences, -differences]) if issparse(differences) else np.vstack([differences, -differences])
    side = np.asarray(prefers_a, bool)
    return LogisticRegression(C=strength, fit_intercept=False, max_iter=2000).fit(both, np.concatenate([side, ~side]))


def _margins(train: Sequence[AnswerPair], held_out: Sequence[AnswerPair], features: Features) -> Sequence[float]:
    sided = [pair for pair in train if pair.prob_a != 0.5]
    if not sided:
        return [0.0] * len(held_out)
    model = logistic(_differences(sided, features), [pair.prob_a > 0.5 for pair in sided], strength=1.0)
    return [float(margin) for margin in model.decision_function(_differences(held_out, features))]


def _differences(pairs: Sequence[AnswerPair], features: Features) -> Any:
    return features([pair.a for pair in pairs]) - features([pair.b for pair in pairs])


def _by_count(
    train: Sequence[AnswerPair], held_out: Sequence[AnswerPair], text_of: Callable[[Response], str]
) -> Sequence[float]:
    """Margins by which words and pairs of neighbouring words of the texts of `train` an answer has."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"\S+")
    known = [text_of(response) for pair in train for response in (pair.a, pair.b)]
    if not any(text.split() for text in known):
        return [0.0] * len(held_out)
    counter.fit(known)
    return _margins(train, held_out, lambda responses: counter.transform([text_of(r) for r in responses]).astype(float))


def _text(response: Response) -> str:
    return " ".join(words(response.text))


def _opening(response: Response) -> str:
    return " ".join(words(response.text)[:2])
