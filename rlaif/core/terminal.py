"""The one way to the terminal. What stands there may come from a file or a model: a name that moves the cursor, sets
colours, opens a link or turns text around is shown, and does nothing. (`view` lays tables out; rooms below only speak.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Control characters, bidi marks and overrides, other invisible format characters, lone surrogates, tag characters.
# The two joiners (U+200C, U+200D) stay: Persian and emoji need them.
_INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """The text with every invisible character written out as ⟦U+202E⟧, in a form that every font can show."""
    return _INVISIBLE.sub(lambda match: f"\u27e6U+{ord(match.group()):04X}\u27e7", text.replace("\r\n", "\n"))


def say(text: str, *, error: bool = False) -> None:
    """Prints the text, to standard error if `error`."""
    print(visible(text), file=sys.stderr if error else sys.stdout, flush=error)


def console(*, error: bool = False) -> Console:
    """A console that takes no text for markup, and writes out what is invisible in whatever it prints.

    A panel or table is laid out before that: whoever fills one with text of a file passes it through `visible`, so that
    its borders stay straight.
    """
    from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
    from rich.segment import Segment

    class Shown:
        def __init__(self, what: RenderableType) -> None:
            self.what = what

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for part in console.render(self.what, options):
                yield part if part.control else Segment(visible(part.text), part.style)

    class Showing(RenderHook):
        def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
            return [Shown(what) for what in renderables]

    found = Console(stderr=error, markup=False, emoji=False)
    found.push_render_hook(Showing())
    return found


def typed(prompt: str) -> Iterator[str]:
    """The lines of standard input that are not blank, to its end; at a terminal the prompt stands before each."""
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    with suppress(ImportError):  # with it the line can be edited, and earlier ones come back by the arrow keys
        import readline  # noqa: F401
    with suppress(EOFError):
        while True:
            if line := input(prompt).strip():
                yield line


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """A sign of life on a terminal while libraries load."""
    terminal = sys.stderr.isatty()
    if terminal:
        print(f"{what} ...", end="\r", file=sys.stderr, flush=True)
    yield
    if terminal:
        print("\033[K", end="", file=sys.stderr, flush=True)
