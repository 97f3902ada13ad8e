"""What a bag of words learns of labels: the share of labels that is in the words themselves."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.core.records import PreferenceLabel
from rlaif.core.statistics import Keyed
from rlaif.training.rewards.predictors import AnswerPair, margins_by_words

FOLDS = 5


def by_words(labels: Sequence[PreferenceLabel]) -> list[Keyed]:
    """Per label with a preference its prompt's id, and 1 where words and word pairs tell the preferred answer, else 0;
    0.5 where they tell none. Fitted without the prompts that are asked about. [] for fewer than two prompts.
    """
    from sklearn.model_selection import GroupKFold

    pairs = [
        AnswerPair(label.comparison.prompt.id, label.comparison.a, label.comparison.b, label.prob_a)
        for label in labels
        if label.prob_a is not None and label.prob_a != 0.5
    ]
    prompts = [pair.prompt_id for pair in pairs]
    if len(set(prompts)) < 2:
        return []
    told = [0.5] * len(pairs)
    for train, test in GroupKFold(min(FOLDS, len(set(prompts)))).split(pairs, groups=prompts):
        asked = [pairs[i] for i in test]
        for place, pair, margin in zip(test, asked, margins_by_words([pairs[i] for i in train], asked), strict=True):
            if margin:
                told[place] = float((margin > 0) == (pair.prob_a > 0.5))
    return list(zip(prompts, told, strict=True))
