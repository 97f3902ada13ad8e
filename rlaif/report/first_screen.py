"""What opens the page and ends a run: the picture of gold over KL, and the prompts that are typical of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from markupsafe import Markup

from rlaif.core.errors import RlaifError
from rlaif.core.evaluation import REFERENCE, ScoreRow, Summary, read_scores
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import Prompt, Response
from rlaif.report.controls import Control, read_controls
from rlaif.report.samples import SampleAnswer
from rlaif.report.summary import name_of
from rlaif.report.verdict import compared
from rlaif.view.plots import Place, over_distance
from rlaif.view.text import is_known, number, plain_decimals, signed

TYPICAL = 3


def controls_of(run: RunFolder) -> tuple[list[Control], str]:
    """(the controls of the run, ""), or ([], why they cannot be read): a control that moved does not stop the page."""
    try:
        return read_controls(run), ""
    except RlaifError as problem:
        return [], str(problem)


# --- the picture ------------------------------------------------------------------------------------------------------


def pictures(summary: Summary, controls: Sequence[Control], part: str | None = None) -> list[Markup]:
    """A plot per slice, `part` first: the first gold of every model and control over its KL from SFT."""
    key = next(iter(summary.golds()), None)
    if key is None:
        return []
    slices = sorted(summary.slices, key=lambda name: name != part)
    drawn = [_picture(summary, controls, name, key, index) for index, name in enumerate(slices)]
    return [plot for plot in drawn if plot is not None]


def _picture(summary: Summary, controls: Sequence[Control], part: str, key: str, index: int) -> Markup | None:
    places = [_place(summary, model, part, key, name_of(model), series) for series, model in enumerate(summary.models)]
    places += [_place(control.summary, "ppo", part, key, control.name, None) for control in controls]
    label = summary.measures[key].label
    return over_distance(f"first-{index}", f"{part} prompts", places, "KL from SFT, nats per response", label)


def _place(summary: Summary, model: str, part: str, key: str, label: str, series: int | None) -> Place:
    cell, divergence = summary.cell(model, part, key), summary.divergence(model, part)
    x = 0.0 if model == REFERENCE else None if divergence is None else divergence.mean
    if cell is None:
        return Place(label, x, None, None, None, series)
    return Place(label, x, cell.mean, cell.low, cell.high, series)


# --- the cases --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, an answer of each model, and by how much gold is better on it than SFT's."""

    kind: str
    figures: str
    prompt: Prompt
    answers: list[SampleAnswer]


@dataclass(frozen=True, slots=True)
class ChosenPrompts:
    """The typical prompts, then the best and the worst one, and the rule by which they were chosen."""

    rule: str
    cases: list[Case]


def chosen_prompts(run: RunFolder, summary: Summary | None, part: str | None) -> ChosenPrompts:
    """The prompts of slice `part` whose gain is nearest the median, and those of the largest and the smallest gain.

    A prompt's gain is the mean of the first gold over the answers of the model, less that over SFT's; of a gold that
    is better the lower it is, the other way round. Of a model the answer nearest its own mean is shown.
    """
    key = None if summary is None else next(iter(summary.golds()), None)
    if summary is None or key is None or REFERENCE not in summary.models or not summary.slices:
        return ChosenPrompts("", [])
    main, model = part or summary.slices[0], compared(summary)
    better, worse = (model, REFERENCE) if model != REFERENCE else (REFERENCE, "base")
    rows = _rows(run, main, key)
    flip = -1 if summary.measures[key].better == "lower" else 1
    means = {
        prompt_id: {name: fmean(row.values[key] or 0.0 for row in found) for name, found in models.items()}
        for prompt_id, models in rows.items()
    }
    gains = {
        prompt_id: flip * (mean[better] - mean[worse])
        for prompt_id, mean in means.items()
        if better in mean and worse in mean
    }
    if not gains:
        return ChosenPrompts("", [])
    middle = median(gains.values())
    nearest = sorted(gains, key=lambda prompt_id: (round(abs(gains[prompt_id] - middle), 9), prompt_id))[:TYPICAL]
    best = max(gains, key=lambda prompt_id: (gains[prompt_id], prompt_id))
    worst = min(gains, key=lambda prompt_id: (gains[prompt_id], prompt_id))
    chosen = [("typical", prompt_id) for prompt_id in nearest]
    chosen += [(kind, prompt_id) for kind, prompt_id in (("best case", best), ("worst case", worst))]
    prompts = {prompt.id: prompt for prompt in JsonlFile(run.file("prompts", "held_out.jsonl"), Prompt)}
    responses = _responses(run, {prompt_id for _, prompt_id in chosen})
    name = summary.measures[key].name
    who, whose = name_of(better), name_of(worse)
    places = plain_decimals(middle)
    rule = (
        f"Typical: of {len(gains)} {main} prompts the {len(nearest)} whose gain in {name} ({who} over {whose}) is "
        f"nearest to the median gain, {signed(middle, places)}. Best and worst case: the largest and the smallest "
        "gain. Of each model the answer nearest to its own mean on the prompt."
    )
    found = []
    for kind, prompt_id in chosen:
        if prompt_id not in prompts:
            continue
        mean = means[prompt_id]
        places = plain_decimals(mean[worse], mean[better])
        figures = f"{name} {number(mean[worse], places)} → {number(mean[better], places)}"
        answers = [
            SampleAnswer(name, responses[row.response_id], row.values)
            for name in dict.fromkeys(("base", REFERENCE, better))
            if name in rows[prompt_id]
            for row in [_nearest(rows[prompt_id][name], key, mean[name], responses)]
            if row is not None
        ]
        found.append(Case(kind, figures, prompts[prompt_id], answers))
    return ChosenPrompts(rule, found)


def case_measures(summary: Summary | None) -> list[str]:
    """The measures that stand below an answer on the first screen: every gold, and the words."""
    return [] if summary is None else [*summary.golds(), "words"]


def _rows(run: RunFolder, part: str, key: str) -> dict[str, dict[str, list[ScoreRow]]]:
    """By prompt and model, the rows of slice `part` with a number for `key`."""
    found: dict[str, dict[str, list[ScoreRow]]] = {}
    for row in read_scores(run):
        if row.slice == part and is_known(row.values.get(key)):
            found.setdefault(row.prompt_id, {}).setdefault(row.model, []).append(row)
    return found


def _responses(run: RunFolder, prompt_ids: set[str]) -> dict[str, Response]:
    """By id, the evaluated answers to these prompts."""
    path = run.file("evaluate", "responses.jsonl")
    return {response.id: response for response in JsonlFile(path, Response) if response.prompt_id in prompt_ids}


def _nearest(rows: Sequence[ScoreRow], key: str, mean: float, responses: dict[str, Response]) -> ScoreRow | None:
    """The row of an answer that is there whose number is nearest `mean`; of several the one of the smallest seed."""
    there = [row for row in rows if row.response_id in responses]

    def rank(row: ScoreRow) -> tuple[Any, ...]:
        return round(abs((row.values[key] or 0.0) - mean), 9), responses[row.response_id].seed

    return min(there, key=rank, default=None)
