"""What the evaluation comes to: one cell per model, slice and measure, win rates, KL, and the notes of what is missing.

Every interval is clustered by prompt; every difference is against SFT on the same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import pstdev

from rlaif.config import RunConfig, StageName
from rlaif.core.evaluation import (
    ALIGNED,
    REFERENCE,
    Cell,
    Divergence,
    LengthControlled,
    Measure,
    ScoreRow,
    SetDistinct,
    Summary,
)
from rlaif.core.records import Count, Failure, Number, PreferenceLabel, Prompt, Response, WinRate, record_seed
from rlaif.core.statistics import (
    Estimate,
    Keyed,
    intercept,
    is_share,
    mean,
    mean_share,
    paired,
    paired_difference,
    share_difference,
    win_rate,
)
from rlaif.gold import text as text_metrics
from rlaif.gold.scorers import GoldScorer

COMPARISONS = (("ppo", "sft"), ("sft", "base"), ("ppo", "base"), ("dpo", "sft"), ("dpo", "base"), ("ppo", "dpo"))
ANSWER_MEASURES = {
    "words": Measure("words", None, "words of the answer"),
    "finished": Measure(
        "finished (higher is better)",
        "higher",
        "share of answers that the model ended itself, within the token limit",
        share=True,
    ),
    "distinct_2": Measure("distinct-2 (higher is better)", "higher", "share of different word pairs within an answer"),
    "repetition": Measure(
        "repetition (lower is better)", "lower", "share of four-word runs that stood earlier in the same answer"
    ),
    "base_logprob": Measure(
        "base log-likelihood (nats per token, higher is better)",
        "higher",
        "mean log-probability that the base model gives each token of the answer: one that it finds odd is low, one "
        "that repeats itself is high, so read it beside distinct-2 and repetition",
    ),
    "refusal": Measure(
        "refusal openings",
        None,
        "share of answers that open with a common refusal phrase: a lexical proxy, wanted on harmful "
        "prompts and over-refusal on harmless ones",
        share=True,
    ),
}


def compared_models(config: RunConfig) -> dict[str, tuple[StageName, ...]]:
    """Model -> the stages whose adapters are merged into the base, in that order. Where nothing is
    fine-tuned, the base is what PPO starts from, and stands as "sft": nothing else is to be compared with it."""
    return {name: stages for name, stages in config.policies.items() if name != "base" or config.start}


@dataclass(frozen=True, slots=True)
class LogprobRow:
    """Log-probability in nats that `model` gives to all tokens of a response, at `temperature`; None with a failure."""

    response_id: str
    prompt_id: str
    model: str
    logprob: Number | None
    tokens: Count
    failure: Failure | None = None
    temperature: float = 1.0

    @property
    def per_token(self) -> float | None:
        """Its mean over the tokens; None for a response without any."""
        return self.logprob / self.tokens if self.logprob is not None and self.tokens > 0 else None


@dataclass(frozen=True, slots=True)
class Measurements:
    """Everything that was measured, per response and pair. `models` and `prompts` are in their fixed order; of
    `best_of` answers the best one stands for a model of its own, where that is not 0. Not `judged`: no judge was
    asked."""

    prompts: Sequence[Prompt]
    samples: int
    models: Sequence[str]
    responses: Sequence[Response]
    scores: Sequence[ScoreRow]
    labels: Sequence[PreferenceLabel]
    logprobs: Sequence[LogprobRow]
    scorers: Sequence[GoldScorer]
    notes: Sequence[str]
    best_of: int = 0
    judged: bool = True

    @property
    def slices(self) -> list[str]:
        return list(dict.fromkeys(prompt.slice for prompt in self.prompts))


def answer_scores(response: Response, base: LogprobRow | None) -> dict[str, float | None]:
    """The measures of one response beside gold; `base` is what the base model makes of it."""
    return {
        "words": len(text_metrics.words(response.text)),
        "finished": response.finish == "stop",
        "distinct_2": text_metrics.distinct(response.text, 2),
        "repetition": text_metrics.repetition(response.text),
        "base_logprob": None if base is None else base.per_token,
        "refusal": text_metrics.opens_with_refusal(response.text),
    }


def best_of_name(n: int) -> str:
    """What the model is called whose answer is the best of n."""
    return f"best-of-{n}"


def summarise(outcome: Measurements, seed: int, resamples: int) -> tuple[Summary, dict[str, float]]:
    """(the summary, headline numbers by flat name); intervals by `resamples` bootstrap draws from `seed`."""
    draw = record_seed(seed, "evaluate", "bootstrap")
    gold = {
        scorer.name: Measure(scorer.label, scorer.better, scorer.about, scorer.quality, scorer.entry.share)
        for scorer in outcome.scorers
    }
    cells = list(_cells(outcome, gold | ANSWER_MEASURES, draw, resamples))
    rates, matched = _win_rates(outcome, draw, resamples)
    kl = [*_kl(outcome, draw, resamples), *_best_of_kl(outcome)]
    notes = [*outcome.notes, *_unscored_notes(rates)]
    if kl:
        notes.append(
            "KL: sum over the tokens of an answer's text, the end-of-turn token excluded, in nats"
            + _at(outcome.logprobs)
        )
    summary = Summary(
        models=tuple(outcome.models),
        slices=tuple(outcome.slices),
        measures=gold | ANSWER_MEASURES,
        cells=tuple(cells),
        win_rates=tuple(rates),
        win_rates_length_matched=tuple(matched),
        length_controlled=tuple(_length_controlled(outcome, [c for c in cells if c.measure in gold], draw, resamples)),
        kl=tuple(kl),
        set_distinct_2=tuple(_set_distinct(outcome)),
        notes=tuple(notes),
    )
    return summary, _headline(summary, [*gold, "words"])


def _cells(outcome: Measurements, measures: Mapping[str, Measure], draw: int, resamples: int) -> Iterator[Cell]:
    """Mean with interval per model, slice and measure, and the paired difference against SFT."""
    shares = {
        name
        for name, measure in measures.items()
        if measure.share or is_share(row.values[name] for row in outcome.scores)
    }
    for part in outcome.slices:
        for measure in measures:
            average, differ = (mean_share, share_difference) if measure in shares else (mean, paired_difference)
            values = {
                model: [
                    (row.prompt_id, row.values[measure])
                    for row in outcome.scores
                    if row.model == model and row.slice == part
                ]
                for model in outcome.models
            }
            for model in outcome.models:
                found = average(values[model], seed=draw, resamples=resamples)
                if found is None:
                    continue
                difference = None
                if model != REFERENCE and REFERENCE in values:
                    difference = differ(values[model], values[REFERENCE], seed=draw, resamples=resamples)
                prompts = found.prompts if difference is None else difference.prompts
                cell = Cell(model, part, measure, found.n, *_ends(found), *_ends(difference))
                yield replace(cell, prompts=prompts)


def _length_controlled(
    outcome: Measurements, cells: Sequence[Cell], draw: int, resamples: int
) -> Iterator[LengthControlled]:
    """Of every cell with a difference: what is left of it at equal length, and how many standard deviations it is."""
    for cell in cells:
        if cell.difference is None:
            continue
        mine, reference = (
            [row for row in outcome.scores if (row.model, row.slice) == (model, cell.slice)]
            for model in (cell.model, REFERENCE)
        )
        score = paired(*([(row.prompt_id, row.values[cell.measure]) for row in rows] for rows in (mine, reference)))
        length = paired(*([(row.prompt_id, _log_words(row)) for row in rows] for rows in (mine, reference)))
        points = [(prompt_id, length[prompt_id], score[prompt_id]) for prompt_id in score]
        left = intercept(points, seed=draw, resamples=resamples)
        if left is not None and len(set(score.values())) == 1:  # whatever the length: all of the difference is left
            left = replace(left, low=cell.difference_low, high=cell.difference_high)
        known = [value for row in reference if (value := row.values[cell.measure]) is not None]
        sd = pstdev(known)
        row = LengthControlled(cell.model, cell.slice, cell.measure, len(points), *_ends(left))
        if sd > 0:
            whole = (cell.difference, cell.difference_low, cell.difference_high)
            effect, low, high = (None if value is None else value / sd for value in whole)
            row = replace(row, sd=sd, effect=effect, effect_low=low, effect_high=high)
        yield row


def _log_words(row: ScoreRow) -> float:
    """Logarithm of the word count; an answer without words counts as one of one word."""
    return math.log(max(row.values["words"] or 0.0, 1.0))


def _ends(estimate: Estimate | None) -> tuple[float, float | None, float | None] | tuple[None, None, None]:
    """(mean, low, high)."""
    return (None, None, None) if estimate is None else (estimate.mean, estimate.low, estimate.high)


def _win_rates(outcome: Measurements, draw: int, resamples: int) -> tuple[list[WinRate], list[WinRate]]:
    """Win rates of all pairs of models per slice, and the same on length-matched pairs alone.

    A pair that was not judged because an answer is missing counts as unscored in the first list; the second list
    counts only pairs whose word counts differ by at most a quarter of the longer one.
    """
    everything, matched = [], []
    for first, second in COMPARISONS if outcome.judged else ():
        if not {first, second} <= set(outcome.models):
            continue
        for part in outcome.slices:
            labels = [
                label
                for label in outcome.labels
                if (label.comparison.a.model, label.comparison.b.model) == (first, second)
                and label.comparison.prompt.slice == part
            ]
            expected = outcome.samples * sum(prompt.slice == part for prompt in outcome.prompts)
            lost: list[Keyed] = [("", None)] * (expected - len(labels))

            def rate(rows: Sequence[Keyed], part: str = part, first: str = first, second: str = second) -> WinRate:
                return win_rate(first, second, part, rows, seed=draw, resamples=resamples)

            everything.append(rate([*_probabilities(labels, lambda label: True), *lost]))
            matched.append(rate(_probabilities(labels, _length_matched)))
    return everything, matched


def _probabilities(labels: Sequence[PreferenceLabel], keep: Callable[[PreferenceLabel], bool]) -> list[Keyed]:
    return [(label.comparison.prompt.id, label.prob_a) for label in labels if keep(label)]


def _length_matched(label: PreferenceLabel) -> bool:
    a, b = (len(text_metrics.words(part.text)) for part in (label.comparison.a, label.comparison.b))
    return text_metrics.alike(a, b)


def _unscored_notes(rates: Sequence[WinRate]) -> list[str]:
    return [
        f"{rate.model} v {rate.against} on {rate.slice}: "
        f"{rate.unscored} of {rate.scored + rate.unscored} pairs have no label and are in no win rate"
        for rate in rates
        if rate.unscored > 0
    ]


def _kl(outcome: Measurements, draw: int, resamples: int) -> list[Divergence]:
    """KL(policy || sft) per slice and policy: nats per response with interval, and nats per token with interval."""
    slice_of = {prompt.id: prompt.slice for prompt in outcome.prompts}
    by_response: dict[str, dict[str, LogprobRow]] = {}
    for row in outcome.logprobs:
        by_response.setdefault(row.response_id, {})[row.model] = row
    found = []
    for policy, part in [(policy, part) for policy in ALIGNED for part in outcome.slices]:
        per_response: list[Keyed] = []
        tokens: list[Keyed] = []
        for rows in by_response.values():
            own, sft = rows.get(policy), rows.get(REFERENCE)
            if own is None or sft is None or slice_of[own.prompt_id] != part:
                continue
            if own.logprob is not None and sft.logprob is not None:
                per_response.append((own.prompt_id, own.logprob - sft.logprob))
                tokens.append((own.prompt_id, float(own.tokens)))
        whole = mean(per_response, seed=draw, resamples=resamples)
        if whole is None:
            continue
        each = mean(_ratios(per_response, tokens), seed=draw, resamples=resamples)
        found.append(Divergence(policy, REFERENCE, part, whole.n, *_ends(whole), *_ends(each)))
    return found


def _at(rows: Sequence[LogprobRow]) -> str:
    """The end of the sentence on KL: at which temperature it is taken."""
    return next((f"; at temperature {row.temperature:g}" for row in rows if row.model in ALIGNED), "")


def _best_of_kl(outcome: Measurements) -> Iterator[Divergence]:
    """KL(best of n || SFT) by its formula, log n - (n - 1) / n nats per response (arXiv 2009.01325, appendix G.3).

    It holds where no two answers score alike; else it is an upper bound (arXiv 2401.01879).
    """
    n, slice_of = outcome.best_of, {prompt.id: prompt.slice for prompt in outcome.prompts}
    for part in outcome.slices:
        answered = [
            row.prompt_id
            for row in outcome.responses
            if n and row.model == best_of_name(n) and slice_of[row.prompt_id] == part
        ]
        if answered:
            yield Divergence(best_of_name(n), REFERENCE, part, len(set(answered)), math.log(n) - (n - 1) / n)


def _ratios(totals: Sequence[Keyed], counts: Sequence[Keyed]) -> list[Keyed]:
    """Total over count per prompt; None where a prompt has only empty responses."""
    sums: dict[str, tuple[float, float]] = {}
    for (prompt_id, total), (_, count) in zip(totals, counts, strict=True):
        before = sums.get(prompt_id, (0.0, 0.0))
        sums[prompt_id] = (before[0] + (total or 0.0), before[1] + (count or 0.0))
    return [(prompt_id, total / count if count > 0 else None) for prompt_id, (total, count) in sums.items()]


def _set_distinct(outcome: Measurements) -> list[SetDistinct]:
    """distinct-2 over all answers of a slice together, at the same number of word pairs for every model.

    It shows the collapse to one answer for every prompt, which no per-response measure sees.
    """
    slice_of = {prompt.id: prompt.slice for prompt in outcome.prompts}
    found: list[SetDistinct] = []
    for part in outcome.slices:
        texts = {
            model: [row.text for row in outcome.responses if row.model == model and slice_of[row.prompt_id] == part]
            for model in outcome.models
        }
        budget = min(text_metrics.ngram_count(rows, 2) for rows in texts.values())
        found += [
            SetDistinct(model, part, text_metrics.distinct_of_set(rows, 2, budget), budget)
            for model, rows in texts.items()
        ]
    return found


def _headline(summary: Summary, measures: Sequence[str]) -> dict[str, float]:
    """Flat numbers for the stage record, of PPO and DPO: differences from SFT of these measures, win rate and KL, per
    slice."""
    found = {
        f"{cell.measure}_{cell.model}_minus_sft_{cell.slice}": cell.difference
        for cell in summary.cells
        if cell.model in ALIGNED and cell.measure in measures
    }
    found |= {
        f"win_rate_{rate.model}_v_sft_{rate.slice}": rate.rate
        for rate in summary.win_rates
        if rate.model in ALIGNED and rate.against == REFERENCE
    }
    found |= {f"kl_{row.model}_v_sft_{row.slice}": row.mean for row in summary.kl if row.model in ALIGNED}
    return {name: float(value) for name, value in found.items() if value is not None}
