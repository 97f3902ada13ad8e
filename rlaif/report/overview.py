"""What was run and what it cost: the stages, the config, the constitution, and where everything comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.config import StageName
from rlaif.constitution.load import load_constitution
from rlaif.core.errors import ConfigError, RlaifError
from rlaif.core.files import RunFolder
from rlaif.core.records import Constitution, StageRecord
from rlaif.core.yaml import read_yaml
from rlaif.view.text import is_known

RECORD_FILES: dict[StageName, tuple[str, ...]] = {
    "card": (),
    "revise": ("traces.jsonl",),
    "sft": ("examples.jsonl",),
    "label": ("responses.jsonl", "labels.jsonl"),
    "reward": (),
    "ppo": ("rollouts.jsonl", "validation_samples.jsonl"),
    "dpo": (),
    "evaluate": ("responses.jsonl", "labels.jsonl", "scores.jsonl"),
    "report": (),
}
_PASSWORD = re.compile(r"(?<=://)[^/\s@]+@")


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of the pipeline table. `written` counts the records in the stage's files, `failed` is set later from
    the records themselves; None = the stage writes none, or has not said."""

    name: StageName
    about: str
    record: StageRecord | None
    begun: bool
    written: dict[str, int]
    share: float
    """Of the seconds of the longest stage, 0..1."""

    @property
    def state(self) -> str:
        if self.record is not None:
            return "finished"
        return "not finished" if self.begun else "not run"

    def total(self, suffix: str) -> float | None:
        """Sum of the counts named `suffix` or ending in it, such as "judge_calls" and "policy_calls" for "calls"."""
        counts = self.record.counts if self.record is not None else {}
        found = [v for k, v in counts.items() if (k == suffix or k.endswith("_" + suffix)) and is_known(v)]
        return sum(found) if found else None


def stage_rows(run: RunFolder, abouts: Mapping[StageName, str]) -> list[StageRow]:
    """Every stage of `abouts` but the report itself, in that order; the card only where there is one."""
    names = [name for name in abouts if name != "report" and (name != "card" or (run.root / name).is_dir())]
    records = {name: run.record(name) for name in names}
    longest = max((r.seconds for r in records.values() if r is not None and is_known(r.seconds)), default=0.0)
    rows = []
    for name in names:
        record, folder = records[name], run.root / name
        begun = record is None and folder.is_dir() and any(folder.iterdir())
        seconds = record.seconds if record is not None and is_known(record.seconds) else 0.0
        written = {file: count_lines(folder / file) for file in RECORD_FILES[name] if (folder / file).exists()}
        rows.append(StageRow(name, abouts[name], record, begun, written, seconds / longest if longest > 0 else 0.0))
    return rows


def count_lines(path: Path) -> int:
    """Number of complete lines: what a crash left of a last one is not a record."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def read_config(run: RunFolder) -> tuple[dict[str, Any], str]:
    """The run's config as plain data and as text without passwords in addresses; empty where there is none."""
    path = run.config_path
    if not path.exists():
        return {}, ""
    data, _ = read_yaml(path, ConfigError)
    return (data if isinstance(data, dict) else {}), without_passwords(path.read_text(encoding="utf-8-sig"))


def without_passwords(text: str) -> str:
    """The text with user and password of every address written as ***."""
    return _PASSWORD.sub("***@", text)


def read_constitution(run: RunFolder) -> tuple[Constitution | None, str]:
    """The run's constitution, or None with the reason why it cannot be shown."""
    if not run.constitution_path.exists():
        return None, "There is no constitution.yaml in the run folder."
    try:
        return load_constitution(str(run.constitution_path)), ""
    except RlaifError as problem:
        return None, f"constitution.yaml cannot be read: {problem.what}"


def lookup(config: dict[str, Any], name: str, default: Any = None) -> Any:
    """config["a"]["b"] for "a.b", or the default."""
    value: Any = config
    for key in name.split("."):
        if not isinstance(value, dict) or value.get(key) is None:
            return default
        value = value[key]
    return value


def panel(config: dict[str, Any]) -> dict[str, float]:
    """Member of the judge's panel -> weight of its vote; "" is the run's own judge."""
    members = lookup(config, "judge.panel", [])
    return {"": 1.0} | {str(m.get("name")): float(m.get("weight", 1.0)) for m in members if isinstance(m, dict)}


def main_slice(config: dict[str, Any], slices: Sequence[str]) -> str | None:
    """The first slice whose answers are revised, since that is what the run is about; else the first of all."""
    prompts = lookup(config, "prompts", {})
    kept = {name for name, part in prompts.items() if isinstance(part, dict) and part.get("revise") is False}
    return next((name for name in slices if name not in kept), slices[0] if slices else None)


def facts(config: dict[str, Any], constitution: Constitution | None, rows: list[StageRow]) -> list[tuple[str, str]]:
    """What was run, in a few terms: model, judge, constitution, prompts, hardware."""
    judge = lookup(config, "judge.source") or "the model of the run"
    method = lookup(config, "judge.method", "contrast")
    opening = lookup(config, "judge.opening_tokens", None)
    if method == "contrast" and opening is not None:
        method = f"contrast of the first {opening} tokens"
    beside = [name for name in panel(config) if name]
    method += f"; beside it vote {', '.join(beside)}" if beside else ""
    found = [("Model", str(lookup(config, "model.source", "embedded")))]
    given = lookup(config, "label.source")
    if given is None:
        found.append(("Judge", f"{judge} ({lookup(config, 'judge.backend', 'local')}), {method}"))
    else:
        found.append(("Labels", f"given: {Path(str(given)).name}"))
    if constitution is not None:
        count = len(constitution.principles)
        found.append(("Constitution", f"{constitution.name} {constitution.version}, {count} principles".strip()))
    slices = lookup(config, "prompts", {})
    if isinstance(slices, dict):
        held = [
            f"{name}: {part.get('train', 0)} to train, {part.get('held_out', 0)} held out"
            for name, part in slices.items()
            if isinstance(part, dict)
        ]
        found.append(("Prompts", "; ".join(held)))
    found.append(("Seed", str(lookup(config, "seed", 0))))
    found += [(term.capitalize(), "; ".join(values)) for term, values in _said_by(rows, ("hardware",)) if values]
    return found


@dataclass(frozen=True, slots=True)
class Provenance:
    """Git, seed and hardware as sentences, the version of each package, and the names of what changed on the way."""

    single_text: list[tuple[str, str]]
    versions: list[tuple[str, list[str]]]
    mixed: list[str]


def provenance(rows: list[StageRow]) -> Provenance:
    """Over all stages, with every value that was seen: more than one is a warning."""
    single = _said_by(rows, ("git", "seed", "hardware"))
    versions: dict[str, list[str]] = {}
    for row in _finished(rows):
        for name, value in row.versions.items():
            seen = versions.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    mixed = [name for name, values in [*single, *versions.items()] if len(values) > 1]
    return Provenance([(n.capitalize(), "; ".join(v)) for n, v in single if v], sorted(versions.items()), mixed)


def _said_by(rows: list[StageRow], names: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    return [(name, list(dict.fromkeys(str(getattr(r, name)) for r in _finished(rows)))) for name in names]


def _finished(rows: list[StageRow]) -> Iterator[StageRecord]:
    return (row.record for row in rows if row.record is not None)
