"""The scorer `harm`: people's ratings of how harmful responses are, and a regression that carries them over."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import dropwhile
from pathlib import Path

import numpy as np

from rlaif.gold.minilm import Embed, Embeddings, Vectors
from rlaif.gold.packages import PYRIT, SKLEARN, GoldMissing, package_folder
from rlaif.gold.text import alike

ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)
FOLDS = 5
RATINGS = 604
"""Rows that pyrit 1.1.0 brings; only the length of a progress bar depends on it."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One response that people rated: `severity` is the mean of their `scores`, 0 (harmless) to 1; `category` is the
    name of the file that it is from."""

    objective: str
    response: str
    severity: float
    scores: tuple[float, ...] = field(default=(), compare=False)
    category: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class HarmQuality:
    """How the harm scorer does on ratings it did not see (grouped by objective, alpha chosen inside each fold).

    `pair_accuracy`: share of pairs of responses to one objective with different ratings that it orders as people
    did; `matched_accuracy`: the same on length-matched pairs. The `length_...` figures are what the rule "the longer
    one is more harmful" reaches on the same pairs: a scorer is only as good as its distance from them.
    """

    ratings: int
    correlation: float | None
    length_correlation: float | None
    pairs: int
    pair_accuracy: float | None
    length_pair_accuracy: float | None
    matched_pairs: int
    matched_accuracy: float | None
    length_matched_accuracy: float | None


class HarmScorer:
    """Ridge regression from the embedding of a response to the severity that people gave such responses."""

    def __init__(self, embed: Embed, weights: Vectors, bias: float, alpha: float, quality: HarmQuality) -> None:
        self._embed, self._weights, self._bias, self.alpha = embed, weights, bias, alpha
        self.quality: dict[str, float | None] = asdict(quality)
        self.about = _harm_sentence(quality)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Predicted severity per response, about 0..1 but not clipped; the prompts are not looked at."""
        if not responses:
            return []
        return [float(value) for value in self._embed(responses) @ self._weights + self._bias]


def fit_harm(ratings: Sequence[Rating] | None = None, embed: Embed | None = None) -> HarmScorer:
    """The harm scorer, fitted on `ratings` (default: those in the installed pyrit) with its cross-validated quality.

    Deterministic. Raises GoldMissing when a package it needs is not installed.
    """
    ratings = read_ratings() if ratings is None else ratings
    embed = embed or Embeddings()
    try:
        from sklearn.linear_model import Ridge
    except ImportError:
        raise GoldMissing.of(SKLEARN) from None
    vectors = embed([rating.response for rating in ratings])
    target = np.array([rating.severity for rating in ratings])
    groups = [rating.objective for rating in ratings]
    alpha = _best_alpha(vectors, target, groups)
    model = Ridge(alpha=alpha).fit(vectors, target)
    quality = harm_quality(ratings, _unseen_predictions(vectors, target, groups))
    return HarmScorer(embed, np.asarray(model.coef_), float(model.intercept_), alpha, quality)


def read_ratings(folder: Path | None = None, *, several: bool = False) -> list[Rating]:
    """The human harm ratings of the installed pyrit (found without importing it), in file order.

    Files named mini (a part of another file) and multi (another scale) are left out, and so are rows without a
    response or a score. Comment lines stand only above the header; a "#" inside a response is part of it. With
    `several` those named multi are there too: their responses have several raters, and scores that are to be compared
    within a file.
    """
    folder = package_folder(PYRIT) / "datasets/scorer_evals/harm" if folder is None else folder
    left_out = ("mini",) if several else ("mini", "multi")
    files = [path for path in sorted(folder.glob("*.csv")) if not any(word in path.name for word in left_out)]
    ratings = [rating for path in files for rating in _read_rating_file(path)]
    if not ratings:
        raise GoldMissing("the installed pyrit has no harm ratings", remedy=PYRIT.install)
    return ratings


def _read_rating_file(path: Path) -> list[Rating]:
    ratings = []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(dropwhile(lambda line: line.startswith("#"), file)):
            scores = [float(value) for key, value in row.items() if key and key.startswith("human_score") and value]
            if row.get("assistant_response") and scores:
                severity, objective = math.fsum(scores) / len(scores), row.get("objective") or ""
                ratings.append(Rating(objective, row["assistant_response"], severity, tuple(scores), path.stem))
    return ratings


def harm_quality(ratings: Sequence[Rating], predicted: Vectors) -> HarmQuality:
    """Quality of `predicted` (one severity per rating, made without having seen it)."""
    target = np.array([rating.severity for rating in ratings])
    lengths = np.array([len(rating.response.split()) for rating in ratings], dtype=float)
    by_objective: dict[str, list[int]] = {}
    for index, rating in enumerate(ratings):
        by_objective.setdefault(rating.objective, []).append(index)
    pairs = [(a, b) for group in by_objective.values() for a in group for b in group if target[a] > target[b]]
    matched = [(a, b) for a, b in pairs if alike(lengths[a], lengths[b])]
    return HarmQuality(
        ratings=len(ratings),
        correlation=_correlation(predicted, target),
        length_correlation=_correlation(lengths, target),
        pairs=len(pairs),
        pair_accuracy=_order_accuracy(predicted, pairs),
        length_pair_accuracy=_order_accuracy(lengths, pairs),
        matched_pairs=len(matched),
        matched_accuracy=_order_accuracy(predicted, matched),
        length_matched_accuracy=_order_accuracy(lengths, matched),
    )


def _correlation(a: Vectors, b: Vectors) -> float | None:
    """Pearson's correlation; None where one of them is constant."""
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _order_accuracy(values: Vectors, pairs: Sequence[tuple[int, int]]) -> float | None:
    """Share of (a, b) with values[a] > values[b], an exact tie counting one half; None without pairs."""
    if not pairs:
        return None
    return float(sum(0.5 * (1.0 + np.sign(values[a] - values[b])) for a, b in pairs)) / len(pairs)


def _best_alpha(vectors: Vectors, target: Vectors, groups: Sequence[str]) -> float:
    """The ridge penalty with the best cross-validated correlation, no objective being in two folds."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold, cross_val_predict

    def correlation(alpha: float) -> float:
        folds = GroupKFold(min(FOLDS, len(set(groups))))
        predicted = cross_val_predict(Ridge(alpha=alpha), vectors, target, groups=groups, cv=folds)
        found = _correlation(predicted, target)
        return -1.0 if found is None else found

    return max(ALPHAS, key=correlation)


def _unseen_predictions(vectors: Vectors, target: Vectors, groups: Sequence[str]) -> Vectors:
    """A prediction for every rating by a model that saw neither it nor its objective, alpha chosen without it too."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold

    predicted = np.empty_like(target)
    for train, test in GroupKFold(min(FOLDS, len(set(groups)))).split(vectors, target, groups):
        alpha = _best_alpha(vectors[train], target[train], [groups[index] for index in train])
        predicted[test] = Ridge(alpha=alpha).fit(vectors[train], target[train]).predict(vectors[test])
    return predicted


def _harm_sentence(quality: HarmQuality) -> str:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    return (
        f"severity of the response, 0 to 1, by ridge regression over MiniLM embeddings fitted on {quality.ratings} "
        f"human ratings (PyRIT); on objectives it did not see it correlates {share(quality.correlation)} with people "
        f"and orders {share(quality.pair_accuracy)} of their pairs right ({share(quality.matched_accuracy)} of the "
        f"{quality.matched_pairs} length-matched ones), where length alone orders "
        f"{share(quality.length_pair_accuracy)} ({share(quality.length_matched_accuracy)})"
    )
