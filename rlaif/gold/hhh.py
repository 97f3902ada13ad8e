"""Anthropic's HHH pairs ("A General Language Assistant as a Laboratory for Alignment", arXiv 2112.00861): two answers
to one conversation, of which people marked the more helpful, honest or harmless one.

They are read from the installed package bigbench, from the hub's HuggingFaceH4/hhh_alignment, or from a folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.core.errors import DataError
from rlaif.core.files import parse_json, read_text
from rlaif.core.records import Message
from rlaif.gold.packages import BIGBENCH, GoldMissing, package_folder
from rlaif.inputs.conversations import filled_text, prompt_of
from rlaif.inputs.rows import NumberedRow, read_rows
from rlaif.lm.local.hub import data_files

CATEGORIES = ("harmless", "helpful", "honest", "other")
HUB, REVISION = "HuggingFaceH4/hhh_alignment", "refs/convert/parquet"
TASK, TABLE = "task.json", "test/0000.parquet"
"""The file of a category in its folder: as BIG-bench has it, and as the hub does."""


@dataclass(frozen=True, slots=True)
class HhhPair:
    """Two answers to a conversation, and the category in which people compared them."""

    category: str
    messages: tuple[Message, ...]
    better: str
    worse: str


def read_hhh(folder: Path | None = None) -> list[HhhPair]:
    """The pairs in `folder`, which has a folder for each category; without one of the installed bigbench, else of the
    hub. In the order of the categories and of their files.

    Raises GoldMissing, which names the three ways, where none leads to them, and DataError for a file that is not one
    of theirs.
    """
    files = _found() if folder is None else _in(folder)
    if files is None:
        what = "the HHH pairs are not on this machine, and the hub does not give them"
        raise GoldMissing(
            what if folder is None else f"does not hold {', '.join(f'{c}/{TASK}' for c in CATEGORIES)}",
            where="--gold hhh" if folder is None else str(folder),
            remedy=f"one of three ways: a connection, once, for the hub's {HUB}; {BIGBENCH.install} (358 MB); or "
            "--gold hhh:FOLDER with BIG-bench's folder benchmark_tasks/hhh_alignment",
        )
    return [pair for category, file in zip(CATEGORIES, files, strict=True) for pair in _pairs(category, file)]


def _found() -> list[Path] | None:
    """The files of the four categories: installed, or from the hub."""
    try:
        installed = _in(package_folder(BIGBENCH) / "benchmark_tasks/hhh_alignment")
    except GoldMissing:
        installed = None
    return installed or data_files(HUB, [f"{category}/{TABLE}" for category in CATEGORIES], revision=REVISION)


def _in(folder: Path) -> list[Path] | None:
    for name in (TASK, TABLE):
        files = [folder / category / name for category in CATEGORIES]
        if all(file.is_file() for file in files):
            return files
    return None


def _pairs(category: str, file: Path) -> Iterator[HhhPair]:
    for number, row in _rows(file):
        try:
            text = filled_text(row.get("input"), "input", "a conversation")
            better, worse = _answers(row)
            # The text is a conversation that begins with the person's words and no name before them.
            messages, given = prompt_of({"prompt": f"Human: {text}\n\nAssistant:"})
            if given:
                raise DataError("does not end with the person's words", where="input")
        except DataError as problem:
            at = f": {problem.where}" if problem.where else ""
            raise DataError(problem.what, where=f"{file}: record {number}{at}", remedy=_GET_AGAIN) from None
        yield HhhPair(category, messages, better, worse)


def _rows(file: Path) -> Iterator[NumberedRow]:
    if file.name != TASK:
        yield from read_rows(file)
        return
    try:
        examples = parse_json(read_text(file, DataError))["examples"]
    except (ValueError, KeyError, TypeError):
        raise DataError("is no task of BIG-bench with examples", where=str(file), remedy=_GET_AGAIN) from None
    for number, row in enumerate(examples, start=1):
        if not isinstance(row, dict):
            raise DataError("is no object", where=f"{file}: record {number}", remedy=_GET_AGAIN)
        yield number, row


_GET_AGAIN = "get the file again; it is used as it comes"


def _answers(row: dict[str, Any]) -> tuple[str, str]:
    """The better and the worse answer."""
    match row:
        case {"target_scores": {**scores}}:
            marked = list(scores.items())
        case {"targets": {"choices": [*choices], "labels": [*labels]}} if len(choices) == len(labels):
            marked = list(zip(choices, labels, strict=True))
        case _:
            marked = []
    texts = {label: text for text, label in marked}
    if len(marked) != 2 or texts.keys() != {0, 1}:
        raise DataError("does not mark one of two answers as the better one")
    return filled_text(texts[1], "answer", "an answer"), filled_text(texts[0], "answer", "an answer")
