"""What else than its content may have made an answer the preferred one: length, its end, its first word, a refusal.

Of labels with a preference, the answer that is more probably better is the chosen one; exactly one half chooses none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rlaif.core.records import PreferenceLabel, Response
from rlaif.gold.text import opens_with_refusal, words

WORDS = 5
"""First words that are told, those that tell the chosen from the rejected answers most."""


@dataclass(frozen=True, slots=True)
class FirstWord:
    """How many chosen and how many rejected answers begin with the word."""

    word: str
    chosen: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Confounds:
    """Shares of the `pairs` with a chosen answer. Of those that differ in it, it is the longer one (in characters) in
    `longer_wins`, the only one that ended in `finished_wins`, the only one that opens with a refusal in `refusal_wins`;
    None where no pair differs."""

    pairs: int
    longer_wins: float | None
    finished_wins: float | None
    refusal_wins: float | None
    first_words: tuple[FirstWord, ...]


def longer(one: Response, other: Response) -> int:
    """1 where the first is the longer one in characters, -1 where the other is, 0 where they are alike."""
    return (len(one.text) > len(other.text)) - (len(one.text) < len(other.text))


def finished(one: Response, other: Response) -> int:
    """1 where only the first ended by itself, -1 where only the other did, else 0."""
    return (one.finish == "stop") - (other.finish == "stop")


def refuses(one: Response, other: Response) -> int:
    """1 where only the first opens with a refusal, -1 where only the other does, else 0."""
    return opens_with_refusal(one.text) - opens_with_refusal(other.text)


def chosen_first(label: PreferenceLabel) -> tuple[Response, Response] | None:
    """The chosen and the rejected answer; None where the label chooses none."""
    a, b = label.comparison.a, label.comparison.b
    if label.prob_a is None or label.prob_a == 0.5:
        return None
    return (a, b) if label.prob_a > 0.5 else (b, a)


def confounds(labels: Iterable[PreferenceLabel]) -> Confounds:
    """Those of the labels."""
    pairs = [pair for pair in map(chosen_first, labels) if pair is not None]
    return Confounds(
        pairs=len(pairs),
        longer_wins=wins(pairs, longer),
        finished_wins=wins(pairs, finished),
        refusal_wins=wins(pairs, refuses),
        first_words=tuple(_first_words(pairs)),
    )


def wins(pairs: Sequence[tuple[Response, Response]], sign: Callable[[Response, Response], int]) -> float | None:
    """Share of the (chosen, rejected) that differ in the sign where it is 1; None where none differ."""
    found = [value for chosen, rejected in pairs if (value := sign(chosen, rejected))]
    return found.count(1) / len(found) if found else None


def _first_words(pairs: Sequence[tuple[Response, Response]]) -> Iterator[FirstWord]:
    chosen, rejected = (Counter(" ".join(words(pair[side].text)[:1]) for pair in pairs) for side in (0, 1))
    apart = {word: abs(chosen[word] - rejected[word]) for word in chosen | rejected if word}
    for word in sorted(apart, key=lambda word: (-apart[word], word))[:WORDS]:
        if apart[word]:
            yield FirstWord(word, chosen[word], rejected[word])
