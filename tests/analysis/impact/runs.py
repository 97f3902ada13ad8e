"""A run folder whose label stage is finished, made by the real judge over a scripted model, and one that counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from rlaif.analysis.impact.impact import Impact, impact
from rlaif.analysis.impact.subject import of_run
from rlaif.config import AskingConfig, ModelConfig, RunConfig
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import (
    Comparison,
    Constitution,
    Contrast,
    Message,
    PreferenceLabel,
    Principle,
    Prompt,
    Response,
    StageRecord,
    content_id,
)
from rlaif.core.yaml import dump_yaml
from rlaif.judge.judge import Judge
from rlaif.judge.load import parse
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import LanguageModel
from rlaif.lm.scripted import ScriptedModel
from rlaif.run import pipeline
from rlaif.stages import table as stages
from tests.fakes import Listener

NAMES = ("kind", "brief", "honest", "safe")
RULES = tuple(
    Principle(
        name, f"Be {name}.", weight=1.0 + n / 2, contrast=Contrast(f"You are {name}.", f"You are not {name}.")
    )
    for n, name in enumerate(NAMES)
)  # fmt: skip
CONSTITUTION = Constitution("mine", "1", "", RULES)
PROMPTS = tuple(
    Prompt((Message("user", f"question {n}"),), slice="hard" if n < 12 else "easy", tags=("even",) * (n % 2 == 0))
    for n in range(16)
)
"""12 of the slice hard, 4 of the slice easy; 8 have the tag even."""


def settings(root: Path, **judge: Any) -> RunConfig:
    """The config of the run in `root`."""
    source = str(root / "prompts" / "train.jsonl")
    data = {
        "seed": 5,
        "judge": {"method": "contrast", "backend": "scripted", "scale": 1.0, **judge},
        "prompts": {name: {"source": source, "train": 12} for name in ("hard", "easy")},
        "label": {"batch_size": 2},
        "evaluate": {"bootstrap": 100},
    }
    return parse(data, where="test")


def responses(prompt: Prompt, texts: Sequence[str] = ("yes of course", "no never", "it depends")) -> list[Response]:
    return [Response(prompt.id, text, "sft", n, 1.0, "stop", 3) for n, text in enumerate(texts)]


def comparisons(prompts: Sequence[Prompt] = PROMPTS) -> list[Comparison]:
    """Three pairs of three answers a prompt."""
    return [Comparison(prompt, a, b) for prompt in prompts for a, b in combinations(responses(prompt), 2)]


def write_constitution(path: Path, constitution: Constitution) -> Path:
    data = asdict(constitution)
    data["principles"] = [
        {key: list(value) if isinstance(value, tuple) else value for key, value in part.items() if value is not None}
        for part in data["principles"]
    ]
    for part in data["principles"]:
        if "contrast" in part:
            part["contrast"]["examples"] = list(part["contrast"]["examples"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(data), encoding="utf-8")
    return path


def make_run(
    root: Path,
    config: RunConfig | None = None,
    pairs: Sequence[Comparison] | None = None,
    constitution: Constitution = CONSTITUTION,
    scripted: ScriptedModel | None = None,
) -> RunFolder:
    """The finished run; its judge is the scripted model of the config or the one given, its cache the run's own."""
    run = RunFolder(root)
    config = settings(root) if config is None else config
    pairs = comparisons() if pairs is None else pairs
    write_constitution(run.constitution_path, constitution)
    config = config.model_copy(update={"constitution": str(run.constitution_path)})
    run.config_path.write_text(dump_yaml(config.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    JsonlFile(run.file("prompts", "train.jsonl"), Prompt).append(dict.fromkeys(pair.prompt for pair in pairs))
    run.file("prompts", "held_out.jsonl").touch()
    model = CachedModel(scripted or Listener(), run.cache_path / "judge.sqlite")
    labels = judge_for(config, constitution, model).label(pairs)
    model.close()
    JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).append(labels)
    finish(run, config)
    return run


def judge_for(config: RunConfig, constitution: Constitution, model: LanguageModel) -> Judge:
    return Judge(config.judge, constitution, models=[model], seed=config.seed, prompts=config.prompts)


def finish(run: RunFolder, config: RunConfig) -> None:
    """Marks the label stage as the pipeline does."""
    given = pipeline.gather_kept(config, run)
    inputs = {
        "constitution": given.constitution.hash,
        "templates": content_id(given.templates),
        "judge model": pipeline.judge_model_hash(config),
    }
    found = stages.settings(config, "label", None)
    run.finish(StageRecord("label", found, content_id(found), inputs, {}, 1.0, 0.1, {}, "", 5, "", "", ""))


def edited(**changes: dict[str, Any]) -> Constitution:
    """The constitution with fields of the named principles changed."""
    return replace(CONSTITUTION, principles=tuple(replace(p, **changes.get(p.id, {})) for p in RULES))


def ask(run: RunFolder, to: Constitution, *, examples: int = 3) -> tuple[Impact, Listener]:
    """The impact of the constitution, and the model that was there to be asked."""
    model = Listener()
    path = write_constitution(run.root.parent / "edited" / f"{to.hash}.yaml", to)

    def open_judge(asking: AskingConfig, _: ModelConfig, cache: Path) -> LanguageModel:
        model.opened = True
        return CachedModel(model, cache / "judge.sqlite")

    with closing(of_run(run, open_judge)) as subject:
        return impact(subject, str(path), examples=examples, progress=Silent()), model


REWORDED = edited(kind={"contrast": Contrast("You are gentle.", "You are harsh.")})


FILE_PROMPTS = 20


def write_pairs(path: Path, n: int = FILE_PROMPTS) -> Path:
    """One pair a prompt, the answer "good N" chosen."""
    rows = [{"prompt": f"question {k}", "chosen": f"good {k}", "rejected": f"bad bad {k}"} for k in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
