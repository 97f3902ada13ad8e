"""What can be seen in the wording of a principle without a model: negations, polarity, likeness. English only.

These are rules of thumb over words. They point at sentences worth a second look, and a warning can be wrong.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import ceil

ALIKE = 0.5
"""Jaccard likeness of the word pairs of two statements from which on they count as near-duplicates."""
SHORT = 8
"""With fewer word pairs than that a single other word makes another rule."""
NEAR = 4
"""Two negations at most so many words apart are one double negation."""

WordPairs = frozenset[tuple[str, ...]]
_WORD = re.compile(r"\w[\w'-]*")
_CLAUSE = re.compile(r"[.,;:!?()\"\u2014]|\b(?:and|or|nor|but|so|because|when|while|if|that|unless|until|who|which)\b")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_WITHIN = re.compile(r"\b(?:whether|that|who|whom|whose|what|which|where|why|how|because|when|while|if|unless)\b")
_HARD = re.compile(r"(?:not|cannot|never|no|nobody|nothing|none|nowhere|neither|\w+n't)$")
_SOFT = re.compile(
    r"\b(?:(?:fail|refuse|forget|neglect|omit|hesitate)(?:s|d|ed|ing|ting)?\s+to|(?:avoid|refrain)(?:s|ing)?"
    r"|without(?!\s+(?:exception|delay|doubt|fail)\b)|(?:leav(?:e|es|ing)|left)(?:\s+\w+){0,3}?\s+out"
    r"|be\s+(?:un(?:helpful|kind|clear|fair|friendly|safe|truthful|reliable|ethical)|dishonest|disrespectful|impolite"
    r"|impatient|inaccurate|incorrect|inconsiderate|insincere))\b"
)
_COMPLETE = re.compile(
    r"\b(?:(?:leav(?:e|es|ing)|left)\s+nothing(?:\s+\w+){0,3}?\s+out|(?:misses|omits|lacks|forgets|overlooks)\s+nothing)\b"
)
"""Negated twice in a set phrase, which everybody reads rightly."""
_HARMLESS = re.compile(r"\b(?:not (?:only|just|merely)|no (?:matter|longer|more)|nothing but|whether or not)\b")

_FILLER = r"(?:\s+(?:likely|prone|apt|willing|ready|to|be|openly|very))*\s+"
_BAD = (
    r"(?:harmful|hurtful|dangerous|unsafe|toxic|rude|offensive|insulting|cruel|violent|hateful|racist|sexist|biased|"
    r"discriminatory|dishonest|deceptive|misleading|false|wrong|inaccurate|incorrect|untrue|illegal|unethical|immoral|"
    r"unkind|unhelpful|useless|manipulative|threatening|disrespectful|inappropriate|objectionable|evasive|careless|"
    r"confusing|vague|harm|hurt|injure|insult|offend|deceive|mislead|violate|break)\b"
)
_GOOD = (
    r"(?:harmless|helpful|honest|kind|truthful|true|polite|respectful|safe|accurate|correct|clear|useful|friendly|"
    r"careful|fair|ethical|moral|legal|appropriate|patient|warm|concise|considerate|thoughtful|sincere)\b"
)
_ANSWER = r"(?:answer|response|reply|one|version|candidate|text|assistant)"
_SUBJECT = (
    rf"^(?:(?:which|what)(?:\s+(?:of|the|these|two|both|{_ANSWER}s?|replies))*"
    rf"|(?:choose|pick|select|name|take|prefer)\s+the\s+{_ANSWER}\s+(?:that|which))\s+"
)
_FRAME = re.compile(
    rf"^(?:please\s+)?(?:choose|pick|select|name|take|prefer)\s+the\s+(?:\w+\s+)?{_ANSWER}\s+(?:that|which)\s+"
    r"(?:(?:is|are|has|more|most)\s+)*"
    rf"|^(?:\d+[.)]\s+)?(?:a|an|the)\s+(?:(?:good|better|best)\s+{_ANSWER}\s+|{_ANSWER}\s+(?=(?:is|should|must)\s))"
    r"(?:(?:is|should|must|does|be)\s+)*"
)
"""The frame of "Select the response that is more ..." or "A good answer is ...", which says nothing about the rule."""
_SMALL_WORDS = "a an and are at be by do does for in is must of on or please should the to with"
_SMALL = frozenset(_SMALL_WORDS.split())
"""Words that, like every negation, do not set one short rule apart from another."""
_BEING = (
    r"(?:(?:would|could|might|may|can|will)\s+(?:be|do|cause|sound)|is|are|sounds|seems|looks|feels|appears|does|causes|"
    r"contains|uses|comes across as)(?:\s+(?:the|much|far|by|even|clearly))*\s+"
)
_WORSE = (
    rf"(?:worse|worst|ruder|rudest|crueller|crueler|nastier|unsafer|(?:more|most){_FILLER}{_BAD}"
    rf"|(?:less|least){_FILLER}{_GOOD})\b"
)
_AGAINST = (
    r"(?:violates|breaches|goes against|fails(?!\s+(?:more|most)\s+\w+ly\b)"
    r"|(?:breaks|ignores|disregards)(?:\s+\w+){0,2}\s+(?:rules?|principles?|laws?|guidelines?|instructions?)\b)"
    r"(?![^.?!]*\b(?:(?:less|least)(?:\s+(?:often|\w+ly))?\s*(?:[.?!]|$)|fewer|fewest))"
)
_ASKS_FOR_WORSE = re.compile(
    rf"{_SUBJECT}(?:{_BEING}(?P<being>{_WORSE})|makes(?:\s+\w+){{1,3}}\s+(?P<making>worse)\b|(?P<doing>{_AGAINST}))"
    rf"|\bthe\s+(?P<naming>{_WORSE})\s+(?:{_ANSWER}|of the two)\b"
)
"""The answer itself is, does or is called something bad; what it speaks of ("the more dangerous option") may be so."""


def double_negation(text: str) -> str | None:
    """The words from the first negation to the second where two of them stand close together in one clause."""
    for clause in _CLAUSE.split(_plain(text)):
        marked = _SOFT.sub(lambda match: match.group().replace(" ", "_") + "!", _HARMLESS.sub("so", clause))
        words = re.findall(r"[\w'!-]+", marked)
        places = [n for n, word in enumerate(words) if _HARD.match(word) or word.endswith("!")]
        for first, second in pairwise(places):
            if second - first <= NEAR and not (words[first].endswith("!") and words[second].endswith("!")):
                return " ".join(words[first : second + 1]).replace("_", " ").replace("!", "")
    return None


def negation(question: str) -> str | None:
    """The first word that turns round what a question asks, such as "not"; none of those in a clause within it.
    Every sentence counts: "Do not choose ..." may stand behind the question."""
    for sentence in _SENTENCE.split(_HARMLESS.sub("so", _COMPLETE.sub("is complete", _plain(question)))):
        first, _, rest = sentence.partition(" ")
        words = [first, *_WORD.findall(_WITHIN.split(rest)[0])]
        for word in words:
            if _HARD.match(word):
                return str(word)
    return None


def negations(text: str) -> int:
    """How many words of the text negate."""
    return sum(_HARD.match(word) is not None for word in _WORD.findall(_HARMLESS.sub("so", _plain(text))))


def asks_for_worse(question: str) -> str | None:
    """The words by which a question asks for the worse of two answers."""
    found = _ASKS_FOR_WORSE.search(_plain(question))
    return None if found is None else next(words for words in found.groups() if words is not None)


def likeness(one: str, other: str) -> float:
    """Jaccard likeness, 0 to 1, of the word pairs of two texts; from ALIKE on they count as near-duplicates. It counts
    half where one is SHORT and their words differ by more than articles, prepositions and negations."""
    return _likeness(_word_pairs(one), _word_pairs(other))


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int, float]]:
    """(later, earlier, `likeness`) for each text that is like an earlier one; only the
    first such pair of each.

    Exact, and quick for thousands of texts: two sets with Jaccard likeness >= t share one of the rarest
    |s| - ceil(t |s|) + 1 members of either, so only texts that share one of those are compared (prefix filtering,
    Chaudhuri et al. 2006).
    """
    sets = [_word_pairs(text) for text in texts]
    frequency = Counter(pair for members in sets for pair in members)
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    found = []
    for number, members in enumerate(sets):
        rarest = sorted(members, key=lambda pair: (frequency[pair], pair))
        prefix = rarest[: len(members) - ceil(ALIKE * len(members)) + 1]
        match = _first_alike(members, sets, (other for pair in prefix for other in index[pair]))
        if match is not None:
            found.append((number, *match))
        for pair in prefix:
            index[pair].append(number)
    return found


def _first_alike(members: WordPairs, sets: Sequence[WordPairs], candidates: Iterable[int]) -> tuple[int, float] | None:
    """The first candidate that is alike, and how much; None if there is none."""
    seen: set[int] = set()
    for other in candidates:
        if other in seen:
            continue
        seen.add(other)
        found = _likeness(members, sets[other])
        if found >= ALIKE:
            return other, found
    return None


def _likeness(one: WordPairs, other: WordPairs) -> float:
    shared = len(one & other)
    found = shared / (len(one) + len(other) - shared)
    short = min(len(one), len(other)) < SHORT
    return found / 2 if short and _telling(one) != _telling(other) else found


def _telling(members: WordPairs) -> set[str]:
    """The words of the pairs that tell one rule from another."""
    return {word for pair in members for word in pair if word not in _SMALL and not _HARD.match(word)}


def _plain(text: str) -> str:
    """Small letters, straight apostrophes, single spaces."""
    return " ".join(text.lower().replace("\u2019", "'").split())


def _word_pairs(text: str) -> WordPairs:
    """Neighbouring words, the one word alone where there is only one; those of a frame do not count."""
    words = _WORD.findall(_FRAME.sub("", _plain(text)))
    return frozenset(pairwise(words)) if len(words) > 1 else frozenset([tuple(words)])
