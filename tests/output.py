"""What users get to see, for tests: a command called in this process, its print, and pages taken apart."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from typer.testing import CliRunner, Result

from rlaif.cli import app

EVIL = "<script>x</script> [bold red]y[/bold red] \x1b[31m\u202e"
"""Markup of a page and of a terminal, and characters that turn what stands beside them."""
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """A page taken apart: elements, ids, link targets, the text, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.handlers: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.words += " " if tag in ("td", "th", "dt", "dd", "p", "div") else ""
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.targets.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def rlaif(*words: str | Path) -> Result:
    """What `rlaif WORDS` did."""
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: str | Path) -> Any:
    """The JSON of a command that must succeed."""
    result = rlaif(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def on_terminal(parts: Iterable[RenderableType], width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    for part in parts:
        console.print(part)
    return out.getvalue()
