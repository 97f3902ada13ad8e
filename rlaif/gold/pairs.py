"""The pairs that a judge is measured on, and which answer of each is the better one.

pyrit              two answers to one objective whose severity people rated differently: the less harmful is better
hhh                Anthropic's HHH pairs, which people labelled (rlaif.gold.hhh); hhh:FOLDER names their place
tests:NAME         the unit tests of a constitution, each under its own principle
verifiable         answers that are right or wrong by construction (rlaif.gold.verifiable)
a file             JSONL in any shape of rlaif.inputs.comparisons, RewardBench's among them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from rlaif.constitution.load import load_constitution
from rlaif.core.errors import ConfigError, ConstitutionError, DataError
from rlaif.core.records import Comparison, Constitution, Message, Principle, Prompt, Response, content_id
from rlaif.gold import verifiable
from rlaif.gold.harm import Rating, read_ratings
from rlaif.gold.hhh import HhhPair, read_hhh
from rlaif.gold.text import alike
from rlaif.inputs.comparisons import read_comparisons

PYRIT, HHH, TESTS, VERIFIABLE = "pyrit", "hhh", "tests:", "verifiable"
MARGIN = 0.25
"""People's mean severities (0 to 1) of a pair differ by this at least: a step of one rater's five-point scale."""


@dataclass(frozen=True, slots=True)
class GoldPair:
    """Two answers and whether `a_is_better`. `principle`: judged under this one alone. `raters`: of each person who
    rated both, the severity of A and of B."""

    comparison: Comparison
    a_is_better: bool
    tags: tuple[str, ...] = ()
    principle: Principle | None = None
    raters: tuple[tuple[float, float], ...] = ()

    @property
    def prompt_id(self) -> str:
        return self.comparison.prompt.id

    @property
    def better(self) -> Response:
        return self.comparison.a if self.a_is_better else self.comparison.b

    @property
    def worse(self) -> Response:
        return self.comparison.b if self.a_is_better else self.comparison.a

    @property
    def length_matched(self) -> bool:
        """Whether the answers have about the same number of characters."""
        return alike(len(self.better.text), len(self.worse.text))

    @property
    def identity(self) -> str:
        """A hash of the prompt and of which answer is the better; not of which one stands as A."""
        return content_id("gold", self.comparison.prompt.messages, self.better.text, self.worse.text, self._rule)

    @property
    def _rule(self) -> str:
        return "" if self.principle is None else self.principle.hash


@dataclass(frozen=True, slots=True)
class GoldSet:
    """Where gold is from, and its pairs. `silent` rows prefer no answer. `constitution`: of the principles that the
    pairs bring along, all with one weight; None where they are judged under the config's."""

    name: str
    about: str
    pairs: tuple[GoldPair, ...]
    silent: int = 0
    constitution: Constitution | None = None
    notes: tuple[str, ...] = ()

    def drawn(self, size: int, seed: int) -> list[GoldPair]:
        """`size` of the pairs (all for 0) by hash: one of every prompt, then a second of each, and so on."""
        order = sorted(self.pairs, key=lambda pair: content_id("card", seed, pair.identity))
        turns: list[tuple[int, int, GoldPair]] = []
        own: dict[str, int] = {}
        for place, pair in enumerate(order):
            own[pair.prompt_id] = own.get(pair.prompt_id, -1) + 1
            turns.append((own[pair.prompt_id], place, pair))
        return [pair for _, _, pair in sorted(turns, key=lambda turn: turn[:2])][: size or None]


def hash_of(pairs: Sequence[GoldPair]) -> str:
    """A hash of the pairs as a set."""
    return content_id("gold set", sorted(pair.identity for pair in pairs))


def read_gold_set(given: str, *, own: Constitution | None = None) -> GoldSet:
    """The gold of `--gold`: "pyrit", "hhh" or "hhh:FOLDER", "tests" (those of the constitution `own`),
    "tests:NAME-or-FILE", "verifiable", or a file.

    Raises GoldMissing where what it is read from is not there, DataError for a wrong file and where no row prefers an
    answer, ConstitutionError for a constitution that cannot be read or has no tests.
    """
    if given == PYRIT:
        return of_ratings(read_ratings(several=True))
    if given == HHH or given.startswith(f"{HHH}:"):
        folder = given.removeprefix(HHH).removeprefix(":")
        return of_hhh(read_hhh(Path(folder) if folder else None))
    if given == TESTS.rstrip(":") and own is not None:
        return _of_tests(own)
    if given.startswith(TESTS):
        name = given.removeprefix(TESTS)
        return _of_tests(load_constitution(name) if name else None)
    if given == VERIFIABLE:
        return _verifiable()
    path = Path(given)
    if not path.is_file():
        raise ConfigError(
            "there is no such gold",
            where=f"--gold {given}",
            remedy="a JSONL file with prompt, chosen and rejected; or pyrit, hhh, verifiable or tests:CONSTITUTION",
        )
    return _of_file(path)


def of_ratings(ratings: Sequence[Rating]) -> GoldSet:
    """Pairs of answers to one objective out of one file whose mean severities are MARGIN apart; raters in the order of
    the file's columns, for pairs that the same number of them rated."""
    groups: dict[tuple[str, str], list[Rating]] = {}
    for rating in ratings:
        groups.setdefault((rating.category, rating.objective), []).append(rating)
    pairs: dict[str, GoldPair] = {}
    for (category, objective), group in groups.items():
        prompt = Prompt((Message("user", objective),)) if objective.strip() else None
        for one, other in combinations(group, 2):
            near = abs(one.severity - other.severity) < MARGIN - 1e-9
            if prompt is None or near or one.response == other.response:
                continue
            first, second = (one, other) if one.severity < other.severity else (other, one)
            raters = tuple(zip(first.scores, second.scores, strict=False))
            several = len(first.scores) == len(second.scores) > 1
            pair = _pair(prompt, first.response, second.response, (category,), raters=raters if several else ())
            pairs.setdefault(pair.identity, pair)
    about = f"people's ratings of harm in PyRIT, answers to one objective with means {MARGIN:g} apart or more (0 to 1)"
    return GoldSet(PYRIT, about, tuple(pairs.values()))


def of_hhh(given: Sequence[HhhPair]) -> GoldSet:
    """The pairs, each tagged with its category."""
    pairs: dict[str, GoldPair] = {}
    for one in given:
        pair = _pair(Prompt(one.messages), one.better, one.worse, (one.category,))
        pairs.setdefault(pair.identity, pair)
    about = "Anthropic's HHH: pairs of answers of which people marked the more helpful, honest or harmless one"
    return GoldSet(HHH, about, tuple(pairs.values()))


def _of_tests(constitution: Constitution | None) -> GoldSet:
    if constitution is None or not any(p.tests for p in constitution.principles):
        raise ConstitutionError(
            "there is no test to measure a judge on",
            where=f"{TESTS}{'' if constitution is None else constitution.name}",
            remedy="write `tests` for its principles, name a file of preferences or another gold, or go on "
            "without a card: --accept-uncarded-judge",
        )
    # As `rlaif constitution test`: each test under its principle, whatever that weighs.
    tested = tuple(replace(p, weight=1.0) for p in constitution.principles if p.tests)
    constitution = replace(constitution, principles=tested)
    pairs: dict[str, GoldPair] = {}
    for principle in constitution.principles:
        for test in principle.tests:
            prompt = Prompt((Message("user", test.prompt),))
            pair = _pair(prompt, test.better, test.worse, (principle.id,), principle=principle)
            pairs.setdefault(pair.identity, pair)
    about = f"the unit tests of {constitution.name} {constitution.version}, each under its own principle"
    return GoldSet(f"{TESTS}{constitution.name}", about, tuple(pairs.values()), constitution=constitution)


def _verifiable() -> GoldSet:
    pairs = [
        _pair(Prompt((Message("user", asked),)), right, wrong, (kind,), principle=verifiable.RIGHT)
        for kind, (asked, right, wrong) in verifiable.made()
    ]
    kinds = len(verifiable.KINDS)
    about = f"answers right or wrong by construction, of {kinds} kinds, alike in length, under a principle of their own"
    return GoldSet(VERIFIABLE, about, tuple(pairs), constitution=verifiable.CONSTITUTION)


def _of_file(path: Path) -> GoldSet:
    file = read_comparisons(path)
    told = [pair for pair in file.pairs if pair.prob_a is not None and pair.prob_a != 0.5]
    if not told:
        raise DataError(
            f"none of its {len(file.pairs):,} pairs prefers an answer",
            where=str(path),
            remedy="write prompt, chosen and rejected; or response_a, response_b and label",
        )
    pairs = [
        GoldPair(pair.comparison, pair.prob_a > 0.5, pair.comparison.prompt.tags)
        for pair in told
        if pair.prob_a is not None
    ]
    return GoldSet(
        path.name, "a file of preferences", tuple(pairs), len(file.pairs) - len(told), notes=tuple(file.notes())
    )


def _pair(
    prompt: Prompt,
    better: str,
    worse: str,
    tags: tuple[str, ...],
    *,
    principle: Principle | None = None,
    raters: tuple[tuple[float, float], ...] = (),
) -> GoldPair:
    """The pair with a place for each answer that a hash of the two texts draws, whichever is the better."""
    low, high = sorted((better, worse))
    a_is_better = (int(content_id("places", prompt.messages, low, high), 16) % 2 == 1) == (better == low)
    texts = (better, worse) if a_is_better else (worse, better)
    a, b = (Response(prompt.id, text, "given", 0, 0.0, "stop", 0) for text in texts)
    scores = raters if a_is_better else tuple((second, first) for first, second in raters)
    return GoldPair(Comparison(prompt, a, b), a_is_better, tags, principle, scores)
