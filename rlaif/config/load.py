"""Reading a run config: `load` names the file, the line, the field and the nearest name of every problem at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from rlaif.config.judge import AskingConfig
from rlaif.config.run_config import PromptSlice, RunConfig
from rlaif.core.errors import ConfigError, near
from rlaif.core.formats import refuse_format
from rlaif.core.plugins import look_beside
from rlaif.core.wrong_value import wrong_value

Asking = TypeVar("Asking", bound=AskingConfig)
Location = tuple[str | int, ...]
"""The keys and places in lists that lead to a field."""
ConfigCheck = Callable[[RunConfig], Iterable[tuple[Location, str]]]
"""What rooms above this one know of a config: (place of a field, what is wrong there)."""


PROMPT_FILES = (".jsonl", ".csv", ".parquet", ".txt")
"""What a file of prompts ends in, and no config."""


def no_check(config: RunConfig) -> Iterable[tuple[Location, str]]:
    return ()


def load(path: str | Path, overrides: Sequence[str] = (), *, check: ConfigCheck = no_check) -> RunConfig:
    """The config in the YAML file `path` with `overrides` such as "ppo.kl_coef=0.1" applied on top.

    A file or folder that lies beside the config is found there, wherever the command is started, and so is a module of
    the user's own.
    Raises ConfigError with the file, the line where it is known, the field and what to write instead.
    """
    from rlaif.core.yaml import read_yaml

    _refuse_no_config(Path(path))
    look_beside(Path(path).absolute().parent)
    data, lines = read_yaml(Path(path), ConfigError)
    if not isinstance(data, dict):
        raise ConfigError("a run config is a mapping of tables", where=str(path), remedy="write one with: rlaif init")
    if "principles" in data and "prompts" not in data:
        remedy = f"name it in a run config: constitution: {Path(path).name}; rlaif init writes both"
        raise ConfigError("is a constitution, not a run config", where=str(path), remedy=remedy)
    for text in overrides:
        _apply_override(data, text)
    return _anchored(parse(data, where=str(path), lines=lines, check=check), Path(path).absolute().parent)


def _refuse_no_config(path: Path) -> None:
    if path.suffix in PROMPT_FILES and path.is_file():
        example = f"prompts: {{mine: {{source: {path.name}, train: 100, held_out: 20}}}}"
        raise ConfigError("is no run config", where=str(path), remedy=f"name it in one, a .yaml file: {example}")
    if (path / "config.yaml").is_file():
        remedy = f"a run goes on with --run {path} --resume; its config is {path / 'config.yaml'}"
        raise ConfigError("is the folder of a run, not a config", where=str(path), remedy=remedy)
    if path.is_dir():
        there = sorted(file.name for file in path.glob("*.y*ml"))
        remedy = f"name the file in it: {', '.join(there)}" if there else "name a YAML file; rlaif init writes one"
        raise ConfigError("is a folder, not a config", where=str(path), remedy=remedy)


def default_config(overrides: Sequence[str] = (), *, check: ConfigCheck = no_check) -> RunConfig:
    """The config without a file: every field at its default but for the `overrides`, and a slice without prompts."""
    data: dict[str, Any] = {"prompts": {"none": {"source": "everyday"}}}
    for text in overrides:
        _apply_override(data, text)
    return parse(data, where="--set", check=check)


def load_or_default(
    path: Path | None, overrides: Sequence[str] | None = None, *, check: ConfigCheck = no_check
) -> RunConfig:
    """The config in the file, or the one without a file where there is none; see `load` and `default_config`."""
    given = overrides or ()
    return default_config(given, check=check) if path is None else load(path, given, check=check)


def parse(
    data: dict[str, Any], *, where: str, lines: dict[Location, int] | None = None, check: ConfigCheck = no_check
) -> RunConfig:
    """The config in `data`; a wrong key or value raises ConfigError naming every problem at once, a format that cannot
    be read one that names it alone."""
    if "format" in data:
        line = (lines or {}).get(("format",))
        refuse_format(data["format"], where if line is None else f"{where}:{line}")
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        problems = [_problem(item, lines or {}) for item in error.errors()]
    else:
        problems = [f"{_place(location, lines or {})}: {sentence}" for location, sentence in check(config)]
        if not problems:
            return config
    raise ConfigError("; ".join(problems), where=where, remedy="rlaif fields prints every field with its meaning")


def _anchored(config: RunConfig, folder: Path) -> RunConfig:
    """The config with every source that exists relative to `folder` made absolute. Models and labels may also lie where
    the command is started: a run goes on from anywhere."""

    def anchor(source: str, *, started: bool = False) -> str:
        for kind in ("tests:", "hhh:"):
            if source.startswith(kind):
                return kind + anchor(source.removeprefix(kind))
        looks_like_path = "/" in source or bool(Path(source).suffix)
        for place in (folder, Path.cwd()) if started else (folder,):
            # a bare name is a shipped set or a constitution, whatever lies about, or a model that is really there
            there = (place / source).exists() if looks_like_path else (place / source / "config.json").is_file()
            if there and (looks_like_path or started):
                return str(place / source)
        return source

    slices = {name: part.model_copy(update={"source": anchor(part.source)}) for name, part in config.prompts.items()}

    def anchored(asked: Asking) -> Asking:
        if asked.source is None or asked.backend == "openai":
            return asked
        return asked.model_copy(update={"source": anchor(asked.source, started=True)})

    given = None if config.label.source is None else anchor(config.label.source, started=True)
    panel = [anchored(member) for member in config.judge.panel]
    changed = {
        "model": config.model.model_copy(update={"source": anchor(config.model.source, started=True)}),
        "judge": anchored(config.judge).model_copy(update={"panel": panel}),
        "card": config.card.model_copy(update={"gold": anchor(config.card.gold)}),
        "constitution": anchor(config.constitution),
        "prompts": slices,
        "label": config.label if given is None else config.label.model_copy(update={"source": given}),
    }
    return config.model_copy(update=changed)


def _apply_override(data: dict[str, Any], text: str) -> None:
    from rlaif.core.yaml import parse_scalar

    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {text!r} is not table.field=value", remedy="for example --set ppo.kl_coef=0.1")
    table: Any = data
    while len(keys) > 1:
        key, table, keys = keys[0], table.setdefault(keys[0], {}), keys[1:]
        if isinstance(table, list):
            table, keys = _item(table, keys, f"--set {text!r}: {key}")
        if not isinstance(table, dict):
            raise ConfigError(f"--set {text!r}: {key} is a value, not a table")
    table[keys[0]] = parse_scalar(value)


def _item(items: list[Any], keys: list[str], where: str) -> tuple[Any, list[str]]:
    """The item of a list of tables that the first of the keys name, and the keys of its own field that are left.

    An item goes by its `name`, in which dots may stand, or by its place from 0.
    """
    names = [str(item.get("name", place)) if isinstance(item, dict) else str(place) for place, item in enumerate(items)]
    for n in range(1, len(keys)):
        if ".".join(keys[:n]) in names:
            return items[names.index(".".join(keys[:n]))], keys[n:]
    if len(keys) > 1 and keys[0].isdecimal() and int(keys[0]) < len(items):
        return items[int(keys[0])], keys[1:]
    raise ConfigError(
        f"{where} is a list, and {'.'.join(keys)} is no field of one of its tables",
        remedy=f"begin with the name or the place of one: {', '.join(names) or 'it has none'}",
    )


def _problem(item: Any, lines: dict[Location, int]) -> str:
    """One sentence about one pydantic error, with the line and, for an unknown key, the nearest known one."""
    location = tuple(item["loc"])
    place = _place(location, lines)
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key{near(str(location[-1]), _known_keys(location[:-1]))}"
    if item["type"] == "missing":
        example = ", such as prompts: {mine: {source: everyday, train: 100, held_out: 20}}"
        return f"{place}: this field is required{example if location == ('prompts',) else ''}"
    message, given = wrong_value(item), item["input"]
    if item["type"] in ("dict_type", "model_type"):
        message = _table_wanted(location, given)
    return f"{place}: {message}" if isinstance(given, dict) else f"{place}: {message} (given: {given!r})"


def _table_wanted(location: Location, given: Any) -> str:
    """What to write where a table belongs and a value stands."""
    source = given if isinstance(given, str) else "..."
    if location == ("prompts",):
        return f"slices belong here, such as prompts: {{mine: {{source: {source}, train: 100, held_out: 20}}}}"
    fields = _known_keys(location)
    if not fields:
        return f"a table belongs here, such as {location[-1]}: {{name: value}}"
    example = f"source: {source}" if "source" in fields else f"{fields[0]}: ..."
    return f"a table of fields belongs here, such as {location[-1]}: {{{example}}}"


def _place(location: Location, lines: dict[Location, int]) -> str:
    """ "line 6: judge.method", with the line of the innermost table or field that is known."""
    name = ".".join(map(str, location))
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    return name if line is None else f"line {line}: {name}"


def _known_keys(location: Location) -> list[str]:
    """Field names of the table at `location`; none of one that takes any."""
    if location[:1] == ("prompts",):
        return list(PromptSlice.model_fields)
    table: Any = RunConfig
    for key in location:
        kind = table if isinstance(key, int) else table.model_fields[key].annotation
        table = next(iter(get_args(kind)), kind)
    return list(getattr(table, "model_fields", ()))
