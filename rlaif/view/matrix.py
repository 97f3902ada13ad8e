"""A square table of shares as a picture: cells by colour, and by number as long as there is room for numbers.

Cells keep their colours in light and in dark: orange and blue, which every kind of colour vision tells apart, and pale
in between. Each colour is drawn as one path, so that 76 rows make a picture of some hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path

from rlaif.core.terminal import visible
from rlaif.view.plots import INK, LINE, MUTED, as_svg, drawing
from rlaif.view.text import is_known

MOST_NUMBERS = 20
"""With more rows than this cells hold no number."""
LONGEST_NAME = 32
"""Characters; longer ids are cut."""
STEPS = 20
"""Colours from one end of the scale to the other, less one."""
ORANGE, PALE, BLUE = (179, 88, 6), (247, 246, 243), (33, 102, 172)
DARK, LIGHT = "#14161a", "#ffffff"


def heat_map(
    name: str, title: str, ids: Sequence[str], cells: Sequence[Sequence[float | None]], *, middle: bool
) -> Markup | None:
    """`cells` (shares 0..1, None = not measured) as a square, the diagonal left out; None for fewer than two rows.

    With `middle` one half is pale, less is orange and more is blue; without it 0 is pale, and one half or more orange.
    """
    size = len(ids)
    if size < 2:
        return None
    side = max(2.2, size * (0.46 if size <= MOST_NUMBERS else 0.15))
    names = [_short(visible(name)) for name in ids]
    longest = max(map(len, names))
    font = 9.0 if size <= MOST_NUMBERS else 6.5
    margin = 0.3 + longest * font * 0.0085
    with drawing(side + margin, side + margin + 0.55) as (figure, axes):
        squares: dict[int, list[tuple[int, int]]] = {}
        for row in range(size):
            for column in range(size):
                value = cells[row][column]
                if row == column:
                    continue
                if is_known(value):
                    squares.setdefault(round(value * STEPS), []).append((row, column))
                if size <= MOST_NUMBERS:
                    text, ink = (f"{100 * value:.0f}", _ink(value, middle=middle)) if is_known(value) else ("–", MUTED)
                    axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
        for level, places in sorted(squares.items()):
            axes.add_patch(PathPatch(_squares(places), facecolor=_colour(level / STEPS, middle=middle), linewidth=0))
        axes.set_xlim(-0.5, size - 0.5)
        axes.set_ylim(size - 0.5, -0.5)
        axes.set_aspect("equal")
        axes.set_xticks(range(size), names, rotation=90, fontsize=font)
        axes.set_yticks(range(size), names, fontsize=font)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(visible(title))
        shown = (0.0, 0.25, 0.5, 0.75, 1.0) if middle else (0.0, 0.1, 0.2, 0.3, 0.5)
        keys = [Patch(facecolor=_colour(value, middle=middle), edgecolor=LINE, label=f"{value:.0%}") for value in shown]
        if not middle:
            keys[-1].set_label("50% or more")
        figure.legend(
            handles=keys, loc="outside lower center", ncols=5, fontsize=8, labelcolor=INK, handlelength=1.0,
            columnspacing=0.9, handletextpad=0.4,
        )  # fmt: skip
        picture = as_svg(figure, name, title)
    # Its own size and not that of the column: many rows are scrolled, not shrunk.
    return Markup(picture.replace(Markup("<svg "), Markup(f'<svg width="{96 * (side + margin):.0f}" '), 1))


def _squares(places: Sequence[tuple[int, int]]) -> Path:
    """One path of unit squares around (row, column), with a hair of ground between them."""
    half = 0.48
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(places)
    corners = [
        (column + x, row + y)
        for row, column in places
        for x, y in ((-half, -half), (half, -half), (half, half), (-half, half), (-half, -half))
    ]
    return Path(corners, codes)


def _colour(value: float, *, middle: bool) -> str:
    """The colour of a share: between PALE and ORANGE or BLUE."""
    end = BLUE if middle and value > 0.5 else ORANGE
    strength = _strength(value, middle=middle)
    parts = (round(pale + (full - pale) * strength) for pale, full in zip(PALE, end, strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _ink(value: float, *, middle: bool) -> str:
    """Black or white, whichever is read better on the cell's colour."""
    return LIGHT if _strength(value, middle=middle) > 0.85 else DARK


def _strength(value: float, *, middle: bool) -> float:
    """How far the colour is from PALE, 0..1."""
    return abs(2 * value - 1) if middle else min(1.0, 2 * value)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}\u2026"
