"""The command line. Everything heavy is imported inside the commands, so that `rlaif --help` answers at once."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlaif import __version__
from rlaif.cli.check import check
from rlaif.cli.constitution import constitution_app
from rlaif.cli.impact import impact
from rlaif.cli.judge import judge_app
from rlaif.cli.launch import assisted, leading
from rlaif.cli.principles import principles
from rlaif.core.errors import ConfigError, DiskError, RlaifError
from rlaif.core.launch import place

if TYPE_CHECKING:
    from rlaif.config import RunConfig, StageName
    from rlaif.run.pipeline import Mode, Outcome

INTERRUPTED = 130  # what a shell reports after Ctrl-C

app = typer.Typer(
    name="rlaif",
    help="Align a language model with AI feedback guided by a constitution, instead of human labels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="run config (YAML); default: the run's own")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, such as runs/demo")]
OutOption = Annotated[Path | None, typer.Option("--out", "--run", help="run folder; default: runs/<name of CONFIG>")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a config field")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="keep what is finished and go on from there")]
ForceOption = Annotated[bool, typer.Option("--force", help="redo the stage(s) and remove all that stands on them")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="at most N prompts of each slice")]
AcceptOption = Annotated[
    bool, typer.Option("--accept-uncarded-judge", help="make labels without a card that passes (card.required: false)")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="the last stage to run")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")]


def _friendly(command: Callable[..., None]) -> Callable[..., None]:
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
                print(_interrupted(resumable="resume" in kwargs), file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None

    return wrapper


def _told(error: RlaifError, *, as_json: bool) -> typer.Exit:
    """The exit for an error that was printed just now, with what a file can put into its words written out."""
    from rlaif.view.text import visible

    print(f"error: {visible(str(error))}", file=sys.stderr)
    if as_json:
        parts = {"kind": type(error).__name__, "what": error.what, "where": error.where, "remedy": error.remedy}
        print(json.dumps({"error": parts}))
    return typer.Exit(error.exit_code)


def _interrupted(*, resumable: bool) -> str:
    if not resumable:
        return "interrupted"
    if place()[1] > 1:
        return "interrupted; finished work is kept, continue with the same launch and --resume in the place of --force"
    words = [word for word in sys.argv[1:] if word not in ("--force", "--resume")]
    return f"interrupted; finished work is kept, continue with: {shlex.join(['rlaif', *words, '--resume'])}"


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"rlaif {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Align a language model with AI feedback guided by a constitution, instead of human labels."""


@app.command("run")
@_friendly
def run_all(
    config: ConfigArgument = None,
    out: OutOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    limit: LimitOption = None,
    accept: AcceptOption = False,
    until: UntilOption = None,
    as_json: JsonOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print how much work it is and how long it may take; run nothing")
    ] = False,
) -> None:
    """Run all stages: card, revise, sft, label, reward, ppo, evaluate, report."""
    overrides = _accepting(overrides, accept)
    if dry_run:
        _dry_run(config, out, overrides, limit, as_json, _stage(until))
        return
    _run_stages((), config, out, overrides, resume, force, limit, as_json, _stage(until))


def _add_stage_command(stage: StageName, about: str) -> None:
    """One verb: runs just that stage of a run folder."""

    @_friendly
    def command(
        config: ConfigArgument = None,
        out: OutOption = None,
        overrides: SetOption = None,
        resume: ResumeOption = False,
        force: ForceOption = False,
        limit: LimitOption = None,
        as_json: JsonOption = False,
    ) -> None:
        _run_stages((stage,), config, out, overrides, resume, force, limit, as_json)

    app.command(stage, help=about)(command)


_add_stage_command("card", "Measure the run's judge on gold, which its labels need.")
_add_stage_command("revise", "Let the model criticise and rewrite its answers under the constitution.")
_add_stage_command("sft", "Train the policy on the accepted revisions.")


@app.command("label")
@_friendly
def label(
    config: ConfigArgument = None,
    out: OutOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    limit: LimitOption = None,
    accept: AcceptOption = False,
    as_json: JsonOption = False,
) -> None:
    """Sample answers from the trained policy and have pairs of them judged."""
    _run_stages(("label",), config, out, _accepting(overrides, accept), resume, force, limit, as_json)


_add_stage_command("reward", "Train the reward model on the judge's soft labels.")
_add_stage_command("ppo", "Optimise the policy against the reward, with a KL penalty.")
_add_stage_command("evaluate", "Compare base, SFT and PPO on held-out prompts.")


@app.command()
@_friendly
def report(run: RunArgument, as_json: JsonOption = False) -> None:
    """Write RUN/report.html again from what the run folder holds."""
    from rlaif.core.files import RunFolder
    from rlaif.stages.report import write_report

    path = write_report(RunFolder(run), _load(None, run, None).report.examples).path
    print(json.dumps({"report": str(path)}) if as_json else f"report: {path}")


@app.command()
@_friendly
def show(
    run: RunArgument,
    what: Annotated[
        str | None, typer.Argument(metavar="WHAT", help="a stage, or the id of a prompt, trace, label or response")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="how many to show")] = 5,
    failed: Annotated[bool, typer.Option("--failed", help="only records with a failure")] = False,
) -> None:
    """Read what a run wrote: traces, labels, samples, metrics."""
    from rich.console import Console

    from rlaif.core.files import refuse_no_run
    from rlaif.run.show import show as show_run

    refuse_no_run(run)
    show_run(run, what, n=n, failed=failed, console=Console())


app.command("impact")(_friendly(impact))
app.command()(_friendly(principles))


app.command()(_friendly(check))


@app.command()
@_friendly
def env(as_json: JsonOption = False) -> None:
    """Print versions, processor, GPU, bfloat16, threads, cache folder and optional packages."""
    from rlaif.run.environment import environment

    found = environment()
    if as_json:
        print(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:<{width}}  {value}")


@app.command()
@_friendly
def init(folder: Annotated[Path, typer.Argument(metavar="DIR")] = Path()) -> None:
    """Write a commented rlaif.yaml, a constitution and example prompts into DIR; overwrites nothing."""
    from rlaif.run.init import init_project

    for path in init_project(folder):
        print(f"wrote {path}")
    start = folder / "rlaif.yaml"
    print(f"next: rlaif check {start}, then rlaif run {start}")


app.add_typer(constitution_app(_friendly), name="constitution")
app.add_typer(judge_app(_friendly), name="judge")


# --- what the commands share ------------------------------------------------------------------------------------------


def _run_stages(
    names: tuple[StageName, ...],
    config_path: Path | None,
    out: Path | None,
    overrides: list[str] | None,
    resume: bool,
    force: bool,
    limit: int | None,
    as_json: bool,
    until: StageName | None = None,
) -> None:
    """Runs the stages and says what became of them; for none those of a whole run, `until` one of them."""
    if resume and force:
        raise ConfigError("--resume keeps what is finished and --force removes it", remedy="give one of them")
    with _waiting("loading"):
        from rlaif.core.files import RunFolder
        from rlaif.core.progress import choose
        from rlaif.run import pipeline
        from rlaif.stages import table as stages

    folder = _run_folder(config_path, out)
    config = _load(config_path, folder, overrides)
    if assisted(names, config, folder, limit):
        return
    materials = pipeline.gather_kept(config, RunFolder(folder)) if config_path is None else None
    mode: Mode = "resume" if resume else "force" if force else "new"
    with leading():
        outcomes = pipeline.run_stages(
            config,
            folder,
            names or stages.of_run(config, until),
            mode=mode,
            limit=limit,
            progress=choose(quiet=as_json),
            materials=materials,
        )
    _print_outcome(RunFolder(folder), outcomes, as_json)


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    """A sign of life on a terminal while libraries load."""
    terminal = sys.stderr.isatty()
    if terminal:
        print(f"{what} ...", end="\r", file=sys.stderr, flush=True)
    yield
    if terminal:
        print("\033[K", end="", file=sys.stderr, flush=True)


def _accepting(overrides: list[str] | None, accept: bool) -> list[str]:
    return [*(overrides or []), *["card.required=false"] * accept]


def _stage(name: str | None) -> StageName | None:
    from rlaif.config import STAGES

    for stage in STAGES:
        if stage == name:
            return stage
    if name is None:
        return None
    raise ConfigError(f"no such stage: {name!r}", where="--until", remedy=f"write one of {', '.join(STAGES)}")


def _run_folder(config_path: Path | None, out: Path | None) -> Path:
    if out is not None:
        return out
    if config_path is None:
        raise ConfigError("which run?", remedy="give a CONFIG, or the folder of an existing run with --run DIR")
    return Path("runs") / config_path.stem


def _load(config_path: Path | None, folder: Path, overrides: list[str] | None) -> RunConfig:
    from rlaif.config import load
    from rlaif.core.files import refuse_no_run
    from rlaif.run.pipeline import check_names

    if config_path is None:
        refuse_no_run(folder)
    config = load(folder / "config.yaml" if config_path is None else config_path, overrides or ())
    check_names(config)
    return config


def _print_outcome(run: Any, outcomes: dict[StageName, Outcome], as_json: bool) -> None:
    report_path = str(run.report_path) if run.report_path.exists() else None
    if as_json:
        stages: dict[str, Any] = {}
        for name, outcome in outcomes.items():
            record = run.record(name)
            counts = {} if record is None else {"seconds": record.seconds, "counts": record.counts}
            stages[name] = {"outcome": outcome, **counts}
        print(json.dumps({"run": str(run.root), "stages": stages, "report": report_path}))
        return
    if "evaluate" in outcomes:
        from rich.console import Console

        from rlaif.report.summary import summary_table

        Console().print(summary_table(run))
    if "report" in outcomes and report_path is not None:
        print(f"report: {report_path}")


def _dry_run(
    config_path: Path | None,
    out: Path | None,
    overrides: list[str] | None,
    limit: int | None,
    as_json: bool,
    until: StageName | None,
) -> None:
    from rlaif.constitution.load import load_constitution
    from rlaif.gold.pairs import read_gold_set
    from rlaif.inputs.prompt_sets import split_prompts
    from rlaif.run.dry_run import as_table, plan
    from rlaif.stages.table import of_run

    config = _load(config_path, _run_folder(config_path, out), overrides)
    train, held_out = split_prompts(config.prompts, config.seed)
    constitution = load_constitution(config.constitution)
    gold = len(read_gold_set(config.card.gold, own=constitution).pairs) if "card" in of_run(config) else 0
    work = plan(config, train, held_out, len(constitution.principles), limit, gold, until)
    if as_json:
        print(json.dumps(work.as_json()))
    else:
        from rich.console import Console

        Console().print(as_table(work))
        print(work.basis)


def main() -> None:
    """The console script."""
    sys.path.append(str(Path.cwd()))  # a reward function of the user lies where rlaif is started
    app()
