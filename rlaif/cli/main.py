"""The command line. Everything heavy is imported inside the commands, so that `rlaif --help` answers at once."""

from __future__ import annotations

import json
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlaif import __version__
from rlaif.cli.analysis import impact, principles
from rlaif.cli.check import check
from rlaif.cli.constitution import constitution_app
from rlaif.cli.export import export_app
from rlaif.cli.judge import judge_app
from rlaif.cli.launch import assisted, leading
from rlaif.cli.options import AcceptOption, JsonOption, SetOption, Verbs, accepting, friendly
from rlaif.core.errors import ConfigError, near
from rlaif.core.terminal import console, say, typed, waiting

if TYPE_CHECKING:
    from rlaif.config import RunConfig, StageName
    from rlaif.run.pipeline import Mode, Outcome

START, STAGES, RESULTS, RULES = "Start", "One stage", "Results", "Rules and judge"

app = typer.Typer(
    name="rlaif",
    help="Align a language model with AI feedback guided by a constitution, instead of human labels.",
    epilog="Begin with `rlaif init mine`: it writes the files to start from, and prints the next commands.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=Verbs,
)

ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="CONFIG", help="run config (YAML); for a run that exists --run RUN is enough")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="a run folder, such as runs/demo")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "--run", metavar="RUN", help="the run folder; without it runs/<name of CONFIG>")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="keep what is finished and go on from there")]
ForceOption = Annotated[bool, typer.Option("--force", help="do it again, and remove every stage that is built on it")]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="take at most N prompts of each slice (set of prompts)"),
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="STAGE", help="stop after this stage")]


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"rlaif {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Align a language model with AI feedback guided by a constitution, instead of human labels."""


@app.command(rich_help_panel=START)
@friendly
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to write them")] = Path(),
    aim: Annotated[
        str,
        typer.Option("--for", metavar="AIM", help="what you want to do: constitution, data or train"),
    ] = "train",
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="SIZE", help="settings for a model of about 0.1B, 1B or 8B parameters"),
    ] = None,
) -> None:
    """Write a short config, a constitution and example prompts to replace. Overwrites nothing."""
    from rlaif.run.init import AIMS, init_project
    from rlaif.run.sizes import choose_size

    chosen = next((known for known in AIMS if known == aim), None)
    if chosen is None:
        what = f"there is no aim {aim!r}{near(aim, AIMS)}"
        raise ConfigError(what, where="--for", remedy=f"write one of {', '.join(AIMS)}")
    project = init_project(folder, chosen, None if size is None else choose_size(size))
    for path in project.files:
        say(f"wrote {path}")
    for number, step in enumerate(project.steps):
        say(f"{'then' if number else 'next'}: {step}")


@app.command(rich_help_panel=START)
@friendly
def fields(
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="TABLE...", help="only these tables of the config, such as ppo")
    ] = None,
) -> None:
    """Print every field of a run config with its default and meaning."""
    from rlaif.run.init import every_field

    say(every_field(tables or ()).rstrip("\n"))


app.command(rich_help_panel=START)(friendly(check))


@app.command("run", rich_help_panel=START)
@friendly
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
        bool, typer.Option("--dry-run", help="run nothing; print how much work it is and how long it may take")
    ] = False,
) -> None:
    """Run all stages: card, revise, sft, label, reward, ppo, evaluate and report; dpo where align_by names it."""
    overrides = accepting(overrides, accept)
    if dry_run:
        _dry_run(config, out, overrides, limit, as_json, _stage(until))
        return
    _run_stages((), config, out, overrides, resume, force, limit, as_json, _stage(until))


ShardOption = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="do part I of N (1/4, 2/4, ...); then rlaif merge RUN"),
]


def _add_stage_command(stage: StageName, about: str) -> None:
    """One verb: runs just that stage of a run folder."""

    @friendly
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

    app.command(stage, help=about, rich_help_panel=STAGES)(command)


_add_stage_command("card", "Measure the judge on pairs whose better answer is known (gold), and write its card.")


@app.command("revise", rich_help_panel=STAGES)
@friendly
def revise(
    config: ConfigArgument = None,
    out: OutOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    limit: LimitOption = None,
    shard: ShardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let the model criticise and rewrite its answers."""
    _run_stages(("revise",), config, out, overrides, resume, force, limit, as_json, shard=shard)


_add_stage_command("sft", "Fine-tune the model on the accepted rewrites.")


@app.command("label", rich_help_panel=STAGES)
@friendly
def label(
    config: ConfigArgument = None,
    out: OutOption = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    limit: LimitOption = None,
    accept: AcceptOption = False,
    shard: ShardOption = None,
    as_json: JsonOption = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="with --run: try both kinds of label.answers and say which to take")
    ] = False,
    prompts: Annotated[
        int, typer.Option("--prompts", metavar="N", min=2, help="with --compare: try them on N prompts")
    ] = 24,
) -> None:
    """Sample answers of the tuned model and have pairs of them judged."""
    if compare:
        if config is not None or out is None or resume or force or limit is not None or shard is not None:
            raise ConfigError(
                "--compare looks at a run that is there", remedy="give --run RUN, and of the others --prompts and --set"
            )
        _compare_answers(out, overrides, prompts, as_json)
        return
    _run_stages(("label",), config, out, accepting(overrides, accept), resume, force, limit, as_json, shard=shard)


@app.command(rich_help_panel=STAGES)
@friendly
def merge(run: RunArgument, as_json: JsonOption = False) -> None:
    """Join the shards of revise or label into what one process would have written."""
    with waiting("loading"):
        from rlaif.core.progress import choose
        from rlaif.run.merge import merge as merge_shards

    record = merge_shards(run, progress=choose(quiet=as_json))
    if as_json:
        say(json.dumps({"run": str(run), "stage": record.stage, "counts": record.counts}))
    else:
        say(f"{record.stage} is whole; next: rlaif run --run {run} --resume")


_add_stage_command("reward", "Train the reward model on the labels.")
_add_stage_command("ppo", "Optimise the policy against the reward.")
_add_stage_command("dpo", "Train the policy on the labels themselves, in place of ppo or beside it (align_by).")
_add_stage_command("evaluate", "Compare base, SFT and PPO or DPO on held-out prompts.")


@app.command(rich_help_panel=RESULTS)
@friendly
def report(
    run: RunArgument,
    control: Annotated[
        list[str] | None,
        typer.Option("--control", metavar="NAME=RUN", help="show PPO of another run on the same prompts beside this"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the page RUN/report.html again, also while the run is going on."""
    from rlaif.config.load import load
    from rlaif.core.files import RunFolder
    from rlaif.core.shard import refuse_no_whole_run
    from rlaif.report.controls import add_controls, named
    from rlaif.stages.report import write_report

    refuse_no_whole_run(run)
    if control:
        add_controls(RunFolder(run), named(control))
    config = load(run / "config.yaml")  # whose names need not be known here: a user's own class may be gone
    path = write_report(RunFolder(run), config.report.examples).path
    say(json.dumps({"report": str(path)}) if as_json else f"report: {path}")


@app.command(rich_help_panel=RESULTS)
@friendly
def show(
    run: RunArgument,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="WHAT", help="a stage, or the beginning of the id of a prompt, trace, label or response"
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="show N records")] = 5,
    failed: Annotated[bool, typer.Option("--failed", help="show only what failed, and why")] = False,
) -> None:
    """Show what a run cost and found, or its traces, labels, samples and metrics."""
    from rlaif.core.files import refuse_no_run
    from rlaif.run.show import show as show_run

    refuse_no_run(run)
    show_run(run, what, n=n, failed=failed, console=console())


@app.command(rich_help_panel=RESULTS)
@friendly
def chat(
    run: RunArgument,
    question: Annotated[
        str | None,
        typer.Argument(metavar="QUESTION", help="answer this one; without it every line that you type or pipe in"),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", metavar="NAME", help="ask base, sft, ppo or dpo; several times for several (default: all)"
        ),
    ] = None,
    judge: Annotated[
        bool, typer.Option("--judge", help="have the judge compare the answers, principle by principle")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="a system message before each question")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="longest answer (default: evaluate's)")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", min=0, help="of sampling (default: evaluate's)")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", min=0, help="another seed gives other answers")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object for each question")] = False,
) -> None:
    """Ask the base model, SFT, PPO and DPO your own questions, side by side. Each question stands by itself."""
    with waiting("loading"):
        from rlaif.run.chat import Chat
        from rlaif.run.open import open_run
        from rlaif.view.answer import example_panel

        opened = Chat(
            open_run(run),
            models=models,
            judge=judge,
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        )
    with closing(opened) as talk, suppress(KeyboardInterrupt):
        for number, asked in enumerate(typed("question> ") if question is None else [question], start=1):
            turn = talk.ask(asked)
            if as_json:
                say(json.dumps(turn.as_json()))
            else:
                console().print(example_panel(turn.as_example(), number))


@app.command(rich_help_panel=RESULTS)
@friendly
def serve(
    run: RunArgument,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="sft, ppo or dpo (default: the last that was trained)"),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="0.0.0.0 = every address of this machine")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes one that is free")] = 8000,
    engine: Annotated[
        str | None,
        typer.Option("--engine", metavar="vllm|transformers", help="what serves it (default: the fastest installed)"),
    ] = None,
) -> None:
    """Serve what was trained at an OpenAI-compatible address, until you stop it."""
    from rlaif.core.files import RunFolder
    from rlaif.core.shard import refuse_no_whole_run
    from rlaif.export import serving
    from rlaif.export.source import EVALUATED

    refuse_no_whole_run(run)
    folder, chosen = RunFolder(run), serving.choose_engine(engine)
    which = serving.choose_policy(folder, model)

    def ready(url: str, name: str) -> None:
        say(f"{url}  {EVALUATED[which]} of {run} by {chosen}; in requests its name is {name}")

    say(f"writing the model for {chosen} ...", error=True)
    serving.serve(folder, which, engine=chosen, host=host, port=port, ready=ready)


@app.command(rich_help_panel=START)
@friendly
def env(as_json: JsonOption = False) -> None:
    """Print what this machine has, and how to get what is missing."""
    from rlaif.run.environment import environment

    found = environment()
    if as_json:
        say(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        say(f"{name:<{width}}  {value}")


app.command(rich_help_panel=RESULTS)(friendly(impact))
app.command(rich_help_panel=RESULTS)(friendly(principles))
app.add_typer(export_app(), name="export", rich_help_panel=RESULTS)
app.add_typer(constitution_app(), name="constitution", rich_help_panel=RULES)
app.add_typer(judge_app(), name="judge", rich_help_panel=RULES)


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
    shard: str | None = None,
) -> None:
    """Runs the stages and says what became of them; for none those of a whole run, `until` one of them. With a shard,
    that part of the one stage."""
    if resume and force:
        raise ConfigError("--resume keeps what is finished and --force removes it", remedy="give one of them")
    with waiting("loading"):
        from rlaif.core.files import RunFolder
        from rlaif.core.progress import choose
        from rlaif.core.shard import Shard
        from rlaif.run import pipeline
        from rlaif.stages import table as stages

    part = None if shard is None else Shard.parse(shard)
    folder = _run_folder(config_path, out)
    config = _load(config_path, folder, overrides)
    if assisted(names, config, folder, limit):
        return
    materials = pipeline.gather_kept(config, RunFolder(folder)) if config_path is None else None
    mode: Mode = "resume" if resume else "force" if force else "new"
    if part is not None:
        outcome = pipeline.run_shard(
            config,
            folder,
            names[0],
            part,
            mode=mode,
            limit=limit,
            progress=choose(quiet=as_json),
            materials=materials,
        )
        run = RunFolder(folder)
        whole = run.record(names[0]) is not None
        _print_outcome(run if whole else part.folder(run), {names[0]: outcome}, as_json)
        if not as_json and not whole:
            say(f"when all shards are finished: rlaif merge {folder}")
        return
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


def _compare_answers(folder: Path, overrides: list[str] | None, prompts: int, as_json: bool) -> None:
    """Prints which kind of answers to label."""
    with waiting("loading"):
        from rlaif.analysis.sources.answer import answer
        from rlaif.analysis.sources.compare import compare
        from rlaif.core.files import RunFolder
        from rlaif.core.progress import choose
        from rlaif.view.deliver import deliver

    found = compare(RunFolder(folder), overrides or (), prompts=prompts, progress=choose(quiet=as_json))
    deliver(found.as_json(), answer(found), html=None, out=None, as_json=as_json)


def _stage(name: str | None) -> StageName | None:
    from rlaif.config import STAGES

    found = next((stage for stage in STAGES if stage == name), None)
    if found is None and name is not None:
        what = f"no such stage: {name!r}{near(name, STAGES)}"
        raise ConfigError(what, where="--until", remedy=f"write one of {', '.join(STAGES)}")
    return found


def _run_folder(config_path: Path | None, out: Path | None) -> Path:
    if out is not None:
        return out
    if config_path is None:
        raise ConfigError(
            "which run?",
            remedy="give a config, such as my.yaml (rlaif init writes one), or a run that exists with --run RUN",
        )
    return Path("runs") / config_path.stem


def _load(config_path: Path | None, folder: Path, overrides: list[str] | None) -> RunConfig:
    from rlaif.core.files import refuse_no_run
    from rlaif.core.shard import refuse_shard_folder
    from rlaif.judge.load import load

    if config_path is None:
        refuse_shard_folder(folder)
        refuse_no_run(folder)
    return load(folder / "config.yaml" if config_path is None else config_path, overrides or ())


def _print_outcome(run: Any, outcomes: dict[StageName, Outcome], as_json: bool) -> None:
    report_path = str(run.report_path) if run.report_path.exists() else None
    if as_json:
        stages: dict[str, Any] = {}
        for name, outcome in outcomes.items():
            record = run.record(name)
            counts = {} if record is None else {"seconds": record.seconds, "counts": record.counts}
            stages[name] = {"outcome": outcome, **counts}
        say(json.dumps({"run": str(run.root), "stages": stages, "report": report_path}))
        return
    if "evaluate" in outcomes:
        from rlaif.report.terminal import result

        console().print(result(run))
    if "report" in outcomes and report_path is not None:
        say(f"report: {report_path}")


def _dry_run(
    config_path: Path | None,
    out: Path | None,
    overrides: list[str] | None,
    limit: int | None,
    as_json: bool,
    until: StageName | None,
) -> None:
    from rlaif.check.config import refuse_failing
    from rlaif.constitution.load import load_constitution
    from rlaif.gold.pairs import read_gold_set
    from rlaif.inputs.prompt_sets import split_prompts
    from rlaif.run.beforehand import headers_of
    from rlaif.run.dry_run import as_table, plan
    from rlaif.stages.label_given import read_given
    from rlaif.stages.table import of_run

    folder = _run_folder(config_path, out)
    config = _load(config_path, folder, overrides)
    refuse_failing(folder / "config.yaml" if config_path is None else config_path, overrides or (), until=until)
    train, held_out = split_prompts(config.prompts, config.seed)
    constitution = load_constitution(config.constitution)
    gold = len(read_gold_set(config.card.gold, own=constitution).pairs) if "card" in of_run(config) else 0
    weights = headers_of(config.model.source).weights
    given = None if config.label.source is None else read_given(config.label.source, held_out)
    answers, pairs = (0, 0) if given is None else (given.answers, len(given.labels))
    work = plan(config, train, held_out, len(constitution.principles), limit, gold, until, weights, answers, pairs)
    if as_json:
        say(json.dumps(work.as_json()))
    else:
        console().print(as_table(work))
        say(work.basis)


def main() -> None:
    """The console script."""
    sys.path.append(str(Path.cwd()))  # a reward function of the user lies where rlaif is started
    app()
