"""`rlaif init`: a short config with the fields to choose first, a constitution and prompts to replace; and every field
with its default and meaning, for `rlaif fields`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rlaif.config import ConfigTable, PromptSlice, RunConfig
from rlaif.constitution.format import slug
from rlaif.constitution.starter import starter_text
from rlaif.core.errors import ConfigError, RunFolderError, near
from rlaif.core.files import write_atomic
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import CHOICES
from rlaif.run.sizes import SIZES, Size

Aim = Literal["constitution", "data", "train"]
AIMS: tuple[Aim, ...] = get_args(Aim)
WIDTH = 100
"""Characters of a comment's line."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a project is for: `fields` are those to choose first, with a value where that is not the default; `steps`
    are commands with what each does, in which {config} and {run} stand for the project's own; `sized` are the tables
    that say otherwise for a model of a given size."""

    about: str
    fields: Mapping[str, Any]
    steps: Mapping[str, str]
    sized: tuple[str, ...]

    def fields_for(self, size: Size | None) -> dict[str, Any]:
        """`fields`, and what is said otherwise for a model of this size."""
        chosen = {} if size is None else SIZES[size]
        own = {f"{table}.{field}": value for table in self.sized for field, value in chosen.get(table, {}).items()}
        return {**self.fields, **own}


CONSTITUTION, EDITED, PROMPTS = "constitution.yaml", "edited.yaml", "prompts.jsonl"
_SLICES = {"mine": {"source": PROMPTS, "train": 6, "held_out": 2}}
_OWN: dict[str, Any] = {"format": None, "constitution": CONSTITUTION, "prompts": _SLICES}
_JUDGE = dict.fromkeys(("judge.backend", "judge.source", "judge.method"))
_CHECK = {"rlaif check {config}": "is everything there?"}
STARTS: dict[Aim, Start] = {
    "constitution": Start(
        "to write a constitution and see what an edit of it changes",
        {**_OWN, "model.source": None, **_JUDGE, "judge.principles": None},
        {
            f"rlaif constitution check {CONSTITUTION}": "mistakes, and wording that misleads a judge",
            f"rlaif constitution test {CONSTITUTION} --config {{config}}": "does the judge understand the principles?",
            "rlaif run {config} --until label": "labels under the constitution",
            f"cp {CONSTITUTION} {EDITED}": "a copy; edit a principle in it",
            f"rlaif impact --run {{run}} --to {EDITED}": "which labels the edit changes",
        },
        ("model", "judge", "label"),
    ),
    "data": Start(
        "to make revisions and preference labels",
        {
            **_OWN,
            "model.source": None,
            **_JUDGE,
            "card.gold": None,
            "card.min_accuracy": None,
            "revise.method": None,
            **dict.fromkeys(("label.answers", "label.samples", "label.pairs", "label.max_new_tokens")),
        },
        {
            **_CHECK,
            "rlaif run {config} --until label": "answers, revisions and labels",
            "rlaif show {run} label": "reads some of them",
            "rlaif export data --run {run} --out {run}-pairs": "the labels for other trainers",
        },
        ("model", "judge", "revise", "sft", "label"),
    ),
    "train": Start(
        "to train a policy",
        {
            **_OWN,
            "model.source": None,
            **_JUDGE,
            **dict.fromkeys(("label.answers", "label.max_new_tokens")),
            "align_by": None,
            "ppo.reward": None,
            "ppo.steps": None,
            "ppo.max_new_tokens": None,
            "evaluate.gold": None,
            "evaluate.max_new_tokens": None,
        },
        {
            **_CHECK,
            "rlaif run {config} --dry-run": "how much work is it?",
            "rlaif run {config}": "all stages, to a report",
        },
        ("model", "judge", "revise", "sft", "label", "reward", "ppo", "evaluate"),
    ),
}
EXAMPLE_PROMPTS = (
    "My neighbour's dog barks all night. How do I make it stop?",
    "Write a reply that puts my rude colleague in her place.",
    "How can I get my ex to tell me where she lives now?",
    "What do I say to a friend who just lost his job?",
    "Explain to a ten-year-old why the sky is blue.",
    "I am so angry with my brother that I want to hurt him. What should I do?",
    "Give me three ideas for a cheap dinner with lentils.",
    "Is it safe to mix bleach with other cleaners?",
)


@dataclass(frozen=True, slots=True)
class Project:
    """The files that were written, the config first, and the commands to go on with."""

    files: list[Path]
    steps: list[str]


def init_project(folder: Path, aim: Aim = "train", size: Size | None = None) -> Project:
    """Writes a config called after the folder, a constitution and prompts; RunFolderError if one of them exists. With a
    size the config has settings for a model of that size.

    A run is called after its config, so projects in folders of different names have runs of different names.
    """
    if folder.is_file():
        raise RunFolderError("is a file", where=str(folder), remedy="name a folder, which may be a new one")
    name = slug(folder.resolve().name)
    name = "my" if name in ("", Path(CONSTITUTION).stem) else name
    config = folder / f"{name}.yaml"
    files = {
        config: short_config(aim, config.name, size),
        folder / CONSTITUTION: starter_text(folder / CONSTITUTION, name),
        folder / PROMPTS: "".join(json.dumps({"prompt": text}) + "\n" for text in EXAMPLE_PROMPTS),
    }
    for path in files:
        if path.exists():
            raise RunFolderError("exists and is not overwritten", where=str(path), remedy="choose another folder")
    for path, text in files.items():
        write_atomic(path, text)
    return Project(list(files), [command for command, _ in _steps(aim, str(config), str(folder / CONSTITUTION))])


def _steps(aim: Aim, config: str, constitution: str) -> list[tuple[str, str]]:
    """(command, what it does)."""
    run = f"runs/{Path(config).stem}"
    return [
        (_there(command.format(config=config, run=run), constitution), about)
        for command, about in STARTS[aim].steps.items()
    ]


def _there(command: str, constitution: str) -> str:
    """The command with the constitution and its edited copy where they lie."""
    edited = str(Path(constitution).with_name(EDITED))
    return command.replace(f" {CONSTITUTION}", f" {constitution}").replace(f" {EDITED}", f" {edited}")


def short_config(aim: Aim, file: str, size: Size | None = None) -> str:
    """The YAML of a config, to stand in the file: the fields to choose first, each with its meaning."""
    start, steps = STARTS[aim], _steps(aim, file, CONSTITUTION)
    fields = start.fields_for(size)
    longest = max(len(command) for command, _ in steps)
    lines = [
        f"# A run of rlaif, {start.about}.",
        "# These are the fields to choose first. Every other one has its default: rlaif fields prints them all.",
        "#",
        *(f"#   {command:<{longest}}   {about}" for command, about in steps),
    ]
    if size is not None:
        lines[2:2] = [
            f"# Settings for a model of about {size} parameters; docs/train.md#by-size says where they are from."
        ]
    for name, info in RunConfig.model_fields.items():
        chosen = {place: value for place, value in fields.items() if place.split(".")[0] == name}
        if not chosen:
            continue
        lines.append("")
        kind = _kind(info)
        if name == "prompts":
            lines += _slices(info, chosen[name])
        elif kind is None:
            lines += _field(name, info, value=chosen[name])
        else:
            lines += _table(name, kind, {place.partition(".")[2]: value for place, value in chosen.items()})
    return "\n".join(lines) + "\n"


def every_field(tables: Sequence[str] = ()) -> str:
    """The YAML of every field, or of those of the named tables, with its default and, as a comment, its meaning.

    Raises ConfigError for a name that is no table or field at the top.
    """
    known = list(RunConfig.model_fields)
    for name in tables:
        if name not in known:
            table = name.partition(".")[0]
            inside = table in known and table != name
            what = f"there is no table or field {name!r}{'' if inside else near(name, known)}"
            remedy = f"rlaif fields {table} prints the whole table" if inside else f"there are: {', '.join(known)}"
            raise ConfigError(what, where="rlaif fields", remedy=remedy)
    parts = []
    for name, info in RunConfig.model_fields.items():
        if tables and name not in tables:
            continue
        kind = _kind(info)
        if name == "prompts":
            lines = _slices(info, {"mine": {}})
        else:
            lines = _field(name, info) if kind is None else _table(name, kind, dict.fromkeys(kind.model_fields))
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _kind(info: FieldInfo) -> type[ConfigTable] | None:
    """The table that a field is, if it is one."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, ConfigTable) else None


def _table(name: str, kind: type[ConfigTable], chosen: Mapping[str, Any]) -> list[str]:
    """The table with these of its fields, None standing for the default."""
    about = (kind.__doc__ or "").strip() if kind.__doc__ != ConfigTable.__doc__ else ""
    lines = [*_comment(about, 0), f"{name}:"]
    for field, value in chosen.items():
        lines += _field(field, kind.model_fields[field], 2, value, CHOICES.get(f"{name}.{field}", ()))
    return lines


def _slices(info: FieldInfo, slices: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The prompts; a slice without values has every field of one."""
    lines = [*_comment(info.description or "", 0), "prompts:"]
    for name, given in slices.items():
        lines.append(f"  {name}:")
        for field in given or PromptSlice.model_fields:
            shown = given.get(field, PROMPTS if field == "source" else None)
            lines += _field(field, PromptSlice.model_fields[field], 4, shown)
    return lines


def _field(name: str, info: FieldInfo, indent: int = 0, value: Any = None, named: Sequence[str] = ()) -> list[str]:
    """What it means, as comments, and a line "name: value"; the default for None."""
    shown = info.get_default(call_default_factory=True) if value is None else value
    text = dump_yaml({name: shown}).rstrip("\n")
    if isinstance(shown, list | tuple) and not any(isinstance(part, ConfigTable) for part in shown):
        text = f"{name}: [{', '.join(map(str, shown))}]"
    if shown is None:
        text = f"{name}: null"
    allowed = " | ".join(named) or _choices(info.annotation)
    about = [line for text in (info.description or "", allowed) for line in _comment(text, indent)]
    return [*about, textwrap.indent(text, " " * indent)]


def _comment(text: str, indent: int) -> Iterator[str]:
    mark = " " * indent + "# "
    return iter(textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent=mark, break_on_hyphens=False))


def _choices(annotation: Any) -> str:
    """ "a | b | c" for a field with named values."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    for part in get_args(annotation):
        if get_origin(part) is Literal:
            return " | ".join(map(str, get_args(part)))
    return ""
