"""What the verbs share: options, how an error reaches the user, and what a mistyped verb is answered."""

from __future__ import annotations

import difflib
import functools
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlaif.core.errors import DiskError, RlaifError
from rlaif.core.launch import place
from rlaif.core.terminal import say

INTERRUPTED = 130  # what a shell reports after Ctrl-C
Command = Callable[..., None]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="change a config field, such as judge.method=pairwise"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
JudgeConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="run config that names the judge; without it the defaults"),
]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="also write a page to read")]
ObjectOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="also write the JSON object there")]
ReplaceOption = Annotated[bool, typer.Option("--force", help="replace the files of --html and --out")]
AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-uncarded-judge", help="make labels even if the judge was not measured (has no card), or fell short"
    ),
]


class Verbs(TyperGroup):
    """A group that names its commands where a mistyped one is near to none of them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not difflib.get_close_matches(args[0], self.commands):
            ctx.fail(f"No such command {args[0]!r}. There are: {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)


def friendly(command: Command) -> Command:
    """The command with user errors printed without a traceback, and Ctrl-C answered with how to go on."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except RlaifError as error:
            raise _told(error, as_json=bool(kwargs.get("as_json"))) from None
        except OSError as problem:
            if problem.filename is None or problem.strerror is None:
                raise
            what, where = f"cannot be read or written: {problem.strerror}", str(problem.filename)
            unusable = DiskError(what, where=where, remedy="check the path, its permissions and the disk")
            raise _told(unusable, as_json=bool(kwargs.get("as_json"))) from None
        except KeyboardInterrupt:
            if place()[0] == 0:
                say(_interrupted(resumable="resume" in kwargs), error=True)
            raise typer.Exit(INTERRUPTED) from None

    # A line's end in a docstring is no line's end in the help.
    wrapper.__doc__ = "\n\n".join(" ".join(part.split()) for part in (command.__doc__ or "").split("\n\n"))
    return wrapper


def _told(error: RlaifError, *, as_json: bool) -> typer.Exit:
    """The exit for an error that was printed just now, with what a file can put into its words written out."""
    say(f"error: {error}", error=True)
    if as_json:
        parts = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        say(json.dumps({"error": parts}))
    return typer.Exit(error.exit_code)


def _interrupted(*, resumable: bool) -> str:
    if not resumable:
        return "interrupted"
    if place()[1] > 1:
        return "interrupted; finished work is kept, continue with the same launch and --resume in the place of --force"
    words = [word for word in sys.argv[1:] if word not in ("--force", "--resume")]
    return f"interrupted; finished work is kept, continue with: {shlex.join(['rlaif', *words, '--resume'])}"


def add_verbs(app: typer.Typer, verbs: dict[str, Command]) -> typer.Typer:
    """The app with every verb; a function's docstring is the help of its verb."""
    for verb, command in verbs.items():
        app.command(verb)(friendly(command))
    return app


def accepting(overrides: list[str] | None, accept: bool) -> list[str]:
    """The overrides, with the one that --accept-uncarded-judge stands for."""
    return [*(overrides or []), *["card.required=false"] * accept]
