"""The table of what `evaluate` measured for the terminal, and the names of its models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlaif.core.errors import StageError
from rlaif.core.evaluation import ALIGNED, REFERENCE, Cell, Measure, Summary, read_summary
from rlaif.core.files import RunFolder
from rlaif.core.records import WinRate
from rlaif.core.terminal import visible
from rlaif.view.text import MISSING, common_decimals, interval, is_known, number, percent

if TYPE_CHECKING:
    from rich.table import Table

NAMES = {"base": "base", "sft": "SFT", "ppo": "PPO", "dpo": "DPO"}


def name_of(model: str) -> str:
    """The model's name as it is written for a reader."""
    return NAMES.get(model, model)


def summary_table(run: RunFolder) -> Table:
    """The headline result as a rich table for 80 columns: a row per slice and model; StageError before `evaluate`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    summary = read_summary(run)
    if summary is None:
        raise StageError("evaluate has not written a summary", where=str(run.root), remedy="run: rlaif evaluate")
    missing = summary.unmeasured()
    shown = (*list(summary.golds())[:1], "words")  # the terminal is often 80 wide; the report shows all
    measured = {key: measure for key, measure in summary.measured().items() if key in shown}
    caption = (
        "mean above its 95 % interval; * = the interval of the difference from SFT excludes 0; the report has more"
    )
    caption += f"; not measured: {', '.join(missing)}" if missing else ""
    table = Table(
        box=SIMPLE_HEAD,
        title="Held-out prompts",
        title_justify="left",
        caption=Text("\n".join(map(visible, [caption, *_sizes(summary)]))),
        caption_justify="left",
    )
    table.add_column("prompts", no_wrap=True)
    table.add_column("model", no_wrap=True)
    for measure in measured.values():
        table.add_column(Text(visible(_heading(measure))), justify="right", no_wrap=True)
    table.add_column("wins v SFT", justify="right", no_wrap=True)
    table.add_column("KL", justify="right", no_wrap=True)
    for part in summary.slices:
        for index, model in enumerate(summary.models):
            values = [part if index == 0 else "", name_of(model)]
            values += [_cell_text(summary.cell(model, part, key)) for key in measured]
            values += [_win_text(summary.win_rate(model, part), model), _kl_text(summary, model, part)]
            table.add_row(*(Text("\n".join(map(visible, value.split("\n")))) for value in values))
        table.add_section()
    return table


def _sizes(summary: Summary) -> list[str]:
    """How large the difference of PPO and DPO on the gold that counts most is, and what is left at equal length: a line
    for each and a slice."""
    lines = []
    for key, measure in list(summary.golds().items())[:1]:
        for model, part in [(model, part) for model in ALIGNED for part in summary.slices]:
            found = summary.at_equal_length(model, part, key)
            if found is None or not is_known(found.difference):
                continue
            size = f" ({number(found.effect, 2)} sd)" if is_known(found.effect) else ""
            ends = interval(found.difference_low, found.difference_high)
            left = f"{number(found.difference)} ({ends}) at equal length"
            whole = summary.cell(model, part, key)
            difference = f"{name_of(model)} - SFT {number(whole.difference if whole else None)}"
            lines.append(f"{measure.name}, {part}: {difference}{size}, {left}")
    return lines


def _heading(measure: Measure) -> str:
    arrow = {"lower": " \u2193", "higher": " \u2191"}.get(measure.better or "", "")
    return measure.name + arrow


def _cell_text(cell: Cell | None) -> str:
    if cell is None or not is_known(cell.mean):
        return MISSING
    places = common_decimals(cell.mean, cell.low, cell.high)
    text = number(cell.mean, places) + ("*" if cell.differs else "")
    if not (is_known(cell.low) and is_known(cell.high)):
        return text
    return f"{text}\n{_range(number(cell.low, places), number(cell.high, places))}"


def _win_text(rate: WinRate | None, model: str) -> str:
    if model == REFERENCE:
        return "-"
    if rate is None or not is_known(rate.rate):
        return MISSING
    if not (is_known(rate.low) and is_known(rate.high)):
        return percent(rate.rate)
    low, high = (percent(value).removesuffix("\u00a0%") for value in (rate.low, rate.high))
    return f"{percent(rate.rate)}\n{_range(low, high)}"


def _range(low: str, high: str) -> str:
    """Narrow where that is clear: "0.31–0.35", but "−0.1 to 0.2"."""
    return f"{low} to {high}" if low.startswith("\u2212") else f"{low}\u2013{high}"


def _kl_text(summary: Summary, model: str, part: str) -> str:
    if model == REFERENCE:
        return "-"
    found = summary.divergence(model, part)
    return number(found.mean) if found is not None else ""
