"""Edits of a constitution's text by program: what is not edited stays as it is, byte for byte.

ruamel's round trip makes the lines of what is edited, and only those are taken over (`change_yaml`). The result is read
again: if it does not mean exactly what was asked, or a comment is lost, nothing is done.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rlaif.constitution.compose import VERSION, compose, compose_text, find
from rlaif.constitution.format import ConstitutionFile, PrincipleEntry
from rlaif.constitution.load import as_record
from rlaif.core.errors import ConstitutionError, near
from rlaif.core.files import write_atomic
from rlaif.core.records import Constitution
from rlaif.core.yaml import REMOVED, Keys, change_yaml, comments, parse_scalar, parse_yaml, spans

_TEXTS = "id statement rationale critique revision comparison followed violated prompt better worse"
TEXTS = frozenset([*_TEXTS.split(), "name", "version", "description"])
"""Fields that hold one text: what stands behind "=" is taken as it is."""
EMPTIED = frozenset({"critique", "revision", "comparison", "contrast"})
"""Fields in which an override may say null: the included principle's own is taken away."""
_FIRST = ("id", "override", "statement")
ORDER = (*_FIRST, *(name for name in PrincipleEntry.model_fields if name not in _FIRST))
"""In which a principle's fields stand, for one that is put in."""
DEEPEST = 5
"""Keys of a change at most: PRINCIPLE.contrast.examples.0.prompt."""


@dataclass(frozen=True, slots=True)
class FieldEdit:
    """One field set: `keys` within the principle, or within the file if `principle` is None; None removes it."""

    principle: str | None
    keys: Keys
    value: Any

    @property
    def name(self) -> str:
        return ".".join(map(str, self.keys if self.principle is None else (self.principle, *self.keys)))


@dataclass(frozen=True, slots=True)
class EditResult:
    """The constitution before and after an edit, and whether the file is another one now."""

    old: Constitution
    new: Constitution
    written: bool


def parse_change(text: str) -> FieldEdit:
    """The change in "no-crime.weight=2" or "version=2". Texts are taken literally, but may be in YAML's quotes; other
    values are YAML; null removes the field."""
    name, equals, value = text.partition("=")
    first, *rest = name.strip().split(".")
    keys = [first, *(int(key) if re.fullmatch(r"[0-9]{1,6}", key) else key for key in rest)]
    whole = len(keys) == 1 and keys[0] in ConstitutionFile.model_fields and keys[0] != "principles"
    good = all(re.fullmatch(r"[\w-]+", str(key)) for key in keys) and (whole or 2 <= len(keys) <= DEEPEST)
    if not equals or not good:
        raise ConstitutionError(
            f"{text!r} is not PRINCIPLE.FIELD=VALUE", remedy='for example no-crime.weight=2, or version="2"'
        )
    parsed: Any = parse_scalar(value)
    if keys[-1] in TEXTS and parsed is not None and not (isinstance(parsed, str) and value.strip()[:1] in ('"', "'")):
        parsed = value.strip()
    return FieldEdit(None, tuple(keys), parsed) if whole else FieldEdit(str(keys[0]), tuple(keys[1:]), parsed)


def edit_file(path: Path, edit: Callable[[str, Path], str]) -> EditResult:
    """The constitution before and after `edit`, a function of the file's text and path, has changed the text.

    The file is written in one step, and only if what comes out of it loads; the errors are those of `compose`. A link
    stays a link: what it leads to is written.
    """
    if find(path) != path or path.suffix not in (".yaml", ".yml"):
        raise ConstitutionError(
            "is not a constitution file of yours", where=str(path), remedy="give a file that ends in .yaml"
        )
    old = as_record(compose(path))
    raw = path.read_bytes().decode("utf-8")
    windows = raw.count("\r\n") == raw.count("\n") > 0
    text = raw.replace("\r\n", "\n") if windows else raw
    start = "\ufeff" if text.startswith("\ufeff") else ""
    text = text.removeprefix(start)
    changed = edit(text, path)
    new = as_record(compose_text(changed, path))
    if changed != text:
        target = path.resolve()
        if not target.stat().st_mode & stat.S_IWUSR or not os.access(target, os.W_OK):
            raise ConstitutionError("is read-only", where=str(path), remedy="allow writing: chmod u+w, or edit a copy")
        write_atomic(target, start + (changed.replace("\n", "\r\n") if windows else changed))
    return EditResult(old, new, changed != text)


def with_changes(text: str, path: Path, changes: Iterable[FieldEdit]) -> str:
    """The text with every change made, in their order. A principle that the file only includes gets an entry with
    `override: true`. Whether the result loads is not looked at."""

    @cache
    def composed(before: str = text) -> dict[str, PrincipleEntry]:
        return {written.entry.id: written.entry for written in compose_text(before, path).principles}

    for change in changes:
        text = _with_change(text, path, change, composed)
    return text


def with_principle(text: str, path: Path, entry: Mapping[str, Any]) -> str:
    """The text with one more principle, the last of its list."""
    data = _data(text, path)
    entries = data.get("principles") or []
    wanted = {**data, "principles": [*entries, dict(entry)]}
    where: Keys = ("principles", len(entries)) if entries else ("principles",)
    changed = change_yaml(text, where, dict(entry) if entries else [dict(entry)])
    if len(entries) > 1 and (start := _line_of_entry(text, len(entries) - 1)) and text[:start].endswith("\n\n"):
        start = _line_of_entry(changed, len(entries))  # blank lines between those that are there
        changed = f"{changed[:start]}\n{changed[start:]}"
    return _checked(changed, wanted, text, where, path, f"principle {entry.get('id')!r}")


def without_principle(text: str, path: Path, id: str) -> str:
    """The text without that principle of the file's own. Comments above it stay; they may be about more than it."""
    data = _data(text, path)
    number = _number(data, id)
    if number is None:
        own = [entry["id"] for entry in data.get("principles") or []]
        raise ConstitutionError(
            f"there is no principle {id!r} in this file{near(id, own)}",
            where=str(path),
            remedy=f"an included one is left out by disable: [{id}]",
        )
    rest = [entry for entry in data["principles"] if entry["id"] != id]
    where: Keys = ("principles", number) if rest else ("principles",)
    changed = change_yaml(text, where, REMOVED if rest else [])
    start = _line_of_entry(text, number)
    if rest and text[:start].endswith("\n\n") and changed.startswith(text[:start]):
        changed = changed[: start - 1] + changed[start:]  # the blank line above it
    return _checked(changed, {**data, "principles": rest}, text, where, path, f"principle {id!r}")


def _with_change(text: str, path: Path, change: FieldEdit, composed: Callable[[], Mapping[str, PrincipleEntry]]) -> str:
    """`composed`: the principles of the file and those that it includes, as they were at first."""
    data = _data(text, path)
    keys, value = change.keys, change.value
    if change.principle is None:
        order: Sequence[str] = tuple(ConstitutionFile.model_fields)
        return _set(text, data, path, (), keys, REMOVED if value is None else value, order)
    number = _number(data, change.principle)
    if number is None and change.principle not in composed():
        hint, known = near(change.principle, composed()), ", ".join(composed())
        what = f"there is no principle {change.principle!r}{hint}"
        raise ConstitutionError(what, where=str(path), remedy=f"there are: {known}")
    entry = {} if number is None else data["principles"][number]
    override = number is None or entry.get("override") is True
    if override and value is None and keys[0] not in entry and keys[0] not in EMPTIED:
        what = f"{change.name} is not given in this file, so there is nothing to remove"
        raise ConstitutionError(what, where=str(path), remedy="give the value that it should have here")
    if override and keys[0] not in entry:  # as a whole, because an override replaces each field as a whole
        base = composed()[change.principle].model_dump(exclude_defaults=True)
        value = _changed({str(keys[0]): base.get(str(keys[0]))}, keys, value, path)[keys[0]]
        keys = keys[:1]
    if number is None:
        return with_principle(text, path, {"id": change.principle, "override": True, str(keys[0]): value})
    removed = value is None and not (override and keys[-1] in EMPTIED)
    return _set(text, data, path, ("principles", number), keys, REMOVED if removed else value, ORDER)


def _set(text: str, data: Any, path: Path, at: Keys, keys: Keys, value: Any, order: Sequence[str]) -> str:
    """The text with a value under `keys` within `at` set, put in or removed."""
    wanted = _changed(data, (*at, *keys), value, path)
    if _form(wanted) == _form(data):
        return text
    whole = (*at, *keys)
    while len(whole) > len(at) + 1 and not _at(data, whole[:-1]):  # the table around it is not there yet
        value, whole = {whole[-1]: value}, whole[:-1]
    changed = change_yaml(text, whole, value, order=order if whole[:-1] == at else ())
    return _checked(changed, wanted, text, whole, path, ".".join(map(str, keys)))


# --- the data ---------------------------------------------------------------------------------------------------------


def _data(text: str, path: Path) -> Any:
    return parse_yaml(text, str(path), ConstitutionError, as_text=VERSION)[0]


def _number(data: Any, id: str) -> int | None:
    return next((n for n, entry in enumerate(data.get("principles") or ()) if entry.get("id") == id), None)


def _changed(data: Any, keys: Sequence[Any], value: Any, path: Path) -> Any:
    """A copy of the data with the value at `keys`, or without it for REMOVED."""
    data = deepcopy(data)
    table: Any = data
    for depth, key in enumerate(keys):
        if isinstance(table, list) and not (isinstance(key, int) and key < len(table)):
            name = ".".join(map(str, keys[:depth]))
            raise ConstitutionError(
                f"{name} has {len(table)} parts and no number {key}", where=str(path), remedy="they count from 0"
            )
        if not isinstance(table, dict | list):
            name = ".".join(map(str, keys[:depth]))
            raise ConstitutionError(f"{name} is a value, it has no field {key!r}", where=str(path))
        if depth < len(keys) - 1:
            if isinstance(table, dict) and table.get(str(key)) is None:
                table[str(key)] = {}
            table = table[key]
        elif value is REMOVED:
            table.pop(key) if isinstance(table, list) else table.pop(key, None)
        else:
            table[key] = value
    return data


def _at(data: Any, keys: Keys) -> Any:
    """What stands under the keys; None if nothing does."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else data[int(key)]
        if data is None:
            break
    return data


def _checked(changed: str, wanted: Any, text: str, where: Keys, path: Path, name: str) -> str:
    """The changed text if it means what was wanted and has every comment, but for those within what was changed."""
    try:
        good = _form(_data(changed, path)) == _form(wanted)
    except ConstitutionError:
        good = False
    if good:
        at = spans(text).get(where)
        own = "" if at is None else text[at.key : text.find("\n", at.end) if "\n" in text[at.end :] else len(text)]
        lost = Counter(comments(text)) - Counter(comments(changed))
        good = all(own.count(comment) >= count for comment, count in lost.items())
    if good:
        return changed
    raise ConstitutionError(
        f"{name}: the file is laid out in a way in which this cannot be changed by program",
        where=str(path),
        remedy="change it by hand; the file is as it was",
    )


def _form(data: Any) -> str:
    """Equal for data that mean the same; 1, 1.0 and true do not."""
    return json.dumps(data, sort_keys=True, default=repr)


def _line_of_entry(text: str, number: int) -> int:
    """Where the line begins in which a principle of the file begins."""
    return text.rfind("\n", 0, spans(text)["principles", number].key) + 1
