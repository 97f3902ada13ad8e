"""What the evaluation comes to: one cell per model, slice and measure, win rates, KL, and the notes of what is missing.

Every interval is clustered by prompt; every difference is against SFT on the same prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlaif.core.records import Failure, PreferenceLabel, Prompt, Response, WinRate, record_seed
from rlaif.core.statistics import Estimate, Keyed, mean, paired_difference, win_rate
from rlaif.gold import text as text_metrics
from rlaif.gold.scorers import MATCHED, GoldScorer

COMPARISONS = (("ppo", "sft"), ("sft", "base"), ("ppo", "base"))
REFERENCE = "sft"
ScoreRow = dict[str, Any]
"""One response: response_id, prompt_id, slice, model, then a number, a truth value or None per measure."""

TEXT_MEASURES: dict[str, dict[str, str | None]] = {
    "words": {"label": "words", "better": None, "about": "words of the answer"},
    "finished": {
        "label": "finished (higher is better)",
        "better": "higher",
        "about": "share of answers that the model ended itself, within the token limit",
    },
    "distinct_2": {
        "label": "distinct-2 (higher is better)",
        "better": "higher",
        "about": "share of different word pairs within an answer",
    },
    "repetition": {
        "label": "repetition (lower is better)",
        "better": "lower",
        "about": "share of four-word runs that stood earlier in the same answer",
    },
    "refusal": {
        "label": "refusal openings",
        "better": None,
        "about": "share of answers that open with a common refusal phrase: a lexical proxy, wanted on harmful "
        "prompts and over-refusal on harmless ones",
    },
}


@dataclass(frozen=True, slots=True)
class LogprobRow:
    """Log-probability in nats that `model` gives to all tokens of a response; None with a failure."""

    response_id: str
    prompt_id: str
    model: str
    logprob: float | None
    tokens: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that was measured, per response and pair. `models` and `prompts` are in their fixed order."""

    prompts: Sequence[Prompt]
    samples: int
    models: Sequence[str]
    responses: Sequence[Response]
    scores: Sequence[ScoreRow]
    labels: Sequence[PreferenceLabel]
    logprobs: Sequence[LogprobRow]
    scorers: Sequence[GoldScorer]
    notes: Sequence[str]

    @property
    def slices(self) -> list[str]:
        return list(dict.fromkeys(prompt.slice for prompt in self.prompts))


def text_scores(response: Response) -> ScoreRow:
    """The measures of one response that need no model."""
    return {
        "words": len(text_metrics.words(response.text)),
        "finished": response.finish == "stop",
        "distinct_2": text_metrics.distinct(response.text, 2),
        "repetition": text_metrics.repetition(response.text),
        "refusal": text_metrics.opens_with_refusal(response.text),
    }


def summarise(outcome: Outcome, seed: int, resamples: int) -> tuple[dict[str, Any], dict[str, float]]:
    """(summary.json as data, headline numbers by flat name); intervals by `resamples` bootstrap draws from `seed`."""
    draw = record_seed(seed, "evaluate", "bootstrap")
    measures = {
        scorer.name: {
            "label": scorer.label,
            "better": scorer.better,
            "about": scorer.about,
            "quality": scorer.quality,
        }
        for scorer in outcome.scorers
    }
    cells = _cells(outcome, [*measures, *TEXT_MEASURES], draw, resamples)
    rates, matched = _win_rates(outcome, draw, resamples)
    kl = _kl(outcome, draw, resamples)
    notes = [*outcome.notes, *_unscored_notes(rates)]
    if kl:
        notes.append("KL: sum over the tokens of an answer's text, the end-of-turn token excluded, in nats")
    summary = {
        "models": list(outcome.models),
        "slices": outcome.slices,
        "measures": {**measures, **TEXT_MEASURES},
        "cells": cells,
        "win_rates": [asdict(rate) for rate in rates],
        "win_rates_length_matched": [asdict(rate) for rate in matched],
        "kl": kl,
        "set_distinct_2": _set_distinct(outcome),
        "notes": notes,
    }
    return summary, _headline(cells, rates, kl, list(measures))


def _cells(outcome: Outcome, measures: Sequence[str], draw: int, resamples: int) -> list[dict[str, Any]]:
    """Mean with interval per model, slice and measure, and the paired difference against SFT."""
    cells = []
    for part in outcome.slices:
        for measure in measures:
            values = {
                model: [
                    (row["prompt_id"], row[measure])
                    for row in outcome.scores
                    if row["model"] == model and row["slice"] == part
                ]
                for model in outcome.models
            }
            for model in outcome.models:
                found = mean(values[model], seed=draw, resamples=resamples)
                if found is None:
                    continue
                difference = None
                if model != REFERENCE and REFERENCE in values:
                    difference = paired_difference(values[model], values[REFERENCE], seed=draw, resamples=resamples)
                cells.append(
                    {"model": model, "slice": part, "measure": measure, "n": found.n}
                    | {"mean": found.mean, "low": found.low, "high": found.high}
                    | _named("difference", difference)
                )
    return cells


def _named(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """The estimate as {name, name_low, name_high}."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _win_rates(outcome: Outcome, draw: int, resamples: int) -> tuple[list[WinRate], list[WinRate]]:
    """Win rates of all pairs of models per slice, and the same on length-matched pairs alone.

    A pair that was not judged because an answer is missing counts as unscored in the first list; the second list
    counts only pairs whose word counts differ by at most a quarter of the longer one.
    """
    everything, matched = [], []
    for first, second in COMPARISONS:
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
    return abs(a - b) <= MATCHED * max(a, b)


def _unscored_notes(rates: Sequence[WinRate]) -> list[str]:
    return [
        f"{rate.model} v {rate.against} on {rate.slice}: "
        f"{rate.unscored} of {rate.scored + rate.unscored} pairs have no label and are in no win rate"
        for rate in rates
        if rate.unscored > 0
    ]


def _kl(outcome: Outcome, draw: int, resamples: int) -> list[dict[str, Any]]:
    """KL(ppo || sft) per slice: nats per response with interval, and nats per token with interval."""
    slice_of = {prompt.id: prompt.slice for prompt in outcome.prompts}
    by_response: dict[str, dict[str, LogprobRow]] = {}
    for row in outcome.logprobs:
        by_response.setdefault(row.response_id, {})[row.model] = row
    found = []
    for part in outcome.slices:
        per_response: list[Keyed] = []
        tokens: list[Keyed] = []
        for rows in by_response.values():
            ppo, sft = rows.get("ppo"), rows.get(REFERENCE)
            if ppo is None or sft is None or slice_of[ppo.prompt_id] != part:
                continue
            if ppo.logprob is not None and sft.logprob is not None:
                per_response.append((ppo.prompt_id, ppo.logprob - sft.logprob))
                tokens.append((ppo.prompt_id, float(ppo.tokens)))
        whole = mean(per_response, seed=draw, resamples=resamples)
        if whole is None:
            continue
        each = mean(_ratios(per_response, tokens), seed=draw, resamples=resamples)
        found.append(
            {"model": "ppo", "against": REFERENCE, "slice": part, "n": whole.n}
            | {"mean": whole.mean, "low": whole.low, "high": whole.high}
            | _named("per_token", each)
        )
    return found


def _ratios(totals: Sequence[Keyed], counts: Sequence[Keyed]) -> list[Keyed]:
    """Total over count per prompt; None where a prompt has only empty responses."""
    sums: dict[str, tuple[float, float]] = {}
    for (prompt_id, total), (_, count) in zip(totals, counts, strict=True):
        before = sums.get(prompt_id, (0.0, 0.0))
        sums[prompt_id] = (before[0] + (total or 0.0), before[1] + (count or 0.0))
    return [(prompt_id, total / count if count > 0 else None) for prompt_id, (total, count) in sums.items()]


def _set_distinct(outcome: Outcome) -> list[dict[str, Any]]:
    """distinct-2 over all answers of a slice together, at the same number of word pairs for every model.

    It shows the collapse to one answer for every prompt, which no per-response measure sees.
    """
    slice_of = {prompt.id: prompt.slice for prompt in outcome.prompts}
    found: list[dict[str, Any]] = []
    for part in outcome.slices:
        texts = {
            model: [row.text for row in outcome.responses if row.model == model and slice_of[row.prompt_id] == part]
            for model in outcome.models
        }
        budget = min(text_metrics.ngram_count(rows, 2) for rows in texts.values())
        found += [
            {"model": model, "slice": part, "value": text_metrics.distinct_of_set(rows, 2, budget), "pairs": budget}
            for model, rows in texts.items()
        ]
    return found


def _headline(
    cells: Sequence[dict[str, Any]], rates: Sequence[WinRate], kl: Sequence[dict[str, Any]], golds: Sequence[str]
) -> dict[str, float]:
    """Flat numbers for the stage record: gold and length differences PPO - SFT, win rate and KL, per slice."""
    found = {
        f"{cell['measure']}_ppo_minus_sft_{cell['slice']}": cell["difference"]
        for cell in cells
        if cell["model"] == "ppo" and cell["measure"] in (*golds, "words")
    }
    found |= {
        f"win_rate_ppo_v_sft_{rate.slice}": rate.rate
        for rate in rates
        if (rate.model, rate.against) == ("ppo", REFERENCE)
    }
    found |= {f"kl_ppo_v_sft_{row['slice']}": row["mean"] for row in kl}
    return {name: float(value) for name, value in found.items() if value is not None}
