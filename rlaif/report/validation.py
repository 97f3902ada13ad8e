"""The validations of PPO: every measure over the steps, reward and gold against the distance from SFT, and answers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rlaif.core.evaluation import Measure, Summary
from rlaif.core.files import MetricsLog, RunFolder
from rlaif.core.plugins import short_name
from rlaif.core.terminal import visible
from rlaif.gold.scorers import SCORERS
from rlaif.view.answer import Table
from rlaif.view.plots import DASHES, MARKERS, MUTED, SERIES, Series, as_svg, curve, drawing
from rlaif.view.text import capital, is_known, number

Row = dict[str, Any]
SCORE = "Score (the reward itself)"
TITLES = {
    "kl": "KL to SFT (nats per response)",
    "set_distinct_2": "Different word pairs over all answers",
    "refusals": "Share that opens with a refusal",
    "length": "Length (tokens)",
}
COLUMNS = ("kl", "length", "eos_rate", "entropy", "distinct_2", "set_distinct_2", "repetition", "refusals")
MOST_SLICES = 3


@dataclass(frozen=True, slots=True)
class Validations:
    """What the page shows. `kept` is the step whose policy the stage left, None while it is not finished."""

    kept: int | None
    best: int | None
    plots: list[Markup]
    table: Table
    samples: list[list[Row]]


def gold_measures(names: Sequence[str] = (), summary: Summary | None = None) -> dict[str, Measure]:
    """Every gold scorer that validations may have a column of: ours, and the user's among `names`, of which the label
    and the good direction are those that `evaluate` wrote, where it measured them too."""
    known = {} if summary is None else summary.measures
    found = {name: Measure(entry.label, entry.better) for name, entry in SCORERS.items()}
    own = [short_name(name) for name in names if name not in SCORERS]
    return found | {name: known.get(name, Measure(name)) for name in own}


def read_validations(
    run: RunFolder, *, keep: str, finished: bool, examples: int, gold: Mapping[str, Measure] | None = None
) -> Validations | None:
    """The validations of the run, with up to `examples` prompts to read; None where there were none."""
    rows = MetricsLog(run.file("ppo", "validation.jsonl")).read()
    whole = [row for row in rows if row.get("slice") is None]
    if not whole:
        return None
    answers = MetricsLog(run.file("ppo", "validation_samples.jsonl")).read()
    best = next((int(row["step"]) for row in reversed(whole) if row.get("best")), None)
    last = int(whole[-1]["step"])
    kept = None if not finished else best if keep == "best" and best is not None else last
    gold = gold_measures() if gold is None else gold
    titles = {"score": SCORE} | {name: capital(measure.label) for name, measure in gold.items()} | TITLES
    plots = [over_optimisation(whole, answers, kept, gold), *(_curve(rows, *named) for named in titles.items())]
    steps = sorted({0, last} | ({best} if best is not None else set()))
    shown = [plot for plot in plots if plot is not None]
    return Validations(kept, best, shown, _table(whole, kept, list(gold)), _samples(answers, steps)[:examples])


def over_optimisation(
    whole: Sequence[Row], answers: Sequence[Row], kept: int | None, gold: Mapping[str, Measure] | None = None
) -> Markup | None:
    """Reward and gold against the square root of the KL, the axis of Gao et al. (arXiv 2210.10760), each in standard
    deviations over the prompts of the first validation and turned so that up is better. None for a single point."""
    first = [row for row in answers if row.get("step") == whole[0]["step"]]
    directions = {name: measure.better for name, measure in (gold or gold_measures()).items()}
    lines = []
    for name in ("score", *(name for name, better in directions.items() if better in ("lower", "higher"))):
        start = [float(row[name]) for row in first if is_known(row.get(name))]
        spread = statistics.pstdev(start) if start else 0.0
        if spread > 0:
            sign = -1 if directions.get(name) == "lower" else 1
            y = [sign * (row[name] - whole[0][name]) / spread if is_known(row.get(name)) else math.nan for row in whole]
            lines.append((name, y))
    x = [math.sqrt(max(0.0, row["kl"])) for row in whole]
    if len(whole) < 2 or not lines:
        return None
    title = "Better than SFT (standard deviations)"
    with drawing() as (figure, axes):
        for index, (name, y) in enumerate(lines):
            label = "score (proxy)" if name == "score" else f"{name} (gold)"
            style = {"color": SERIES[index % 4], "linestyle": DASHES[index % 4], "marker": MARKERS[index % 4]}
            axes.plot(x, y, label=visible(label), **style)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        for place, row in zip(x, whole, strict=True):
            if row["step"] == kept:
                axes.axvline(place, color=MUTED, linestyle=":", linewidth=1.2, label=f"kept: step {kept}")
        axes.set_title(title)
        axes.set_xlabel("square root of the KL to SFT (nats per response)")
        axes.legend(loc="best")
        return as_svg(figure, "validation-over-optimisation", title)


def _curve(rows: Sequence[Row], name: str, title: str) -> Markup | None:
    """One measure over the steps, of all prompts and, where there are few, of each slice."""
    slices = list(dict.fromkeys(row.get("slice") for row in rows))
    slices.sort(key=lambda part: part is not None)
    chosen = slices if len(slices) <= MOST_SLICES + 1 else slices[:1]
    lines = []
    for part in chosen:
        of_part = [row for row in rows if row.get("slice") == part]
        label = "all" if part is None else str(part)
        lines.append(Series(label, [float(row["step"]) for row in of_part], [row.get(name) for row in of_part]))
    return curve(f"validation-{name}", title, lines, from_zero=name in ("kl", "length", "refusals"))


def _table(whole: Sequence[Row], kept: int | None, gold: Sequence[str]) -> Table:
    """A row for each validation."""
    sources = [name for name in whole[0] if name.startswith("score_")]
    columns = [
        name
        for name in ("score", *gold, *COLUMNS, *(sources if len(sources) > 1 else ()))
        if any(is_known(row.get(name)) for row in whole)
    ]
    rows = []
    for row in whole:
        marks = [mark for mark, true in (("best so far", row.get("best")), ("kept", row["step"] == kept)) if true]
        gain = number(row["gain"]) if is_known(row.get("gain")) else "–"
        if is_known(row.get("gain_low")):
            gain += f"\n{number(row['gain_low'])} to {number(row['gain_high'])}"
        step = f"{row['step']} ({', '.join(marks)})" if marks else str(row["step"])
        rows.append([step, *(number(row.get(name)) for name in columns), gain])
    names = [name if name in sources else name.replace("_", " ") for name in columns]
    return Table(["After step", *names, "better than the best before"], rows)


def _samples(answers: Sequence[Row], steps: Sequence[int]) -> list[list[Row]]:
    """Per prompt, by its id, its answers at these steps."""
    found: dict[str, list[Row]] = {}
    for row in answers:
        if row.get("step") in steps:
            found.setdefault(str(row["prompt_id"]), []).append(row)
    return [found[key] for key in sorted(found)]
