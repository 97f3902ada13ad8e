"""Writes docs/reference/configuration.md from the config's own descriptions; a test sees that it is current."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from rlaif.config import ConfigTable, PromptSlice, RunConfig
from rlaif.judge.load import CHOICES

PATH = Path(__file__).parent.parent / "docs" / "reference" / "configuration.md"
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
HEADER = """\
# Configuration

One YAML file describes a run. Only `prompts` has to be there; a field that is left out has its default. An unknown key
is an error that names the line and the nearest known key.

- `rlaif init` writes a short file to start from, and `rlaif fields` prints every field, as below.
- `rlaif check my.yaml` opens what a run will open
  ([what it finds](../train.md#before-the-first-hour)).
- `--set ppo.kl_coef=0.1` overrides one field for one call; it may be given several times. A table in a list goes by
  its `name` or its place from 0: `--set judge.panel.large.max_calls=1000`, `--set judge.panel.0.max_calls=1000`.
- A file or folder that lies beside the config is found there, wherever `rlaif` is started.
- A field marked "speed" changes only how fast a stage goes or what it may cost, not what it writes: it may differ when
  a run is resumed.

*This page is made by `python scripts/config_docs.py` from `rlaif/config/`; edit the descriptions there.*
"""


def document() -> str:
    """The whole page, as Markdown."""
    tables: list[tuple[str, type[ConfigTable]]] = []
    top: list[str] = []
    for name, info in RunConfig.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, ConfigTable):
            tables.append((name, kind))
            top.append(f"| `{name}` | table | {_about(kind)} |")
        else:
            top.append(_row(name, info))
        if name == "prompts":
            tables.append(("prompts.<slice>", PromptSlice))
    parts = [HEADER, "## The whole file\n", _heading("default", "meaning"), *top]
    for name, kind in tables:
        parts += [f"\n## `{name}`\n\n{_about(kind)}\n", _heading("default", "allowed", "meaning")]
        for key, info in _fields(kind):
            allowed = _allowed(info, CHOICES.get(f"{name}.{key}", ()))
            parts.append(_row(key, info, allowed, speed=key in kind.speed_fields()))
    return "\n".join(parts) + "\n"


def _fields(kind: type[ConfigTable]) -> list[tuple[str, FieldInfo]]:
    """The table's fields, those of its own before those that it shares with others."""
    own = kind.__annotations__.keys()
    return sorted(kind.model_fields.items(), key=lambda item: item[0] not in own)


def _about(kind: type[ConfigTable]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _heading(*columns: str) -> str:
    return f"| field | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|"


def _row(name: str, info: FieldInfo, *allowed: str, speed: bool = False) -> str:
    meaning = (info.description or "").replace("|", "\\|") + (" (speed)" if speed else "")
    return f"| {' | '.join([f'`{name}`', _default(info), *allowed, meaning])} |"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _allowed(info: FieldInfo, named: Sequence[str] = ()) -> str:
    """Named values, bounds or the kind of value."""
    kinds = [kind for kind in (info.annotation, *get_args(info.annotation)) if kind is not type(None)]
    named = named or next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
    if named:
        return ", ".join(f"`{value}`" for value in named)
    if bool in kinds:
        return "`true`, `false`"
    if tuple[float, float] in kinds:
        return "two numbers"
    if list[str] in kinds:
        return "list of texts"
    if any(get_origin(kind) is dict for kind in kinds):
        return "a table"
    whole = "whole, " if int in kinds else ""
    bounds = [
        f"{sign} {getattr(item, key):g}" for item in info.metadata for key, sign in BOUNDS.items() if hasattr(item, key)
    ]
    return whole + ", ".join(bounds) if bounds else "text"


if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
