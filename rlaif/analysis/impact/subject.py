"""What an edit is measured on: the labels of a run, or a file of comparisons judged first under the old constitution.

Nothing here changes a run; its cache alone grows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rlaif.analysis.judged_run import judge_on_demand, read_judged_run
from rlaif.config import RunConfig
from rlaif.constitution.load import load_constitution, refuse_missing_contrast
from rlaif.core.files import RunFolder
from rlaif.core.progress import Progress
from rlaif.core.records import Constitution, PreferenceLabel
from rlaif.inputs.comparisons import read_comparisons
from rlaif.judge.gate import calibration_of
from rlaif.judge.judge import Judge, usage_of
from rlaif.judge.methods.table import askings, in_use
from rlaif.lm.open import OnDemand, OpenJudge, open_judge
from rlaif.lm.protocol import Usage


@dataclass(frozen=True, slots=True)
class ImpactSubject:
    """Labels and what they were made with. `source` names the run or the file; `given`: comparison id -> the `prob_a`
    that the file itself has, for example of people."""

    source: str
    config: RunConfig
    before: Constitution
    labels: list[PreferenceLabel]
    models: list[OnDemand]
    run: RunFolder | None = None
    given: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def judge(self, constitution: Constitution) -> Judge:
        """The same judge under a constitution; opens its models at the first question."""
        config, templates = self.config, None if self.run is None else self.run.templates_path
        return Judge(
            config.judge,
            constitution,
            models=self.models,
            seed=config.seed,
            templates=templates,
            prompts=config.prompts,
            calibration=None if self.run is None else calibration_of(config.judge, self.run),
        )

    @property
    def usage(self) -> Usage:
        """What the judge's models were asked so far."""
        return usage_of(self.models)

    def close(self) -> None:
        for model in self.models:
            model.close()


# --- a run ------------------------------------------------------------------------------------------------------------


def of_run(run: RunFolder, open_judge: OpenJudge = open_judge) -> ImpactSubject:
    """The labels of a run, read from its label stage.

    Raises StageError where that is not finished, RunFolderError or DataError where its labels were made in another way
    than the run's config says.
    """
    judged = read_judged_run(run, "impact")
    return ImpactSubject(
        source=str(run.root),
        config=judged.config,
        before=judged.constitution,
        labels=judged.labels,
        models=judge_on_demand(judged, open_judge),
        run=run,
    )


# --- a file of comparisons --------------------------------------------------------------------------------------------


def of_file(
    path: Path,
    before: str,
    config: RunConfig,
    *,
    cache: Path,
    progress: Progress,
    open_judge: OpenJudge = open_judge,
) -> ImpactSubject:
    """The pairs of a file of comparisons, judged under the constitution `before` by the judge of the config.

    Verdicts are kept in the folder `cache`, so that asking again costs nothing. Verdicts that stand in the file are not
    used: nobody knows what they were made with. Raises DataError for a wrong file, ConstitutionError where the judge
    cannot work with the constitution.
    """
    found = read_comparisons(path)
    constitution = load_constitution(before)
    refuse_missing_contrast(constitution, methods=in_use(config.judge), where=before)
    subject = ImpactSubject(
        source=str(path),
        config=config,
        before=constitution,
        labels=[],
        models=[OnDemand(partial(open_judge, asking, config.model, cache)) for asking in askings(config.judge)],
        given={pair.comparison.id: pair.prob_a for pair in found.pairs if pair.prob_a is not None},
        notes=tuple(found.notes()),
    )
    comparisons = [pair.comparison for pair in found.pairs]
    judge, batch = subject.judge(constitution), config.label.batch_size * config.label.pairs
    try:
        with progress.task("judging under the old", len(comparisons), "pairs") as task:
            rules = [judge.principles(comparison) for comparison in comparisons]
            subject.labels.extend(judge.label_in_parts(comparisons, rules, size=batch, task=task))
    except BaseException:
        subject.close()
        raise
    return subject
