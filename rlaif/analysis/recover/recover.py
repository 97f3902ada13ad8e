"""`rlaif constitution recover`: which principles explain given labels, and are they those that made them?

Inverse Constitutional AI (arXiv 2406.06560): propose principles, cluster them, test how well they reconstruct the
labels, keep the best. Departures: principles of given constitutions are candidates too; the judge's soft verdicts are
used, not votes of a model that sees all principles; what is kept is chosen greedily and measured on held-out prompts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlaif.analysis.recover.candidates import Candidate, of_constitutions, of_statements, ready
from rlaif.analysis.recover.clusters import AlikeCandidates, by_behaviour, by_wording
from rlaif.analysis.recover.evidence import Bench, Evidence
from rlaif.analysis.recover.measure import Match, Row, accuracy, by_length, matches, predictions, share
from rlaif.analysis.recover.propose import Proposals, propose
from rlaif.analysis.recover.select import Selection, SelectionStep, forward
from rlaif.analysis.recover.split import Split, split_labels
from rlaif.config import JudgeConfig, RunConfig
from rlaif.core.errors import ConfigError, DataError, ModelError
from rlaif.core.progress import Progress
from rlaif.core.records import Principle, record_seed, to_json
from rlaif.inputs.comparisons import ComparisonFile, GivenPair, read_comparisons
from rlaif.inputs.templates import PROPOSE, load_template
from rlaif.judge.judge import opened_models, usage_of
from rlaif.judge.load import load
from rlaif.judge.methods.method import JudgingWork
from rlaif.judge.methods.table import cost_of, find, in_use
from rlaif.lm.open import OpenJudge, open_judge
from rlaif.lm.protocol import LanguageModel

MANY_MISSING = 0.05
"""Share of the verdicts from which on it is told that they are missing."""


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What the user wants: constitutions whose principles are candidates, how many statements to have written, how
    many principles to keep, how many pairs to judge of each half, the one slice to look at (None: all pairs), and a
    constitution to compare with."""

    candidates: tuple[str, ...] = ()
    propose: int = 0
    keep: int = 5
    pairs: int = 300
    part: str | None = None
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """One candidate alone on the training pairs: accuracy (None without any verdict), gain in log-loss (None where the
    candidate was dropped as a near-duplicate of another in behaviour), and failed verdicts by kind."""

    candidate: Candidate
    accuracy: float | None
    gain: float | None
    failures: dict[str, int]


@dataclass(frozen=True, slots=True)
class Kept:
    """One recovered principle, in the order of the choice: alone on both halves, and what taking it in gained."""

    candidate: Candidate
    step: SelectionStep
    alone: Row


@dataclass(frozen=True, slots=True)
class Against:
    """The other constitution: the nearest of its principles to each recovered one, and those that nothing covers."""

    name: str
    matches: tuple[Match, ...]
    uncovered: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """The whole answer. `rows` begins with the recovered principles together where any was kept."""

    labels: str
    judge: str
    method: str
    pairs: dict[str, int]
    kept: tuple[Kept, ...]
    refused: SelectionStep | None
    rows: tuple[Row, ...]
    tried: tuple[Tried, ...]
    inverted: dict[str, float]
    clusters: tuple[AlikeCandidates, ...]
    proposals: Proposals | None
    against: Against | None
    notes: tuple[str, ...]
    calls: int
    cached: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return to_json(self)


def recover(
    labels: Path,
    asked: RecoveryOptions,
    config: RunConfig,
    *,
    cache: Path,
    progress: Progress,
    open_judge: OpenJudge = open_judge,
) -> Recovery:
    """Which of the candidates explain the labels in the file, tested on prompts that the choice did not see.

    Answers of the judge are kept in the folder `cache`. Raises DataError for a file that cannot be used, ConfigError
    where there is no candidate, and ModelError where the judge has no verdict at all.
    """
    start = time.monotonic()
    # 1. What there is to explain, and what may explain it.
    file = read_comparisons(labels)
    split = split_labels(file, asked.pairs, asked.part)
    pool = of_constitutions(asked.candidates)
    pairs = any(method.needs_contrast for method in in_use(config.judge))
    others = [] if asked.against is None else ready(of_constitutions([asked.against]), pairs=pairs)
    _refuse_nothing(pool, asked, config)
    with opened_models(config, cache, open_judge) as models:
        bench = Bench(config.judge, models, config.seed)
        proposals = _proposals(split, asked, config, models, labels, progress)
        pool += of_statements(() if proposals is None else proposals.statements)

        # 2. One of those that are alike, each judged alone, and the few that explain the labels together.
        distinct, alike = by_wording(ready(pool, pairs=pairs))
        if models:
            progress.say(_cost(len(distinct), len(others), split, asked.keep, config.judge))
        with progress.task("judging candidates", len(distinct) * len(split.training), "pairs") as task:
            training = bench.hear([c.principle for c in distinct], split.training, task)
        _refuse_silence(training, labels, bench.name)
        chosen_from, same = by_behaviour(distinct, training.probs)
        selection = select_principles(training.only([c.principle.id for c in chosen_from]), asked.keep, config.seed)

        # 3. The same on prompts that the choice did not see, beside simpler explanations.
        named = [step.id for step in selection.steps] or ([selection.refused.id] if selection.refused else [])
        with progress.task("judging held-out", (len(named) + len(others)) * len(split.held_out), "pairs") as task:
            held_out = bench.hear(training.only(named).principles, split.held_out, task)
            theirs = bench.hear([c.principle for c in others], split.held_out, task)
        usage, name = usage_of(models), bench.name
    measure = _Measure(config, split, bench, training, held_out)
    by_id = {candidate.principle.id: candidate for candidate in distinct}
    return Recovery(
        labels=str(labels),
        judge=name,
        method=config.judge.method,
        pairs=split.counts(),
        kept=tuple(Kept(by_id[s.id], s, measure.alone(s.id, s.id)) for s in selection.steps),
        refused=selection.refused,
        rows=measure.rows(selection, theirs, asked.against),
        tried=_tried(distinct, training, selection),
        inverted=selection.inverted,
        clusters=(*alike, *same),
        proposals=proposals,
        against=_against(asked.against, held_out.only([s.id for s in selection.steps]), theirs),
        notes=(*_notes(labels, file, split, asked, config, name), *_missing(training, held_out, theirs)),
        calls=usage.calls,
        cached=usage.cached,
        seconds=round(time.monotonic() - start, 3),
    )


def _refuse_nothing(pool: Sequence[Candidate], asked: RecoveryOptions, config: RunConfig) -> None:
    if asked.propose and not find(config.judge.method).asks_model:
        raise ConfigError(
            f"the {config.judge.method} judge has no model that could propose principles", where="judge.method"
        )
    if not pool and not asked.propose:
        raise ConfigError(
            "there is no candidate to explain the labels with",
            remedy="name constitutions with --candidates (rlaif constitution list), or have the judge's model write "
            "some with --propose 12",
        )


def _refuse_silence(heard: Evidence, labels: Path, judge: str) -> None:
    """Raises ModelError where the judge has no verdict at all: that no candidate explains labels was then not tried."""
    if not np.isnan(heard.probs).all():
        return
    first = next(iter(heard.failures()), None)
    raise ModelError(
        f"{judge} gave no verdict on any pair under any candidate"
        + ("" if first is None else f"; the first reason ({first.kind}): {first.reason}"),
        where=str(labels),
        remedy="check the judge: rlaif constitution test asks it about principles that have tests",
    )


def _missing(*heard: Evidence) -> list[str]:
    """A note where more than MANY_MISSING of the verdicts are missing, with the first reason."""
    number, missing = (sum(int(count(e.probs)) for e in heard) for count in (np.size, lambda p: np.isnan(p).sum()))
    if missing <= MANY_MISSING * number:
        return []
    first = next((failure for evidence in heard for failure in evidence.failures()), None)
    why = "" if first is None else f", the first ({first.kind}) because: {first.reason}"
    return [
        f"the judge gave no verdict in {missing:,} of {number:,} cases{why}; rates are of the pairs that have one, and "
        "say how many these are"
    ]


def _cost(candidates: int, others: int, split: Split, keep: int, judge: JudgeConfig) -> str:
    """What the judge is asked at most."""
    training, held_out = (len(part) for part in (split.training, split.held_out))
    pair = cost_of(judge, JudgingWork(reads=2, pairs=1, comparisons=1, response_tokens=0, prompt_tokens=0))
    calls = pair.calls * (candidates * training + (min(keep, candidates) + others) * held_out)
    return (
        f"judging {candidates:,} candidates on {training:,} pairs, then what is kept on {held_out:,}: "
        f"at most {calls:,} calls of the judge, less what it answered before"
    )


def _proposals(
    split: Split,
    asked: RecoveryOptions,
    config: RunConfig,
    models: Sequence[LanguageModel],
    labels: Path,
    progress: Progress,
) -> Proposals | None:
    """What the judge's model proposes, None if it was not asked; DataError if that leaves no candidate at all."""
    if not asked.propose or not models:
        return None
    model = models[0]
    progress.say(f"asking {model.name} for principles ...")
    found = propose(split.training, asked.propose, model, load_template(PROPOSE), seed=config.seed)
    if not found.statements and not asked.candidates:
        why = found.failures[0].reason if found.failures else "it said nothing"
        raise DataError(
            f"{model.name} proposed no principle that can be used for these labels: {why}",
            where=str(labels),
            remedy="name candidates with --candidates, ask for more with --propose, or take a larger judge",
        )
    return found


def select_principles(evidence: Evidence, keep: int, seed: int) -> Selection:
    """The few principles of the evidence that explain the labels of its pairs; every pair has one."""
    labels = np.asarray([pair.prob_a for pair in evidence.pairs], dtype=float)
    prompts = [pair.group for pair in evidence.pairs]
    ids = [principle.id for principle in evidence.principles]
    return forward(ids, evidence.probs, labels, prompts, keep=keep, seed=record_seed(seed, "recover", "chance"))


@dataclass(frozen=True, slots=True)
class _Measure:
    """Accuracies on both halves."""

    config: RunConfig
    split: Split
    bench: Bench
    training: Evidence
    held_out: Evidence

    def row(self, name: str, training: Sequence[float | None] | None, held_out: Sequence[float | None] | None) -> Row:
        draw = record_seed(self.config.seed, "recover", "bootstrap")
        halves = [
            None if said is None else accuracy(said, pairs, seed=draw, resamples=self.config.evaluate.bootstrap)
            for said, pairs in ((training, self.split.training), (held_out, self.split.held_out))
        ]
        return Row(name, *halves)

    def alone(self, name: str, principle_id: str) -> Row:
        return self.row(name, *(predictions(evidence.row(principle_id)) for evidence in (self.training, self.held_out)))

    def rows(self, selection: Selection, theirs: Evidence, against: str | None) -> tuple[Row, ...]:
        """The recovered principles, and what else might explain the labels."""
        found = []
        ids = [step.id for step in selection.steps]
        if ids:
            both = (self.bench.together(evidence.only(ids)) for evidence in (self.training, self.held_out))
            found.append(self.row("recovered principles", *both))
        best = ids[0] if ids else None if selection.refused is None else selection.refused.id
        if best is not None and len(ids) != 1:
            found.append(self.alone(f"best single candidate ({best})", best))
        for name, shorter in (("shorter wins", True), ("longer wins", False)):
            both = (by_length(pairs, shorter=shorter) for pairs in (self.split.training, self.split.held_out))
            found.append(self.row(name, *both))
        if against is not None:
            found.append(self.row(f"all of {against}", None, self.bench.together(theirs)))
        own = [self._own_verdicts(pairs) for pairs in (self.split.training, self.split.held_out)]
        if any(value is not None for side in own for value in side):
            found.append(self.row("the labels' own verdicts", *own))
        return tuple(found)

    def _own_verdicts(self, pairs: Sequence[GivenPair]) -> list[float | None]:
        """What the verdicts that came with the labels say together, each principle counting 1."""
        found = []
        for pair in pairs:
            names = dict.fromkeys(verdict.principle_id for verdict in pair.verdicts)
            judge = self.bench.judge([Principle(name, "") for name in names])
            found.append(judge.settle(pair.comparison, pair.verdicts).prob_a if names else None)
        return found


def _tried(candidates: Sequence[Candidate], training: Evidence, selection: Selection) -> tuple[Tried, ...]:
    """Every candidate alone, the best first; those that another one stands for last."""
    found = []
    for candidate in candidates:
        name = candidate.principle.id
        failures: Counter[str] = Counter(failure.kind for failure in training.only([name]).failures())
        right = share(predictions(training.row(name)), training.pairs)
        found.append(Tried(candidate, right, selection.alone.get(name), dict(failures)))
    return tuple(sorted(found, key=lambda tried: -np.inf if tried.gain is None else tried.gain, reverse=True))


def _against(name: str | None, ours: Evidence, theirs: Evidence) -> Against | None:
    if name is None:
        return None
    backwards = matches(theirs, ours)
    return Against(name, tuple(matches(ours, theirs)), tuple(match for match in backwards if not match.near))


def _notes(
    labels: Path, file: ComparisonFile, split: Split, asked: RecoveryOptions, config: RunConfig, judge: str
) -> tuple[str, ...]:
    """What a reader would otherwise take the numbers for, and what to try next."""
    notes = file.notes()
    if split.unlabelled or split.undecided:
        notes.append(
            f"{split.unlabelled} pairs without a label and {split.undecided} with exactly 0.5 prefer no answer "
            "and are left out"
        )
    used = {(v.judge, v.method) for pair in file.pairs for v in pair.verdicts}
    if used and used != {(judge, config.judge.method)}:
        made = ", ".join(sorted(f"{name} ({method})" for name, method in used))
        notes.append(f"the labels were judged by {made}, the candidates by {judge} ({config.judge.method})")
    slices = sorted({pair.comparison.prompt.slice for pair in file.pairs})
    if asked.part is None and len(slices) > 1:
        named = ", ".join(name or "one without a name" for name in slices)
        notes.append(
            f"the pairs are of {len(slices)} slices ({named}); where each was judged under other principles, no one "
            "set of principles explains all: look at one with --slice"
        )
    heard = {tuple(dict.fromkeys(v.principle_id for v in pair.verdicts)) for pair in split.training + split.held_out}
    if len(heard) > 1 and all(len(names) == 1 for names in heard):
        notes.append(
            f"each label was made under one of {len(heard)} principles alone, so a few cannot explain all labels"
        )
    notes += _hints(labels, asked, config)
    return tuple(notes)


def _hints(labels: Path, asked: RecoveryOptions, config: RunConfig) -> list[str]:
    """Which options bring in what a run folder knows of its labels, if the file is in one."""
    run = labels.parent.parent
    if labels.parent.name != "label" or not (run / "config.yaml").is_file():
        return []
    hints = []
    if asked.against is None:
        hints.append(f"to compare with what made the labels: --against {run / 'constitution.yaml'}")
    try:
        same = load(run / "config.yaml").judge == config.judge
    except ConfigError:
        return hints
    return hints if same else [*hints, f"to judge as the run did: --config {run / 'config.yaml'}"]
