"""The `reward` stage: trains the reward model on soft AI labels, and says how far it agrees with those held out.

An ensemble is several adapters trained one after the other on the same base, each from a seed of its own (that of the
first is the run's) and on a random half of the training prompts: members that saw the same would err alike.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from rlaif.config import Pooling
from rlaif.core.errors import StageError
from rlaif.core.evaluation import HeldOut, Probe
from rlaif.core.files import MetricsLog, write_atomic, write_folder
from rlaif.core.records import record_seed
from rlaif.lm.local.load import LoadedModel, load_model
from rlaif.stages.context import StageContext
from rlaif.stages.training_labels import training_labels
from rlaif.training.preference_metrics import agreement, held_out_report, held_out_verdict, label_entropy
from rlaif.training.rewards import preferences
from rlaif.training.rewards import probe as probes
from rlaif.training.rewards.early_stop import step_kept
from rlaif.training.rewards.model import RewardModel, frozen_states
from rlaif.training.rewards.predictors import SOURCE, accuracy_of, trivial_predictors
from rlaif.training.rewards.preferences import Pair, PromptGroup, answer_pairs


def run(context: StageContext) -> dict[str, float]:
    """Counts of the stage, after every member's adapter and `reward/held_out.json` have been written."""
    config = context.config.reward
    loaded = load_model(context.config.model, context.start)
    labels = training_labels(context, loaded, config.max_length)
    groups = labels.groups
    train, held_out = preferences.split(groups, share=config.held_out, seed=context.config.seed)
    labels.refuse(enough=bool(train and held_out), wanted=" on 2 prompts, one of them to hold out,")
    pooling, probe = _probed(context, loaded, train, held_out)
    shared = len(preferences.half(train, seed=0)) if config.members > 1 else 0
    if shared:
        context.progress.say(
            f"  reward: each of {config.members} members learns from {shared} of the {len(train)} training prompts, "
            "drawn for it alone"
        )
    members = [_member(context, loaded, number, train, groups, pooling) for number in range(config.members)]
    report = _with_company(_report(held_out, members), train, held_out, members, probe)
    context.progress.say(f"  {report.verdict}")
    write_atomic(context.folder / "held_out.json", json.dumps(report.as_json(), indent=1))
    first = members[0]
    train_margins, train_labels = _margins(train, members), [pair.prob_a for group in train for pair in group.pairs]
    kept = step_kept(first.metrics)
    counts = {
        "pairs_train": len(train_labels),
        "pairs_held_out": report.pairs,
        "prompts_train": len(train),
        **({"prompts_per_member": shared} if shared else {}),
        "prompts_held_out": len(held_out),
        **labels.counts(),
        "steps": sum(len(member.metrics) for member in members),
        **({} if kept is None else {"step_kept": kept, "prompts_validation": first.validated}),
        "loss_first": first.metrics[0]["loss"],
        "loss_last": first.metrics[-1]["loss"],
        "label_entropy_train": label_entropy(train_labels),
        "accuracy_train": agreement(train_margins, train_labels),
        "score_mean": first.mean,
        "score_std": first.std,
        "accuracy": report.accuracy,
        "log_loss": report.log_loss,
        "brier": report.brier,
        "ece": report.ece,
        "label_entropy": report.label_entropy,
        "length_accuracy": report.length_accuracy,
        "disagreement": report.disagreement,
    }
    return {name: float(value) for name, value in counts.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Member:
    """One trained reward model: its raw scores of every response by prompt id, its constants, its metrics rows, and on
    how many prompts it was validated."""

    raw: dict[str, list[float]]
    mean: float
    std: float
    metrics: list[dict[str, Any]]
    validated: int = 0


def _member(
    context: StageContext,
    loaded: LoadedModel,
    number: int,
    train: Sequence[PromptGroup],
    groups: Sequence[PromptGroup],
    pooling: Pooling,
) -> Member:
    """Member `number` from 0: trained and saved, unless it was before the stage was cut.

    Its seed draws the start of its adapter, the order of the prompts and, in an ensemble, which half of the training
    prompts it sees; base and held-out prompts are shared. The prompts that `reward.patience` validates on are taken
    from those to train on.
    """
    if context.config.reward.members > 1:
        train = preferences.half(train, seed=record_seed(context.config.seed, "reward member", number))
    seed = context.config.seed if number == 0 else record_seed(context.config.seed, "reward member", number) % (1 << 31)
    validation: Sequence[PromptGroup] = ()
    if context.config.reward.patience:
        train, validation = preferences.split(train, share=context.config.reward.held_out, seed=seed)
    if not train:
        raise StageError(
            "there is 1 prompt to train on, and reward.patience takes it to validate on",
            where=f"reward.patience: {context.config.reward.patience}",
            remedy="set reward.patience: 0, or make labels on more prompts",
        )
    folder = context.run.file("reward", context.config.reward.adapters[number])
    log, checkpoints = _metrics(context, number), context.folder / "checkpoints"
    model = RewardModel.new(loaded, context.config.reward, seed=seed, pooling=pooling)
    there = folder.is_dir()
    if there:
        model.restore(folder)
    else:
        if number:
            context.progress.say(f"  reward: member {number + 1} of {context.config.reward.members}")
        preferences.train(
            model,
            train,
            context.config.reward,
            validation=validation,
            seed=seed,
            run_seed=context.config.seed,
            checkpoints=checkpoints,
            metrics=log,
            progress=context.progress,
        )
    raw = {group.prompt.id: scores for group, scores in zip(groups, _raw(context, model, groups), strict=True)}
    everything = [score for scores in raw.values() for score in scores]
    if not there:
        model.mean, model.std = fmean(everything), pstdev(everything)
    if not (math.isfinite(model.std) and model.std > 0):
        raise StageError(
            "the reward model gives every response the same score",
            where=str(folder),
            remedy="train longer (reward.epochs), raise reward.learning_rate, or make more labels",
        )
    if not there:
        write_folder(folder, model.save)
        shutil.rmtree(checkpoints, ignore_errors=True)
    model.unload()
    return Member(raw, model.mean, model.std, log.read(), len(validation))


def _raw(context: StageContext, model: RewardModel, groups: Sequence[PromptGroup]) -> list[list[float]]:
    """The raw scores of each group's responses."""
    found = iter(model.raw_of([row for group in groups for row in group.rows], context.config.model.batch_size))
    return [[next(found) for _ in group.rows] for group in groups]


def _probed(
    context: StageContext, loaded: LoadedModel, train: Sequence[PromptGroup], held_out: Sequence[PromptGroup]
) -> tuple[Pooling, Probe | None]:
    """(where the score is read, what the probe of the frozen model says of it); no probe where no label has a side."""
    asked = context.config.reward.pooling
    groups = [*train, *held_out]
    states = frozen_states(loaded, [row for g in groups for row in g.rows], context.config.model.batch_size)
    sides = {True: [], False: []}  # type: dict[bool, list[tuple[int, int, Pair, str]]]
    start = 0
    for number, group in enumerate(groups):
        sides[number < len(train)] += [
            (start + pair.a, start + pair.b, pair, group.prompt.id) for pair in group.pairs if pair.prob_a != 0.5
        ]
        start += len(group.rows)
    learnt, tested = sides[True], sides[False]
    prompts = [prompt_id for *_, prompt_id in learnt]
    if len(set(prompts)) < 2:
        return ("mean" if asked == "auto" else asked), None

    def differences(way: Pooling, pairs: Sequence[tuple[int, int, Pair, str]]) -> np.ndarray:
        found: np.ndarray = (states[way][[a for a, *_ in pairs]] - states[way][[b for _, b, *_ in pairs]]).numpy()
        return found

    prefers = [pair.prob_a > 0.5 for _, _, pair, _ in learnt]
    accuracies = {way: probes.cross_validated(differences(way, learnt), prefers, prompts) for way in states}
    open_to_choice = {
        way: share for way, share in accuracies.items() if way != "end" or not context.config.ppo.reward_is_critic
    }
    pooling = probes.chosen(open_to_choice, len(learnt)) if asked == "auto" else asked
    margins = probes.held_out_margins(differences(pooling, learnt), prefers, differences(pooling, tested))
    rows = [(prompt_id, m, pair.prob_a) for (_, _, pair, prompt_id), m in zip(tested, margins, strict=True)]
    return pooling, Probe(pooling, {str(k): v for k, v in accuracies.items()}, accuracy_of("probe", rows))


def _with_company(
    report: HeldOut,
    train: Sequence[PromptGroup],
    held_out: Sequence[PromptGroup],
    members: Sequence[Member],
    probe: Probe | None,
) -> HeldOut:
    """The report with what stands beside the model: its parts, the trivial predictors, the probe, and the verdict."""
    margins = iter(_margins(held_out, members))
    rows = [(group, pair, next(margins)) for group in held_out for pair in group.pairs]
    kinds: dict[str, dict[str, list[tuple[str, float, float]]]] = {"slice": {}, "principle": {}, "answers": {}}
    for group, pair, margin in rows:
        for kind, name in (("slice", group.prompt.slice), ("principle", pair.principle), ("answers", pair.answers)):
            kinds[kind].setdefault(name or "several", []).append((group.prompt.id, margin, pair.prob_a))
    parts = {kind: tuple(accuracy_of(n, found) for n, found in sorted(named.items())) for kind, named in kinds.items()}
    own = accuracy_of("reward model", [(group.prompt.id, margin, pair.prob_a) for group, pair, margin in rows])
    predictors = trivial_predictors(answer_pairs(train), answer_pairs(held_out), [margin for *_, margin in rows])
    prompts = len({group.prompt.id for group, pair, _ in rows if pair.prob_a != 0.5})
    beats, verdict = held_out_verdict(own, [found for found in predictors if found.name != SOURCE], prompts)
    return replace(
        report,
        accuracy_low=own.low,
        accuracy_high=own.high,
        parts=parts,
        predictors=predictors,
        probe=probe,
        beats_trivial=beats,
        verdict=verdict,
    )


def _metrics(context: StageContext, number: int) -> MetricsLog:
    """metrics.jsonl of the first member, metrics-2.jsonl of the second, ..."""
    if number == 0:
        return context.metrics
    return context.tracked(f"metrics-{number + 1}.jsonl", lambda row: f"member-{number + 1}/")


def _margins(groups: Sequence[PromptGroup], members: Sequence[Member]) -> list[float]:
    """Log-odds of A over B of every pair: the mean of the members'."""
    return [
        fmean(member.raw[group.prompt.id][pair.a] - member.raw[group.prompt.id][pair.b] for member in members)
        for group in groups
        for pair in group.pairs
    ]


def _report(groups: Sequence[PromptGroup], members: Sequence[Member]) -> HeldOut:
    """What held_out.json says of the reward model; of an ensemble, and then of each member too."""
    pairs = [(group.responses[pair.a], group.responses[pair.b]) for group in groups for pair in group.pairs]
    report = held_out_report(
        _margins(groups, members),
        [pair.prob_a for group in groups for pair in group.pairs],
        [len(a.text) for a, _ in pairs],
        [len(b.text) for _, b in pairs],
        len(groups),
    )
    if len(members) == 1:
        return report
    scores = [
        [(member.raw[group.prompt.id][place] - member.mean) / member.std for member in members]
        for group in groups
        for place in range(len(group.responses))
    ]
    return replace(
        report,
        disagreement=fmean(map(pstdev, scores)),
        members=tuple(_report(groups, [member]) for member in members),
    )
