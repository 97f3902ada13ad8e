"""`rlaif judge compare`: several judges on the same gold, one of them chosen on a part and reported on the other.

The gold is split by prompt, by hash: a prompt stays in its part whatever other prompts there are. The criterion is
fixed before anything is judged, and depends on the gold alone (see `criterion_of`). What the winner gets on the
choosing part is too good by as much as it was lucky there; the figures on the reporting part are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rlaif.core.errors import ConfigError
from rlaif.core.progress import Progress
from rlaif.core.records import PreferenceLabel, record_seed
from rlaif.core.statistics import Draw, Estimate, Keyed, preferred
from rlaif.gold.pairs import GoldPair, GoldSet, hash_of, read_gold_set
from rlaif.judge.card.card import CardOptions, constitution_of, given_constitution
from rlaif.judge.card.figures import JudgedPair, accuracy, calibration, difference, failure_kinds, order, share_of
from rlaif.judge.card.questions import asked_again, gold_notes, judge_on, labels_of, rules_of
from rlaif.judge.compare import verdict as compare_verdict
from rlaif.judge.compare.agreement import agreements
from rlaif.judge.compare.records import (
    LEAST_MATCHED,
    MOST_WITHOUT_LABEL,
    PANEL,
    Choice,
    Contender,
    Criterion,
    JudgeComparison,
    PairCost,
    PartFigures,
)
from rlaif.judge.compare.variants import Variant
from rlaif.judge.judge import Judge, opened_models
from rlaif.judge.methods.table import find
from rlaif.lm.open import OpenJudge, open_judge
from rlaif.lm.protocol import LanguageModel


@dataclass(frozen=True, slots=True)
class _Run:
    """A judge with its labels on all pairs, before any figure."""

    variant: Variant
    model: str
    fingerprint: str
    rows: list[JudgedPair]
    cost: PairCost | None


def compare(
    variants: Sequence[Variant],
    gold: str,
    asked: CardOptions,
    *,
    share: float,
    timed: int,
    cache: Path,
    progress: Progress,
    open_judge: OpenJudge = open_judge,
) -> JudgeComparison:
    """The variants on the gold, of which about `share` is for choosing; they are compared before any calibration.
    `asked` says how many pairs are drawn and under which principles they are judged; its other fields are not looked
    at. The first `timed` pairs are asked a second time, past the cache, for what they cost.

    Raises what `judge_card` does, and ConfigError where the gold has too few prompts to be split.
    """
    # 1. On what, and under which rules: the same for all of them.
    config = variants[0].config
    given = given_constitution(config, asked)
    known = read_gold_set(gold, own=given)
    constitution, *_ = [constitution_of(v.config, known, given, asked) for v in variants]  # and checked for each
    pairs = known.drawn(asked.pairs, config.seed)
    choosing = [in_choosing_part(pair.prompt_id, config.seed, share) for pair in pairs]
    _refuse_small(pairs, choosing)
    draw = Draw(record_seed(config.seed, "compare", "bootstrap"), config.evaluate.bootstrap)

    # 2. Every judge on every pair, and on some of them again for the time.
    def judge_of(variant: Variant, models: Sequence[LanguageModel]) -> Judge:
        return judge_on(known, constitution, variant.config, models, only=asked.only, templates=variant.templates)

    runs = [_run(variant, pairs, judge_of, timed, cache, progress, open_judge) for variant in variants]
    judged = [(run.variant.name, run.rows) for run in runs]

    # 3. The choice, on its part, and what it is worth on the other.
    progress.say("measuring ...")
    found = JudgeComparison(
        gold=known.name,
        gold_about=known.about,
        gold_hash=hash_of(pairs),
        constitution=constitution.name,
        constitution_hash=constitution.hash,
        principles=[p.id for p in constitution.principles],
        seed=config.seed,
        share=share,
        candidates=[],
        choice=_choice(judged, choosing, criterion_of(pairs, choosing), draw),
        agreements=agreements(judged, draw),
        notes=gold_notes(known, pairs),
    )
    found = replace(found, candidates=_candidates(runs, known, choosing, found.choice, draw))
    return replace(found, verdict=compare_verdict.sentences(found))


def in_choosing_part(prompt_id: str, seed: int, share: float) -> bool:
    """Whether the prompt is one of those that a judge is chosen on, by a hash of it alone."""
    return record_seed(seed, "compare", "part", prompt_id) / (1 << 63) < share


def criterion_of(pairs: Sequence[GoldPair], choosing: Sequence[bool]) -> Criterion:
    """What decides: accuracy on the length-matched pairs of the choosing part, or, where fewer than LEAST_MATCHED
    prompts have one, on all of them. It looks at no verdict.

    Accuracy against people is what RLAIF chose its prompts by ("AI labeler alignment", arXiv 2309.00267, section 4.4),
    here without what length alone can earn (arXiv 2310.03716, 2404.04475). Not the Brier score: a judge that says one
    half to everything has 0.25, which is better than many a useful one that is too sure, and being too sure can be
    mended afterwards, by a scale or a calibration map.
    """
    matched = {pair.prompt_id for pair, part in zip(pairs, choosing, strict=True) if part and pair.length_matched}
    return "length-matched accuracy" if len(matched) >= LEAST_MATCHED else "accuracy"


def _refuse_small(pairs: Sequence[GoldPair], choosing: Sequence[bool]) -> None:
    prompts = {pair.prompt_id: part for pair, part in zip(pairs, choosing, strict=True)}
    chosen = sum(prompts.values())
    if min(chosen, len(prompts) - chosen) < 2:
        raise ConfigError(
            f"of {len(prompts):,} prompts {chosen:,} are for choosing and {len(prompts) - chosen:,} for reporting: "
            "each part needs two or more",
            where="--gold",
            remedy="take gold with more prompts, or another --choose",
        )


def _run(
    variant: Variant,
    pairs: Sequence[GoldPair],
    judge_of: Callable[[Variant, Sequence[LanguageModel]], Judge],
    timed: int,
    cache: Path,
    progress: Progress,
    open_judge: OpenJudge,
) -> _Run:
    """The judge on the pairs; one model is open at a time."""
    config, name = variant.config, variant.name
    if find(config.judge.method).asks_model:
        progress.say(f"{name}: opening the judge ...")
    with opened_models(config, cache, open_judge) as models:
        judge = judge_of(variant, models)
        rules = rules_of(judge, pairs)
        labels = labels_of(judge, pairs, rules, config, name, progress)
        cost = None
        if judge.asks_model and timed:
            some, title = pairs[:timed], f"{name}, timed"
            ask = partial(judge_of, variant)
            again = asked_again(ask, open_judge, some, rules[:timed], config, title, progress)
            n = len(some)
            cost = PairCost(n, round(again.seconds / n, 4), again.usage.calls / n, again.tokens / n)
    rows = [JudgedPair(pair, label) for pair, label in zip(pairs, labels, strict=True)]
    return _Run(variant, judge.name, judge.fingerprint, rows, cost)


def _choice(
    judged: Sequence[tuple[str, Sequence[JudgedPair]]], choosing: Sequence[bool], criterion: Criterion, draw: Draw
) -> Choice:
    """The best by the criterion, of equal ones the first."""
    ranked, left_out = [], []
    for name, rows in judged:
        part = _of_part(rows, choosing, True)
        values = _by(criterion, part)
        known = draw.share(values)
        without = sum(row.label.prob_a is None for row in part)
        if known is None or without > MOST_WITHOUT_LABEL * len(part):
            left_out.append(name)
        else:
            ranked.append((known.mean, name, rows))
    ranked.sort(key=lambda one: -one[0])  # stable: of equal ones the first stays first
    if len(ranked) < 2:
        return Choice(criterion, ranked[0][1] if ranked else None, None, left_out, None, None)
    (_, first, best), (_, second, next_best) = ranked[:2]
    leads = [
        difference(
            _by(criterion, _of_part(best, choosing, part)), _by(criterion, _of_part(next_best, choosing, part)), draw
        )
        for part in (True, False)
    ]
    return Choice(criterion, first, second, left_out, *leads)


def _of_part(rows: Sequence[JudgedPair], choosing: Sequence[bool], part: bool) -> list[JudgedPair]:
    return [row for row, chosen in zip(rows, choosing, strict=True) if chosen is part]


def _by(criterion: Criterion, rows: Sequence[JudgedPair]) -> list[Keyed]:
    """What the criterion is the mean of."""
    counted = [row for row in rows if criterion == "accuracy" or row.pair.length_matched]
    return [(row.pair.prompt_id, None if (p := row.prob_right) is None else preferred(p)) for row in counted]


def _candidates(
    runs: Sequence[_Run], known: GoldSet, choosing: Sequence[bool], choice: Choice, draw: Draw
) -> list[Contender]:
    """One for each judge and one for the mean of all."""
    mean = mean_of([run.rows for run in runs])
    rows = {run.variant.name: run.rows for run in runs} | {PANEL: mean}
    best = rows.get(choice.winner) if choice.winner is not None else None

    def candidate(name: str, **about: Any) -> Contender:
        behind = None
        if best is not None and name != choice.winner:
            first, other = (_by(choice.criterion, _of_part(of, choosing, False)) for of in (best, rows[name]))
            behind = difference(first, other, draw)
        there, here = (_part(_of_part(rows[name], choosing, part), known, draw) for part in (True, False))
        return Contender(name, choosing=there, reporting=here, behind=behind, **about)

    found = [
        candidate(
            run.variant.name,
            words=list(run.variant.words),
            model=run.model,
            fingerprint=run.fingerprint,
            settings=run.variant.settings,
            template_hash=", ".join(run.variant.template_hashes),
            cost=run.cost,
        )
        for run in runs
    ]
    return [*found, candidate(PANEL, words=[], model="", fingerprint="", settings={}, template_hash="", cost=None)]


def mean_of(judged: Sequence[Sequence[JudgedPair]]) -> list[JudgedPair]:
    """The rows of a judge that says the mean probability of all that have a label, each with the same weight; without a
    label where none of them has one, for the reason of the first."""
    found = []
    for row in zip(*judged, strict=True):
        known = [one.label.prob_a for one in row if one.label.prob_a is not None]
        mean = math.fsum(known) / len(known) if known else None
        label = PreferenceLabel(row[0].pair.comparison, mean, (), failure=None if known else row[0].label.failure)
        found.append(JudgedPair(row[0].pair, label))
    return found


def _part(rows: Sequence[JudgedPair], known: GoldSet, draw: Draw) -> PartFigures:
    return PartFigures(
        pairs=len(rows),
        prompts=len({row.pair.prompt_id for row in rows}),
        labelled=sum(row.label.prob_a is not None for row in rows),
        failures=failure_kinds(row.label for row in rows),
        accuracy=accuracy(rows, draw),
        length_matched=accuracy([row for row in rows if row.pair.length_matched], draw),
        calibration=calibration(rows, draw),
        order=order(rows, draw),
        best_of=best_of(rows, known.pairs, draw),
    )


def best_of(rows: Sequence[JudgedPair], gold: Sequence[GoldPair], draw: Draw) -> Estimate | None:
    """Share of prompts on which one of the right answers is preferred to every wrong one, a tie being half: how
    RewardBench 2 counts (arXiv 2506.01937), with 4 answers there.

    It is over the prompts that have several wrong answers, each compared with every right one, all of them judged. None
    where there is no such prompt, as in gold with two answers to a prompt, or where only some pairs were drawn.
    """
    wanted: dict[str, set[tuple[str, str]]] = {}
    for pair in gold:
        wanted.setdefault(pair.prompt_id, set()).add((pair.better.text, pair.worse.text))
    won: dict[str, dict[tuple[str, str], float]] = {}
    for row in rows:
        if (p := row.prob_right) is not None:
            won.setdefault(row.pair.prompt_id, {})[row.pair.better.text, row.pair.worse.text] = preferred(p)
    found = []
    for prompt, wins in won.items():
        right, wrong = ({pair[side] for pair in wanted[prompt]} for side in (0, 1))
        grid = {(one, other) for one in right for other in wrong}
        if len(wrong) > 1 and not right & wrong and wanted[prompt] == grid == wins.keys():
            found.append((prompt, max(min(wins[one, other] for other in wrong) for one in right)))
    return share_of(draw, found)
