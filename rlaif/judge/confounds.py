"""What else than its content may have made an answer the preferred one: length, its end, its first word, a refusal.

Of labels with a preference, the answer that is more probably better is the chosen one; exactly one half chooses none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rlaif.core.records import PreferenceLabel, Response, content_id
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


def surplus(pairs: Iterable[tuple[str, str, Response, Response]], seed: int) -> set[str]:
    """Of (id, slice, chosen, rejected), the ids that are too many for length and end to tell nothing.

    A pair is of a kind: whether the chosen answer is the longer one, and whether it alone ended, or alone was cut. Of
    each kind and slice as many stay, by hash, as there are of the opposite kind; pairs that differ in neither all stay.
    So neither the one nor the other nor both together tell the chosen answer.
    """
    cells: dict[tuple[str, int, int], list[str]] = {}
    for identity, part, chosen, rejected in pairs:
        cells.setdefault((part, longer(chosen, rejected), finished(chosen, rejected)), []).append(identity)
    found: set[str] = set()
    for (part, length, end), ids in cells.items():
        ids.sort(key=lambda identity: content_id(seed, "balance", identity))
        found.update(ids[len(cells.get((part, -length, -end), ())) :])
    return found


def confounds(labels: Iterable[PreferenceLabel]) -> Confounds:
    """Those of the labels."""
    tally = ConfoundTally()
    for label in labels:
        tally.add(label)
    return tally.shares()


SIGNS = {"longer_wins": longer, "finished_wins": finished, "refusal_wins": refuses}


class ConfoundTally:
    """Counts labels one by one, for files that are larger than memory."""

    def __init__(self) -> None:
        self.pairs = 0
        self._signs = {name: Counter[int]() for name in SIGNS}
        self._chosen, self._rejected = Counter[str](), Counter[str]()

    def add(self, label: PreferenceLabel) -> None:
        pair = chosen_first(label)
        if pair is None:
            return
        self.pairs += 1
        for name, sign in SIGNS.items():
            self._signs[name][sign(*pair)] += 1
        for counter, response in zip((self._chosen, self._rejected), pair, strict=True):
            counter.update(words(response.text)[:1])

    def shares(self) -> Confounds:
        """What has been counted so far."""
        found = {name: _share(counts[1], counts[-1]) for name, counts in self._signs.items()}
        return Confounds(pairs=self.pairs, first_words=tuple(self._first_words()), **found)

    def _first_words(self) -> Iterator[FirstWord]:
        apart = {word: abs(self._chosen[word] - self._rejected[word]) for word in self._chosen | self._rejected}
        for word in sorted(apart, key=lambda word: (-apart[word], word))[:WORDS]:
            if apart[word]:
                yield FirstWord(word, self._chosen[word], self._rejected[word])


def _share(wins: int, losses: int) -> float | None:
    return wins / (wins + losses) if wins + losses else None
