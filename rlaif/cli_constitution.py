"""`rlaif constitution VERB`: list, read, write, check and compare constitutions. Heavy imports stand in the verbs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")]
Command = Callable[..., None]


def list_shipped(as_json: JsonOption = False) -> None:
    """List the constitutions that belong to rlaif."""
    from rlaif.constitution.load import load_constitution
    from rlaif.resources import shipped

    found = [
        {
            "name": name,
            "principles": len(constitution.principles),
            "tests": sum(len(p.tests) for p in constitution.principles),
            "description": constitution.description.partition("\n")[0],
        }
        for name in shipped("constitutions")
        for constitution in [load_constitution(name)]
    ]
    if as_json:
        print(json.dumps({"constitutions": found}))
        return
    for row in found:
        print(f"{row['name']:<20}  {row['principles']:>2} principles  {row['tests']:>3} tests  {row['description']}")


def run_tests(
    name: Annotated[str, typer.Argument(metavar="NAME-or-FILE", help="a shipped constitution, or a YAML file")],
    config: Annotated[
        Path | None, typer.Option("--config", help="run config with the judge; default: the defaults")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a config field")
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="only this principle")] = None,
    fail_under: Annotated[
        float | None,
        typer.Option("--fail-under", min=0, max=1, help="exit with 1 if a smaller share of all tests passes"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the principles' own unit tests against the judge: does it prefer the better answer?"""
    from rlaif.config import default_config, load
    from rlaif.constitution.load import load_constitution
    from rlaif.judge.principle_tests import run, tally
    from rlaif.progress import choose
    from rlaif.resources import cache_folder

    constitution = load_constitution(name)
    settings = default_config(overrides or ()) if config is None else load(config, overrides or ())
    choose(quiet=as_json).say(f"judging the tests of {constitution.name} by {settings.judge.method} ...")
    report = run(constitution, settings, cache=cache_folder(), only=only or (), where=name)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        from rich.console import Console

        from rlaif.report.principle_tests import as_table

        Console().print(as_table(report))
    found = tally(report.results)
    if fail_under is not None and found.pass_share < fail_under:
        share = f"{found.passed} of {found.tests} tests passed"
        print(f"{share}, less than --fail-under {fail_under:g}", file=sys.stderr)
        raise typer.Exit(1)


VERBS: dict[str, Command] = {"list": list_shipped, "test": run_tests}
"""Verb -> the function that does it; its docstring is the help."""


def constitution_app(friendly: Callable[[Command], Command]) -> typer.Typer:
    """The sub-app with every verb; `friendly` is what the command line wraps around a command to print its errors."""
    app = typer.Typer(help="List, read, write, check and compare constitutions.", no_args_is_help=True)
    for verb, command in VERBS.items():
        app.command(verb)(friendly(command))
    return app
