"""Other runs whose PPO stands beside this run's in its report: random labels, a reward of length alone, and so on.

`controls.json` in the run folder holds them as {name: folder of the run}, relative to the run folder, so that a report
that is written again has them too. They are read where they lie; nothing of them is copied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.core.errors import ConfigError, DataError, RunFolderError
from rlaif.core.evaluation import Summary, read_summary
from rlaif.core.files import JsonlFile, RunFolder, parse_json, write_atomic
from rlaif.core.records import Prompt
from rlaif.core.shard import refuse_no_whole_run

FILE = "controls.json"


@dataclass(frozen=True, slots=True)
class Control:
    """Another run under the name that its row has. Its PPO is what counts; its differences are from its own SFT."""

    name: str
    summary: Summary


def read_controls(run: RunFolder) -> list[Control]:
    """The controls in controls.json, in its order; [] where there is none.

    Raises RunFolderError for a run that has gone, has no evaluated PPO, or was measured on other held-out prompts.
    """
    return [Control(name, _read(run, name, folder)) for name, folder in _listed(run).items()]


def add_controls(run: RunFolder, added: Mapping[str, Path]) -> None:
    """Adds runs to controls.json, each in the place of one of its name; writes nothing if one of them is unfit."""
    found = _listed(run) | {
        name: os.path.relpath(folder.resolve(), run.root.resolve()) for name, folder in added.items()
    }
    for name in added:
        _read(run, name, found[name])
    write_atomic(run.root / FILE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def named(given: Sequence[str]) -> dict[str, Path]:
    """Name -> folder of every "NAME=FOLDER"; ConfigError for anything else."""
    found = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (equals and name.strip() and folder):
            raise ConfigError(
                f"{text!r} is no NAME=RUN", where="--control", remedy='write --control "random judge=runs/random"'
            )
        found[name.strip()] = Path(folder)
    return found


def _listed(run: RunFolder) -> dict[str, str]:
    path = run.root / FILE
    if not path.exists():
        return {}
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise DataError(f"is not JSON ({problem})", where=str(path), remedy="mend or remove the file") from None
    if not isinstance(found, dict) or not all(isinstance(folder, str) for folder in found.values()):
        raise DataError(
            "does not name runs", where=str(path), remedy='write {"random judge": "../random"}, or remove the file'
        )
    return found


def _read(run: RunFolder, name: str, folder: str) -> Summary:
    """The evaluation of the run in `folder`, measured on the prompts of `run`."""
    other = RunFolder(Path(os.path.normpath(run.root / folder)))
    refuse_no_whole_run(other.root)
    summary = read_summary(other)
    where = f"{other.root} (control {name!r})"
    if summary is None or "ppo" not in summary.models:
        what = "is not evaluated" if summary is None else "has no PPO in its evaluation"
        raise RunFolderError(what, where=where, remedy=_remedy(run, "finish that run with rlaif evaluate"))
    ours, theirs = _evaluated(run), _evaluated(other)
    if ours != theirs:
        raise RunFolderError(
            f"was measured on other prompts: of this run's {len(ours)} held-out prompts it lacks {len(ours - theirs)}, "
            f"and it has {len(theirs - ours)} that this run lacks",
            where=where,
            remedy=_remedy(run, "give both runs the same prompts.<slice>.source and held_out, and the same --limit"),
        )
    return summary


def _remedy(run: RunFolder, first: str) -> str:
    return f"{first}, or take its line out of {run.root / FILE}"


def _evaluated(run: RunFolder) -> set[str]:
    """Ids of the held-out prompts; of those that were evaluated, where --limit left some out."""
    record = run.record("evaluate")
    limit = None if record is None else record.config.get("limit")
    prompts = JsonlFile(run.file("prompts", "held_out.jsonl"), Prompt).read()
    return {
        prompt.id
        for place, prompt in enumerate(prompts)
        if limit is None or sum(other.slice == prompt.slice for other in prompts[:place]) < limit
    }
