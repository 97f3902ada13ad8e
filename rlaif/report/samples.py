"""What the models answered to the same held-out prompts, picked by the prompt's id and never by the result."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from markupsafe import Markup

from rlaif.core.evaluation import ALIGNED, REFERENCE, Measure, Summary, read_scores
from rlaif.core.files import JsonlFile, RunFolder, read_json_lines
from rlaif.core.records import PreferenceLabel, Prompt, Response, WinRate
from rlaif.report.summary import name_of
from rlaif.view.plots import Point, dots
from rlaif.view.text import is_known


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """One model's answer and what was measured on it."""

    model: str
    response: Response
    scores: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class SideBySide:
    prompt: Prompt
    answers: list[SampleAnswer]


def side_by_side(run: RunFolder, summary: Summary | None, limit: int) -> list[SideBySide]:
    """`limit` prompts, the slices in turn and within a slice by id, with each model's answer of the smallest seed."""
    answers: dict[str, dict[str, Response]] = {}
    for response in JsonlFile(run.file("evaluate", "responses.jsonl"), Response):
        of_prompt = answers.setdefault(response.prompt_id, {})
        kept = of_prompt.get(response.model)
        if kept is None or response.seed < kept.seed:
            of_prompt[response.model] = response
    prompts = [p for p in JsonlFile(run.file("prompts", "held_out.jsonl"), Prompt) if p.id in answers]
    chosen = _in_turn(prompts)[:limit]
    wanted = {answers[prompt.id][model].id for prompt in chosen for model in answers[prompt.id]}
    scores = {row.response_id: row.values for row in read_scores(run) if row.response_id in wanted}
    order = list(summary.models) if summary is not None else ["base", REFERENCE, *ALIGNED]
    return [
        SideBySide(
            prompt,
            [
                SampleAnswer(model, answers[prompt.id][model], scores.get(answers[prompt.id][model].id, {}))
                for model in sorted(answers[prompt.id], key=lambda m: order.index(m) if m in order else len(order))
            ],
        )
        for prompt in chosen
    ]


def _in_turn(prompts: list[Prompt]) -> list[Prompt]:
    slices: dict[str, list[Prompt]] = {}
    for prompt in sorted(prompts, key=lambda p: p.id):
        slices.setdefault(prompt.slice, []).append(prompt)
    ranked = [(index, name, prompt) for name, part in slices.items() for index, prompt in enumerate(part)]
    return [prompt for _, _, prompt in sorted(ranked, key=lambda item: item[:2])]


def evaluate_failures(run: RunFolder) -> Counter[str]:
    """Failures of the evaluation by kind: answers that are missing, labels, single verdicts."""
    failures: Counter[str] = Counter()
    path = run.file("evaluate", "failures.jsonl")
    if path.exists():
        for _, row in read_json_lines(path, drop_broken_tail=True):
            failures[f"answer: {(row.get('failure') or {}).get('kind', 'unknown')}"] += 1
    for label in JsonlFile(run.file("evaluate", "labels.jsonl"), PreferenceLabel):
        if label.failure is not None and label.failure.kind != "abstained":
            failures[f"label: {label.failure.kind}"] += 1
        for verdict in label.verdicts:
            if verdict.failure is not None:
                failures[f"verdict: {verdict.failure.kind}"] += 1
    return failures


def measure_plots(summary: Summary) -> list[Markup]:
    """A dot plot with intervals per measure: slices as blocks, models as rows; then the win rates."""
    plots = []
    for index, (key, measure) in enumerate(summary.measures.items()):
        groups = [(part, [_point(summary, model, part, key) for model in summary.models]) for part in summary.slices]
        plots.append(dots(f"measure-{index}", measure.label, groups, _direction(measure)))
    for name, title, rates in (
        ("win-rates", "Judge win rate", summary.win_rates),
        ("win-rates-matched", "Win rate, pairs of like length", summary.win_rates_length_matched),
    ):
        wins = [(part, [_win_point(summary, w) for w in rates if w.slice == part]) for part in summary.slices]
        plots.append(dots(name, title, wins, "0.5 = no preference", line=0.5))
    return [plot for plot in plots if plot is not None]


def _direction(measure: Measure) -> str:
    if "better" in measure.label or measure.better not in ("lower", "higher"):
        return ""
    return f"{measure.better} is better"


def _point(summary: Summary, model: str, part: str, key: str) -> Point:
    cell = summary.cell(model, part, key)
    series = summary.models.index(model)
    if cell is None or not is_known(cell.mean):
        return Point(series, f"{name_of(model)} (not measured)", None, None, None)
    return Point(series, name_of(model), cell.mean, cell.low, cell.high)


def _win_point(summary: Summary, win: WinRate) -> Point:
    label = f"{name_of(win.model)} v {name_of(win.against)}"
    series = summary.models.index(win.model) if win.model in summary.models else len(summary.models)
    if not is_known(win.rate):
        return Point(series, f"{label} (not measured)", None, None, None)
    return Point(series, label, win.rate, win.low, win.high)
