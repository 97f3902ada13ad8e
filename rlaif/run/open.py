"""The doors for Python: a run, its records, its judge, its reward as a function, its models. docs/python.md shows each.

A command and a door take the same words: `load_reward(run, "judge")` is what `ppo.reward: judge` is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rlaif.config import NAMED, STAGES, PolicyName, RunConfig
from rlaif.config.load import load as read_config
from rlaif.constitution.load import load_constitution, refuse_missing_contrast
from rlaif.core.errors import ConfigError, DataError, StageError, near
from rlaif.core.evaluation import Summary, read_held_out, read_summary
from rlaif.core.files import JsonlFile, MetricsLog, R, RunFolder
from rlaif.core.records import Constitution, PreferenceLabel, Prompt, Response, RevisionTrace, Rollout, StageRecord
from rlaif.core.shard import refuse_no_whole_run
from rlaif.core.shipped import cache_folder
from rlaif.core.terminal import say
from rlaif.export.source import base_of, finished, refuse_other_sft
from rlaif.judge.card.records import card_of_run
from rlaif.judge.gate import calibration_of, passed_card
from rlaif.judge.judge import Judge
from rlaif.judge.load import load, load_or_default, parse
from rlaif.judge.methods.table import askings, in_use
from rlaif.lm import open as lm
from rlaif.lm.backends import open_local
from rlaif.lm.protocol import LanguageModel
from rlaif.stages.label_pairs import own_answers

if TYPE_CHECKING:
    from rlaif.lm.local.chat_text import ChatText
    from rlaif.training.rewards.for_trainers import PortableReward

N = TypeVar("N", bound=str)


JUDGED, TRAINED = ("label", "evaluate"), ("sft", "reward", "ppo", "dpo")


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder. Every method reads the files as they are now, so a run that is going on can be read as well."""

    path: Path
    config: RunConfig
    constitution: Constitution

    def stage(self, name: str) -> StageRecord | None:
        """What the stage cost and counted; None while it is not finished."""
        return self._folder.record(_one_of(STAGES, name))

    def prompts(self, part: Literal["train", "held_out"] = "train") -> list[Prompt]:
        """The prompts that the run trains on, or those held out for the evaluation."""
        return self._read("prompts", f"{_one_of(('train', 'held_out'), part)}.jsonl", Prompt)

    def traces(self) -> list[RevisionTrace]:
        """Every answer of `revise` with its critiques and rewrites."""
        return self._read("revise", "traces.jsonl", RevisionTrace)

    def labels(self, stage: Literal["label", "evaluate"] = "label") -> list[PreferenceLabel]:
        """The judged pairs: those that the reward model is trained on, or those of the evaluation's win rates."""
        return self._read(_one_of(JUDGED, stage), "labels.jsonl", PreferenceLabel)

    def responses(self, stage: Literal["label", "evaluate"] = "evaluate") -> list[Response]:
        """The sampled answers; `model` says whose they are."""
        return self._read(_one_of(JUDGED, stage), "responses.jsonl", Response)

    def rollouts(self) -> list[Rollout]:
        """Some answers of each PPO step with their scores."""
        return self._folder.rollouts().read()

    def metrics(self, stage: Literal["sft", "reward", "ppo", "dpo"] = "ppo") -> list[dict[str, Any]]:
        """One row of numbers for each step of the training."""
        return MetricsLog(self._folder.file(_one_of(TRAINED, stage), "metrics.jsonl")).read()

    def summary(self) -> Summary:
        """What the evaluation comes to; raises DataError while it is not finished."""
        summary = read_summary(self._folder)
        if summary is None:
            where = str(self._folder.file("evaluate", "summary.json"))
            raise DataError("there is no evaluation yet", where=where, remedy=f"rlaif evaluate --run {self.path}")
        return summary

    def policy(self, which: PolicyName = "ppo") -> LanguageModel:
        """The model before training, after SFT, or after PPO or DPO, as far as the run's `align_by` names it."""
        policies = self.config.policies
        adapters = tuple(self._adapter(stage) for stage in policies[_one_of(policies, which)])
        return open_local(self.config.model, adapters)

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)

    def _read(self, stage: str, name: str, kind: type[R]) -> list[R]:
        return JsonlFile(self._folder.file(stage, name), kind).read()

    def _adapter(self, stage: str) -> Path:
        folder = self._folder.file(stage, "adapter")
        if not folder.is_dir():
            raise DataError("there is no adapter yet", where=str(folder), remedy=f"rlaif {stage} --run {self.path}")
        return folder


def _one_of(known: Collection[N], name: N) -> N:
    """The name; raises ConfigError for one that is not among the known."""
    if name not in known:
        raise ConfigError(f"there is no {name!r} here{near(name, known)}", remedy=f"give one of {', '.join(known)}")
    return name


def open_run(path: str | Path) -> Run:
    """The run in the folder. Raises RunFolderError where there is none. A plug-in that its config names is not looked
    for before something asks it: the records can be read without."""
    folder = RunFolder(Path(path))
    refuse_no_whole_run(folder.root)
    return Run(folder.root, read_config(folder.config_path), load_constitution(folder.constitution_path))


def load_judge(
    source: Run | str | Path | None = None,
    *,
    constitution: Constitution | str | Path | None = None,
    set: Sequence[str] = (),
    model: LanguageModel | None = None,
) -> Judge:
    """The judge of a run, of the run in a folder, of a config file, or by the defaults.

    `constitution` takes the place of the source's own, `set` changes fields as `--set` does ("judge.method=pairwise"),
    and `model` is asked in place of the one that the config names. Verdicts are cached as on the command line.
    """
    run = source if isinstance(source, Run) else _run_in(source)
    if run is None:
        config = load_or_default(None if source is None else Path(str(source)), set)
        rules, folder, cache = load_constitution(config.constitution), None, cache_folder()
    else:
        folder = RunFolder(run.path)
        config = load(folder.config_path, set)
        rules, cache = run.constitution, folder.cache_path
    if constitution is not None:
        rules = constitution if isinstance(constitution, Constitution) else load_constitution(constitution)
    refuse_missing_contrast(rules, methods=in_use(config.judge), where=rules.name)
    models = [
        lm.open_judge(asking, config.model, cache) if model is None or asking is not config.judge else model
        for asking in askings(config.judge)
    ]
    return Judge(
        config.judge,
        rules,
        models=models,
        seed=config.seed,
        templates=None if folder is None else folder.templates_path,
        prompts=None if run is None or constitution is not None else config.prompts,
        calibration=None if folder is None else calibration_of(config.judge, folder),
    )


def _run_in(source: str | Path | None) -> Run | None:
    return open_run(source) if source is not None and Path(source).is_dir() else None


def open_model(source: str | None = None, *, backend: str = "local", **fields: Any) -> LanguageModel:
    """A model to ask, without a cache: one of the hub, a folder, a GGUF file, the embedded one, or of another backend.

    `fields` are those of the config's `model` table (device, dtype, batch_size), and for another backend those of
    `judge`: `open_model("Qwen/Qwen3-8B", backend="openai", base_url="http://127.0.0.1:8000/v1")`.
    """
    asked = fields if source is None else {"source": source, **fields}
    local = backend == "local"
    tables = {"model": asked} if local else {"judge": {"method": "pairwise", "backend": backend, **asked}}
    config = parse({**tables, "prompts": {"none": {"source": "everyday"}}}, where="open_model")
    return open_local(config.model) if local else lm.open_asked(config.judge, config.model)


def load_reward(
    run: Run | str | Path | None = None, source: str = "model", *, set: Sequence[str] = ()
) -> PortableReward:
    """What scores the answers of another trainer as the run's own PPO does: `reward(prompts, completions)`.

    `source` is as in `ppo.reward`: "model" is the run's reward model (of an ensemble what `ppo.reward_ensemble` makes
    of it), "judge" its judge, which knows the prompts that `label` answered, "module:function" any function, which
    needs no run. `set` changes fields as `--set` does ("model.device=cuda:1"). Raises as an export does for a run that
    is not finished or a base that changed since, and StageError where the judge's card does not pass; what the card
    says goes to standard error.
    """
    from rlaif.training.rewards import for_trainers as functions

    if source == "on_topic":
        raise ConfigError(
            "on_topic is measured by the policy that PPO trains, so it is no function by itself",
            where="load_reward",
            remedy='take "model", "judge" or "module:function"',
        )
    if source not in NAMED:
        return functions.of_function(source)
    if run is None or (isinstance(run, str) and (run in NAMED or ":" in run) and not Path(run).exists()):
        named = "" if run is None else f", and {run!r} is none"
        example = f'load_reward(run, "{source}")' if run is None or run in NAMED else f'load_reward(source="{run}")'
        what = f"the reward {source!r} belongs to a run{named}"
        raise ConfigError(what, where="load_reward", remedy=f"write {example}")
    opened = run if isinstance(run, Run) else open_run(run)
    folder, config = RunFolder(opened.path), load(opened.path / "config.yaml", set)
    record = finished(folder, "reward" if source == "model" else "label")
    refuse_other_sft(folder, record.stage, record)
    _refuse_changed(opened, config, source)
    _refuse_card(folder, config)
    about = about_reward(opened, source)
    say(f"{about['run']}, {source}: {about['says']}", error=True)
    again = (_open_again, (str(opened.path.resolve()), source, tuple(set)))
    if source == "model":
        base = base_of(config, record, config.model.device)
        return functions.of_model(config.model_copy(update={"model": base}), folder, again, about)
    if config.given_labels:
        what = "the labels of this run were given to it: it has no judge"
        raise ConfigError(what, where=str(folder.root), remedy=f"take the reward model: load_reward({run!r})")
    references = own_answers(opened.responses("label"))
    if not references:
        raise DataError(
            "the label stage has no answers of the policy itself, which the judge would compare with",
            where=str(folder.file("label", "responses.jsonl")),
            remedy="take the reward model, or label with label.answers: samples",
        )
    return functions.of_judge(load_judge(opened, set=set), references, again, about)


def _open_again(run: str, source: str, set: tuple[str, ...]) -> PortableReward:
    return load_reward(run, source, set=set)


def chat_text(run: str | Path, model: str | None = None) -> Callable[[], ChatText]:
    """Opens, once and when it is asked for, what reads prompts in the chat template of the model, by default the run's
    own."""
    config = open_run(run).config

    @cache
    def opened() -> ChatText:
        from rlaif.lm.local.chat_text import ChatText

        return ChatText.of(model or config.model.source)

    if model is not None:  # a name that is wrong is said at once
        opened()
    return opened


def _refuse_changed(run: Run, config: RunConfig, source: str) -> None:
    """Raises StageError where the constitution or the judge is another than the run's labels were made by."""
    folder = RunFolder(run.path)
    record = folder.record("label")
    if record is None or config.given_labels:
        return
    now = {"constitution": run.constitution.hash}
    if source == "judge":
        from rlaif.run.pipeline import judge_model_hash  # loads torch, which reading a run must not

        now["judge model"] = judge_model_hash(config)
    for name, found in now.items():
        if record.inputs.get(name, found) != found:
            raise StageError(
                f"the {name} is not the one that the run's labels were made by",
                where=str(folder.root),
                remedy=f"put the former one back, or label again: rlaif label --run {folder.root} --force",
            )


def _refuse_card(folder: RunFolder, config: RunConfig) -> None:
    """Raises StageError where the judge's card does not pass, with the way out that Python has."""
    try:
        passed_card(folder, config)
    except StageError as problem:
        remedy = f'{problem.remedy}; in Python set=["card.required=false"]'
        raise StageError(problem.what, where=problem.where, remedy=remedy) from None


def about_reward(run: Run, source: str) -> dict[str, Any]:
    """What scores, and on whose word: the constitution, the judge's card, and what the reward model is worth."""
    folder = RunFolder(run.path)
    card, given = card_of_run(folder), run.config.given_labels
    held_out = read_held_out(folder) if source == "model" else None
    worth = None if held_out is None else held_out.verdict
    judge = f"labels of your own ({Path(str(run.config.label.source)).name})" if given else "a judge without a card"
    if card is not None and not given:
        said, about = card.verdict[0] if card.verdict else "nothing can be said of it", card.subject
        judge = f"judge {about.model} by {about.method}, measured on {about.gold}: {said} (card {card.id})"
    return {
        "run": run.path.resolve().name,
        "source": source,
        "constitution": None if given else {"name": run.constitution.name, "hash": run.constitution.hash},
        "card": None if given or card is None else card.id,
        "says": "; ".join(part for part in (judge, worth) if part),
    }
