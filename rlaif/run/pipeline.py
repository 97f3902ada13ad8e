"""Runs stages in a run folder: what may be kept, what must be redone, what was begun, and what each stage cost.

A stage is kept if it is finished and nothing it depends on has changed; it goes on if it was begun under the same
settings; otherwise the user is asked. Nothing that exists is overwritten without `--force`.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from rlaif.config import RunConfig, StageName
from rlaif.constitution.load import (
    by_slice,
    constitution_text,
    load_constitution,
    refuse_missing_contexts,
    refuse_missing_contrast,
)
from rlaif.core import provenance
from rlaif.core.errors import ConfigError, RunFolderError, StageError
from rlaif.core.files import JsonlFile, RunFolder, file_hash, write_atomic
from rlaif.core.memory import give_back
from rlaif.core.progress import Progress, Silent
from rlaif.core.records import Constitution, Prompt, StageRecord, content_id, to_json
from rlaif.core.shard import FOLDER as SHARDS
from rlaif.core.shard import Shard, refuse_unmerged, shards_of, unmerged
from rlaif.core.yaml import dump_yaml
from rlaif.inputs.prompt_sets import split_prompts
from rlaif.inputs.templates import CRITIQUE, REVISION, load_templates
from rlaif.judge.gate import calibration_of, passed_card
from rlaif.judge.load import load
from rlaif.judge.methods.table import in_use, template_kinds
from rlaif.lm import backends
from rlaif.lm.cache import settle
from rlaif.run import ledger
from rlaif.run.beforehand import look
from rlaif.run.models import CACHES, StageModels, closed_after
from rlaif.run.shortages import resumable, shortages
from rlaif.stages import table as stages
from rlaif.stages.context import StageContext, batch_size, limited
from rlaif.stages.label_given import read_given
from rlaif.training.trackers import TRACKED, Trackers

Mode = Literal["new", "resume", "force"]
Outcome = Literal["done", "kept"]
SHARD = "shard"
"""In the settings of a shard: which one it is."""
TOKENS = {"generated": "sampled", "scored": "scored", "prompt": "read"}


@dataclass(frozen=True, slots=True)
class Materials:
    """What a run is made of besides its config; copied into the run folder, so that the folder explains itself."""

    constitution: Constitution
    constitution_yaml: str
    templates: dict[str, str]
    train: list[Prompt]
    held_out: list[Prompt]
    labels: str = ""
    """A hash of the labels that are given, "" where the judge makes them."""


@dataclass(slots=True)
class _Job:
    """One call of `run_stages`, or of `run_shard` for the shard."""

    config: RunConfig
    run: RunFolder
    materials: Materials
    limit: int | None
    progress: Progress
    shared_inputs: dict[str, str]
    shard: Shard | None = None

    @property
    def into(self) -> RunFolder:
        """Where the stages' folders, their records and the caches lie."""
        return self.run if self.shard is None else self.shard.folder(self.run)

    def settings(self, stage: StageName) -> dict[str, Any]:
        """What the stage's result depends on; that of a shard also on which prompts it takes, and its labels name the
        card."""
        found = stages.settings(self.config, stage, self.limit)
        if self.shard is not None:
            found |= {SHARD: str(self.shard), f"{stage}.batch_size": batch_size(self.config, stage)}
            found |= {"card.id": passed_card(self.run, self.config)} if stage == "label" else {}
        return found

    def inputs(self, stage: StageName) -> dict[str, str]:
        """Name -> hash of what the stage uses and this call was given: prompts, models, constitution, templates."""
        used = stages.shared(self.config, stage)
        if stage == "label" and self.config.given_labels:
            return {"labels": self.materials.labels}
        names = [name for name in stages.TABLE[stage].reads if name.startswith("prompts/")]
        names += ["model"] if "model" in used else []
        names += ["judge model", "constitution", "templates"] if "judge" in used else []
        names += ["gold"] if stage == "card" else []
        return {name: self.shared_inputs[name] for name in names}


def gather(config: RunConfig, run: RunFolder) -> Materials:
    """The constitution and prompts that the config names and the templates of the run (edited there or as shipped),
    each checked."""
    constitution = _constitution(config)
    by_slice(constitution, config.prompts)
    train, held_out = split_prompts(config.prompts, config.seed)
    text, templates = constitution_text(config.constitution), _templates(config, run)
    return Materials(constitution, text, templates, train, held_out, _labels(config, held_out))


def _constitution(config: RunConfig) -> Constitution:
    """That of the config; raises where the run could not work with it. Without a judge none is needed."""
    constitution = load_constitution(config.constitution)
    if config.judged:
        refuse_missing_contrast(constitution, methods=in_use(config.judge), where=config.constitution)
        refuse_missing_contexts(constitution, config, where=config.constitution)
    return constitution


def _labels(config: RunConfig, held_out: Sequence[Prompt]) -> str:
    """A hash of the labels that are given; "" for none."""
    return "" if config.label.source is None else read_given(config.label.source, held_out).hash


def _templates(config: RunConfig, run: RunFolder) -> dict[str, str]:
    """Name -> text of the run's own templates, which may have been edited, or of the shipped ones."""
    loaded = load_templates((CRITIQUE, REVISION, *template_kinds(config.judge)), run.templates_path)
    return {name: template.text for name, template in loaded.items()}


def gather_kept(config: RunConfig, run: RunFolder) -> Materials:
    """The run folder's own constitution and prompts, as far as `config` still names the same ones."""
    stored = load(run.config_path)
    if config.constitution == stored.constitution and run.constitution_path.exists():
        config = config.model_copy(update={"constitution": str(run.constitution_path)})
    constitution = _constitution(config)
    files = [JsonlFile(run.root / "prompts" / name, Prompt) for name in ("train.jsonl", "held_out.jsonl")]
    if (config.prompts, config.seed) == (stored.prompts, stored.seed) and all(file.path.exists() for file in files):
        train, held_out = (file.read() for file in files)
    else:
        train, held_out = split_prompts(config.prompts, config.seed)
    done = run.record("label")  # then the labels lie in the run, and the file may be gone
    same = done is not None and (config.label.source, config.prompts) == (stored.label.source, stored.prompts)
    labels = done.inputs.get("labels", "") if same and done is not None else _labels(config, held_out)
    text, templates = constitution_text(config.constitution), _templates(config, run)
    return Materials(constitution, text, templates, train, held_out, labels)


def run_stages(
    config: RunConfig,
    run_folder: Path,
    names: Sequence[StageName],
    *,
    mode: Mode,
    limit: int | None,
    progress: Progress,
    materials: Materials | None = None,
) -> dict[StageName, Outcome]:
    """What became of each named stage: "done" now, or "kept" from before.

    Raises RunFolderError where finished work would be overwritten or was made under other settings, StageError where
    an earlier stage is missing, and whatever a stage raises; what was finished before stays.
    """
    run = RunFolder(run_folder)
    names = stages.in_order(tuple(names))
    stages.refuse_absent(config, names)
    ledger.refuse_foreign_folder(run)
    with run.lock():
        redone = stages.with_followers(config, names) if mode == "force" else ()
        if unmerged(run) not in redone:
            refuse_unmerged(run)
        given = gather(config, run) if materials is None else materials
        job = _Job(config, run, given, limit, progress, _shared_inputs(config, given))
        if mode == "new":
            ledger.refuse_existing(run, names)
        _refuse_changed(job, names, redone)
        _refuse_missing_stages(job, names)
        if "card" not in redone and (run.record("card") is not None or "card" not in names):
            _refuse_judge(job, names, redone)  # before anything is removed
        for sentence in _beforehand(job, names, redone):
            progress.say(sentence)
        ledger.clear(run, redone)
        _write_materials(job)
        with resumable():
            return dict(_outcomes(job, names))


def run_shard(
    config: RunConfig,
    run_folder: Path,
    stage: StageName,
    shard: Shard,
    *,
    mode: Mode,
    limit: int | None,
    progress: Progress,
    materials: Materials | None = None,
) -> Outcome:
    """What became of the shard of the stage: "done" now, or "kept" from before. `rlaif.run.merge` joins the shards.

    Other shards may work in the run at the same time. Raises as `run_stages` does, ConfigError where there are more
    shards than batches of prompts, and RunFolderError where another shard was made under other settings.
    """
    run = RunFolder(run_folder)
    stages.refuse_absent(config, (stage,))
    if stage == "label" and config.given_labels:
        raise ConfigError(
            "the labels are given: there is nothing to share out", where="label.source", remedy="leave --shard out"
        )
    ledger.refuse_foreign_folder(run)
    given = gather(config, run) if materials is None else materials
    job = _Job(config, run, given, limit, progress, _shared_inputs(config, given), shard)
    with ExitStack() as held:
        with run.turn():
            whole = mode == "force" and ledger.holds_work(run, stage)
            redone = stages.with_followers(config, (stage,)) if whole else ()
            with run.lock() if whole else run.shared_lock():  # the first fails while a shard works, of whatever stage
                inputs = _refuse_unready(job, stage, mode, redone)  # before anything is removed
                ledger.clear(run, redone)
            held.enter_context(run.shared_lock())
            if inputs is None:
                progress.say(f"{stage}: finished, kept")
                return "kept"
            _refuse_unlike_others(job, stage, mode, inputs)
            held.enter_context(job.into.lock())
            if mode == "force":
                job.into.clear(stage)
            if job.into.record(stage) is not None:
                progress.say(f"{stage} {shard}: finished, kept")
                return "kept"
            begun = ledger.begin(job.into, stage, job.settings(stage), inputs)
        with resumable():
            _run_stage(job, stage, begun)
    return "done"


def _refuse_unready(job: _Job, stage: StageName, mode: Mode, redone: Sequence[StageName]) -> dict[str, str] | None:
    """The inputs of the shard, for which the run is ready; None where the stage is finished as a whole. Raises what
    `run_shard` raises, but for what other shards did. Work of the stages `redone` is as good as gone."""
    run, shard, into = job.run, job.shard, job.into
    assert shard is not None
    whole = replace(job, shard=None)
    if mode == "new":
        ledger.refuse_existing(run, (stage,))
        ledger.refuse_existing(into, (stage,))
    if unmerged(run) not in (stage, *redone):
        refuse_unmerged(run)
    _refuse_changed(whole, (stage,), redone)
    if not redone and run.record(stage) is not None:
        return None
    if not redone and ledger.holds_work(run, stage):
        raise RunFolderError(
            f"the {stage} stage was begun here without shards",
            where=str(run.root),
            remedy="leave --shard out to go on with it, or begin anew in shards with --force",
        )
    _refuse_missing_stages(whole, (stage,))
    if stage == "label":
        passed_card(run, job.config)
    inputs = {**job.inputs(stage), **stages.own_inputs(job.config, stage, run)}
    prompts, size = len(limited(job.materials.train, job.limit)), batch_size(job.config, stage)
    if -(-prompts // size) < shard.of:
        raise ConfigError(
            f"{prompts} prompts in batches of {size} are fewer batches than {shard.of} shards",
            where=f"{stage}.batch_size",
            remedy=f"take fewer shards, or lower it: --set {stage}.batch_size={max(1, prompts // shard.of)}",
        )
    for sentence in _beforehand(whole, (stage,), redone):
        job.progress.say(sentence)
    return inputs


def _refuse_unlike_others(job: _Job, stage: StageName, mode: Mode, inputs: dict[str, str]) -> None:
    """Raises where the shard, or another one, was begun from something else than this call has. The first shard writes
    what all of them read."""
    run, shard, into = job.run, job.shard, job.into
    assert shard is not None
    if mode != "force":
        ledger.refuse_changed(into, stage, job.settings(stage), inputs)
    others = dict(_other_shards(job, stage))
    anew = f"remove {run.root / SHARDS}/*/{stage} and begin anew"  # not the caches beside it
    for other, made in others.items():
        if other.of != shard.of:
            raise RunFolderError(
                f"the {stage} stage was begun here in {other.of} shards, and {shard} is one of {shard.of}",
                where=str(run.root),
                remedy=f"go on with --shard 1/{other.of} to {other.of}/{other.of}, or {anew}",
            )
        found = ledger.differences(made, {**job.settings(stage), SHARD: str(other)}, inputs)
        if found:
            raise RunFolderError(
                f"shard {other} of {stage} was begun with other settings or inputs than this one: {', '.join(found)}",
                where=str(other.folder(run).root),
                remedy=f"give all shards the same config and --set; or {anew}",
            )
    if not others:
        _write_materials(replace(job, shard=None))
        for name in CACHES.values():
            settle(run.cache_path / name)


def _other_shards(job: _Job, stage: StageName) -> Iterator[tuple[Shard, tuple[dict[str, Any], dict[str, str]]]]:
    """The other shards that hold work of the stage or are at work, and what they were made from."""
    for shard, folder in shards_of(job.run, stage).items():
        if shard == job.shard:  # not read: one that cannot be read is done again by --force
            continue
        made = ledger.made_from(folder, stage)
        if made is None:
            try:
                with folder.lock():
                    continue
            except RunFolderError:
                made = ledger.made_from(folder, stage, at_work=True)
        if made is not None:
            yield shard, made


def assist(config: RunConfig, run_folder: Path, stage: StageName, *, limit: int | None) -> None:
    """Works on a stage that another process runs by `run_stages`, which has checked and written what it needs."""
    run = RunFolder(run_folder)
    with closed_after(StageModels(config, run.cache_path, ledger.work_of(run, stage))) as models:
        constitution = load_constitution(str(run.constitution_path))
        context = StageContext(stage, config, run, constitution, Silent(), models.policy, models.judge, limit=limit)
        code_of(stage)(context)


def code_of(stage: StageName) -> Callable[[StageContext], dict[str, float]]:
    """`run` of the stage's module, which loads its libraries only now."""
    run: Callable[[StageContext], dict[str, float]] = importlib.import_module(f"rlaif.stages.{stage}").run
    return run


@contextmanager
def begun_stage(
    config: RunConfig, run_folder: Path, stage: StageName, *, limit: int | None, progress: Progress
) -> Iterator[StageContext]:
    """The context of a stage for work on it that does not finish it: the stage is begun, and goes on with `--resume`.

    Raises as `run_stages` does where an earlier stage is missing or this one was begun with something else.
    """
    run = RunFolder(run_folder)
    with run.lock():
        refuse_unmerged(run)
        given = gather_kept(config, run)
        job = _Job(config, run, given, limit, progress, _shared_inputs(config, given))
        own = stages.own_inputs(config, stage, run)
        _refuse_changed(job, (stage,), ())
        ledger.refuse_changed(run, stage, None, own)
        for need in stages.needs(config, stage):
            _refuse_missing(job, need, (stage,))
        _refuse_judge(job, (stage,), ())
        _write_materials(job)
        begun = ledger.begin(run, stage, job.settings(stage), {**job.inputs(stage), **own})
        opened = StageModels(config, run.cache_path, begun.work)
        with resumable(), closed_after(opened) as models, shortages(stage, run.root / stage):
            yield StageContext(
                stage, config, run, given.constitution, progress, models.policy, models.judge, limit=limit
            )


@contextmanager
def beside(config: RunConfig, run_folder: Path, name: str, *, progress: Progress) -> Iterator[StageContext]:
    """The context for work beside the stages, in the run's folder `name`, which is removed afterwards: of the run the
    cache alone grows. Raises as `run_stages` does for texts that the config cannot work with."""
    run = RunFolder(run_folder)
    with run.lock():
        refuse_unmerged(run)
        given = gather_kept(config, run)
        run.clear(name)
        try:
            with closed_after(StageModels(config, run.cache_path, None)) as models:
                yield StageContext(name, config, run, given.constitution, progress, models.policy, models.judge)
        finally:
            run.clear(name)


def _refuse_changed(job: _Job, names: Sequence[StageName], redone: Sequence[StageName]) -> None:
    """Raises where a stage that is asked for or finished was made under something else, unless it is redone."""
    # A card that nothing asks for is none of the run's stages: it may be of another judge.
    for stage in stages.in_order((*stages.of_run(job.config), *names)):
        if stage != "report" and stage not in redone and (stage in names or job.run.record(stage) is not None):
            ledger.refuse_changed(job.run, stage, job.settings(stage), job.inputs(stage))


def _refuse_judge(job: _Job, names: Sequence[StageName], redone: Sequence[StageName]) -> None:
    """Raises where labels would be made by a judge that may make none; finished ones are not asked about again."""
    if "label" in names and ("label" in redone or job.run.record("label") is None):
        passed_card(job.run, job.config)


def _beforehand(job: _Job, names: Sequence[StageName], redone: Sequence[StageName]) -> list[str]:
    """What is to be said before the first of the stages that are not finished; raises what they would only later."""
    waiting = [stage for stage in names if stage in redone or job.run.record(stage) is None]
    train, held_out = (limited(prompts, job.limit) for prompts in (job.materials.train, job.materials.held_out))
    return look(job.config, waiting, train, held_out)


# --- before the first stage -------------------------------------------------------------------------------------------


def _shared_inputs(config: RunConfig, given: Materials) -> dict[str, str]:
    """Name -> hash of everything a stage can be given that no stage made."""
    from rlaif.lm.local.load import model_fingerprint  # loads torch, which reading a run must not

    return {
        **inputs_of(given),
        "model": model_fingerprint(config.model),
        "judge model": judge_model_hash(config),
        "gold": _gold_hash(config.card.gold),
    }


def inputs_of(given: Materials) -> dict[str, str]:
    """Those of them that are no models."""
    return {
        "constitution": given.constitution.hash,
        "templates": content_id(given.templates),
        "prompts/train.jsonl": content_id(given.train),
        "prompts/held_out.jsonl": content_id(given.held_out),
    }


def judge_model_hash(config: RunConfig) -> str:
    """A hash of what the backends of the judge and its panel know of the model that answers: weights, rules, a name."""
    judges = (config.judge, *config.judge.panel)
    own, *others = (backends.find(asking.backend).identity(asking, config.model) for asking in judges)
    return content_id(own, others) if others else own


def _gold_hash(gold: str) -> str:
    """A hash of the file that the judge is measured on, or the mere name of gold that comes with a package."""
    path = Path(gold.removeprefix("tests:"))
    return file_hash(path) if path.is_file() else gold


def _needed(config: RunConfig, names: Sequence[StageName]) -> tuple[StageName, ...]:
    """The stages that are not asked for but must be finished, because one that is asked for reads what they wrote."""
    found: list[StageName] = []
    for stage in names:
        found += [need for need in stages.needs(config, stage) if need not in names]
    return stages.in_order(tuple(found))


def _refuse_missing_stages(job: _Job, names: Sequence[StageName]) -> None:
    for stage in _needed(job.config, names):
        _refuse_missing(job, stage, names)


def _refuse_missing(job: _Job, stage: StageName, names: Sequence[StageName]) -> None:
    if job.run.record(stage) is None:
        if stage == "card" and job.config.card.required:
            passed_card(job.run, job.config)  # which knows the other way out
        user = next(name for name in names if stage in stages.needs(job.config, name))
        raise StageError(
            f"{user} needs the {stage} stage, which is not finished",
            where=str(job.run.root),
            remedy=f"run it first: rlaif {stage} --run {job.run.root}",
        )


def _write_materials(job: _Job) -> None:
    """Copies config, constitution, templates and prompts into the run folder."""
    run, given = job.run, job.materials
    write_atomic(run.config_path, dump_yaml(job.config.model_dump(mode="json")))
    write_atomic(run.constitution_path, given.constitution_yaml)
    for name, text in given.templates.items():
        write_atomic(run.templates_path / f"{name}.jinja", text)
    for name, prompts in (("train.jsonl", given.train), ("held_out.jsonl", given.held_out)):
        lines = [json.dumps(to_json(prompt), ensure_ascii=False) + "\n" for prompt in prompts]
        write_atomic(run.root / "prompts" / name, "".join(lines))


def _outcomes(job: _Job, names: Sequence[StageName]) -> Iterator[tuple[StageName, Outcome]]:
    """Each stage with what became of it. A judge that may make no labels stops a run before anything is spent on it."""
    looked = False
    for stage in names:
        if stage != "card" and not looked:
            _refuse_judge(job, names, ())
            if "card" in names:
                calibration_of(job.config.judge, job.run)
            looked = True
        yield stage, _run_or_keep(job, stage)


# --- one stage --------------------------------------------------------------------------------------------------------


def _run_or_keep(job: _Job, stage: StageName) -> Outcome:
    if stage == "report":  # costs seconds and must never be older than the run
        job.run.clear(stage)
    inputs = {**job.inputs(stage), **stages.own_inputs(job.config, stage, job.run)}
    ledger.refuse_changed(job.run, stage, None, inputs)
    if job.run.record(stage) is not None:
        job.progress.say(f"{stage}: finished, kept")
        return "kept"
    _run_stage(job, stage, ledger.begin(job.run, stage, job.settings(stage), inputs))
    return "done"


def _run_stage(job: _Job, stage: StageName, begun: ledger.Begun) -> None:
    """Runs the stage and writes its record, last."""
    config, name = job.config, stage if job.shard is None else f"{stage} {job.shard}"
    about = stages.abouts(given=config.given_labels, named=config.stages, there=[stage])[stage]
    job.progress.say(f"{name}: {about}")
    start = time.monotonic()
    tracked = job.config.report_to if stage in TRACKED else []
    trackers = Trackers(tracked, job.run.root, stage, settings=begun.settings, say=job.progress.say)
    opened = StageModels(config, job.into.cache_path, begun.work)
    if job.shard is not None:
        opened.shares = (job.run.cache_path, job.shard.of)
    try:
        with (
            closed_after(opened) as models,
            shortages(stage, job.into.root / stage),
            closing(trackers),
        ):
            context = StageContext(
                stage,
                job.config,
                job.run,
                job.materials.constitution,
                job.progress,
                models.policy,
                models.judge,
                usage=models.usage,
                limit=job.limit,
                shard=job.shard,
                into=job.into.stage(stage),
                trackers=trackers,
            )
            found = code_of(stage)(context)
            if stage == "evaluate":
                trackers.send({"step": 0, **found})
            counts = {**models.usage(), **found}
    except BaseException:
        ledger.begun_path(job.into, stage).touch()  # the time at which this session ended
        raise
    record = StageRecord(
        stage=stage,
        config=begun.settings,
        config_hash=content_id(begun.settings),
        inputs=begun.inputs if job.shard is None else begun.inputs | wrote(job.into, stage),
        counts=counts,
        seconds=round(begun.seconds_before + time.monotonic() - start, 3),
        peak_memory_gb=round(provenance.peak_memory_gb(), 3),
        versions=provenance.versions(),
        git=provenance.git_revision(),
        seed=job.config.seed,
        hardware=provenance.hardware(),
        started=begun.started,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        sessions=begun.sessions,
    )
    job.into.finish(record)
    give_back()
    job.progress.say(f"{name}: {cost(record)}")


def wrote(shard: RunFolder, stage: StageName) -> dict[str, str]:
    """Name -> hash of each file that a shard wrote: its record says so, for the merge to see that they came whole."""
    return {f"{stage}/{path.name}": file_hash(path) for path in sorted((shard.root / stage).glob("*.jsonl"))}


def cost(record: StageRecord) -> str:
    """What a finished stage took (time, memory, tokens), and on a second line what it counted and measured."""
    minutes, seconds = divmod(record.seconds, 60)
    took = [f"{minutes:.0f} min {seconds:.0f} s" if minutes else f"{seconds:.1f} s"]
    counts = dict(record.counts)
    for kind, verb in TOKENS.items():
        total = sum(counts.pop(name) for name in list(counts) if name.endswith(f"_{kind}_tokens"))
        took += [f"{total:,.0f} tokens {verb}"] if total else []
    found = [f"{name.replace('_', ' ')} {_short(value)}" for name, value in counts.items() if value]
    return f"done in {', '.join(took)}, peak memory {record.peak_memory_gb:.1f} GB\n  {', '.join(found)}".rstrip()


def _short(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
