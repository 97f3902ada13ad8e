"""What an edit is measured on: the labels of a run, or a file of comparisons judged first under the old constitution.

Nothing here changes a run; its cache alone grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rlaif import ledger, pipeline, stages
from rlaif.comparison_files import read_comparisons
from rlaif.config import RunConfig, load
from rlaif.constitution.load import check_constitution, load_constitution
from rlaif.errors import DataError, StageError
from rlaif.impact.relabel import OnDemand
from rlaif.judge.judge import Judge
from rlaif.lm import open as open_model
from rlaif.lm.protocol import LanguageModel, Usage
from rlaif.progress import Progress
from rlaif.records import Constitution, PreferenceLabel, content_id
from rlaif.store import JsonlFile, RunFolder

OpenJudge = Callable[[RunConfig, Path], LanguageModel]
"""Opens the judge of a config with a cache folder."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Labels and what they were made with. `source` names the run or the file; `given`: comparison id -> the `prob_a`
    that the file itself has, for example of people."""

    source: str
    config: RunConfig
    before: Constitution
    labels: list[PreferenceLabel]
    model: OnDemand
    run: RunFolder | None = None
    given: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def judge(self, constitution: Constitution) -> Judge:
        """The same judge under a constitution; opens its model at the first question."""
        config, templates = self.config, None if self.run is None else self.run.templates_path
        return Judge(
            config.judge, constitution, model=self.model, seed=config.seed, templates=templates, prompts=config.prompts
        )

    @property
    def usage(self) -> Usage:
        """What the judge's model was asked so far."""
        return Usage() if self.model.opened is None else self.model.opened.usage

    def close(self) -> None:
        self.model.close()


def judge_of_config(config: RunConfig, cache: Path) -> LanguageModel:
    """The judge of the config, behind the cache."""
    return open_model.open_judge(config.judge, config.model, cache)


# --- a run ------------------------------------------------------------------------------------------------------------


def of_run(run: RunFolder, open_judge: OpenJudge = judge_of_config) -> Subject:
    """The labels of a run, read from its label stage.

    Raises StageError where that is not finished, RunFolderError or DataError where its labels were made in another way
    than the run's config says.
    """
    config = load(run.config_path)
    before = _constitution_of_labels(run, config)
    return Subject(
        source=str(run.root),
        config=config,
        before=before,
        labels=_labels(run, config),
        model=OnDemand(lambda: _open(run, config, open_judge)),
        run=run,
    )


def _constitution_of_labels(run: RunFolder, config: RunConfig) -> Constitution:
    """The run's constitution, after the check that the labels were made under it and under this config."""
    record = run.record("label")
    if record is None:
        raise StageError(
            "impact needs what the label stage writes, and that is not finished",
            where=str(run.root),
            remedy=f"run it first: rlaif label --run {run.root}",
        )
    given = pipeline.gather_kept(config, run)
    settings = stages.settings(config, "label", record.config.get("limit"))
    inputs = {"constitution": given.constitution.hash, "templates": content_id(given.templates)}
    ledger.refuse_changed(run, "label", settings, inputs)
    return given.constitution


def _labels(run: RunFolder, config: RunConfig) -> list[PreferenceLabel]:
    file = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    labels = file.read()
    other = {verdict.method for label in labels for verdict in label.verdicts} - {config.judge.method}
    if not labels:
        problem = "holds no label"
    elif other:
        problem = (
            f"holds verdicts of the method {', '.join(sorted(other))}, and the run judges by {config.judge.method}"
        )
    else:
        return labels
    remedy = f"make the labels again: rlaif label --run {run.root} --force"
    raise DataError(problem, where=str(file.path), remedy=remedy)


def _open(run: RunFolder, config: RunConfig, open_judge: OpenJudge) -> LanguageModel:
    """The judge, after the check that it still is the one that made the labels."""
    ledger.refuse_changed(run, "label", None, {"judge model": pipeline.judge_model_hash(config)})
    return open_judge(config, run.cache_path)


# --- a file of comparisons --------------------------------------------------------------------------------------------


def of_file(
    path: Path,
    before: str,
    config: RunConfig,
    *,
    cache: Path,
    progress: Progress,
    open_judge: OpenJudge = judge_of_config,
) -> Subject:
    """The pairs of a file of comparisons, judged under the constitution `before` by the judge of the config.

    Verdicts are kept in the folder `cache`, so that asking again costs nothing. Verdicts that stand in the file are not
    used: nobody knows what they were made with. Raises DataError for a wrong file, ConstitutionError where the judge
    cannot work with the constitution.
    """
    found = read_comparisons(path)
    constitution = load_constitution(before)
    check_constitution(constitution, method=config.judge.method, where=before)
    subject = Subject(
        source=str(path),
        config=config,
        before=constitution,
        labels=[],
        model=OnDemand(lambda: open_judge(config, cache)),
        given={pair.comparison.id: pair.prob_a for pair in found.pairs if pair.prob_a is not None},
        notes=tuple(found.notes()),
    )
    comparisons = [pair.comparison for pair in found.pairs]
    judge, batch = subject.judge(constitution), config.label.batch_size * config.label.pairs
    try:
        with progress.task("judging under the old", len(comparisons), "pairs") as task:
            for start in range(0, len(comparisons), batch):
                part = comparisons[start : start + batch]
                subject.labels.extend(judge.label(part))
                task.advance(len(part))
    except BaseException:
        subject.close()
        raise
    return subject
