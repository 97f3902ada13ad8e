"""`rlaif judge export` and `rlaif judge import`: judging through a provider's batch interface."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

RunOption = Annotated[Path, typer.Option("--run", metavar="RUN", help="the run folder, after its sft stage")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")]


def export_batch(
    run: RunOption,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="where to write; split at a provider's limits")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a config field")
    ] = None,
    member: Annotated[
        str, typer.Option("--member", metavar="NAME", help="the requests of this member of judge.panel")
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="only the first N prompts of each slice")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="also what an earlier export wrote and no result was imported for")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept-uncarded-judge", help="export without a card of the judge that passes")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the requests of a run's labels as files for a provider's batch interface; asks nobody."""
    from rlaif.core.progress import choose
    from rlaif.run.judge_batch import export_requests

    words = [*(overrides or []), *["card.required=false"] * accept]
    found = export_requests(
        run, out, member=member, overrides=words, limit=limit, again=again, progress=choose(quiet=as_json)
    )
    if as_json:
        print(json.dumps(found.as_json()))
        return
    for path in found.files:
        print(f"wrote {path}")
    print(f"{found.written:,} requests for {found.pairs:,} pairs; answers that the cache has are not among them")
    if found.waiting:
        print(f"{found.waiting:,} were exported before and their results not imported; --again writes them once more")
    if found.written:
        print(f"next: have them answered, then rlaif judge import --run {run} RESULTS")
    elif not found.waiting:
        print(f"nothing is left to ask; next: rlaif label --run {run} --resume")


def import_batch(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="files that the provider gave back")],
    run: RunOption,
    as_json: JsonOption = False,
) -> None:
    """Put the results of a batch into a run's cache, where `rlaif label` finds them and asks nothing again."""
    from rlaif.run.judge_batch import import_results
    from rlaif.view.text import visible

    found = import_results(run, results)
    if as_json:
        print(json.dumps(found.as_json()))
        return
    print(f"{found.imported:,} answers imported, {found.known:,} were there already, {found.unknown:,} of unknown id")
    for kind, number in found.failed.most_common():
        print(f"{number:,} failed ({kind}): {visible(found.reasons[kind])}")
    if found.waiting:
        print(f"{found.waiting:,} exported requests have no result yet: import the other files too")
    print(
        f"next: rlaif judge export --run {run} --out FILE writes what is missing and what follows from these answers\n"
        f"  (failed ones, the letters of cot); rlaif label --run {run} --resume asks the server itself for the rest"
    )
