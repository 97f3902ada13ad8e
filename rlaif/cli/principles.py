"""`rlaif principles`: what each principle does to a run's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def principles(
    run: Annotated[Path, typer.Option("--run", metavar="RUN", help="a run whose label stage is finished")],
    pairs: Annotated[
        int,
        typer.Option("--pairs", min=0, help="draw N pairs and judge them under all principles; 0 = stored verdicts"),
    ] = 0,
    negate: Annotated[
        int, typer.Option("--negate", min=0, help="turn each principle round on N pairs: does the judge notice?")
    ] = 0,
    gold: Annotated[
        str | None,
        typer.Option(
            "--gold", metavar="GOLD", help='preferences to compare with (JSONL), or a gold scorer: harm, "module:Class"'
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="also write a page to read")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="also write the JSON object there")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")] = False,
) -> None:
    """Say what each principle does to a run's labels: who decides, who repeats whom, who is never heard."""
    from rlaif.analysis.principles.attribution import attribution
    from rlaif.analysis.principles.page import page
    from rlaif.analysis.principles.terminal import rendered
    from rlaif.core.files import RunFolder
    from rlaif.core.progress import choose
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, run, "principles", inputs=(gold,))
    found = attribution(RunFolder(run), pairs=pairs, negate=negate, gold=gold, progress=choose(quiet=as_json))
    deliver(found.as_json(), rendered(found), lambda: page(found), html=html, out=out, as_json=as_json)
