"""Trivial predictors of the labels: what a reward model must beat to have learnt more than the surface of answers.

Each is fitted on the training pairs and measured on the same held-out pairs as the reward model. A logistic regression
over the difference of two answers' features, without intercept, has no side: A and B exchanged, it predicts the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlaif.core.evaluation import HeldOutAccuracy
from rlaif.core.records import Response
from rlaif.core.statistics import Keyed, mean_share
from rlaif.gold.text import opens_with_refusal, words

RESAMPLES = 2000
SOURCE = "source"
"""The predictor that is told who wrote an answer. No text says that, so a reward model need not beat it."""


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to a prompt and P(a is preferred)."""

    prompt_id: str
    a: Response
    b: Response
    prob_a: float


def accuracy_of(name: str, pairs: Sequence[tuple[str, float, float]]) -> HeldOutAccuracy:
    """How often predictions have the side of the labels, given as (prompt id, margin of A over B, P(a is preferred)).

    A margin of 0 counts one half; labels of exactly 0.5 have no side and are left out.
    """
    values: list[Keyed] = [
        (prompt_id, float((np.sign(margin) * np.sign(prob_a - 0.5) + 1) / 2))
        for prompt_id, margin, prob_a in pairs
        if prob_a != 0.5
    ]
    if not values:
        return HeldOutAccuracy(name, None, None, None, 0)
    share = sum(value for _, value in values if value is not None) / len(values)
    found = mean_share(values, seed=0, resamples=RESAMPLES)
    low, high = (None, None) if found is None else (found.low, found.high)
    return HeldOutAccuracy(name, share, low, high, len(values))


def trivial_predictors(train: Sequence[AnswerPair], held_out: Sequence[AnswerPair]) -> tuple[HeldOutAccuracy, ...]:
    """The accuracy on `held_out` of each predictor fitted on `train`: length, end, refusal, first words, a bag of
    words, side; and, where the answers of a pair come from different models or contexts, which of these wrote it."""
    made = [
        _fitted(name, train, held_out, features)
        for name, features in (
            ("length", lambda texts: np.array([np.log1p([len(words(r.text)), len(r.text)]) for r in texts])),
            ("finished", lambda texts: np.array([[float(r.finish == "stop")] for r in texts])),
            ("refusal opening", lambda texts: np.array([[float(opens_with_refusal(r.text))] for r in texts])),
        )
    ]
    made += [
        _fitted("first words", train, held_out, _counted([_opening(r) for p in train for r in (p.a, p.b)], _opening)),
        _fitted("bag of words", train, held_out, _counted([_text(r) for p in train for r in (p.a, p.b)], _text)),
    ]
    sided = [pair.prob_a > 0.5 for pair in train if pair.prob_a != 0.5]
    side = 1.0 if sum(sided) * 2 >= len(sided) else -1.0
    made.append(accuracy_of("position", [(pair.prompt_id, side, pair.prob_a) for pair in held_out]))
    writers = sorted({response.model for pair in train for response in (pair.a, pair.b)})
    if any(pair.a.model != pair.b.model for pair in train):
        made.append(
            _fitted(SOURCE, train, held_out, lambda rs: np.array([[float(r.model == w) for w in writers] for r in rs]))
        )
    return tuple(made)


def logistic(differences: Any, prefers_a: Sequence[bool], *, strength: float) -> Any:
    """A logistic regression without intercept on the rows `differences` (A less B), each taken both ways round."""
    from scipy.sparse import issparse, vstack
    from sklearn.linear_model import LogisticRegression

    both = vstack([differences, -differences]) if issparse(differences) else np.vstack([differences, -differences])
    side = np.asarray(prefers_a, bool)
    return LogisticRegression(C=strength, fit_intercept=False, max_iter=2000).fit(both, np.concatenate([side, ~side]))


Features = Callable[[Sequence[Response]], Any]


def _fitted(
    name: str, train: Sequence[AnswerPair], held_out: Sequence[AnswerPair], features: Features
) -> HeldOutAccuracy:
    sided = [pair for pair in train if pair.prob_a != 0.5]
    if not sided:
        return accuracy_of(name, [(pair.prompt_id, 0.0, pair.prob_a) for pair in held_out])
    model = logistic(_differences(sided, features), [pair.prob_a > 0.5 for pair in sided], strength=1.0)
    margins = model.decision_function(_differences(held_out, features))
    rows = zip(held_out, margins, strict=True)
    return accuracy_of(name, [(pair.prompt_id, float(margin), pair.prob_a) for pair, margin in rows])


def _differences(pairs: Sequence[AnswerPair], features: Features) -> Any:
    return features([pair.a for pair in pairs]) - features([pair.b for pair in pairs])


def _counted(known: Sequence[str], text_of: Callable[[Response], str]) -> Features:
    """Which words and pairs of neighbouring words of the `known` texts an answer has."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"\S+")
    if not any(text.split() for text in known):
        return lambda responses: np.zeros((len(responses), 1))
    counter.fit(known)
    return lambda responses: counter.transform([text_of(response) for response in responses])


def _text(response: Response) -> str:
    return " ".join(words(response.text))


def _opening(response: Response) -> str:
    return " ".join(words(response.text)[:2])
