"""A run's labels for commands that ask about them afterwards, and its judge, opened where something has to be asked.

Both are refused where the labels were made in another way than the run's config says now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlaif.config import RunConfig, load
from rlaif.core.errors import DataError, StageError
from rlaif.core.files import JsonlFile, RunFolder, refuse_no_run
from rlaif.core.records import Constitution, PreferenceLabel, content_id
from rlaif.lm.open import OpenJudge
from rlaif.lm.protocol import LanguageModel
from rlaif.run import ledger, pipeline
from rlaif.stages import table as stages


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """A run with its config, the constitution that its labels were made under, and the labels: at least one."""

    run: RunFolder
    config: RunConfig
    constitution: Constitution
    labels: list[PreferenceLabel]


class OnDemand:
    """A language model that is opened at its first use, so that a question which asks nothing loads nothing."""

    def __init__(self, open_model: Callable[[], LanguageModel]) -> None:
        self._open_model = open_model
        self.opened: LanguageModel | None = None

    def close(self) -> None:
        """Frees the model; the next use opens it again."""
        if self.opened is not None:
            self.opened.close()
            self.opened = None

    def __getattr__(self, name: str) -> Any:
        if self.opened is None:
            self.opened = self._open_model()
        return getattr(self.opened, name)


def read_judged_run(run: RunFolder, command: str) -> JudgedRun:
    """The run, for `command`.

    Raises StageError where the label stage is not finished, RunFolderError or DataError where its labels were made
    in another way than the run's config says.
    """
    refuse_no_run(run.root)
    config = load(run.config_path)
    constitution = _constitution_of_labels(run, config, command)
    return JudgedRun(run, config, constitution, _labels(run, config))


def judge_on_demand(judged: JudgedRun, open_judge: OpenJudge) -> OnDemand:
    """The judge's model behind the run's cache, after the check that it still is the one that made the labels."""

    def opened() -> LanguageModel:
        config = judged.config
        ledger.refuse_changed(judged.run, "label", None, {"judge model": pipeline.judge_model_hash(config)})
        return open_judge(config, judged.run.cache_path)

    return OnDemand(opened)


def _constitution_of_labels(run: RunFolder, config: RunConfig, command: str) -> Constitution:
    """The run's constitution, after the check that the labels were made under it and under this config."""
    record = run.record("label")
    if record is None:
        raise StageError(
            f"{command} needs what the label stage writes, and that is not finished",
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
    other = {verdict.method for label in labels for verdict in label.verdicts} - set(config.judge.methods)
    if not labels:
        problem = "holds no label"
    elif other:
        problem = (
            f"holds verdicts of the method {', '.join(sorted(other))}, and the run judges by "
            f"{', '.join(config.judge.methods)}"
        )
    else:
        return labels
    remedy = f"make the labels again: rlaif label --run {run.root} --force"
    raise DataError(problem, where=str(file.path), remedy=remedy)
