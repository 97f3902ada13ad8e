"""What `evaluate` measured (evaluate/summary.json), read with its types checked, and its table for the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rlaif.core.errors import DataError, StageError
from rlaif.core.files import RunFolder
from rlaif.core.records import WinRate, from_json
from rlaif.view.text import MISSING, common_decimals, is_known, number, percent, visible

if TYPE_CHECKING:
    from rich.table import Table

REFERENCE = "sft"
ON_THE_TERMINAL = ("harm", "words")
"""Measures that have a column on the terminal, which is often 80 wide; the report shows all."""
NAMES = {"base": "base", "sft": "SFT", "ppo": "PPO"}


@dataclass(frozen=True, slots=True)
class Measure:
    """What a column means. `better` says which direction is good; "none" where neither is."""

    label: str
    better: Literal["lower", "higher", "none"] | None = None
    about: str = ""

    @property
    def name(self) -> str:
        """The label without its bracket: "gold harm" for "gold harm (lower is better)"."""
        return self.label.split(" (")[0]


@dataclass(frozen=True, slots=True)
class Cell:
    """One model on one slice under one measure: mean with its 95 % interval, and mean paired difference v SFT."""

    model: str
    slice: str
    measure: str
    n: int
    mean: float | None
    low: float | None = None
    high: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None

    @property
    def differs(self) -> bool:
        """True when the interval of the difference is known and does not contain 0."""
        low, high = self.difference_low, self.difference_high
        return is_known(self.difference) and is_known(low) and is_known(high) and (low > 0 or high < 0)


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL of `model` from `against` in nats per response, sampled from `model`."""

    model: str
    against: str
    slice: str
    mean: float | None
    low: float | None = None
    high: float | None = None
    per_token: float | None = None


@dataclass(frozen=True, slots=True)
class SetDistinct:
    """Share of different word pairs over all answers of a slice together, at equal numbers of pairs for each model."""

    model: str
    slice: str
    value: float | None
    pairs: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole file."""

    models: tuple[str, ...]
    slices: tuple[str, ...]
    measures: dict[str, Measure]
    cells: tuple[Cell, ...]
    win_rates: tuple[WinRate, ...] = ()
    win_rates_length_matched: tuple[WinRate, ...] = ()
    kl: tuple[Divergence, ...] = ()
    set_distinct_2: tuple[SetDistinct, ...] = ()
    notes: tuple[str, ...] = ()

    def cell(self, model: str, part: str, measure: str) -> Cell | None:
        return next((c for c in self.cells if (c.model, c.slice, c.measure) == (model, part, measure)), None)

    def measured(self) -> dict[str, Measure]:
        """The measures with at least one number."""
        known = {cell.measure for cell in self.cells if is_known(cell.mean)}
        return {key: measure for key, measure in self.measures.items() if key in known}

    def unmeasured(self) -> list[str]:
        """Names of the measures without any number."""
        measured = self.measured()
        return [measure.name for key, measure in self.measures.items() if key not in measured]

    def win_rate(self, model: str, part: str) -> WinRate | None:
        """The model's rate against SFT, taken from SFT's rate against it where only that was measured."""
        for rate in self.win_rates:
            if (rate.model, rate.against, rate.slice) == (model, REFERENCE, part):
                return rate
        for rate in self.win_rates:
            if (rate.model, rate.against, rate.slice) == (REFERENCE, model, part):
                return _turned(rate)
        return None

    def length_matched(self, rate: WinRate) -> WinRate | None:
        """The same comparison on the pairs of like length."""
        wanted = (rate.model, rate.against, rate.slice)
        return next((w for w in self.win_rates_length_matched if (w.model, w.against, w.slice) == wanted), None)

    def divergence(self, model: str, part: str) -> Divergence | None:
        found = (d for d in self.kl if (d.model, d.against, d.slice) == (model, REFERENCE, part))
        return next(found, None)


def _turned(rate: WinRate) -> WinRate:
    """The same comparison from the other side."""
    share, low, high = (1 - value if is_known(value) else None for value in (rate.rate, rate.high, rate.low))
    return replace(rate, model=rate.against, against=rate.model, rate=share, low=low, high=high)


def name_of(model: str) -> str:
    """The model's name as it is written for a reader."""
    return NAMES.get(model, model)


def read_summary(run: RunFolder) -> Summary | None:
    """evaluate/summary.json, or None where there is none; raises DataError naming the field that is wrong."""
    path = run.file("evaluate", "summary.json")
    if not path.exists():
        return None
    try:
        return from_json(Summary, json.loads(path.read_text(encoding="utf-8")))
    except ValueError as problem:
        raise DataError(
            f"is not an evaluation summary: {' '.join(part.strip() for part in str(problem).splitlines()[:3])}",
            where=str(path),
            remedy="run the stage again: rlaif evaluate --force",
        ) from None


def summary_table(run: RunFolder) -> Table:
    """The headline result as a rich table for 80 columns: a row per slice and model; StageError before `evaluate`."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    summary = read_summary(run)
    if summary is None:
        raise StageError("evaluate has not written a summary", where=str(run.root), remedy="run: rlaif evaluate")
    missing = summary.unmeasured()
    measured = {key: measure for key, measure in summary.measured().items() if key in ON_THE_TERMINAL}
    caption = "mean over its 95 % interval; * = the difference v SFT excludes 0; the report has more"
    table = Table(
        box=SIMPLE_HEAD,
        title="Held-out prompts",
        title_justify="left",
        caption=Text(visible(caption + (f"; not measured: {', '.join(missing)}" if missing else ""))),
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
