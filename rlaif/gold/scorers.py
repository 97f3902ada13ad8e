"""Gold scorers: measures that never saw an AI label, so that they can contradict the reward being optimised.

Each comes from an installed package and is fitted or loaded at run time; nothing of theirs is copied into this
repository. A scorer whose package is missing is left out with a note naming the command that installs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from rlaif.core.errors import ConfigError, StageError
from rlaif.core.plugins import check_name, load_own, own_code, short_name
from rlaif.core.progress import Progress
from rlaif.core.records import Prompt
from rlaif.gold.harm import RATINGS, fit_harm
from rlaif.gold.minilm import Embed, Embeddings, OnTexts
from rlaif.gold.packages import MINILM, PROFANITY, PYRIT, SKLEARN, VADER, GoldMissing, Package
from rlaif.gold.relevance import OTHERS, open_relevance
from rlaif.inputs.columns import AskedColumns, column_names

Better = Literal["lower", "higher"]


class Measuring(Protocol):
    """What measures the texts: `about` is one sentence that says what it is and how well it does; `quality` the numbers
    in it."""

    about: str
    quality: dict[str, float | None]

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """One score per response; None where it cannot be scored."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One gold scorer of the table `SCORERS`. `open` loads or fits it, and is given what embeds texts. `fitted_on`:
    texts that it embeds before any response, 0 = it embeds none; `embeds`: texts that it embeds for each response.
    `needed`: columns of the prompts that it cannot do without. `share`: each score is 0 or 1 by kind."""

    label: str
    better: Better
    open: Callable[[Embed], Measuring]
    packages: tuple[Package, ...] = ()
    fitted_on: int = 0
    embeds: int = 1
    needed: tuple[str, ...] = ()
    share: bool = False


@dataclass(frozen=True, slots=True)
class GoldScorer:
    """A scorer that is ready, under the name that its figures go by."""

    name: str
    entry: Entry
    measuring: Measuring

    @property
    def label(self) -> str:
        return self.entry.label

    @property
    def better(self) -> Better:
        return self.entry.better

    @property
    def about(self) -> str:
        return self.measuring.about

    @property
    def quality(self) -> dict[str, float | None]:
        return self.measuring.quality

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        """One score per response; raises StageError where the scorer gives anything but a finite number or None."""
        texts = [prompt.text for prompt in prompts]
        own = self.measuring if isinstance(self.measuring, OwnScorer) else None
        found = list(self.measuring.score(texts, responses) if own is None else own.score_beside(prompts, responses))
        if len(found) != len(responses):
            raise self._unusable(f"{len(found)} scores for {len(responses)} responses")
        for value in found:
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise self._unusable(f"{value!r:.100}")
        return found

    def _unusable(self, what: str) -> StageError:
        return StageError(
            f"the gold scorer {self.name} returned {what}", remedy="return one finite number, or None, per response"
        )


def entry_of(name: str, where: str = "evaluate.gold") -> Entry:
    """The entry of a scorer of ours, or one made of the user's own class "module:Class" (docs/extending.md).

    Raises ConfigError where there is no such scorer, or the class lacks what a scorer has. `where`: the field.
    """
    check_name(name, SCORERS, what="gold scorer", where=where)
    if name in SCORERS:
        return SCORERS[name]
    remedy = 'a class with better ("lower" or "higher") and score(prompts, responses); see docs/extending.md'
    kind = load_own(name, what="gold scorer", where=where, remedy=remedy)
    better: Any = getattr(kind, "better", None)
    if better not in get_args(Better) or not callable(getattr(kind, "score", None)) or not callable(kind):
        raise ConfigError(f"{name!r} is not a gold scorer", where=where, remedy=remedy)
    label = getattr(kind, "label", f"{short_name(name)} ({better} is better)")
    needed = AskedColumns.of(kind.score, behind=3).needed  # self, prompts, responses
    share = getattr(kind, "share", False) is True
    return Entry(label, better, lambda _: OwnScorer(name, kind), needed=needed, share=share)


def refuse_missing_columns(names: Sequence[str], prompts: Sequence[Prompt], where: str) -> None:
    """Raises ConfigError where one of the scorers, named in the field `where`, needs a column that no prompt has."""
    there = column_names(prompts)
    for name in names:
        missing = [column for column in entry_of(name, where).needed if column not in there]
        if missing and prompts:
            raise ConfigError(
                f"{name} asks for {missing[0]}, which is no column of the prompts that it scores",
                where=where,
                remedy=f"their columns: {', '.join(there) or 'none'}; add it to the prompt file, or give the parameter "
                "a default",
            )


def direction(column: str, names: Sequence[str]) -> Better:
    """Which direction of a figure is good: as its scorer among `names` says; what is none is better the higher it is.
    Loads no scorer."""
    name = next((name for name in names if short_name(name) == column), None)
    return "higher" if name is None else entry_of(name).better


class OwnScorer:
    """A user's scorer, with a sentence and figures where it brings none."""

    def __init__(self, name: str, kind: Callable[[], Any]) -> None:
        self._name = name
        with own_code(name, what="gold scorer"):
            made = kind()
        self._score: Callable[..., list[float | None]] = made.score
        self._asked = AskedColumns.of(made.score, behind=2)
        self.about = str(getattr(made, "about", "") or f"{kind.__module__}:{getattr(kind, '__name__', kind)}")
        self.quality: dict[str, float | None] = dict(getattr(made, "quality", {}))

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        return self.score_beside([Prompt.of_text(text) for text in prompts], responses)

    def score_beside(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
        """One score per response, by the columns of the prompts that the scorer asks for too; None where a prompt has
        none of what it needs."""
        columns = self._asked.values(prompts)
        rows = [i for i in range(len(prompts)) if all(columns[name][i] is not None for name in self._asked.needed)]
        chosen = {name: [column[i] for i in rows] for name, column in columns.items()}
        found: list[float | None] = [None] * len(prompts)
        if prompts and not rows:
            return found
        with own_code(self._name, what="gold scorer"):
            scores = list(self._score([prompts[i].text for i in rows], [responses[i] for i in rows], **chosen))
            if len(rows) == len(prompts) or len(scores) != len(rows):
                return scores  # of which the caller tells whether they are one for each
            for i, score in zip(rows, scores, strict=True):
                found[i] = score
        return found


def load(names: Sequence[str], on_texts: OnTexts = lambda n: None) -> tuple[list[GoldScorer], list[str]]:
    """The scorers of that name, and a note for each that could not be had.

    `on_texts` is told of the texts whose embeddings are asked for, while fitting and while scoring.
    """
    scorers: list[GoldScorer] = []
    notes = []
    embed = Embeddings(on_texts)  # one for all: they read the same answers
    for name in dict.fromkeys(names):
        entry, column = entry_of(name), short_name(name)
        try:
            scorers.append(GoldScorer(column, entry, entry.open(embed)))
        except GoldMissing as missing:
            notes.append(f"{column} not measured: {missing.what}; install it with: {missing.remedy}")
    return scorers, notes


@contextmanager
def loading(names: Sequence[str], progress: Progress, texts: int = 0) -> Iterator[tuple[list[GoldScorer], list[str]]]:
    """`load`, with a bar for what embeds texts: those that it is fitted on, and `texts` responses to be scored."""
    fitted = {name: SCORERS[name] for name in names if name in SCORERS and SCORERS[name].fitted_on}
    if not fitted:
        yield load(names)
        return
    counting = True

    def on_texts(n: int) -> None:
        if counting:
            task.advance(n)

    work = sum(entry.fitted_on + entry.embeds * texts for entry in fitted.values())
    with progress.task(f"gold {', '.join(fitted)}", work, "texts") as task:
        yield load(names, on_texts)
    counting = False


# ---- toxicity and sentiment: ready-made classifiers -----------------------------------------------------------


class ToxicityScorer:
    """Probability of profanity or abuse, by a linear classifier over words."""

    about = (
        "probability of profanity or abuse by alt-profanity-check, a linear classifier trained on human-labelled "
        "comments; its authors report 93 % balanced test accuracy"
    )

    def __init__(self) -> None:
        try:
            from profanity_check import predict_prob
        except ImportError:
            raise GoldMissing.of(PROFANITY) from None
        self._predict = predict_prob
        self.quality: dict[str, float | None] = {}

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Probability 0..1 per response."""
        return [float(value) for value in self._predict(list(responses))] if responses else []


class SentimentScorer:
    """Sentiment by a word list with rules, -1 (negative) to 1 (positive)."""

    about = (
        "compound sentiment from -1 to 1 by VADER, a word list rated by people, with rules; "
        "its authors report a correlation of 0.88 with people on tweets"
    )

    def __init__(self) -> None:
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ImportError:
            raise GoldMissing.of(VADER) from None
        self._analyzer = SentimentIntensityAnalyzer()
        self.quality: dict[str, float | None] = {}

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        """Compound sentiment per response."""
        return [float(self._analyzer.polarity_scores(response)["compound"]) for response in responses]


SCORERS: dict[str, Entry] = {
    "harm": Entry(
        "gold harm (lower is better)",
        "lower",
        lambda embed: fit_harm(embed=embed),
        packages=(PYRIT, MINILM, SKLEARN),
        fitted_on=RATINGS,
    ),
    "toxicity": Entry("toxicity (lower is better)", "lower", lambda _: ToxicityScorer(), packages=(PROFANITY,)),
    "sentiment": Entry("sentiment (higher is better)", "higher", lambda _: SentimentScorer(), packages=(VADER,)),
    "relevance": Entry(
        "relevance (higher is better)",
        "higher",
        open_relevance,
        packages=(MINILM,),
        fitted_on=OTHERS,
        embeds=2,
        share=True,
    ),
}
"""Every gold scorer of ours. A new one is an entry here; a user's is "module:Class". Which counts most, the order of
`evaluate.gold` says."""
