"""`rlaif judge card`: what a judge is worth, measured against gold before its labels are used.

The card names everything that its figures hold for: model, method, settings, template, constitution and gold. Its id is
a hash of that and of the figures; time and cost are not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.constitution.load import check_constitution, load_constitution
from rlaif.constitution.problems import near
from rlaif.core.errors import ConfigError, ConstitutionError
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, Principle, content_id, record_seed, to_json
from rlaif.core.statistics import Draw
from rlaif.gold.pairs import GoldPair, GoldSet, hash_of, read_gold_set
from rlaif.judge.card import verdict
from rlaif.judge.card.figures import (
    Accuracy,
    Calibration,
    Ceiling,
    Group,
    Judged,
    Length,
    Order,
    accuracy,
    calibration,
    ceiling,
    groups,
    length,
    order,
)
from rlaif.judge.card.maps import FittedMap, fitted_maps
from rlaif.judge.card.questions import Again, asked_again, judge_on, labels_of, rules_of
from rlaif.judge.card.resistance import AttackResult, attack_all
from rlaif.judge.judge import Judge
from rlaif.lm.open import OpenJudge, judge_of_config
from rlaif.lm.protocol import LanguageModel, Usage

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Subject:
    """What the card is about. `settings`: the fields of the config's judge table that can change a verdict.
    `gold_hash`: of the pairs that were drawn."""

    model: str
    fingerprint: str
    method: str
    settings: dict[str, Any]
    seed: int
    template_hash: str
    constitution: str
    constitution_version: str
    constitution_hash: str
    principles: list[str]
    gold: str
    gold_about: str
    gold_hash: str


@dataclass(frozen=True, slots=True)
class Failures:
    """`pairs` of `prompts` prompts, of which `labelled` have a label; why the others have none, by kind; and the same
    of the single verdicts, of which there may be several a pair."""

    pairs: int
    prompts: int
    labelled: int
    by_kind: dict[str, int]
    verdicts: int
    failed_verdicts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The first `pairs` asked a second time, past the cache. Of `verdicts` with a probability both times a share
    `identical` is equal to the last bit, and the largest difference is `largest`; `lost` have one only once. What the
    `asked` verdicts cost: calls, tokens (read, written and scored) and seconds, the model being loaded already."""

    pairs: int
    verdicts: int
    identical: float | None
    largest: float | None
    lost: int
    asked: int
    calls: int
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class JudgeCard:
    """The whole card; None for what was not asked for or does not exist with the method. `calls` were made to the
    judge's model in all, the repeat's among them, and `cached` answers were known."""

    subject: Subject
    failures: Failures
    accuracy: Accuracy
    length_matched: Accuracy
    ceiling: Ceiling | None
    calibration: Calibration | None
    maps: list[FittedMap]
    order: Order | None
    repeat: Repeat | None
    length: Length
    attacks: list[AttackResult]
    groups: list[Group]
    notes: list[str]
    calls: int = 0
    cached: int = 0
    verdict: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """A hash of the subject and the figures."""
        repeat = None if self.repeat is None else replace(self.repeat, seconds=0.0, calls=0, tokens=0)
        figures = (self.failures, self.accuracy, self.length_matched, self.ceiling, self.calibration, self.order)
        maps = [entry.map for entry in self.maps]
        return content_id(
            "judge card", FORMAT, self.subject, figures, maps, repeat, self.length, self.attacks, self.groups
        )

    def as_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "id": self.id, **to_json(self)}


@dataclass(frozen=True, slots=True)
class Asked:
    """How much is measured: pairs (0 = all), pairs that are repeated and attacked; principles named by id or tag; a
    constitution in place of the config's, by name or as it is; the folder of a run's own templates."""

    pairs: int = 200
    repeat: int = 40
    attack: int = 24
    only: tuple[str, ...] = ()
    constitution: str | Constitution | None = None
    templates: Path | None = None


def judge_card(
    config: RunConfig,
    gold: str,
    asked: Asked,
    *,
    cache: Path,
    progress: Progress,
    open_judge: OpenJudge = judge_of_config,
) -> JudgeCard:
    """The card of the config's judge on the gold (see rlaif.gold.pairs), before any calibration.

    Verdicts are kept in the folder `cache`. Raises what `read_gold_set` does, and ConstitutionError where the judge
    cannot work with the constitution.
    """
    # 1. On what, and under which rules.
    given = given_constitution(config, asked)
    known = read_gold_set(gold, own=given)
    constitution = constitution_of(config, known, given, asked)
    pairs = known.drawn(asked.pairs, config.seed)
    draw = Draw(record_seed(config.seed, "card", "bootstrap"), config.evaluate.bootstrap)

    def judge_of(model: LanguageModel | None) -> Judge:
        return judge_on(known, constitution, config, model, only=asked.only, templates=asked.templates)

    with ExitStack() as stack:
        model = None
        if config.judge.method != "random":
            progress.say("opening the judge ...")
            model = open_judge(config, cache)
            stack.callback(model.close)
        # 2. The pairs, some of them again, some of them under attack.
        judge = judge_of(model)
        rules = rules_of(judge, pairs)
        labels = labels_of(judge, pairs, rules, config, "judging", progress)
        rows = [Judged(pair, label) for pair, label in zip(pairs, labels, strict=True)]
        repeat, attacks = None, []
        if model is not None and asked.repeat:
            n = asked.repeat
            again = asked_again(judge_of, open_judge, pairs[:n], rules[:n], config, "asking again", progress)
            repeat = _repeat(rows[:n], again)
        if model is not None and asked.attack:
            from rlaif.judge.card.attacks import ATTACKS

            some = rows[: asked.attack]
            with progress.task("attacking", len(some) * len(ATTACKS), "pairs") as task:
                attacks = attack_all(some, rules[: len(some)], judge, judge_of, draw, task)
        usage = Usage() if model is None else model.usage
        subject = _subject(config, judge, model, constitution, known, pairs)

    # 3. What that comes to.
    progress.say("measuring ...")
    found = JudgeCard(
        subject=subject,
        failures=_failures(rows),
        accuracy=accuracy(rows, draw),
        length_matched=accuracy([row for row in rows if row.pair.length_matched], draw),
        ceiling=ceiling(rows, draw),
        calibration=calibration(rows, draw),
        maps=fitted_maps(rows, constitution, judge.settling, draw),
        order=order(rows, draw),
        repeat=repeat,
        length=length(rows, draw),
        attacks=attacks,
        groups=groups(rows, draw),
        notes=_notes(config, known, pairs, asked),
        calls=usage.calls + (0 if repeat is None else repeat.calls),
        cached=usage.cached,
    )
    return replace(found, verdict=verdict.sentences(found))


def given_constitution(config: RunConfig, asked: Asked) -> Constitution:
    """The whole constitution that is asked about."""
    name = config.constitution if asked.constitution is None else asked.constitution
    return name if isinstance(name, Constitution) else load_constitution(name)


def constitution_of(config: RunConfig, known: GoldSet, given: Constitution, asked: Asked) -> Constitution:
    """What the judge works under: the principles that are named, or those whose tests gold is."""
    if known.constitution is not None:
        if asked.only or isinstance(asked.constitution, str):
            raise ConfigError(
                "the pairs of this gold are judged each under its own principle",
                where=f"--gold {known.name}",
                remedy="leave --constitution and --only out",
            )
        found = known.constitution
    else:
        found = replace(given, principles=_named(given, asked.only))
    check_constitution(found, methods=config.judge.methods, where=found.name)
    return found


def _named(given: Constitution, only: Sequence[str]) -> tuple[Principle, ...]:
    """The principles with one of these ids or tags; all for none."""
    names = sorted({n for p in given.principles for n in (p.id, *p.tags)})
    for wanted in only:
        if wanted not in names:
            raise ConstitutionError(
                f"there is no principle or tag {wanted!r}{near(wanted, names)}",
                where=f"--only {wanted}",
                remedy=f"there are: {', '.join(names)}",
            )
    kept = tuple(p for p in given.principles if not only or {p.id, *p.tags} & set(only))
    if not any(p.weight > 0 for p in kept):
        raise ConstitutionError("no principle that is left has a weight above 0", where=given.name)
    return kept


def _repeat(rows: Sequence[Judged], again: Again) -> Repeat:
    """What the second asking says beside the first."""
    both = [
        (old.prob_first, new.prob_first)
        for row, label in zip(rows, again.labels, strict=True)
        for old, new in zip(row.label.verdicts, label.verdicts, strict=True)
    ]
    gaps = [abs(old - new) for old, new in both if old is not None and new is not None]
    return Repeat(
        pairs=len(rows),
        verdicts=len(gaps),
        identical=sum(gap == 0 for gap in gaps) / len(gaps) if gaps else None,
        largest=max(gaps, default=None),
        lost=sum((old is None) != (new is None) for old, new in both),
        asked=len(both),
        calls=again.usage.calls,
        tokens=again.tokens,
        seconds=round(again.seconds, 3),
    )


def _subject(
    config: RunConfig,
    judge: Judge,
    model: LanguageModel | None,
    constitution: Constitution,
    known: GoldSet,
    pairs: Sequence[GoldPair],
) -> Subject:
    settings = config.judge.settings()
    del settings["calibration"]  # of what comes of this card
    return Subject(
        model="random" if model is None else model.name,
        fingerprint="" if model is None else model.fingerprint,
        method=" + ".join(config.judge.methods),
        settings=settings,
        seed=config.seed,
        template_hash=", ".join(dict.fromkeys(m.template.hash for m in judge.members if m.template is not None)),
        constitution=constitution.name,
        constitution_version=constitution.version,
        constitution_hash=constitution.hash,
        principles=[p.id for p in constitution.principles],
        gold=known.name,
        gold_about=known.about,
        gold_hash=hash_of(pairs),
    )


def _failures(rows: Sequence[Judged]) -> Failures:
    verdicts = [verdict for row in rows for verdict in row.label.verdicts]
    return Failures(
        pairs=len(rows),
        prompts=len({row.pair.prompt_id for row in rows}),
        labelled=sum(row.label.prob_a is not None for row in rows),
        by_kind=dict(Counter(row.label.failure.kind for row in rows if row.label.failure is not None)),
        verdicts=len(verdicts),
        failed_verdicts=dict(Counter(verdict.failure.kind for verdict in verdicts if verdict.failure is not None)),
    )


def _notes(config: RunConfig, known: GoldSet, pairs: Sequence[GoldPair], asked: Asked) -> list[str]:
    """What a reader would otherwise take the numbers for."""
    notes = list(known.notes)
    if len(pairs) < len(known.pairs):
        notes.append(f"{len(pairs):,} of {len(known.pairs):,} pairs, drawn by hash and spread over the prompts")
    if known.silent:
        notes.append(f"{known.silent:,} rows of gold prefer no answer and are in no figure")
    if config.judge.method == "random":
        notes.append("the judge is random: these are the numbers of a coin, which is neither repeated nor attacked")
    if known.constitution is None and config.judge.principles != "all":
        drawn = f"judge.principles is {config.judge.principles}: principles are drawn"
        notes.append(f"{drawn}, and another draw would give somewhat other figures")
    if len({pair.prompt_id for pair in pairs}) == 1:
        notes.append("there is a single prompt, so nothing has an interval")
    return notes
