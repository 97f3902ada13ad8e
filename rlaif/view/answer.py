"""The answer of a command, built once: one renderer puts it on the terminal, the other makes a self-contained page.

What is said is the same on both; a page has room for pictures, captions, more rows and more columns. Texts of models
and files are shown as they are: never as markup, and with whatever is invisible written out.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from rlaif.core.records import Prompt
from rlaif.core.terminal import visible
from rlaif.view.render import render
from rlaif.view.text import shown

NONE = "\u2013"
"""A cell that has nothing to say."""
INTERVALS = (
    "Intervals are 95 %, by bootstrap over prompts, each for itself; where all prompts have one share, Wilson's."
)
LONG_HEAD, HEAD_WIDTH = 14, 11
"""A heading above numbers with more characters than the first stands on the terminal in lines of the second."""


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence. A "caption" explains and stands on the page alone."""

    text: str
    style: Literal["", "warning", "muted", "caption"] = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured, each a name and a sentence."""

    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under heads. The first column holds names; those in `texts` hold texts, all others numbers.

    The lines of a cell after its first are small print. `page_only` columns have no room on a terminal. `strong` rows
    stand out. `most`: rows on the terminal, `most_on_page`: on the page; `rest` names the others, which are counted.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Collection[int] = (0,)
    page_only: Collection[int] = ()
    strong: Collection[int] = ()
    most: int | None = None
    most_on_page: int | None = None
    rest: str = "more"


@dataclass(frozen=True, slots=True)
class Figures:
    """Pictures for the page, side by side, drawn when the page is made; None where there is nothing to draw. `wide`
    ones keep their size and scroll."""

    draw: Callable[[], Sequence[Markup | None]]
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """Texts to read, side by side under their names, below the prompt that they answer."""

    title: str
    tags: Sequence[str]
    prompt: Prompt
    texts: Sequence[tuple[str, str]]
    table: Table | None = None


Part = Line | Facts | Table | Figures | Example


@dataclass(frozen=True, slots=True)
class Section:
    """Parts under a title; a section without parts is left out."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command found. `about` says below the page's title what was done, and `heading` at the terminal's top;
    `verdict` is what it comes to, the sentence that counts most first; `footer` says what it was made from."""

    verb: str
    title: str
    about: str
    heading: str
    verdict: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()
    footer: str = ""


def below(figure: str) -> str:
    """ "50 % (40 % to 60 %)" as a cell with the interval as small print."""
    return figure.removesuffix(")").replace(" (", "\n") if figure.endswith(")") else figure


# ---- the page -------------------------------------------------------------------------------------------------------


def page(answer: Answer) -> str:
    """The page, in the dress of a run's report."""
    return render(
        "answer.html.jinja",
        {
            "answer": answer,
            "sections": [section for section in answer.sections if section.parts],
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "kind_of": lambda part: type(part).__name__,
        },
    )


# ---- the terminal ---------------------------------------------------------------------------------------------------


def rendered(answer: Answer) -> Iterator[RenderableType]:
    """What to print, from the heading to the notes."""
    yield _text(answer.heading, "bold")
    for sentence in answer.verdict:
        yield Text.assemble("\u2022 ", visible(sentence))
    for place, section in enumerate(answer.sections):
        parts = [block for part in _numbered(section.parts) for block in _blocks(*part)]
        if parts and place:
            yield _text(f"\n{section.title}", "bold")
        yield from parts
    for note in answer.notes:
        yield _text(f"note: {note}", "yellow")


def _numbered(parts: Sequence[Part]) -> Iterator[tuple[Part, int]]:
    """Each part, and for the examples the how manieth it is."""
    examples = 0
    for part in parts:
        examples += isinstance(part, Example)
        yield part, examples


def _blocks(part: Part, place: int) -> Iterator[RenderableType]:
    """What one part prints: nothing for what only a page shows."""
    if isinstance(part, Line) and part.style != "caption":
        yield _text(part.text, {"warning": "bold red", "muted": "dim"}.get(part.style, ""))
    elif isinstance(part, Facts) and part.rows:
        grid = RichTable.grid(padding=(0, 2))
        for name, sentence in part.rows:
            grid.add_row(_text(name), _text(sentence))
        yield grid
    elif isinstance(part, Table):
        yield _table(part)
    elif isinstance(part, Example):
        yield example_panel(part, place)


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)


def _table(part: Table) -> RichTable:
    table = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    columns = [index for index in range(len(part.head)) if index not in part.page_only]
    numbers = [index for index in columns if index not in part.texts]
    for index in columns:
        head = part.head[index]
        head = textwrap.fill(head, HEAD_WIDTH) if index in numbers and len(head) > LONG_HEAD else head
        side: Literal["left", "right"] = "right" if index in numbers else "left"
        table.add_column(_text(head), justify=side, no_wrap=index in numbers, overflow="fold")
    for place, row in enumerate(part.rows[: part.most]):
        table.add_row(*(_text(row[index]) for index in columns), style="bold" if place in part.strong else "")
    more = 0 if part.most is None else len(part.rows) - part.most
    if more > 0:
        table.add_row(_text(f"and {more:,} {part.rest}"), style="dim")
    return table


def example_panel(part: Example, place: int) -> Panel:
    """The example in a frame, as number `place`."""
    asked = [_text(f"{message.role}: {message.content}", "cyan") for message in part.prompt.messages]
    sides = RichTable(box=None, pad_edge=False, expand=True, show_header=any(name for name, _ in part.texts))
    for name, _ in part.texts:
        sides.add_column(_text(name), ratio=1)
    sides.add_row(*(_text(shown(text)) for _, text in part.texts))
    tables = [] if part.table is None else [_table(part.table)]
    title = ", ".join([f"{place}. {part.title}", *(tag for tag in part.tags if tag)])
    return Panel(Group(*asked, sides, *tables), title=_text(title), title_align="left")
