"""`rlaif constitution VERB`: list, read, write, edit, check and compare them. Heavy imports stand in the verbs."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from rlaif.cli.analysis import recover
from rlaif.cli.options import Command, JsonOption, JudgeConfigOption, SetOption, Verbs, add_verbs
from rlaif.core.terminal import say

FORMAT_NAMES = "anthropic, anthropic-comparisons, handbook, icai, markdown or json"


NameArgument = Annotated[str, typer.Argument(metavar="NAME-or-FILE", help="a shipped constitution, or a YAML file")]


def list_shipped(as_json: JsonOption = False) -> None:
    """List the constitutions that come with rlaif."""
    from rlaif.constitution.load import load_constitution
    from rlaif.core.shipped import shipped

    found = [
        {
            "name": name,
            "principles": len(constitution.principles),
            "tests": sum(len(p.tests) for p in constitution.principles),
            "description": constitution.description,
        }
        for name in shipped("constitutions")
        for constitution in [load_constitution(name)]
    ]
    if as_json:
        say(json.dumps({"constitutions": found}))
        return
    longest = max(len(str(row["name"])) for row in found)
    for row in found:
        say(f"{row['name']:<{longest}}  {row['principles']:>3} principles  {row['tests']:>3} tests")
        say("  " + textwrap.shorten(str(row["description"]), _width() - 2, placeholder=" ..."))


def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print a constitution with all that it includes, and where each principle is from."""
    from rlaif.constitution.compose import compose
    from rlaif.constitution.load import as_record
    from rlaif.constitution.render import constitution_lines
    from rlaif.core.records import to_json

    composed = compose(name)
    if not as_json:
        _print_lines(constitution_lines(composed, _width()))
        return
    constitution = as_record(composed)
    data = {"file": str(composed.path), "hash": constitution.hash, **to_json(constitution)}
    for part, principle, written in zip(data["principles"], constitution.principles, composed.principles, strict=True):
        part |= {"hash": principle.hash, "files": [str(path) for path in written.paths]}
    say(json.dumps(data))


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="where to write it, such as mine.yaml")],
    as_json: JsonOption = False,
) -> None:
    """Write a commented constitution to start from. Overwrites nothing."""
    from rlaif.constitution.starter import write_starter

    write_starter(file)
    say(json.dumps({"file": str(file)}) if as_json else f"wrote {file}\nnext: rlaif constitution check {file}")


def set_fields(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the constitution to edit")],
    changes: Annotated[
        list[str],
        typer.Argument(metavar="PRINCIPLE.FIELD=VALUE...", help="such as no-crime.weight=2; null removes the field"),
    ],
    as_json: JsonOption = False,
) -> None:
    """Change fields of a constitution file. Comments and all other lines stay as they are."""
    from rlaif.constitution import diff as differences
    from rlaif.constitution.edit import edit_file, parse_change, with_changes
    from rlaif.constitution.render import difference_lines
    from rlaif.judge.methods.table import METHODS

    wanted = [parse_change(change) for change in changes]
    done = edit_file(file, lambda text, path: with_changes(text, path, wanted))
    if as_json:
        found = differences.diff(done.old, done.new, METHODS.values()).as_json()
        say(json.dumps({"file": str(file), "written": done.written, **found}))
        return
    _print_lines(difference_lines(done.old, done.new, METHODS.values(), _width()))
    say(f"wrote {file}" if done.written else f"{file} stays as it is: nothing to change")


def draft(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the constitution to edit")],
    as_json: JsonOption = False,
) -> None:
    """Give each principle without a contrast pair one that is made from its statement, to start from."""
    from rlaif.constitution.contrast_pair import with_made_contrasts
    from rlaif.constitution.edit import edit_file

    done = edit_file(file, with_made_contrasts)
    before = {principle.id: principle.contrast for principle in done.old.principles}
    drafted = [principle.id for principle in done.new.principles if principle.contrast != before[principle.id]]
    if as_json:
        say(json.dumps({"file": str(file), "written": done.written, "drafted": drafted}))
        return
    if not drafted:
        say(f"{file} stays as it is: every principle has a contrast pair")
        return
    say(f"wrote {file}")
    told = [
        f"{len(drafted)} contrast pair{'' if len(drafted) == 1 else 's'} made, for {', '.join(drafted)}",
        "A made pair only wraps the statement. Write in each what the assistant does, and add examples "
        "(docs/write-a-constitution.md).",
    ]
    _print_lines(line for text in told for line in textwrap.wrap(text, _width(), subsequent_indent="  "))
    say(f"next: rlaif constitution test {file}")


def import_constitution(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what to import")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="where to write it, such as mine.yaml")],
    format: Annotated[
        str | None, typer.Option("--from", metavar="FORMAT", help=f"{FORMAT_NAMES}; default: by the file's shape")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="its name; default: the file's own")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a file of another format into a constitution, and say what was left out."""
    from rlaif.constitution.exchange.formats import import_file
    from rlaif.constitution.render import imported_lines
    from rlaif.judge.methods.table import taking

    found = import_file(file, out, name=name, format=format)
    methods = taking(found.constitution)
    if not as_json:
        _print_lines(imported_lines(found, methods, _width()))
        return
    ids = [principle.id for principle in found.constitution.principles]
    told = {"file": found.file, "source": found.source, "format": found.format, "principles": ids}
    more = {"left_out": found.left_out, "notes": found.notes, "renamed": dict(found.renamed)}
    say(json.dumps({**told, **more, "methods": methods}))


def export(
    name: NameArgument,
    format: Annotated[str, typer.Option("--to", metavar="FORMAT", help=FORMAT_NAMES)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="where to write it")],
    as_json: JsonOption = False,
) -> None:
    """Write a constitution in another format, and say what that format cannot hold."""
    from rlaif.constitution.exchange.formats import export_file
    from rlaif.constitution.load import load_constitution

    lost = export_file(load_constitution(name), out, format)
    if as_json:
        say(json.dumps({"file": str(out), "format": format, "lost": lost}))
        return
    told = ", ".join(f"{count} x {what}" for what, count in lost.items()) or "nothing"
    _print_lines([f"wrote {out}", *textwrap.wrap(f"the format {format} cannot hold: {told}", _width())])


def check(
    names: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML files, or names of shipped ones")],
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 for warnings too, not only for errors")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find mistakes, missing texts and wording that misleads a judge. Asks no model."""
    from rlaif.config import JudgeConfig
    from rlaif.constitution.diff import reading
    from rlaif.constitution.lint import lint
    from rlaif.judge.methods.table import METHODS

    found = {name: lint(name) for name in names}
    totals = Counter(finding.severity for findings in found.values() for finding in findings)
    shown = {method.name: method.shown for method in METHODS.values() if method.asks_model}
    ok = not totals["error"] and not (strict and totals["warning"])
    if as_json:
        files = [{"file": name, "findings": [f.as_json() for f in findings]} for name, findings in found.items()]
        counts = {f"{severity}s": totals[severity] for severity in ("error", "warning", "note")}
        say(json.dumps({"ok": ok, **counts, "shown": shown, "files": files}))
    else:
        for finding in (finding for findings in found.values() for finding in findings):
            which = "" if finding.principle is None or finding.severity == "error" else f" [{finding.principle}]"
            _print_lines(
                [
                    f"{finding.where}: {finding.severity} {finding.code}{which} {finding.message}",
                    f"  -> {finding.remedy}",
                ]
            )
        told = [(totals[severity], severity) for severity in ("error", "warning", "note")]
        usual = JudgeConfig.model_fields["method"].default
        reads = [
            f"{name}{' (the default)' if name == usual else ''}: {reading(fields)}" for name, fields in shown.items()
        ]
        about = f"what a judge reads of a principle, by judge.method. {'; '.join(reads)}"
        if not totals["error"]:  # until it loads, no judge reads it
            _print_lines(textwrap.wrap(about, _width(), subsequent_indent="  "))
        say(", ".join(f"{n} {severity}{'' if n == 1 else 's'}" for n, severity in told))
    if not ok:
        raise typer.Exit(1)


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="a shipped constitution, or a YAML file")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="the other one")],
    as_json: JsonOption = False,
) -> None:
    """Say what changed between two constitutions, and which judging methods see it."""
    from rlaif.constitution import diff as differences
    from rlaif.constitution.load import load_constitution
    from rlaif.constitution.render import difference_lines
    from rlaif.judge.methods.table import METHODS

    before, after = load_constitution(old), load_constitution(new)
    if as_json:
        say(json.dumps(differences.diff(before, after, METHODS.values()).as_json()))
    else:
        _print_lines(difference_lines(before, after, METHODS.values(), _width()))


def schema(as_json: JsonOption = False) -> None:
    """Print the JSON Schema by which an editor completes and checks a constitution file."""
    from rlaif.constitution.format import json_schema

    say(json.dumps(json_schema(), indent=None if as_json else 2))


def run_tests(
    name: NameArgument,
    config: JudgeConfigOption = None,
    overrides: SetOption = None,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ID", help="only this principle")] = None,
    fail_under: Annotated[
        float | None,
        typer.Option(
            "--fail-under", metavar="SHARE", min=0, max=1, help="exit with 1 if a smaller share of all tests passes"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run the unit tests of the principles: does the judge prefer the better answer?"""
    from rlaif.constitution.load import load_constitution
    from rlaif.core.progress import choose
    from rlaif.core.shipped import cache_folder
    from rlaif.judge.load import load_or_default
    from rlaif.judge.tests import answer, run, tally
    from rlaif.view.deliver import print_answer

    constitution = load_constitution(name)
    settings = load_or_default(config, overrides)
    progress = choose(quiet=as_json)
    report = run(constitution, settings, cache=cache_folder(), only=only or (), where=name, progress=progress)
    if as_json:
        say(json.dumps(report.as_json()))
    else:
        print_answer(answer(report))
    found = tally(report.results)
    if fail_under is not None and found.pass_share < fail_under:
        share = f"{found.passed} of {found.tests} tests passed"
        say(f"{share}, less than --fail-under {fail_under:g}", error=True)
        raise typer.Exit(1)


VERBS: dict[str, Command] = {
    "list": list_shipped,
    "show": show,
    "new": new,
    "set": set_fields,
    "draft": draft,
    "import": import_constitution,
    "export": export,
    "check": check,
    "test": run_tests,
    "diff": diff,
    "schema": schema,
    "recover": recover,
}
"""Verb -> the function that does it."""


def constitution_app() -> typer.Typer:
    """The sub-app with every verb."""
    about = "List, read, write, edit, check and compare constitutions."
    return add_verbs(typer.Typer(help=about, no_args_is_help=True, cls=Verbs), VERBS)


def _width() -> int:
    return min(shutil.get_terminal_size().columns, 120)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)
