"""`rlaif constitution recover`: which principles explain given labels? Heavy imports stand in the verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def recover(
    labels: Annotated[
        Path,
        typer.Option("--labels", metavar="FILE", help="label/labels.jsonl of a run, or JSONL of chosen and rejected"),
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="run config with the judge (default: the defaults); templates are shipped ones"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a config field")
    ] = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option("--candidates", metavar="NAME-or-FILE", help="try the principles of this constitution"),
    ] = None,
    propose: Annotated[
        int, typer.Option("--propose", metavar="N", min=0, help="have the judge's model write N principles to try")
    ] = 0,
    keep: Annotated[int, typer.Option("--keep", metavar="K", min=1, help="principles to keep at most")] = 5,
    pairs: Annotated[
        int, typer.Option("--pairs", metavar="M", min=2, help="pairs to judge at most, of each half of the prompts")
    ] = 300,
    part: Annotated[
        str | None, typer.Option("--slice", metavar="NAME", help="only the pairs of this slice of the prompts")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="NAME-or-FILE", help="compare with this constitution"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="write the kept principles as a constitution (.yaml)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")] = False,
) -> None:
    """Find the principles that explain given labels, test them on held-out prompts, and compare."""
    from rlaif.analysis.recover.recover import Asked
    from rlaif.analysis.recover.recover import recover as recovered
    from rlaif.analysis.recover.written import write
    from rlaif.config import load_or_default
    from rlaif.constitution.starter import refuse_place
    from rlaif.core.progress import choose
    from rlaif.core.shipped import cache_folder

    if out is not None:
        refuse_place(out)
    settings = load_or_default(config, overrides)
    asked = Asked(tuple(candidates or ()), propose, keep, pairs, part, against)
    found = recovered(labels, asked, settings, cache=cache_folder(), progress=choose(quiet=as_json))
    if out is not None and found.kept:
        write(out, found)
    if as_json:
        print(json.dumps({**found.as_json(), "written": str(out) if out is not None and found.kept else None}))
        return
    from rich.console import Console

    from rlaif.analysis.recover.terminal import rendered

    console = Console()
    for block in rendered(found):
        console.print(block)
    if out is not None:
        print(f"wrote {out}" if found.kept else f"nothing was kept, so {out} was not written")
