"""`rlaif init`: a commented config made from the field descriptions, a constitution, and a few prompts to replace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rlaif.config import ConfigTable, RunConfig
from rlaif.constitution.load import constitution_text
from rlaif.core.errors import RunFolderError
from rlaif.core.files import write_atomic
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import CHOICES

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
PROMPTS = {
    "mine": {
        "source": "prompts.jsonl",
        "train": 6,
        "held_out": 2,
        "principles": ["harm", "honesty", "safety", "privacy"],
        "revise": True,
    },
    "everyday": {"source": "everyday", "train": 12, "held_out": 4, "principles": ["helpful"], "revise": False},
}
"""The user's own prompts, and harmless ones whose answers keep the policy helpful. The names are tags in the
constitution that is written beside them."""
HEADER = """\
# A run of rlaif. Every field is here, and all but `constitution` and `prompts` with its default; a field that is left
# out keeps its default.
# Check it with: rlaif check {name}      See what it would cost: rlaif run {name} --dry-run
"""


def init_project(folder: Path) -> list[Path]:
    """The files written: rlaif.yaml, constitution.yaml, prompts.jsonl; RunFolderError if one of them exists."""
    prompts = "".join(json.dumps({"prompt": text}) + "\n" for text in EXAMPLE_PROMPTS)
    files = {
        folder / "rlaif.yaml": commented_config(),
        folder / "constitution.yaml": constitution_text("harmless-and-kind"),
        folder / "prompts.jsonl": prompts,
    }
    for path in files:
        if path.exists():
            raise RunFolderError("exists and is not overwritten", where=str(path), remedy="choose another folder")
    for path, text in files.items():
        write_atomic(path, text)
    return list(files)


def commented_config() -> str:
    """The YAML of a run config with every field, its default and, as a comment, what it means."""
    lines = [HEADER.format(name="rlaif.yaml")]
    for name, info in RunConfig.model_fields.items():
        kind = info.annotation
        if name == "prompts":
            lines += ["", _comment(info), *_prompts()]
        elif isinstance(kind, type) and issubclass(kind, ConfigTable):
            about = (kind.__doc__ or "").strip() if kind.__doc__ != ConfigTable.__doc__ else ""
            lines += ["", f"{name}:" + (f"  # {about}" if about else "")]
            lines += [
                _field(field, item, indent=2, named=CHOICES.get(f"{name}.{field}", ()))
                for field, item in kind.model_fields.items()
            ]
        else:
            lines += ["", _field(name, info, indent=0, value="constitution.yaml" if name == "constitution" else None)]
    return "\n".join(lines) + "\n"


def _field(name: str, info: FieldInfo, *, indent: int, value: Any = None, named: Sequence[str] = ()) -> str:
    """One line `name: default  # description`."""
    shown = info.get_default(call_default_factory=True) if value is None else value
    text = dump_yaml({name: shown}).rstrip("\n")
    if isinstance(shown, list | tuple):
        text = f"{name}: [{', '.join(map(str, shown))}]"
    if shown is None:
        text = f"{name}: null"
    comment = _comment(info, named)
    return " " * indent + (f"{text:<28}  {comment}" if comment else text)


def _comment(info: FieldInfo, named: Sequence[str] = ()) -> str:
    parts = [info.description or "", " | ".join(named) or _choices(info.annotation)]
    text = "; ".join(part for part in parts if part)
    return f"# {text}" if text else ""


def _choices(annotation: Any) -> str:
    """ "a | b | c" for a field with named values."""
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, get_args(annotation)))
    for part in get_args(annotation):
        if get_origin(part) is Literal:
            return " | ".join(map(str, get_args(part)))
    return ""


def _prompts() -> list[str]:
    from rlaif.config import PromptSlice

    lines = ["prompts:"]
    for name, fields in PROMPTS.items():
        lines.append(f"  {name}:")
        lines += [_field(key, PromptSlice.model_fields[key], indent=4, value=value) for key, value in fields.items()]
    return lines
