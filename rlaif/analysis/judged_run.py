"""A run's labels for commands that ask about them afterwards, and its judge, opened where something has to be asked.

Both are refused where the labels were made in another way than the run's config says now.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.errors import DataError, StageError
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import Constitution, PreferenceLabel, content_id
from rlaif.core.shard import refuse_no_whole_run
from rlaif.judge.load import load
from rlaif.judge.methods.table import askings, in_use
from rlaif.lm.open import OnDemand, OpenJudge
from rlaif.lm.protocol import LanguageModel
from rlaif.run import ledger, pipeline
from rlaif.stages import table as stages


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run with its config, the constitution that its labels were made under, and the labels: at least one. Those of
    pairs by contrast are left out, because their answers come from the constitution itself."""

    run: RunFolder
    config: RunConfig
    constitution: Constitution
    labels: list[PreferenceLabel]


def read_judged_run(run: RunFolder, command: str) -> JudgedRun:
    """The run, for `command`.

    Raises StageError where the label stage is not finished, RunFolderError or DataError where its labels were made
    in another way than the run's config says.
    """
    refuse_no_whole_run(run.root)
    config = load(run.config_path)
    constitution = _constitution_of_labels(run, config, command)
    return JudgedRun(run, config, constitution, _labels(run, config))


def refuse_given(run: RunFolder, config: RunConfig) -> None:
    """Raises StageError where the labels of the run are the user's own."""
    if config.label.source is not None:
        raise StageError(
            "the labels of this run are given: no judge made them under a constitution",
            where=str(run.root),
            remedy=f"have a judge label the same pairs: rlaif impact --comparisons {config.label.source} --from OLD "
            "--to NEW; or find principles that explain them: rlaif constitution recover --labels",
        )


def judge_on_demand(judged: JudgedRun, open_judge: OpenJudge) -> list[OnDemand]:
    """The judge's models behind the run's cache, after the check that they still are those that made the labels."""
    config = judged.config

    def opened(asking: AskingConfig) -> LanguageModel:
        ledger.refuse_changed(judged.run, "label", None, {"judge model": pipeline.judge_model_hash(config)})
        return open_judge(asking, config.model, judged.run.cache_path)

    return [OnDemand(partial(opened, asking)) for asking in askings(config.judge)]


def _constitution_of_labels(run: RunFolder, config: RunConfig, command: str) -> Constitution:
    """The run's constitution, after the check that the labels were made under it and under this config."""
    record = run.record("label")
    if record is None:
        raise StageError(
            f"{command} needs the label stage, which is not finished",
            where=str(run.root),
            remedy=f"run it first: rlaif label --run {run.root}",
        )
    refuse_given(run, config)
    given = pipeline.gather_kept(config, run)
    settings = stages.settings(config, "label", record.config.get("limit"))
    inputs = {"constitution": given.constitution.hash, "templates": content_id(given.templates)}
    ledger.refuse_changed(run, "label", settings, inputs)
    return given.constitution


def _labels(run: RunFolder, config: RunConfig) -> list[PreferenceLabel]:
    file = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    found = file.read()
    labels = [label for label in found if label.answers == "policy"]
    methods = [method.name for method in in_use(config.judge)]
    other = {verdict.method for label in labels for verdict in label.verdicts} - set(methods)
    if not labels and found:
        problem = "holds pairs by contrast alone: another constitution would have made other answers, not other labels"
        remedy = f"label answers of the policy too: rlaif label --run {run.root} --force --set label.answers=both"
        raise DataError(problem, where=str(file.path), remedy=remedy)
    if not labels:
        problem = "holds no label"
    elif other:
        problem = f"holds verdicts of the method {', '.join(sorted(other))}, and the run judges by {', '.join(methods)}"
    else:
        return labels
    remedy = f"make the labels again: rlaif label --run {run.root} --force"
    raise DataError(problem, where=str(file.path), remedy=remedy)
