"""How CPU time and memory grow: label, impact, export, report and show over n pairs, lint over n principles.

    python benchmarks/growth.py [--sizes 1000 10000] [--only impact lint]

A scripted policy answers each of n prompts twice, and the random judge labels the pair. Every work is done in a fork of
its own, in one thread, after each was done once on a few pairs. Printed are CPU seconds, by how much the peak memory
stands above the start, and from one size to the next the exponent of either: 1 is linear.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import resource
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from machine import machine
from rich.console import Console

from rlaif.analysis.impact.impact import impact
from rlaif.analysis.impact.subject import of_run
from rlaif.config import RunConfig
from rlaif.constitution.lint import lint
from rlaif.constitution.load import constitution_text, load_constitution
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import Message, Prompt, StageRecord, content_id
from rlaif.core.yaml import dump_yaml
from rlaif.export.data import DataRequest, export_data
from rlaif.judge.load import parse
from rlaif.lm.open import open_judge
from rlaif.lm.scripted import ScriptedModel
from rlaif.report.build import build_report
from rlaif.run import pipeline
from rlaif.run.show import show
from rlaif.stages import label
from rlaif.stages import table as stages
from rlaif.stages.context import StageContext

OLD = "harmless-and-kind"
EDIT = """\
name: edited
version: "2"
include: [harmless-and-kind]
principles: [{id: no-harm, override: true, statement: Prefer the answer that hurts nobody.}]
"""
WARM = 20
Work = Callable[[Path, int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="100000 takes some minutes more")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS))
    given = parser.parse_args()
    print(machine())
    print(f"{'':<10}{'n':>9}{'CPU s':>9}{'MB':>8}{'time ~ n^':>11}{'memory ~ n^':>13}")
    with tempfile.TemporaryDirectory() as name:
        for work in WORKS.values():  # imports what it needs
            work(Path(name) / "warm", WARM)
        before: dict[str, tuple[int, float, float]] = {}
        for size in given.sizes:
            folder = Path(name) / str(size)
            needed = any(work != "lint" for work in given.only)
            for work in WORKS:  # in their order: the others read what label writes
                if work in given.only or (work == "label" and needed):
                    seconds, megabytes = measured(WORKS[work], folder, size)
                    told = f"{work:<10}{size:>9,}{seconds:>9.1f}{megabytes:>8.0f}"
                    if work in before:
                        n, *earlier = before[work]
                        now = zip((seconds, megabytes), earlier, strict=True)
                        exponents = [math.log(max(a, 1e-2) / max(b, 1e-2)) / math.log(size / n) for a, b in now]
                        told += f"{exponents[0]:>11.2f}{exponents[1]:>13.2f}"
                    print(told, flush=True)
                    before[work] = (size, seconds, megabytes)


def measured(work: Work, folder: Path, size: int) -> tuple[float, float]:
    """CPU seconds of the work, and megabytes that its peak stands above where it began."""
    out, into = os.pipe()
    if os.fork() == 0:
        begun = held()
        try:
            work(folder, size)
        except BaseException as problem:
            print(f"{type(problem).__name__}: {problem}", flush=True)
            os._exit(1)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        grown = max(0, usage.ru_maxrss * 1024 - begun) / 1e6
        os.write(into, json.dumps([usage.ru_utime + usage.ru_stime, grown]).encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        told = pipe.read()
    os.wait()
    if not told:
        raise SystemExit("failed")
    seconds, megabytes = json.loads(told)
    return seconds, megabytes


def held() -> int:
    """Bytes of memory that this process has now. Linux alone has the file."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def settings(folder: Path, size: int) -> RunConfig:
    data = {
        "constitution": OLD,
        "judge": {"method": "random"},
        "card": {"required": False},
        "prompts": {"all": {"source": str(folder / "prompts.jsonl"), "train": size}},
        "label": {"samples": 2, "pairs": 1},
    }
    return parse(data, where="growth")


def work_label(folder: Path, size: int) -> None:
    """The label stage, from a run folder with prompts alone to one whose labels are finished."""
    run = RunFolder(folder / "run")
    run.root.mkdir(parents=True)
    prompts = [Prompt((Message("user", f"What should I know of thing number {n}?"),), slice="all") for n in range(size)]
    rows = "".join(json.dumps({"prompt": prompt.text}) + "\n" for prompt in prompts)
    (folder / "prompts.jsonl").write_text(rows, encoding="utf-8")
    run.constitution_path.write_text(constitution_text(OLD), encoding="utf-8")
    config = settings(folder, size).model_copy(update={"constitution": str(run.constitution_path)})
    run.config_path.write_text(dump_yaml(config.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    JsonlFile(run.file("prompts", "train.jsonl"), Prompt).append(prompts)
    run.file("prompts", "held_out.jsonl").touch()
    context = StageContext(
        "label",
        config,
        run,
        load_constitution(str(run.constitution_path)),
        Silent(),
        open_policy=lambda adapters: ScriptedModel(),
        open_judge=lambda asking: ScriptedModel(),
    )
    counts = label.run(context)
    assert counts["labelled"] > 0.8 * size, counts  # some sentences come out twice
    given = pipeline.gather_kept(config, run)
    inputs = {
        "constitution": given.constitution.hash,
        "templates": content_id(given.templates),
        "judge model": pipeline.judge_model_hash(config),
    }
    found = stages.settings(config, "label", None)
    run.finish(StageRecord("label", found, content_id(found), inputs, counts, 1.0, 0.1, {}, "", 0, "", "", ""))


def work_impact(folder: Path, size: int) -> None:
    """What the reworded principle changes, measured from the run's labels."""
    edited = folder / "edited.yaml"
    edited.write_text(EDIT, encoding="utf-8")
    with closing(of_run(RunFolder(folder / "run"), open_judge)) as subject:
        impact(subject, str(edited), examples=3, progress=Silent())


def work_export(folder: Path, size: int) -> None:
    export_data(RunFolder(folder / "run"), folder / "data", DataRequest("preference", "jsonl"))


def work_report(folder: Path, size: int) -> None:
    build_report(RunFolder(folder / "run"), 12, stages.abouts(given=False))


def work_show(folder: Path, size: int) -> None:
    """The overview, the labels, those that failed, and one looked up by the beginning of an id."""
    console = Console(file=io.StringIO(), width=100)
    run = folder / "run"
    prompt = next(iter(JsonlFile(run / "prompts" / "train.jsonl", Prompt))).id
    for what in (None, "label", prompt):
        show(run, what, n=20, failed=False, console=console)


def work_lint(folder: Path, size: int) -> None:
    """A file of n principles, each with a statement of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    names = [
        f"{a}{b}{c}" for a in "bdfgk" for b in ("al", "er", "in", "os") for c in ("ing", "ly", "ness", "er", "ful")
    ]
    principles = [
        {"id": f"rule-{n}", "statement": f"Prefer the answer that is {' '.join(draw.choices(names, k=9))}."}
        for n in range(size)
    ]
    path = folder / "many.yaml"
    path.write_text(dump_yaml({"name": "many", "version": "1", "principles": principles}), encoding="utf-8")
    lint(str(path))


WORKS: dict[str, Work] = {
    "label": work_label,
    "impact": work_impact,
    "export": work_export,
    "report": work_report,
    "show": work_show,
    "lint": work_lint,
}


if __name__ == "__main__":
    main()
