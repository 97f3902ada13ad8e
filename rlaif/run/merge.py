"""Makes one stage of its shards: the files, record for record, that one process would have written, in its order.

1. All shards are there, finished and whole, and were made from the same settings, inputs and versions, which are those
   of the run now. Nothing is written before.
2. Their records are joined in the order of the prompts' batches, in which one process writes them, and their answers go
   to the run's caches.
3. The stage itself goes over the joined files as it does after a kill. It finds every record and asks nothing; what
   needs all records together (`label.balance`, counts, confounds, slices without a preference) it does here.
4. The folder gets its name when all of it is on the disk; then the shards are removed.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig, StageName
from rlaif.core import provenance
from rlaif.core.errors import DataError, RunFolderError, StageError
from rlaif.core.files import JsonlFile, RunFolder, refuse_no_run, remove_folder, write_atomic, write_folder
from rlaif.core.progress import Progress
from rlaif.core.records import FailedAnswer, PreferenceLabel, Response, RevisionTrace, StageRecord, content_id, to_json
from rlaif.core.shard import FOLDER, Shard, shards_of, unmerged
from rlaif.judge.load import load
from rlaif.lm.protocol import Usage
from rlaif.run import ledger, pipeline
from rlaif.run.models import CACHES
from rlaif.stages import table as stages
from rlaif.stages.context import StageContext

AT_ONCE = 1000
"""Records that are written together."""


@dataclass(frozen=True, slots=True)
class _Joined:
    """A file of a stage: its records, the prompt that one is about, what no two of them share, and whether the stage
    writes it after those of all prompts that are not `late`."""

    kind: type[Any]
    prompt: Callable[[Any], str]
    key: Callable[[Any], Hashable]
    late: Callable[[Any], bool] = lambda _: False


_ANSWERS = _Joined(Response, lambda row: str(row.prompt_id), lambda row: (row.prompt_id, row.seed))
_FAILURES = replace(_ANSWERS, kind=FailedAnswer)
FILES: dict[StageName, dict[str, _Joined]] = {
    "revise": {
        "traces.jsonl": _Joined(RevisionTrace, lambda row: str(row.prompt.id), lambda row: row.prompt.id),
        "failures.jsonl": _FAILURES,
    },
    "label": {
        "responses.jsonl": _ANSWERS,
        "failures.jsonl": _FAILURES,
        "labels.jsonl": _Joined(
            PreferenceLabel,
            lambda row: str(row.comparison.prompt.id),
            lambda row: row.comparison.id,
            late=lambda row: row.answers == "contrast",
        ),
    },
}
"""What each stage that is done in shards writes."""
Finished = dict[Shard, tuple[RunFolder, StageRecord]]


def merge(run_folder: Path, *, progress: Progress) -> StageRecord:
    """The record of the stage that lay in shards in the run, and is whole now.

    Raises RunFolderError where none does, or a shard is missing, not finished, or made from something else than the
    others or the run now; DataError where a shard's files are not those that it wrote; and what the stage raises.
    """
    refuse_no_run(run_folder)
    run = RunFolder(run_folder)
    with run.lock():
        stage = next((name for name in FILES if name == unmerged(run)), None)
        if stage is None:
            return _merged_before(run)
        found = _refuse_gaps(run, stage)
        config = load(run.config_path)
        given = pipeline.gather_kept(config, run)
        _refuse_differences(run, stage, config, given, found)
        ledger.take_in_shards(run)
        refuse = partial(_refuse_asking, run)
        context = StageContext(stage, config, run, given.constitution, progress, refuse, refuse)
        write_folder(run.root / stage, lambda into: _write(replace(context, into=into), stage, found))
        remove_folder(run.root / FOLDER)
        record = run.record(stage)
        assert record is not None
        return record


def _merged_before(run: RunFolder) -> StageRecord:
    """The record of a stage whose shards a killed merge left; RunFolderError where there is none."""
    stage = next((name for name in FILES if shards_of(run, name)), None)
    record = None if stage is None else run.record(stage)
    if record is None:
        raise RunFolderError(
            "no stage lies here in shards",
            where=str(run.root),
            remedy=f"make them: rlaif label --run {run.root} --shard 1/4, and so on to 4/4",
        )
    remove_folder(run.root / FOLDER)
    return record


# --- what must be so before anything is written -----------------------------------------------------------------------


def _refuse_gaps(run: RunFolder, stage: StageName) -> Finished:
    """Every shard with its record."""
    made = {
        shard: folder for shard, folder in shards_of(run, stage).items() if ledger.made_from(folder, stage) is not None
    }
    counts = sorted({shard.of for shard in made})
    if len(counts) > 1:
        raise RunFolderError(
            f"shards of {' and of '.join(map(str, counts))} lie here together",
            where=str(run.root / FOLDER),
            remedy=f"remove {stage}/ in those that do not belong to the others",
        )
    found: Finished = {}
    lacking: dict[Shard, str] = {}
    for shard in [Shard(counts[0], number) for number in range(1, counts[0] + 1)]:
        record = made[shard].record(stage) if shard in made else None
        if record is None:
            lacking[shard] = "not finished" if shard in made else "not begun"
        else:
            found[shard] = made[shard], record
    if lacking:
        first, *others = lacking
        more = f", and the same with {', '.join(map(str, others))}" if others else ""
        raise RunFolderError(
            f"of the {counts[0]} shards of {stage} {len(lacking)} are missing: "
            + ", ".join(f"{shard} is {state}" for shard, state in lacking.items()),
            where=str(run.root),
            remedy=f"rlaif {stage} --run {run.root} --shard {first} --resume{more}",
        )
    for shard, (folder, record) in found.items():
        said = record.config.get(pipeline.SHARD)
        if said != str(shard):
            raise RunFolderError(
                f"this is shard {said}, which is there twice" if said else "this was not made as a shard",
                where=str(folder.root),
                remedy=_again(run, stage, shard),
            )
        now, wrote = pipeline.wrote(folder, stage), _apart(stage, record)[1]
        changed = sorted(name for name in now.keys() | wrote.keys() if now.get(name) != wrote.get(name))
        if changed:
            raise DataError(
                f"{', '.join(changed)} is not as shard {shard} wrote it",
                where=str(folder.root),
                remedy=f"copy it anew, or {_again(run, stage, shard)}",
            )
    return found


def _refuse_differences(
    run: RunFolder, stage: StageName, config: RunConfig, given: pipeline.Materials, found: Finished
) -> None:
    """Raises where shards were made from different things, or from others than the run has now. Models are compared
    among the shards alone: the machine that merges needs none."""
    (first, (_, record)), *others = found.items()
    for shard, (folder, other) in others:
        settings = {**other.config, pipeline.SHARD: record.config[pipeline.SHARD]}
        told = ledger.differences((record.config, record.inputs), settings, _apart(stage, other)[0])
        told += stages.changes(record.versions, other.versions)
        if told:
            raise RunFolderError(
                f"shards {first} and {shard} of {stage} were made differently: {', '.join(told)}",
                where=str(folder.root),
                remedy=f"do one of them again as the other was made: {_again(run, stage, shard)}",
            )
    now = {**pipeline.inputs_of(given), **stages.own_inputs(config, stage, run)}
    told = ledger.differences(
        (_own_settings(stage, record), record.inputs),
        stages.settings(config, stage, record.config.get("limit")),
        {name: value for name, value in now.items() if name in record.inputs},
    )
    if told:
        raise RunFolderError(
            f"the run has changed since its {stage} shards were made: {', '.join(told)}",
            where=str(run.root),
            remedy=f"put it back as it was, or remove {run.root / FOLDER}/*/{stage} and make the shards again",
        )


def _again(run: RunFolder, stage: StageName, shard: Shard) -> str:
    return f"rlaif {stage} --run {run.root} --shard {shard} --force"


def _own_settings(stage: StageName, record: StageRecord) -> dict[str, Any]:
    """The settings of the shard that are those of the stage as well."""
    extra = (pipeline.SHARD, f"{stage}.batch_size", "card.id")
    return {name: value for name, value in record.config.items() if name not in extra}


def _apart(stage: StageName, record: StageRecord) -> tuple[dict[str, str], dict[str, str]]:
    """Of a shard's record the inputs of the stage, and the hashes of the files that the shard wrote."""
    wrote = {name: value for name, value in record.inputs.items() if name.startswith(f"{stage}/")}
    return {name: value for name, value in record.inputs.items() if name not in wrote}, wrote


# --- the stage --------------------------------------------------------------------------------------------------------


def _refuse_asking(run: RunFolder, *_: object) -> Any:
    raise RunFolderError(
        "the shards lack a record, and a merge asks no model",
        where=str(run.root / FOLDER),
        remedy="do the shards again, each with --force",
    )


def _write(context: StageContext, stage: StageName, found: Finished) -> None:
    """Writes the stage's files into the folder of the context, its record last."""
    start, into = time.monotonic(), context.folder
    records = [record for _, record in found.values()]
    context.limit = records[0].config.get("limit")
    size = records[0].config[f"{stage}.batch_size"]
    batches = {prompt.id: place // size for place, prompt in enumerate(context.train_prompts())}
    for name, joined in FILES[stage].items():
        rows = _in_order(joined, {shard: folder.file(stage, name) for shard, (folder, _) in found.items()}, batches)
        file = JsonlFile(into / name, joined.kind)
        while part := list(islice(rows, AT_ONCE)):
            file.append(part)
    counts = {**_spent(records), **_counts(context, stage)}
    settings = _own_settings(stage, records[0])
    record = replace(
        records[0],
        config=settings,
        config_hash=content_id(settings),
        inputs=_apart(stage, records[0])[0],
        counts=counts,
        seconds=round(sum(one.seconds for one in records) + time.monotonic() - start, 3),
        peak_memory_gb=max([*(one.peak_memory_gb for one in records), round(provenance.peak_memory_gb(), 3)]),
        git=", ".join(dict.fromkeys(one.git for one in records)),
        hardware="; ".join(dict.fromkeys(one.hardware for one in records)),
        started=min(one.started for one in records),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        sessions=sum(one.sessions for one in records),
    )
    write_atomic(into / "stage.json", json.dumps(to_json(record), indent=1, ensure_ascii=False))


def _counts(context: StageContext, stage: StageName) -> dict[str, float]:
    """What the stage counts in the joined files. What it has to say of them, it says of the shards, which stay."""
    shards = context.run.root / FOLDER
    try:
        return pipeline.code_of(stage)(context)
    except StageError as error:
        raise StageError(
            error.what,
            where=str(shards),
            remedy=f"{error.remedy}; before you begin shards with other settings, remove {shards}/*/{stage}",
        ) from None


def _in_order(joined: _Joined, files: Mapping[Shard, Path], batches: Mapping[str, int]) -> Iterator[Any]:
    """The records of the files as one process writes them: by batches of prompts, those of a batch as they stand."""
    seen: set[Hashable] = set()

    def placed(shard: Shard, path: Path) -> Iterator[tuple[tuple[bool, int], Any]]:
        for row in JsonlFile(path, joined.kind):
            batch, key = batches.get(joined.prompt(row)), joined.key(row)
            if batch is None or not shard.takes(batch):
                whose = (
                    "no prompt of the run" if batch is None else f"a prompt of shard {batch % shard.of + 1}/{shard.of}"
                )
                raise DataError(
                    f"holds a record of {whose}", where=str(path), remedy="do this shard again, with --force"
                )
            if key in seen:
                raise DataError(
                    f"holds two records of one thing: {key}",
                    where=str(path),
                    remedy="two processes wrote it side by side: do this shard again, with --force",
                )
            seen.add(key)
            yield (joined.late(row), batch), row

    for _, row in heapq.merge(*(placed(*item) for item in files.items()), key=lambda item: item[0]):
        yield row


def _spent(records: Sequence[StageRecord]) -> dict[str, float]:
    """What the shards asked models for, all together."""
    names = [f"{role}_{field.name}" for role in CACHES for field in fields(Usage)]
    return {
        name: sum(record.counts.get(name, 0) for record in records)
        for name in names
        if any(name in record.counts for record in records)
    }
