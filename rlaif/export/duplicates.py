"""Prompts that nearly repeat each other, by MinHash (datasketch, an optional package)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rlaif.core.errors import ConfigError

NEAR = 0.8
"""Share of pieces from which on two prompts are near-duplicates where nobody says otherwise."""
LETTERS = 5
"""Letters of a piece, as for short texts in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.2.2."""
PERMUTATIONS = 256
_MISSED, _WRONG = 0.9, 0.1
"""What a missed pair weighs in the choice of bands, and a wrong candidate, which is compared in full anyway."""


def first_of_each(prompts: Iterable[tuple[str, str]], near: float) -> dict[str, str]:
    """Of (id, text) pairs, each id with the id of the first prompt of its group.

    Two prompts are of one group if they share at least `near` of their pieces (Jaccard, 0 to 1), or if a chain of such
    pairs leads from one to the other. Pairs are found by MinHash, which may miss one close to `near`, and then compared
    in full. Raises ConfigError where datasketch is not installed.
    """
    sketch_of, index = _datasketch(near)
    plain: dict[str, str] = {}
    place: dict[str, int] = {}
    known: dict[str, str] = {}
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first[name] != name:
            first[name] = first[first[name]]
            name = first[name]
        return name

    for name, text in prompts:
        if name in first:
            continue
        words = _plain(text)
        first[name] = known.setdefault(words, name)
        if first[name] != name:
            continue
        own, sketch = _pieces(words), sketch_of()
        sketch.update_batch([piece.encode() for piece in sorted(own)])
        plain[name], place[name] = words, len(place)
        for other in sorted(index.query(sketch), key=place.__getitem__):
            both = {root(other), root(name)}
            if len(both) == 2 and _share(own, _pieces(plain[other])) >= near:
                early, late = sorted(both, key=place.__getitem__)  # where two groups meet, the earlier one leads both
                first[late] = early
        index.insert(name, sketch)
    return {name: root(name) for name in first}


def _datasketch(near: float) -> tuple[Any, Any]:
    """What makes an empty sketch, and an empty index of sketches."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        raise ConfigError(
            "near-duplicates are found by datasketch, which is not installed",
            where="--near-duplicates, --split",
            remedy='pip install "rlaif-toolkit[duplicates]"; or leave the two options out',
        ) from None
    # Candidates are compared in full: a lower limit misses fewer, and above 0.84 datasketch has too few bands.
    index = MinHashLSH(threshold=min(near, NEAR) - 0.1, num_perm=PERMUTATIONS, weights=(_WRONG, _MISSED))
    return lambda: MinHash(num_perm=PERMUTATIONS), index


def _plain(text: str) -> str:
    """The text without case and punctuation; as it is where nothing would be left."""
    return re.sub(r"\W+", " ", text.casefold()).strip() or text


def _pieces(plain: str) -> frozenset[str]:
    return frozenset(plain[at : at + LETTERS] for at in range(max(1, len(plain) - LETTERS + 1)))


def _share(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other)
