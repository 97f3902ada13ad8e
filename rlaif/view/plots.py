"""Plots as inline SVG that take their colours from the page's CSS, so that they read in light and in dark.

matplotlib draws in sentinel colours, which are then replaced by CSS variables; series differ in marker and line
style as well as in colour. Ids are prefixed with the plot's name, since all plots share one page.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from rlaif.core.terminal import visible
from rlaif.view.text import brackets, is_known, number, plain_decimals

INK, LINE, MUTED = "#010101", "#020202", "#030303"
SERIES = ("#0a0000", "#0a0001", "#0a0002", "#0a0003")
MARKERS = ("o", "s", "^", "D")
DASHES = ("-", "--", "-.", ":")
_CSS = {INK: "currentColor", LINE: "var(--line)", MUTED: "var(--muted)"} | {
    sentinel: f"var(--series-{index})" for index, sentinel in enumerate(SERIES)
}
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
}


@dataclass(frozen=True, slots=True)
class Series:
    """A line: x and y of the same length; y may hold None or NaN, which leaves a gap. `spread` draws y +/- spread."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    spread: Sequence[float | None] | None = None

    @property
    def measured(self) -> bool:
        return any(is_known(value) for value in self.y)


@dataclass(frozen=True, slots=True)
class Point:
    """One estimate with its interval."""

    series: int
    label: str
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Place:
    """An estimate at the distance `x`; without one it stands left of 0. One of no `series` is a control: a tick."""

    label: str
    x: float | None
    mean: float | None
    low: float | None
    high: float | None
    series: int | None = None


@contextmanager
def drawing(width: float = 3.9, height: float = 2.5) -> Iterator[tuple[Figure, Any]]:
    """A figure in the report's dress, of that size in inches, and its axes."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        yield figure, axes


def as_svg(figure: Figure, name: str, title: str) -> Markup:
    """The figure as one <svg> element without prologue, metadata or addresses."""
    out = io.StringIO()
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = (
        text.replace(' id="', f' id="{name}-').replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    )
    for sentinel, css in _CSS.items():
        text = text.replace(sentinel, css)
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="[\d. ]+"', head)
    opening = f'<svg role="img" {box.group() if box else ""}><title>{escape(visible(title))}</title>'
    return Markup(opening + body)  # made by matplotlib, which escapes the text it is given


def curve(
    name: str, title: str, series: Sequence[Series], *, target: float | None = None, from_zero: bool = False
) -> Markup | None:
    """Lines over steps, with a dotted `target` line; None when no point was measured.

    `from_zero` has 0 on the y axis, so that a small change of a quantity that is seldom negative looks small.
    """
    lines = [line for line in series if line.measured]
    if not lines:
        return None
    with drawing() as (figure, axes):
        for index, line in enumerate(lines, start=1 if len(lines) == 1 else 0):
            y = [value if is_known(value) else math.nan for value in line.y]
            few = len(y) <= 30
            dash = DASHES[index % 4] if len(lines) > 1 else "-"
            style = {"color": SERIES[index % 4], "linestyle": dash, "marker": MARKERS[index % 4] if few else ""}
            axes.plot(line.x, y, label=visible(line.label), **style)
            if line.spread is not None:
                _band(axes, line, SERIES[index % 4])
        if is_known(target):
            axes.axhline(target, color=MUTED, linestyle=":", linewidth=1.2, label="target")
        axes.set_title(visible(title))
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.03)
        if from_zero:
            values = [value for line in lines for value in line.y if is_known(value)]
            bottom, highest = axes.get_ylim()[0], max(*values, target or 0.0, 0.0)
            axes.set_ylim(bottom if min(values) < 0 else 0, highest * 1.08 or 1)
        if len(lines) > 1 or is_known(target):
            axes.legend(loc="best")
        return as_svg(figure, name, title)


def _band(axes: Any, line: Series, color: str) -> None:
    triples = zip(line.x, line.y, line.spread or (), strict=True)
    rows = [(x, y, s) for x, y, s in triples if is_known(y) and is_known(s)]
    axes.fill_between(
        [x for x, _, _ in rows], [y - s for _, y, s in rows], [y + s for _, y, s in rows], color=color, alpha=0.15, lw=0
    )


def stacked(name: str, title: str, x: Sequence[float], layers: Mapping[str, Sequence[float | None]]) -> Markup | None:
    """Stacked bars over steps, one layer per name; None when nothing was measured."""
    known = {label: [v if is_known(v) else 0.0 for v in values] for label, values in layers.items() if any(values)}
    if not known:
        return None
    with drawing() as (figure, axes):
        floor = [0.0] * len(x)
        for index, (label, values) in enumerate(known.items()):
            hatch = ("", "///", "...", "xx")[index % 4]
            axes.bar(
                x, values, bottom=floor, width=0.75, color=SERIES[index % 4], alpha=0.8, hatch=hatch, edgecolor=LINE,
                linewidth=0, label=visible(label),
            )  # fmt: skip
            floor = [low + value for low, value in zip(floor, values, strict=True)]
        axes.set_title(visible(title))
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(0, max(floor) * 1.3)
        axes.legend(loc="upper center", ncols=3, columnspacing=1.0, handlelength=1.2)
        return as_svg(figure, name, title)


def histogram(name: str, title: str, counts: Sequence[int], xlabel: str) -> Markup | None:
    """Counts of equal bins over 0..1; None when all are 0."""
    if not any(counts):
        return None
    with drawing() as (figure, axes):
        width = 1 / len(counts)
        axes.bar([(i + 0.5) * width for i in range(len(counts))], counts, width=width * 0.88, color=SERIES[1])
        axes.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.2)
        axes.set_xlim(0, 1)
        axes.set_title(visible(title))
        axes.set_xlabel(visible(xlabel))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="x", visible=False)
        return as_svg(figure, name, title)


def reliability(
    name: str,
    title: str,
    bins: Sequence[tuple[float, float, int]],
    *,
    who: str = "reward model (area = pairs)",
    labels: tuple[str, str] = ("P(A better), reward model", "P(A better), labels"),
    lowest: float = 0.0,
) -> Markup | None:
    """(predicted, labelled, n) per bin against the diagonal, area by n; None when every bin is empty. `labels` stand at
    the axes; x, what is predicted, begins at `lowest`."""
    rows = [(p, y, n) for p, y, n in bins if n > 0 and is_known(p) and is_known(y)]
    if not rows:
        return None
    largest = max(n for _, _, n in rows)
    with drawing(3.9, 3.3) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.2, label="calibrated")
        axes.plot([p for p, _, _ in rows], [y for _, y, _ in rows], color=SERIES[1], linewidth=1.0)
        axes.scatter(
            [p for p, _, _ in rows], [y for _, y, _ in rows], s=[20 + 130 * n / largest for _, _, n in rows],
            color=SERIES[1], label=who,
        )  # fmt: skip
        axes.set_xlim(lowest, 1)
        axes.set_ylim(0, 1)
        axes.set_title(visible(title))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.legend(loc="upper left", markerscale=0.6)
        return as_svg(figure, name, title)


def dots(
    name: str, title: str, groups: Sequence[tuple[str, Sequence[Point]]], xlabel: str = "", *, line: float | None = None
) -> Markup | None:
    """Estimates with intervals, one row per point and a block per group; None when none was measured."""
    if not any(is_known(point.mean) for _, points in groups for point in points):
        return None
    rows = sum(len(points) + 1 for _, points in groups)
    with drawing(3.9, 0.75 + 0.235 * rows) as (figure, axes):
        ticks: list[float] = []
        labels: list[str] = []
        y = 0.0
        for group, points in groups:
            ticks.append(y)
            labels.append(visible(group))
            for point in points:
                y -= 1
                ticks.append(y)
                labels.append(visible(point.label))
                _dot(axes, point, y)
            y -= 1
        axes.set_yticks(ticks, labels)
        for tick, kind in zip(axes.get_yticklabels(), _headings(groups), strict=True):
            tick.set_color(INK if kind else MUTED)
            tick.set_fontweight("bold" if kind else "normal")
        if line is not None:
            axes.axvline(line, color=MUTED, linestyle=":", linewidth=1.2)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_ylim(y + 0.4, 0.6)
        axes.margins(x=0.08)
        axes.set_title(visible(title))
        axes.set_xlabel(visible(xlabel))
        return as_svg(figure, name, title)


def _dot(axes: Any, point: Point, y: float) -> None:
    color = SERIES[point.series % 4]
    if not is_known(point.mean):
        return
    if is_known(point.low) and is_known(point.high):
        axes.plot([point.low, point.high], [y, y], color=color, linewidth=2.0, solid_capstyle="butt")
    axes.plot([point.mean], [y], color=color, marker=MARKERS[point.series % 4], markersize=6.5, linestyle="")


def _headings(groups: Sequence[tuple[str, Sequence[Point]]]) -> list[bool]:
    return [heading for _, points in groups for heading in (True, *(False for _ in points))]


LABEL_WIDTH = 15  # characters of a control's name in a line
LABEL_SIZE = 9.2


def over_distance(name: str, title: str, places: Sequence[Place], xlabel: str, ylabel: str) -> Markup | None:
    """Estimates with intervals over their distance from the origin; None when none was measured.

    Models are keyed above the axes; controls are grey ticks with their names at the right edge, one below the other.
    """
    shown = [place for place in places if is_known(place.mean)]
    if not shown:
        return None
    far = max([place.x for place in shown if is_known(place.x)] + [1e-6])
    off = [place for place in shown if not is_known(place.x)]
    with drawing(4.4, 3.3) as (figure, axes):
        for place in shown:
            x = place.x if is_known(place.x) else -0.09 * far * (1 + off.index(place))
            _place(axes, place, x)
        axes.set_xlim(-0.09 * far * (len(off) + 0.5), far * 1.06)
        axes.margins(y=0.08)
        axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= far * 1.06])
        if off:
            axes.axvline(-0.045 * far, color=LINE, linewidth=1.0)
        axes.set_xlabel(visible(xlabel))
        axes.set_ylabel(visible(ylabel))
        axes.set_title(visible(title), pad=22)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=4,
            columnspacing=1.1,
            handlelength=1.0,
            handletextpad=0.4,
            borderaxespad=0,
            borderpad=0.2,
        )
        _label_controls(axes, [place for place in shown if place.series is None])
        told = "; ".join(_told(place) for place in shown)
        return as_svg(figure, name, f"{title}. {ylabel} over {xlabel}: {told}.")


def _place(axes: Any, place: Place, x: float) -> None:
    known = is_known(place.low) and is_known(place.high)
    if place.series is None:
        if known:
            axes.plot([x, x], [place.low, place.high], color=MUTED, linewidth=0.8, alpha=0.6)
        axes.plot([x], [place.mean], color=MUTED, marker="_", markersize=9, markeredgewidth=1.6, linestyle="")
        return
    color = SERIES[place.series % 4]
    if known:
        axes.plot([x, x], [place.low, place.high], color=color, linewidth=2.0, solid_capstyle="butt")
    marker = MARKERS[place.series % 4]
    axes.plot([x], [place.mean], color=color, marker=marker, markersize=7.5, linestyle="", label=visible(place.label))


def _label_controls(axes: Any, controls: Sequence[Place]) -> None:
    """Names at the right edge, spread so that none covers another, each with a thin line to its tick."""
    bottom, top = axes.get_ylim()
    texts = [textwrap.fill(visible(place.label), LABEL_WIDTH) for place in controls]
    order = sorted(range(len(controls)), key=lambda index: -(controls[index].mean or 0.0))
    height = axes.get_figure().get_figheight() * 72 * 0.68
    halves = [(texts[index].count("\n") + 1) * LABEL_SIZE * 1.3 / height / 2 for index in order]
    wanted = [((controls[index].mean or 0.0) - bottom) / (top - bottom) for index in order]
    for index, y in zip(order, _spread(wanted, halves), strict=True):
        place = controls[index]
        x = place.x if is_known(place.x) else 0.0
        line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "linestyle": (0, (1, 3))}
        axes.annotate(
            texts[index], (x, place.mean), xytext=(1.02, y), textcoords="axes fraction", color=MUTED,
            fontsize=LABEL_SIZE, va="center", arrowprops=line,
        )  # fmt: skip


def _spread(wanted: Sequence[float], halves: Sequence[float]) -> list[float]:
    """Middles from the top down, near the wanted ones, so that labels of these half heights stay apart within 0..1."""
    placed: list[float] = []
    edge = 1.0
    for want, half in zip(wanted, halves, strict=True):
        placed.append(min(want, edge - half))
        edge = placed[-1] - half
    edge = 0.0
    for index in reversed(range(len(placed))):
        placed[index] = max(placed[index], edge + halves[index])
        edge = placed[index] + halves[index]
    return placed


def _told(place: Place) -> str:
    """The estimate in words, for those who do not see it."""
    places = plain_decimals(place.mean, place.low, place.high)
    at = f"at {number(place.x)}" if is_known(place.x) else "without one"
    kind = "control " if place.series is None else ""
    return f"{kind}{place.label} {number(place.mean, places)} {brackets(place.low, place.high, places)} {at}"
