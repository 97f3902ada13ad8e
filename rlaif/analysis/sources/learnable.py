"""What a bag of words learns of labels: the share of labels that is in the words themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlaif.core.records import PreferenceLabel
from rlaif.core.statistics import Keyed

FOLDS = 5


def by_words(labels: Sequence[PreferenceLabel]) -> list[Keyed]:
    """Per label with a preference its prompt's id, and 1 where words and word pairs tell the preferred answer, else 0;
    0.5 where they tell none.

    A logistic regression on which words and word pairs A has and B has not, or the other way round, fitted without the
    prompts that it is asked about. It sees each pair in both orders, so it has no side. [] for fewer than two prompts.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    chosen = [label for label in labels if label.prob_a is not None and label.prob_a != 0.5]
    prompts = [label.comparison.prompt.id for label in chosen]
    if len(set(prompts)) < 2:
        return []
    words = CountVectorizer(ngram_range=(1, 2), binary=True, token_pattern=r"(?u)\b\w+\b")
    sides = [[getattr(label.comparison, side).text for label in chosen] for side in "ab"]
    try:
        words.fit(sides[0] + sides[1])  # which words there are tells nothing of which answer is preferred
    except ValueError:  # no words at all
        return [(prompt, 0.5) for prompt in prompts]
    differences = words.transform(sides[0]).astype(float) - words.transform(sides[1]).astype(float)
    first = np.array([label.prob_a is not None and label.prob_a > 0.5 for label in chosen])
    told = np.full(len(chosen), 0.5)
    for train, test in GroupKFold(min(FOLDS, len(set(prompts)))).split(first, groups=prompts):
        known = differences[train]
        model = LogisticRegression(fit_intercept=False, max_iter=1000)
        model.fit(_stacked(known, -known), np.concatenate([first[train], ~first[train]]))
        margins = model.decision_function(differences[test])
        told[test] = np.where(margins == 0, 0.5, (margins > 0) == first[test])
    return list(zip(prompts, map(float, told), strict=True))


def _stacked(one: object, other: object) -> object:
    from scipy.sparse import vstack

    return vstack([one, other]).tocsr()
