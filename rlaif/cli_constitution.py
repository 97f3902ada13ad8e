"""`rlaif constitution VERB`: list, read, write, check and compare constitutions. Heavy imports stand in the verbs."""

from __future__ import annotations

import json
from collections.abc import Callable
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


VERBS: dict[str, Command] = {"list": list_shipped}
"""Verb -> the function that does it; its docstring is the help."""


def constitution_app(friendly: Callable[[Command], Command]) -> typer.Typer:
    """The sub-app with every verb; `friendly` is what the command line wraps around a command to print its errors."""
    app = typer.Typer(help="List, read, write, check and compare constitutions.", no_args_is_help=True)
    for verb, command in VERBS.items():
        app.command(verb)(friendly(command))
    return app
