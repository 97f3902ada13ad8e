"""`rlaif impact`, `rlaif principles` and `rlaif constitution recover`: questions about labels that are there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlaif.cli.options import HtmlOption, JsonOption, JudgeConfigOption, ObjectOption, ReplaceOption, SetOption
from rlaif.core.errors import ConfigError
from rlaif.core.terminal import say

if TYPE_CHECKING:
    from rlaif.analysis.impact.impact import DownstreamPart
    from rlaif.analysis.impact.subject import ImpactSubject
    from rlaif.core.progress import Progress


def impact(
    to: Annotated[str, typer.Option("--to", metavar="NEW", help="the edited constitution: a file, or a shipped one")],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="RUN", help="a run whose label stage is finished")
    ] = None,
    comparisons: Annotated[
        Path | None,
        typer.Option("--comparisons", metavar="FILE", help="in place of a run: JSONL with prompt, chosen, rejected"),
    ] = None,
    before: Annotated[
        str | None, typer.Option("--from", metavar="OLD", help="with --comparisons: the constitution before the edit")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="with --comparisons: run config that names the judge"),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="with --comparisons: change a config field")
    ] = None,
    revisions: Annotated[bool, typer.Option("--revisions", help="with --run: make the revisions again")] = False,
    reward: Annotated[
        bool, typer.Option("--reward", help="with --run: train a reward model on the new labels")
    ] = False,
    policy: Annotated[bool, typer.Option("--policy", help="with --run: train and evaluate the policy again")] = False,
    html: HtmlOption = None,
    out: ObjectOption = None,
    force: ReplaceOption = False,
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", min=0, help="show the N pairs that change most")
    ] = 5,
    as_json: JsonOption = False,
) -> None:
    """Show what an edit of the constitution changes in the labels.

    Only what the edit touches is judged again. --revisions, --reward and --policy also repeat those stages under the
    new constitution, in the folder RUN/impact, and compare the results.
    """
    from rlaif.analysis.impact.answer import answer
    from rlaif.analysis.impact.impact import impact as impact_of
    from rlaif.core.progress import choose
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, run, "impact", inputs=(comparisons, to, before, config), replace=force)
    asked: dict[DownstreamPart, bool] = {"revisions": revisions, "reward": reward, "policy": policy}
    beyond = [part for part, wanted in asked.items() if wanted]
    if beyond and run is None:
        raise ConfigError(f"--{beyond[0]} goes with --run", remedy="a file of comparisons has no stages")
    progress = choose(quiet=as_json)
    with closing(_subject(run, comparisons, before, config, overrides, progress)) as subject:
        found = impact_of(subject, to, examples=examples, progress=progress, beyond=beyond)
    deliver(found.as_json(), answer(found), html=html, out=out, as_json=as_json)


def _subject(
    run: Path | None,
    comparisons: Path | None,
    before: str | None,
    config: Path | None,
    overrides: list[str] | None,
    progress: Progress,
) -> ImpactSubject:
    from rlaif.analysis.impact.subject import of_file, of_run
    from rlaif.core.files import RunFolder
    from rlaif.core.shipped import cache_folder
    from rlaif.judge.load import load_or_default

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


def principles(
    run: Annotated[Path, typer.Option("--run", metavar="RUN", help="a run whose label stage is finished")],
    pairs: Annotated[
        int,
        typer.Option("--pairs", metavar="N", min=0, help="judge N drawn pairs under all principles; 0 = ask nothing"),
    ] = 0,
    negate: Annotated[
        int,
        typer.Option("--negate", metavar="N", min=0, help="reverse each principle on N pairs: does the judge notice?"),
    ] = 0,
    gold: Annotated[
        str | None,
        typer.Option(
            "--gold", metavar="GOLD", help='preferences to compare with (JSONL), or a gold scorer: harm, "module:Class"'
        ),
    ] = None,
    html: HtmlOption = None,
    out: ObjectOption = None,
    force: ReplaceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what each principle does to the labels: which decides, which repeats another, which is never heard."""
    from rlaif.analysis.principles.answer import answer
    from rlaif.analysis.principles.attribution import attribution
    from rlaif.core.files import RunFolder
    from rlaif.core.progress import choose
    from rlaif.view.deliver import deliver, refuse_places

    refuse_places(html, out, run, "principles", inputs=(gold,), replace=force)
    found = attribution(RunFolder(run), pairs=pairs, negate=negate, gold=gold, progress=choose(quiet=as_json))
    deliver(found.as_json(), answer(found), html=html, out=out, as_json=as_json)


def recover(
    labels: Annotated[
        Path,
        typer.Option(
            "--labels", metavar="FILE", help="label/labels.jsonl of a run, or JSONL with prompt, chosen, rejected"
        ),
    ],
    config: JudgeConfigOption = None,
    overrides: SetOption = None,
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--candidates", metavar="NAME-or-FILE", help="try the principles of this constitution; may be repeated"
        ),
    ] = None,
    propose: Annotated[
        int, typer.Option("--propose", metavar="N", min=0, help="let the judge's model write N principles to try")
    ] = 0,
    keep: Annotated[int, typer.Option("--keep", metavar="N", min=1, help="keep at most N principles")] = 5,
    pairs: Annotated[
        int, typer.Option("--pairs", metavar="N", min=2, help="judge at most N pairs of each half of the prompts")
    ] = 300,
    part: Annotated[
        str | None, typer.Option("--slice", metavar="NAME", help="take only the pairs of this slice (set of prompts)")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="NAME-or-FILE", help="compare the result with this constitution"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="write the kept principles as a constitution")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the principles that explain given labels, and test them on prompts that were held out."""
    from rlaif.analysis.recover.constitution_file import write
    from rlaif.analysis.recover.recover import RecoveryOptions
    from rlaif.analysis.recover.recover import recover as recovered
    from rlaif.constitution.starter import refuse_place
    from rlaif.core.progress import choose
    from rlaif.core.shipped import cache_folder
    from rlaif.judge.load import load_or_default

    if out is not None:
        refuse_place(out)
    settings = load_or_default(config, overrides)
    asked = RecoveryOptions(tuple(candidates or ()), propose, keep, pairs, part, against)
    found = recovered(labels, asked, settings, cache=cache_folder(), progress=choose(quiet=as_json))
    if out is not None and found.kept:
        write(out, found)
    if as_json:
        say(json.dumps({**found.as_json(), "written": str(out) if out is not None and found.kept else None}))
        return
    from rlaif.analysis.recover.answer import answer
    from rlaif.view.deliver import print_answer

    print_answer(answer(found))
    if out is not None:
        say(f"wrote {out}" if found.kept else f"nothing was kept, so {out} was not written")
