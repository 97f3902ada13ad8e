"""`rlaif impact`: the options of the verb, which of them go together, and where its answers go."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.core.errors import ConfigError

if TYPE_CHECKING:
    from rlaif.analysis.impact.impact import Part
    from rlaif.analysis.impact.subject import Subject
    from rlaif.core.progress import Progress


def impact(
    to: Annotated[str, typer.Option("--to", metavar="NEW", help="the edited constitution, a file or a shipped one")],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="a run whose label stage is finished")
    ] = None,
    comparisons: Annotated[
        Path | None,
        typer.Option("--comparisons", metavar="FILE", help="instead of a run: JSONL with prompt, chosen, rejected ..."),
    ] = None,
    before: Annotated[
        str | None, typer.Option("--from", metavar="OLD", help="with --comparisons: the constitution before the edit")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="with --comparisons: run config with the judge (default: defaults)")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="with --comparisons: override a config field")
    ] = None,
    revisions: Annotated[bool, typer.Option("--revisions", help="with --run: revise again and compare")] = False,
    reward: Annotated[
        bool, typer.Option("--reward", help="with --run: train a reward model on the new labels and compare")
    ] = False,
    policy: Annotated[
        bool, typer.Option("--policy", help="with --run: train the policy under NEW, evaluate and compare")
    ] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="also write a page to read")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="also write the JSON object there")] = None,
    examples: Annotated[int, typer.Option("--examples", min=0, help="most changed pairs to show")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")] = False,
) -> None:
    """Say what an edited constitution would change in the labels; judges only what the edit touches.

    --revisions, --reward and --policy do the stages behind them again under the new constitution, in RUN/impact.
    """
    from rlaif.analysis.impact.impact import impact as impact_of
    from rlaif.analysis.impact.page import page
    from rlaif.analysis.impact.terminal import rendered
    from rlaif.core.progress import choose
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, run, "impact", inputs=(comparisons, to, before, config))
    asked: dict[Part, bool] = {"revisions": revisions, "reward": reward, "policy": policy}
    beyond = [part for part, wanted in asked.items() if wanted]
    if beyond and run is None:
        raise ConfigError(f"--{beyond[0]} goes with --run", remedy="a file of comparisons has no stages")
    progress = choose(quiet=as_json)
    with closing(_subject(run, comparisons, before, config, overrides, progress)) as subject:
        found = impact_of(subject, to, examples=examples, progress=progress, beyond=beyond)
    deliver(found.as_json(), rendered(found), lambda: page(found), html=html, out=out, as_json=as_json)


def _subject(
    run: Path | None,
    comparisons: Path | None,
    before: str | None,
    config: Path | None,
    overrides: list[str] | None,
    progress: Progress,
) -> Subject:
    from rlaif.analysis.impact.subject import of_file, of_run
    from rlaif.config import load_or_default
    from rlaif.core.files import RunFolder
    from rlaif.core.shipped import cache_folder

    if (run is None) == (comparisons is None):
        raise ConfigError("which pairs?", remedy="give either --run RUN, or --comparisons FILE with --from OLD")
    if run is not None:
        used = [("--from", before), ("--config", config), ("--set", overrides)]
        for option, value in used:
            if value:
                raise ConfigError(
                    f"{option} goes with --comparisons", remedy="a run has its own constitution and config"
                )
        return of_run(RunFolder(run))
    assert comparisons is not None
    if before is None:
        raise ConfigError(
            "--comparisons needs --from OLD", remedy="the constitution before the edit, a file or a shipped name"
        )
    settings = load_or_default(config, overrides)
    return of_file(comparisons, before, settings, cache=cache_folder(), progress=progress)
