"""`rlaif judge card`: what a judge is worth, measured against gold before its labels are used.

The card names everything that its figures hold for: model, method, settings, template, constitution and gold. Its id is
a hash of that and of the figures; time and cost are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlaif.config import RunConfig
from rlaif.constitution.load import load_constitution, refuse_missing_contrast
from rlaif.core.errors import ConfigError, ConstitutionError, near
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, Principle, record_seed
from rlaif.core.statistics import Draw
from rlaif.gold.pairs import GoldPair, GoldSet, hash_of, read_gold_set
from rlaif.judge.card import verdict
from rlaif.judge.card.figures import (
    JudgedPair,
    accuracy,
    calibration,
    ceiling,
    errors,
    failure_kinds,
    groups,
    length,
    order,
)
from rlaif.judge.card.maps import fitted_maps
from rlaif.judge.card.questions import Again, asked_again, gold_notes, judge_on, labels_of, rules_of
from rlaif.judge.card.records import CardSubject, Failures, JudgeCard, Repeat
from rlaif.judge.card.resistance import attack_all
from rlaif.judge.judge import Judge, opened_models
from rlaif.judge.methods.table import askings, find, in_use, statement_unread
from rlaif.lm.open import OpenJudge, open_judge
from rlaif.lm.protocol import LanguageModel


@dataclass(frozen=True, slots=True)
class CardOptions:
    """How much is measured: pairs (0 = all), pairs that are repeated and attacked; principles named by id or tag; a
    constitution in place of the config's, by name or as it is; the folder of a run's own templates. `examples`: errors
    to read."""

    pairs: int = 200
    repeat: int = 40
    attack: int = 24
    only: tuple[str, ...] = ()
    constitution: str | Constitution | None = None
    templates: Path | None = None
    examples: int = 5


def judge_card(
    config: RunConfig,
    gold: str,
    asked: CardOptions,
    *,
    cache: Path,
    progress: Progress,
    open_judge: OpenJudge = open_judge,
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

    def judge_of(models: Sequence[LanguageModel]) -> Judge:
        return judge_on(known, constitution, config, models, only=asked.only, templates=asked.templates)

    if find(config.judge.method).asks_model:
        progress.say("opening the judge ...")
    with opened_models(config, cache, open_judge) as models:
        # 2. The pairs, some of them again, some of them under attack.
        judge = judge_of(models)
        rules = rules_of(judge, pairs)
        labels = labels_of(judge, pairs, rules, config, "judging", progress)
        rows = [JudgedPair(pair, label) for pair, label in zip(pairs, labels, strict=True)]
        repeat, attacks = None, []
        if judge.asks_model and asked.repeat:
            n = asked.repeat
            again = asked_again(judge_of, open_judge, pairs[:n], rules[:n], config, "asking again", progress)
            repeat = _repeat(rows[:n], again)
        if judge.asks_model and asked.attack:
            from rlaif.judge.card.attacks import ATTACKS

            some = rows[: asked.attack]
            with progress.task("attacking", len(some) * len(ATTACKS), "pairs") as task:
                attacks = attack_all(some, rules[: len(some)], judge, judge_of, draw, task)
        usage = judge.usage
        subject = _subject(config, judge, constitution, known, pairs)
        unread = statement_unread(config.judge, judge.shown)

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
        errors=errors(rows, asked.examples),
        notes=[*_notes(config, known, pairs, asked), *[f"{unread}: no figure is about a statement"] * bool(unread)],
        calls=usage.calls + (0 if repeat is None else repeat.calls),
        cached=usage.cached,
    )
    return replace(found, verdict=verdict.sentences(found))


def given_constitution(config: RunConfig, asked: CardOptions) -> Constitution:
    """The whole constitution that is asked about."""
    name = config.constitution if asked.constitution is None else asked.constitution
    return name if isinstance(name, Constitution) else load_constitution(name)


def constitution_of(config: RunConfig, known: GoldSet, given: Constitution, asked: CardOptions) -> Constitution:
    """What the judge works under: the principles that are named, or those whose tests gold is."""
    if known.constitution is not None:
        if asked.only or isinstance(asked.constitution, str):
            raise ConfigError(
                "each pair of this gold brings its own principle",
                where=f"--gold {known.name}",
                remedy="leave --constitution and --only out",
            )
        found = known.constitution
    else:
        found = replace(given, principles=_named(given, asked.only))
    refuse_missing_contrast(found, methods=in_use(config.judge), where=found.name)
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


def _repeat(rows: Sequence[JudgedPair], again: Again) -> Repeat:
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
    constitution: Constitution,
    known: GoldSet,
    pairs: Sequence[GoldPair],
) -> CardSubject:
    settings = config.judge.settings()
    del settings["calibration"]  # of what comes of this card
    return CardSubject(
        model=judge.name,
        fingerprint=judge.fingerprint,
        method=" + ".join(method.name for method in in_use(config.judge)),
        settings=settings,
        seed=config.seed,
        template_hash=", ".join(dict.fromkeys(m.asker.template.hash for m in judge.members if m.method.template)),
        constitution=constitution.name,
        constitution_version=constitution.version,
        constitution_hash=constitution.hash,
        principles=[p.id for p in constitution.principles],
        gold=known.name,
        gold_about=known.about,
        gold_hash=hash_of(pairs),
    )


def _failures(rows: Sequence[JudgedPair]) -> Failures:
    verdicts = [verdict for row in rows for verdict in row.label.verdicts]
    return Failures(
        pairs=len(rows),
        prompts=len({row.pair.prompt_id for row in rows}),
        labelled=sum(row.label.prob_a is not None for row in rows),
        by_kind=failure_kinds(row.label for row in rows),
        verdicts=len(verdicts),
        failed_verdicts=failure_kinds(verdicts),
    )


def _notes(config: RunConfig, known: GoldSet, pairs: Sequence[GoldPair], asked: CardOptions) -> list[str]:
    """What a reader would otherwise take the numbers for."""
    notes = gold_notes(known, pairs)
    if not find(config.judge.method).asks_model:
        about = f"the judge is {config.judge.method}: these are the numbers of a coin"
        notes.append(f"{about}, which is not asked again and not attacked")
    if any(asking.backend == "openai" for asking in askings(config.judge)):
        notes.append(
            "a server is asked in text, not in tokens: what looks like a token of a chat format gets a blank "
            '("< |im_end|>"), and what the server makes of the rest shows in the attacks named template'
        )
    if known.constitution is None and config.judge.principles != "all":
        drawn = f"judge.principles is {config.judge.principles}: principles are drawn"
        notes.append(f"{drawn}, and another draw would give slightly different figures")
    if len({pair.prompt_id for pair in pairs}) == 1:
        notes.append("there is a single prompt, so nothing has an interval")
    return notes
