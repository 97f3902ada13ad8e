"""The judging of a run through a provider's batch interface: the requests of `label` as files, the results into the
cache, where `label` finds them and asks nothing.

`cot` takes two rounds: its letters can only be asked for when the rationales are there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rlaif.config import AskingConfig, JudgeConfig
from rlaif.core.errors import ConfigError, DataError, RunFolderError
from rlaif.core.files import JsonlFile, RunFolder, refuse_no_run, write_atomic
from rlaif.core.progress import Progress
from rlaif.core.records import Failure, to_json
from rlaif.judge.judge import Judge
from rlaif.judge.load import load
from rlaif.judge.methods.table import METHODS, find
from rlaif.lm.cache import CachedModel, request_key
from rlaif.lm.open import JUDGE_CACHE
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, LanguageModel, Request
from rlaif.lm.scripted import ScriptedModel
from rlaif.lm.server.batch_files import BatchResult, Exported, RequestFiles, batch_line, read_results
from rlaif.lm.server.requests import Endpoint
from rlaif.run import pipeline
from rlaif.stages import label
from rlaif.stages.context import StageContext
from rlaif.stages.resume import chunks
from rlaif.stages.table import refuse_absent

WAITING = "exported.jsonl"
"""In the cache folder: the requests whose results have not come yet."""
ROWS_AT_ONCE = 1000
NOT_ASKED = Failure("backend", "not asked: written to a file")


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What an export wrote. `waiting`: requests of an earlier one that were left out, their results may still come."""

    files: list[Path]
    written: int
    waiting: int
    pairs: int

    def as_json(self) -> dict[str, object]:
        counts = {"written": self.written, "waiting": self.waiting, "pairs": self.pairs}
        return {"files": [str(path) for path in self.files], **counts}


@dataclass(slots=True)
class ImportOutcome:
    """What became of the lines of results. `known`: they were in the cache; `waiting`: no line about them yet."""

    imported: int = 0
    known: int = 0
    unknown: int = 0
    waiting: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        counts = {"imported": self.imported, "known": self.known, "unknown": self.unknown, "waiting": self.waiting}
        return {**counts, "failed": dict(self.failed), "reasons": self.reasons}


def export_requests(
    folder: Path,
    out: Path,
    *,
    member: str = "",
    overrides: Sequence[str] = (),
    limit: int | None = None,
    again: bool = False,
    progress: Progress,
) -> ExportOutcome:
    """Writes what the judge of the run still has to be asked for its labels; samples the answers first if they are not
    there. With `again` also what an earlier export wrote and no result has come for. `member` names one of a panel: its
    requests go into files of their own, since a provider takes one model a file.

    Raises ConfigError where the judge cannot be asked by files, RunFolderError where the labels are finished, and as
    `rlaif label` does where it may not begin.
    """
    refuse_no_run(folder)
    run = RunFolder(folder)
    config = load(run.config_path, overrides)
    refuse_absent(config, ("label",))
    if config.given_labels:
        raise ConfigError(
            "the labels of this run are given, so no judge is asked",
            where="label.source",
            remedy=f"rlaif label --run {folder}",
        )
    endpoint = _endpoint(config.judge, member)
    if run.record("label") is not None:
        raise RunFolderError(
            "the labels of this run are finished: there is nothing to ask",
            where=str(folder),
            remedy=f"to make them again: rlaif label --run {folder} --force",
        )
    waiting = _waiting(run)
    left_out = set[str]()
    fresh: dict[str, Exported] = {}
    with pipeline.begun_stage(config, folder, "label", limit=limit, progress=progress) as context:
        pairs = label.pairs(context)
        if not pairs:
            raise ConfigError(
                "the labels of this run ask no judge",
                where="label.confirm: false",
                remedy=f"make them: rlaif label --run {folder} --resume",
            )
        with RequestFiles(out) as files:

            def note(request: Request) -> Failure:
                key = request_key(endpoint.fingerprint, request)
                endpoint.refuse(request)
                assert isinstance(request, GenerateRequest | ChoiceRequest)
                if key in waiting and not again:
                    left_out.add(key)
                elif key not in fresh:
                    fresh[key] = Exported.of(key, member, request, folded=endpoint.folds)
                    files.add(batch_line(key, endpoint, request, folded=endpoint.folds))
                return NOT_ASKED

            recorder = ScriptedModel(note, endpoint.model, fingerprint=endpoint.fingerprint)
            asked = CachedModel(recorder, run.cache_path / JUDGE_CACHE)
            judge = _recording(context, member, asked)
            with progress.task("writing requests", len(pairs), "pairs") as task:
                for part in chunks(pairs, config.label.batch_size * config.label.pairs):
                    judge.label_under([pair.comparison for pair in part], [pair.rules(judge) for pair in part])
                    task.advance(len(part))
            asked.close()
    _write_waiting(run, waiting | fresh)
    return ExportOutcome(files.paths, len(fresh), len(left_out), len(pairs))


def import_results(folder: Path, results: Sequence[Path]) -> ImportOutcome:
    """Puts the answers in the files of results into the run's cache.

    Answers that failed are counted by kind and not kept, so that they are exported again or asked by `label` itself.
    Raises DataError for a line that is no result and where no line is about a request of this run.
    """
    refuse_no_run(folder)
    run = RunFolder(folder)
    judge = load(run.config_path).judge
    waiting = _waiting(run)
    found = ImportOutcome()
    lost: dict[str, Failure] = {}
    with run.lock():
        cache = CachedModel(_silent("import"), run.cache_path / JUDGE_CACHE)
        try:
            for path in results:
                lines = read_results(path)
                while part := list(islice(lines, ROWS_AT_ONCE)):
                    _take_in(part, judge, cache, waiting, lost, found)
        finally:
            done = cache.holds(list(waiting))
            waiting = {key: row for key, row in waiting.items() if key not in done and key not in lost}
            _write_waiting(run, waiting)
            cache.close()
    found.waiting = len(waiting)
    for key, failure in lost.items():
        if key not in done:
            found.failed[failure.kind] += 1
            found.reasons.setdefault(failure.kind, failure.reason)
    if found.unknown and not (found.imported or found.known or found.failed):
        raise DataError(
            f"none of the {found.unknown:,} results is about a request that this run exported",
            where=", ".join(map(str, results)),
            remedy="import into the run that exported them. If its cache was deleted: `rlaif judge export` makes the "
            "same requests with the same ids, and the results can be imported then",
        )
    return found


def _take_in(
    part: Sequence[BatchResult],
    judge: JudgeConfig,
    cache: CachedModel,
    waiting: dict[str, Exported],
    lost: dict[str, Failure],
    found: ImportOutcome,
) -> None:
    """Keeps the answers among the results, and notes in `lost` what failed."""
    known = cache.holds([result.key for result in part])
    fresh = {}
    for result in part:
        row = waiting.get(result.key)
        if result.key in known or result.key in fresh:
            found.known += 1
        elif row is None:
            found.unknown += 1
        else:
            answer = _endpoint(judge, row.member).answer(row.request, result.reply, folded=row.folded)
            if answer.failure is None:
                fresh[result.key] = answer
            else:
                lost[result.key] = answer.failure
    cache.keep(fresh)
    found.imported += len(fresh)


def _endpoint(judge: JudgeConfig, member: str) -> Endpoint:
    """The server of the judge, or of that member of its panel; ConfigError where requests cannot go by files."""
    asking: AskingConfig | None = judge if not member else next((m for m in judge.panel if m.name == member), None)
    if asking is None:
        names = ", ".join(m.name for m in judge.panel) or "nobody"
        raise ConfigError(f"the panel has no member {member!r}", where="judge.panel", remedy=f"it has {names}")
    if asking.backend != "openai" or asking.source is None:
        raise ConfigError(
            "only requests to a server can be written to batch files",
            where=f"judge.backend: {asking.backend}",
            remedy="set judge.backend: openai and judge.source; a panel's other judges are chosen by --member",
        )
    method = find(asking.method)
    if not method.by_files:
        able = [other.name for other in METHODS.values() if other.by_files]
        raise ConfigError(
            f"{method.name} cannot be asked by files: batch interfaces have no log-probs of given text and no decisions"
            if method.asks_model
            else f"the {method.name} judge asks nothing",
            where=f"judge.method: {asking.method}",
            remedy=f"choose {', '.join(able[:-1])} or {able[-1]}",
        )
    return Endpoint.of(asking)


def _recording(context: StageContext, member: str, asked: LanguageModel) -> Judge:
    """The run's judge with `asked` in the place of the member, and the others silent."""
    config = context.config
    return Judge(
        config.judge,
        context.constitution,
        models=[asked if name == member else _silent(name) for name in config.judge.weights],
        seed=config.seed,
        templates=context.run.templates_path,
        prompts=config.prompts,
    )


def _silent(name: str) -> LanguageModel:
    """A model that answers nothing and notes nothing."""
    return ScriptedModel(lambda _: NOT_ASKED, name, fingerprint=name)


def _waiting(run: RunFolder) -> dict[str, Exported]:
    return {row.key: row for row in JsonlFile(run.cache_path / WAITING, Exported)}


def _write_waiting(run: RunFolder, rows: dict[str, Exported]) -> None:
    write_atomic(run.cache_path / WAITING, "".join(json.dumps(to_json(row)) + "\n" for row in rows.values()))
