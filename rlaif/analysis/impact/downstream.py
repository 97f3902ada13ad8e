"""What an edit does beyond the labels: to the revisions, to the reward model, to the policy trained on it.

Everything is read from two run folders, the run and its fork, and compared prompt by prompt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rlaif.config import RunConfig
from rlaif.core.evaluation import ScoreRow, read_held_out, read_scores, read_summary
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import Comparison, PreferenceLabel, Prompt, Response, RevisionTrace, StageRecord, WinRate
from rlaif.core.statistics import Draw, Estimate, Keyed, is_share
from rlaif.judge.judge import Judge


@dataclass(frozen=True, slots=True)
class Work:
    """What a fork is and took: its folder, model calls, answers found in the cache, seconds."""

    folder: str
    calls: int
    cached: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Wins:
    """The win rate of new answers against old ones by the judge under the "new" or the "old" constitution."""

    under: str
    rate: WinRate


@dataclass(frozen=True, slots=True)
class RevisionChange:
    """A prompt whose final answer is another one now, with the principles that were drawn for its rounds."""

    prompt: Prompt
    before: str
    after: str
    principles_before: tuple[str, ...]
    principles_after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RevisionImpact:
    """`prompts` went through critique and revision in both; `redrawn` of them drew other principles; `replaced_...`
    had their first answer replaced. `changed`: share with another final answer. `wins`: of those alone. `words`:
    new - old."""

    prompts: int
    redrawn: int
    replaced_before: int
    replaced_after: int
    changed: Estimate | None
    wins: tuple[Wins, ...]
    words: Estimate | None
    examples: tuple[RevisionChange, ...]
    work: Work


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """A response and its score, in standard deviations, by the reward model of the old and of the new labels."""

    prompt: Prompt
    response: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class RewardImpact:
    """The run's own reward model against one trained on the new labels, on all responses of the label stage.

    `flips`: pairs of a prompt that the two order differently; `correlation`: Spearman's over responses;
    `moved`: mean |new - old| of the scores. `accuracy_...`: each on its held-out pairs, by the labels it learnt.
    """

    responses: int
    pairs: int
    flips: Estimate | None
    correlation: float | None
    moved: Estimate | None
    accuracy_before: float | None
    accuracy_after: float | None
    examples: tuple[ScoreChange, ...]
    work: Work


@dataclass(frozen=True, slots=True)
class MeasureChange:
    """A measure of the answers to the held-out prompts: mean of both policies and the paired difference new - old."""

    slice: str
    name: str
    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class PolicyImpact:
    """The run's PPO policy against one trained under the new constitution from the same SFT policy, on the held-out
    prompts, sample by sample; equal answers are half a win, or unscored where the judge abstains."""

    prompts: int
    wins: tuple[Wins, ...]
    measures: tuple[MeasureChange, ...]
    work: Work


def work_of(fork: RunFolder, records: Sequence[StageRecord]) -> Work:
    """What the stages of a fork took together."""
    total: Counter[str] = Counter()
    for record in records:
        for name, value in record.counts.items():
            for kind in ("calls", "cached"):
                total[kind] += int(value) if name.endswith(f"_{kind}") else 0
    return Work(str(fork.root), total["calls"], total["cached"], round(sum(r.seconds for r in records), 1))


# --- revisions --------------------------------------------------------------------------------------------------------


def revision_impact(
    before: RunFolder, after: RunFolder, judges: Mapping[str, Judge], work: Work, draw: Draw, examples: int
) -> RevisionImpact:
    """`judges`: "new" and "old" -> the judge under that constitution. `examples`: how many changed answers to keep."""
    old, new = _traces(before), _traces(after)
    both = [(old[name], new[name]) for name in old if name in new]
    differ = [(a, b) for a, b in both if a.final.text != b.final.text]
    comparisons = [Comparison(b.prompt, b.final, a.final) for a, b in differ]
    return RevisionImpact(
        prompts=len(both),
        redrawn=sum(_drawn(a) != _drawn(b) for a, b in both),
        replaced_before=sum(a.revised for a, _ in both),
        replaced_after=sum(b.revised for _, b in both),
        changed=draw.share([(a.prompt.id, a.final.text != b.final.text) for a, b in both]),
        wins=_wins(comparisons, judges, [""], draw),
        words=draw.difference(
            [(b.prompt.id, len(b.final.text.split())) for _, b in both],
            [(a.prompt.id, len(a.final.text.split())) for a, _ in both],
        ),
        examples=tuple(
            RevisionChange(b.prompt, a.final.text, b.final.text, _drawn(a), _drawn(b)) for a, b in differ[:examples]
        ),
        work=work,
    )


def _traces(run: RunFolder) -> dict[str, RevisionTrace]:
    """Prompt id -> trace, of the prompts that went through a round."""
    traces = JsonlFile(run.file("revise", "traces.jsonl"), RevisionTrace)
    return {trace.prompt.id: trace for trace in traces if trace.rounds}


def _drawn(trace: RevisionTrace) -> tuple[str, ...]:
    return tuple(turn.principle_id for turn in trace.rounds)


def _wins(
    comparisons: Sequence[Comparison], judges: Mapping[str, Judge], slices: Sequence[str], draw: Draw
) -> tuple[Wins, ...]:
    """The win rate of A by each judge on each of the slices; "" is all of them."""
    found = []
    for under, judge in judges.items():
        labels = judge.label(comparisons) if comparisons else []
        for part in slices:
            inside = [label for label in labels if part in ("", label.comparison.prompt.slice)]
            probabilities = [(label.comparison.prompt.id, label.prob_a) for label in inside]
            found.append(Wins(under, draw.win_rate("new", "old", part, probabilities)))
    return tuple(found)


# --- the reward model -------------------------------------------------------------------------------------------------


def reward_impact(
    config: RunConfig, before: RunFolder, after: RunFolder, work: Work, draw: Draw, examples: int
) -> RewardImpact:
    """Scores every response of the label stage by both reward models, one after the other."""
    labels = JsonlFile(after.file("label", "labels.jsonl"), PreferenceLabel).read()
    comparisons = [label.comparison for label in labels]
    responses = {r.id: (c.prompt, r) for c in comparisons for r in (c.a, c.b)}
    old, new = (_scores(config, run, list(responses.values())) for run in (before, after))
    was, now = (dict(zip(responses, scores, strict=True)) for scores in (old, new))
    flips: list[Keyed] = [
        (c.prompt.id, abs(_order(now[c.a.id] - now[c.b.id]) - _order(was[c.a.id] - was[c.b.id]))) for c in comparisons
    ]
    moved: list[Keyed] = [(prompt.id, abs(now[name] - was[name])) for name, (prompt, _) in responses.items()]
    moving = [name for name in responses if now[name] != was[name]]
    most = sorted(moving, key=lambda name: (-abs(now[name] - was[name]), name))[:examples]
    return RewardImpact(
        responses=len(responses),
        pairs=len(comparisons),
        flips=draw.share(flips),
        correlation=_spearman(old, new),
        moved=draw.mean(moved),
        accuracy_before=_accuracy(before),
        accuracy_after=_accuracy(after),
        examples=tuple(ScoreChange(responses[name][0], responses[name][1].text, was[name], now[name]) for name in most),
        work=work,
    )


def _accuracy(run: RunFolder) -> float | None:
    held_out = read_held_out(run)
    return None if held_out is None else held_out.accuracy


def _order(difference: float) -> float:
    """1 if the first of two scores is higher, 0 if the other is, 0.5 if they are equal."""
    return float(difference > 0) + 0.5 * (difference == 0)


def _scores(config: RunConfig, run: RunFolder, responses: Sequence[tuple[Prompt, Response]]) -> list[float]:
    """The score of each response, of an ensemble the members' mean."""
    from rlaif.lm.local.load import load_model
    from rlaif.training.rewards.model import RewardModel

    base = load_model(config.model, tuple(run.file(stage, "adapter") for stage in config.start))
    scores = []
    for name in config.reward.adapters:
        model = RewardModel.load(run.file("reward", name), base)
        scores.append(
            model.score_texts(
                [prompt for prompt, _ in responses],
                [response.text for _, response in responses],
                [response.finish == "stop" for _, response in responses],
            )
        )
        model.unload()
    return [fmean(found) for found in zip(*scores, strict=True)]


def _spearman(old: Sequence[float], new: Sequence[float]) -> float | None:
    from scipy.stats import spearmanr

    if len(set(old)) < 2 or len(set(new)) < 2:
        return None
    return float(spearmanr(old, new).statistic)


# --- the policy -------------------------------------------------------------------------------------------------------


def policy_impact(
    before: RunFolder, after: RunFolder, judges: Mapping[str, Judge], work: Work, draw: Draw
) -> PolicyImpact:
    """Compares the answers that the two PPO policies gave in their `evaluate` stages, sample by sample."""
    prompts = {p.id: p for p in JsonlFile(after.root / "prompts" / "held_out.jsonl", Prompt)}
    old, new = _answers(before), _answers(after)
    comparisons = [
        Comparison(prompts[name], b, a)
        for name, given in new.items()
        if name in prompts
        for seed, b in given.items()
        if (a := old.get(name, {}).get(seed)) is not None
    ]
    slices = list(dict.fromkeys(comparison.prompt.slice for comparison in comparisons))
    slices = ["", *slices] if len(slices) > 1 else [""]
    was, now = ([row for row in read_scores(run) if row.model == "ppo"] for run in (before, after))
    declared = {
        name
        for summary in map(read_summary, (before, after))
        for name, measure in ({} if summary is None else summary.measures).items()
        if measure.share
    }
    measures = [change for part in slices for change in _measures(was, now, part, draw, declared)]
    return PolicyImpact(len(new.keys() & old.keys()), _wins(comparisons, judges, slices, draw), tuple(measures), work)


def _answers(run: RunFolder) -> dict[str, dict[int, Response]]:
    """Prompt id -> seed of the sample -> the PPO policy's answer; both policies sample with the same seeds."""
    found: dict[str, dict[int, Response]] = {}
    for response in JsonlFile(run.file("evaluate", "responses.jsonl"), Response):
        if response.model == "ppo":
            found.setdefault(response.prompt_id, {})[response.seed] = response
    return found


def _measures(
    old: Sequence[ScoreRow], new: Sequence[ScoreRow], part: str, draw: Draw, declared: Collection[str]
) -> list[MeasureChange]:
    """Every column of numbers or truth values that both have; `declared`: the shares among them."""
    found = []
    for name in new[0].values if new else ():
        was, now = (
            [(row.prompt_id, _number(row.values.get(name))) for row in rows if part in ("", row.slice)]
            for rows in (old, new)
        )
        average, differ = draw.mean, draw.difference
        if name in declared or is_share(row.values.get(name) for row in (*old, *new)):
            average, differ = draw.share, draw.share_difference
        before, after, difference = average(was), average(now), differ(now, was)
        if before is not None and after is not None and difference is not None:
            found.append(MeasureChange(part, name, before, after, difference))
    return found


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)
