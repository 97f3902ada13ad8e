"""The stages as data: what each does, what must stand before it, and what it depends on.

A stage is out of date when one of its *settings* (config fields) or *inputs* (hashes of files and models) is not what
it was. Fields that only decide speed are left out, so a run can go on with another batch size, device or server.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.config import ALIGNERS, STAGES, ConfigTable, PanelMember, RunConfig, StageName
from rlaif.core.errors import ConfigError
from rlaif.core.files import RunFolder, path_hash
from rlaif.judge.card.records import card_of_run
from rlaif.report import overview


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One stage; its code is `run(context)` of the module of its name in rlaif/stages. `reads` are paths in the run
    folder, hashed as inputs; `shared` names what it uses of "model", "judge" (which brings the constitution and the
    templates), "limit" and "slices"."""

    about: str
    needs: tuple[StageName, ...] = ()
    reads: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


CARD = "card/card.json"

TABLE: dict[StageName, StageSpec] = {
    "card": StageSpec(
        "measures the judge on pairs whose better answer is known",
        shared=("model", "judge"),
    ),
    "revise": StageSpec(
        "the model answers, criticises its answer under a principle and rewrites it",
        reads=("prompts/train.jsonl", CARD),
        shared=("model", "judge", "limit", "slices"),
    ),
    "sft": StageSpec(
        "trains the policy on the accepted revisions",
        needs=("revise",),
        reads=("revise/traces.jsonl",),
        shared=("model",),
    ),
    "label": StageSpec(
        "the trained policy answers each prompt several times and the judge compares the answers",
        needs=("sft",),
        reads=("prompts/train.jsonl", "sft/adapter", CARD),
        shared=("model", "judge", "limit"),
    ),
    "reward": StageSpec(
        "trains the reward model on the judge's soft labels",
        needs=("sft", "label"),
        reads=("sft/adapter", "label/labels.jsonl"),
        shared=("model",),
    ),
    "ppo": StageSpec(
        "optimises the policy against the reward, held near the SFT policy by a KL penalty",
        needs=("sft", "reward"),
        reads=("prompts/train.jsonl", "sft/adapter", "reward/adapter", "label/responses.jsonl", CARD),
        shared=("model", "limit"),
    ),
    "dpo": StageSpec(
        "trains the policy on the labels themselves, held near the SFT policy by the loss",
        needs=("sft", "label"),
        reads=("sft/adapter", "label/labels.jsonl"),
        shared=("model",),
    ),
    "evaluate": StageSpec(
        "compares base, SFT and PPO or DPO on held-out prompts: judge, gold scores, length, KL",
        needs=("sft", *ALIGNERS),
        reads=("prompts/held_out.jsonl", "sft/adapter", "reward/adapter", "ppo/adapter", "dpo/adapter", CARD),
        shared=("model", "judge", "limit"),
    ),
    "report": StageSpec("writes report.html from the run folder"),
}
UNTRAINED: tuple[StageName, ...] = ("revise", "sft")
"""The stages that a run with labels of the user's own does without: it starts from the model as it is."""
UNTRAINED_ABOUTS: dict[StageName, str] = {
    "label": "the model answers each prompt several times and the judge compares the answers",
    "ppo": "optimises the policy against the reward, held near the model by a KL penalty",
    "dpo": "trains the policy on the labels themselves, held near the model by the loss",
    "evaluate": "compares the model (SFT) and PPO or DPO on held-out prompts: gold scores, length, KL",
}
"""What stages do otherwise where nothing was fine-tuned before them."""
GIVEN_ABOUTS: dict[StageName, str] = {
    "label": "reads the labels that are given",
    "reward": "trains the reward model on the labels that are given",
    "dpo": "trains the policy on the labels that are given, held near the model by the loss",
}
"""What they do where the labels are given."""


def abouts(
    *,
    given: bool,
    align_by: Collection[str] = ("ppo",),
    named: Collection[str] | None = None,
    there: Collection[str] = (),
) -> dict[StageName, str]:
    """Stage -> what it does, of the stages of a run whose labels are `given`, or the judge's, whose policy learns them
    by these stages, and whose config has `named` its stages. What is left out or only other ways need is not among
    them where nothing of it is `there`."""
    named, untrained = (TABLE, given) if named is None else (named, "sft" not in named)
    without: list[StageName] = [name for name in ALIGNERS if name not in align_by]
    without += [] if "ppo" in align_by or named is not TABLE else ["reward"]
    without += [name for name in TABLE if name not in (*named, "report") and (name != "card" or "label" not in named)]
    without = [name for name in without if name not in there]
    without += UNTRAINED if given else ()
    known = {name: spec.about for name, spec in TABLE.items()} | (UNTRAINED_ABOUTS if untrained else {})
    return {name: about for name, about in (known | (GIVEN_ABOUTS if given else {})).items() if name not in without}


def abouts_of(run: RunFolder) -> dict[StageName, str]:
    """Stage -> what it does, of the stages of the run, which may be one whose config names what is not there."""
    config = overview.read_config(run)[0]
    there = [stage for stage in STAGES if (run.root / stage).is_dir()]
    given, named = overview.lookup(config, "label.source") is not None, overview.lookup(config, "stages")
    return abouts(given=given, align_by=overview.lookup(config, "align_by", ["ppo"]), named=named, there=there)


def refuse_absent(config: RunConfig, names: tuple[StageName, ...]) -> None:
    """Raises ConfigError for a stage that a run of this config does without."""
    absent = next((name for name in names if name != "card" and not config.has(name)), None)
    if absent is None:
        return
    if config.stages is not None:
        raise ConfigError(
            f"this run has no stage {absent}: its stages are {', '.join(config.stages)}",
            where="stages",
            remedy=f"add {absent} to stages, or leave stages out to have all",
        )
    if absent in ALIGNERS:
        raise ConfigError(
            f"this run has no stage {absent}: it is aligned by {' and '.join(config.align_by)}",
            where="align_by",
            remedy=f"write align_by: {absent}, or [ppo, dpo] for both; --set align_by={absent} for a run that is there",
        )
    raise ConfigError(
        f"the labels are given, so this run has no stage {absent}: it starts from the model as it is",
        where="label.source",
        remedy="leave the stage out, with model.source naming what you fine-tuned; or leave label.source out",
    )


def refuse_gaps(config: RunConfig) -> None:
    """Raises ConfigError where `stages` leaves out what one of them reads."""
    for stage in config.stages or ():
        missing = [need for need in stands_on(config, stage) if need != "card" and not config.has(need)]
        if missing:
            raise ConfigError(
                f"{stage} reads what {missing[0]} writes, and this run has no stage {missing[0]}",
                where="stages",
                remedy=f"add {missing[0]}, or leave {stage} out{_WITHOUT.get((stage, missing[0]), '')}",
            )
    if config.stages is not None and config.has("evaluate") and not (config.start or config.align_by):
        raise ConfigError(
            "evaluate compares models, and this run trains none",
            where="stages",
            remedy="add sft, ppo or dpo, or leave evaluate out",
        )


_WITHOUT: dict[tuple[StageName, StageName], str] = {
    ("reward", "label"): "; label.source takes labels of your own",
    ("dpo", "label"): "; label.source takes labels of your own",
    ("ppo", "reward"): "; ppo.reward takes a function of your own in place of a reward model",
    ("evaluate", "reward"): "; evaluate.best_of: 0 needs no reward model",
}
"""What else there is to do about such a gap."""


def in_order(stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
    """The stages, each once, in the order in which they run."""
    return tuple(name for name in STAGES if name in stages)


def of_run(config: RunConfig, until: StageName | None = None) -> tuple[StageName, ...]:
    """The stages of a whole run, or `until` one of them: those that `stages` names, or all but the ways to align that
    `align_by` does not name, a reward model that is nobody's reward then, and what given labels do without. The judge's
    card comes with the labels that ask for it. Raises ConfigError where there is no such stage, or one lacks another.
    """
    refuse_gaps(config)
    last = len(STAGES) if until is None else STAGES.index(until) + 1
    if until is not None:
        refuse_absent(config, (until,))
    found = [name for name in STAGES if name != "card" and config.has(name)]
    if config.stages is None and "ppo" not in found and "reward" not in stands_on(config, "evaluate"):
        found = [name for name in found if name != "reward"]
    named = config.stages is not None and "card" in config.stages
    carded = named or any("card" in needs(config, name) for name in found)
    return tuple(name for name in STAGES[:last] if name in found or (name == "card" and carded))


def with_followers(config: RunConfig, names: tuple[StageName, ...]) -> tuple[StageName, ...]:
    """The stages and all that stand on what they write, in order."""
    found = set(names)
    for stage in STAGES:
        if stage == "report" or found & set(stands_on(config, stage)):
            found.add(stage)
    return in_order(tuple(found))


def needs(config: RunConfig, stage: StageName) -> tuple[StageName, ...]:
    """The stages that must be finished before this one: those that it stands on, and for labels the judge's card,
    unless the config accepts the judge without. A new card does not change labels that are there."""
    names = stands_on(config, stage)
    asked = stage == "label" and config.card.required and config.judged and "card" not in names
    return ("card", *names) if asked else names


def stands_on(config: RunConfig, stage: StageName) -> tuple[StageName, ...]:
    """The stages whose files this one reads. A reward without a reward model does without that stage, and one by the
    judge takes the answers that `label` sampled; that model chooses the best of n of `evaluate`, which compares what
    `align_by` names; a judge that is calibrated reads its card. Given labels stand on nothing."""
    names: tuple[StageName, ...] = TABLE[stage].needs
    if config.given_labels:
        names = tuple(name for name in names if name not in UNTRAINED)
    if stage != "sft":  # what starts from the model as it is, and compares what there is
        names = tuple(name for name in names if name not in ("sft", *ALIGNERS) or config.has(name))
    if stage == "ppo" and not config.ppo.scored_by("model"):
        names = tuple(name for name in names if name != "reward")
    if stage == "ppo" and config.ppo.scored_by("judge"):
        names = (*names, "label")
    if stage == "evaluate" and config.evaluate.best_of and config.ppo.scored_by("model"):
        names = (*names, "reward")
    if stage != "card" and config.judge.calibration != "none" and "judge" in shared(config, stage):
        names = ("card", *names)
    return names


def shared(config: RunConfig, stage: StageName) -> tuple[str, ...]:
    """What the stage uses of the model, the judge, the limit and the slices; `ppo` the judge only as its reward, and a
    run without a judge only for a card that is asked for by name."""
    if not config.judged and stage != "card":
        given = {"model", "judge"} if stage == "label" else {"judge"}
        return tuple(part for part in TABLE[stage].shared if part not in given)
    judging = stage == "ppo" and config.ppo.scored_by("judge")
    return (*TABLE[stage].shared, "judge") if judging else TABLE[stage].shared


def settings(config: RunConfig, stage: StageName, limit: int | None) -> dict[str, Any]:
    """Flat `table.field` -> value of every config field that this stage's result depends on."""
    used = shared(config, stage)
    values: dict[str, Any] = {"seed": config.seed}
    for name in (stage, *(part for part in ("model", "judge") if part in used)):
        table: ConfigTable = getattr(config, name)
        values.update({f"{name}.{field}": value for field, value in table.settings().items()})
    if not config.start and stage in ("label", "reward", *ALIGNERS, "evaluate"):
        values["start"] = "model"
    if config.given_labels and stage == "label":  # of which the file counts, and not where it lies
        values = {name: value for name, value in values.items() if not name.startswith("label.")}
        values["label.source"] = Path(str(config.label.source)).name
    if stage == "card":  # which is of the judge before any calibration
        del values["judge.calibration"]
    # A slice without a prompt to train on is `evaluate`'s alone, so that prompts can be held out when all else is done.
    held_out = "prompts/held_out.jsonl" in TABLE[stage].reads
    slices = {name: part for name, part in config.prompts.items() if part.train or held_out}
    if "slices" in used:
        values.update({f"prompts.{name}.revise": part.revise for name, part in slices.items()})
    if "judge" in used:
        values.update({f"prompts.{name}.principles": part.principles for name, part in slices.items()})
    if "limit" in used:
        values["limit"] = limit
    return values


def own_inputs(config: RunConfig, stage: StageName, run: RunFolder) -> dict[str, str]:
    """Hash of every file or folder of an *earlier stage* that this one reads; "missing" where there is none."""
    before = stands_on(config, stage)
    reads = TABLE[stage].reads
    if stage in ("ppo", "evaluate"):
        reads = (*reads, *(f"reward/{name}" for name in config.reward.adapters[1:]))
    names = [name for name in reads if name.partition("/")[0] in before]
    return {name: _card_id(run) if name == CARD else path_hash(run.root / name) for name in names}


def _card_id(run: RunFolder) -> str:
    """The id of the run's card: its file holds seconds too."""
    card = card_of_run(run)
    return "missing" if card is None else card.id


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One phrase per key whose value differs: "label.samples (was 4, now 8)"."""
    found = []
    if "judge.panel" in before:  # whose members may be older than fields of theirs
        panel = [PanelMember.model_validate(member).settings() for member in before["judge.panel"]]
        before = {**before, "judge.panel": panel}
    for name in sorted(before.keys() | now.keys()):
        if name in now and before.get(name, _default(name)) == now[name]:
            continue
        found.append(f"{name} (was {before.get(name, 'not there')}, now {now.get(name, 'not there')})")
    return found


def _default(name: str) -> Any:
    """The default of the config field "table.field": what a run had before there was such a field. Else a value that
    equals nothing."""
    table, _, field = name.partition(".")
    kind = RunConfig.model_fields[table].annotation if table in RunConfig.model_fields else None
    known = kind.model_fields if isinstance(kind, type) and issubclass(kind, ConfigTable) else {}
    return known[field].get_default(call_default_factory=True) if field in known else object()
