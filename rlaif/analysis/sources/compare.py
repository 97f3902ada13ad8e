"""`rlaif label --compare`: pairs of the policy and pairs by contrast on a sample of the prompts, and which to take.

The rule, in order: a kind of answers without labels is not taken; then the kind is taken whose labels the first gold
scorer agrees with more; where the interval of that difference holds 0, the kind that a bag of words learns better, if
it learns it at all; where that holds 0 too, the policy's own answers, which are what PPO will write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.analysis.judged_run import refuse_given
from rlaif.analysis.sources.learnable import by_words
from rlaif.config import RunConfig
from rlaif.core.errors import StageError
from rlaif.core.files import RunFolder
from rlaif.core.progress import Progress
from rlaif.core.records import AnswerSource, PreferenceLabel, Prompt, content_id, record_seed, to_json
from rlaif.core.shard import refuse_no_whole_run
from rlaif.core.statistics import Draw, Estimate, Keyed
from rlaif.gold import scorers as gold
from rlaif.gold.packages import SKLEARN
from rlaif.judge.confounds import Confounds, confounds
from rlaif.judge.gold_agreement import agreements
from rlaif.judge.load import load
from rlaif.run import pipeline
from rlaif.stages import label as stage
from rlaif.stages.label_pairs import find_pairs

FOLDER = "label-compare"
"""Of the work, in the run's folder while it lasts."""
RULE = (
    "Rule: the kind whose labels the first gold scorer agrees with more; where the interval of that difference holds "
    "0, the kind that a bag of words learns better, and better than a coin; else policy."
)


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """What one kind of answers makes. `gold`: per scorer the share of its labels that it agrees with; `learnable`: the
    share that words tell on prompts they were not fitted on. Both are None where nothing could be measured."""

    answers: AnswerSource
    pairs: int
    labelled: int
    missing: dict[str, int]
    gold: dict[str, Estimate | None]
    learnable: Estimate | None
    confounds: Confounds


@dataclass(frozen=True, slots=True)
class SourcesCompared:
    """Both kinds on the same `prompts`. `gold_difference`: of the first scorer's share, contrast less policy, and
    `learnable_difference` the same of `learnable`, paired by prompt."""

    run: str
    judge: str
    confirm: bool
    prompts: int
    policy: SourceFigures
    contrast: SourceFigures
    gold_difference: Estimate | None
    learnable_difference: Estimate | None
    recommended: AnswerSource
    reason: str
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return to_json(self)


def compare(run: RunFolder, overrides: Sequence[str] = (), *, prompts: int, progress: Progress) -> SourcesCompared:
    """What either kind of answers makes of `prompts` training prompts of the run, drawn by hash.

    Raises StageError where the run's SFT stage is not finished, and ConstitutionError where its principles lack
    contrast texts.
    """
    refuse_no_whole_run(run.root)
    refuse_given(run, load(run.config_path))
    config = load(run.config_path, [*overrides, "label.answers=both"])
    if config.start and run.record("sft") is None:
        raise StageError(
            "the answers are those of the SFT policy, and the sft stage is not finished",
            where=str(run.root),
            remedy=f"run it first: rlaif run --run {run.root} --until sft --resume",
        )
    with pipeline.beside(config, run.root, FOLDER, progress=progress) as context:
        asked = sorted(context.train_prompts(), key=lambda prompt: content_id(config.seed, "compare", prompt.id))
        asked = asked[:prompts]
        found = find_pairs(context, asked)
        labels = stage.labelled(context, found, card="")
    return compared(run, config, asked, labels, progress)


def compared(
    run: RunFolder, config: RunConfig, asked: Sequence[Prompt], labels: Sequence[PreferenceLabel], progress: Progress
) -> SourcesCompared:
    """The figures of the labels, and which kind they recommend."""
    draw = Draw(record_seed(config.seed, "compare"), config.evaluate.bootstrap)
    kinds: dict[AnswerSource, list[PreferenceLabel]] = {"policy": [], "contrast": []}
    for label in labels:
        kinds[label.answers].append(label)
    texts = len({side.id for label in labels for side in (label.comparison.a, label.comparison.b)})
    with gold.loading(config.evaluate.gold, progress, texts) as (scorers, missing):
        votes = {kind: {s.name: agreements(own, s) for s in scorers} for kind, own in kinds.items()}
    notes = list(missing)
    learnt: dict[AnswerSource, list[Keyed]] = {"policy": [], "contrast": []}
    try:
        learnt = {kind: by_words(own) for kind, own in kinds.items()}
    except ImportError:
        notes.append(f"what words tell is not measured: {SKLEARN.distribution} is missing; install it with: "
                     f"{SKLEARN.install}")  # fmt: skip
    figures = {kind: _figures(kind, own, votes[kind], learnt[kind], draw) for kind, own in kinds.items()}
    first = scorers[0].name if scorers else None
    gold_difference = None if first is None else draw.difference(votes["contrast"][first], votes["policy"][first])
    learnable_difference = draw.difference(learnt["contrast"], learnt["policy"])
    taken, reason = _recommended(figures, first, gold_difference, learnable_difference)
    return SourcesCompared(
        run=str(run.root),
        judge=config.judge.method,
        confirm=config.label.confirm,
        prompts=len(asked),
        policy=figures["policy"],
        contrast=figures["contrast"],
        gold_difference=gold_difference,
        learnable_difference=learnable_difference,
        recommended=taken,
        reason=reason,
        notes=tuple(notes),
    )


def _figures(
    kind: AnswerSource,
    labels: Sequence[PreferenceLabel],
    votes: dict[str, list[Keyed]],
    learnt: Sequence[Keyed],
    draw: Draw,
) -> SourceFigures:
    return SourceFigures(
        answers=kind,
        pairs=len(labels),
        labelled=sum(label.prob_a is not None for label in labels),
        missing=dict(Counter[str](label.failure.kind for label in labels if label.failure is not None)),
        gold={name: draw.share(given) for name, given in votes.items()},
        learnable=draw.share(learnt),
        confounds=confounds(labels),
    )


def _recommended(
    figures: dict[AnswerSource, SourceFigures], first: str | None, by_gold: Estimate | None, learnt: Estimate | None
) -> tuple[AnswerSource, str]:
    """The kind, and why, by the rule."""
    if not figures["policy"].labelled and figures["contrast"].labelled:
        return "contrast", "no pair of the policy has a label"
    if not figures["contrast"].labelled:
        return "policy", "no pair by contrast has a label"
    if by_gold is not None and first is not None:
        shares = {kind: found.gold[first] for kind, found in figures.items()}
        clear = _clear(by_gold)
        if clear is not None:
            return clear, _told(f"gold {first} agrees with", shares, by_gold)
    if learnt is not None:
        shares = {kind: found.learnable for kind, found in figures.items()}
        clear = _clear(learnt)
        best = None if clear is None else shares[clear]
        if clear is not None and best is not None and best.side(0.5) > 0:
            return clear, _told("a bag of words learns", shares, learnt)
    return "policy", "no difference between the two is clear on this sample"


def _clear(difference: Estimate) -> AnswerSource | None:
    """The kind that a difference, contrast less policy, is clear of 0 for."""
    kinds: dict[int, AnswerSource] = {1: "contrast", -1: "policy"}
    return kinds.get(difference.side())


def _told(what: str, shares: dict[AnswerSource, Estimate | None], difference: Estimate) -> str:
    named = (("by contrast", shares["contrast"]), ("of the policy", shares["policy"]))
    each = [f"{share.mean:.0%} of the labels {name}" for name, share in named if share is not None]
    points = [f"{100 * (value or 0):+.0f}" for value in (difference.mean, difference.low, difference.high)]
    return f"{what} {' and '.join(each)} ({points[0]} points by prompt [{points[1]}, {points[2]}])"
