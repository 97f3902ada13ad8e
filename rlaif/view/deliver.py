"""Where the answer of a command goes: the terminal, one JSON object, a page; and where its files may be written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.core.errors import ConfigError, RunFolderError
from rlaif.core.files import RunFolder, write_atomic
from rlaif.core.terminal import console, say
from rlaif.view.answer import Answer, page, rendered


def deliver(found: dict[str, Any], answer: Answer, *, html: Path | None, out: Path | None, as_json: bool) -> None:
    """Prints the answer, or its JSON object `found` alone; writes page and object to the files that are named."""
    text = json.dumps(found)
    if html is not None:
        write_atomic(html, page(answer))
    if out is not None:
        write_atomic(out, text + "\n")
    if as_json:
        say(text)
        return
    print_answer(answer)
    for path in (html, out):
        if path is not None:
            say(f"wrote {path}")


def print_answer(answer: Answer) -> None:
    """Prints the answer on the terminal."""
    terminal = console()
    for part in rendered(answer):
        terminal.print(part)


def refuse_places(
    html: Path | None,
    out: Path | None,
    run: Path | None,
    name: str,
    *,
    inputs: Sequence[Path | str | None] = (),
    replace: bool = False,
) -> None:
    """Raises ConfigError unless `html` ends in .html and `out` in .json and neither lies in a folder of the run's
    stages or is the run's report, and neither is one of the `inputs`: what a stage or `rlaif report` wrote, or what the
    answer is made from, is never overwritten. `name` is for the example in the remedy. Raises RunFolderError where one
    of them is there, unless it is to be replaced."""
    given = {Path(path).resolve() for path in inputs if path is not None}
    for path, suffix, option in ((html, ".html", "--html"), (out, ".json", "--out")):
        if path is not None and path.resolve() in given:
            raise ConfigError(f"{option} {path} is what the answer is made from", remedy="choose another name")
        if path is not None:
            _refuse_place(path, suffix, option, run, name)
            if path.exists() and not replace:
                remedy = "choose another name, or replace it with --force"
                raise RunFolderError("exists and is not overwritten", where=str(path), remedy=remedy)


def _refuse_place(path: Path, suffix: str, option: str, run: Path | None, name: str) -> None:
    if path.suffix.lower() != suffix:
        raise ConfigError(f"{option} {path} does not end in {suffix}", remedy=f"for example {option} {name}{suffix}")
    if run is None:
        return
    remedy = f"for example {option} {run / f'{name}{suffix}'}"
    if path.resolve() == RunFolder(run).report_path.resolve():
        raise ConfigError(f"{option} {path} is the report of the run", remedy=remedy)
    if run.resolve() in path.resolve().parent.parents:
        raise ConfigError(f"{option} {path} lies in a folder that belongs to a stage of the run", remedy=remedy)
