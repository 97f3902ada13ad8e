"""Working through items in fixed chunks, so that a killed stage resumes with the same batches and records.

The chunks are cut from the whole list before anything is skipped: what a model is asked together never depends on
where the last session died. A chunk whose records are all on disk is not asked again. A shard of a stage takes whole
chunks, so it asks what one process would have asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rlaif.core.errors import BudgetError
from rlaif.core.files import JsonlFile
from rlaif.core.progress import Task
from rlaif.core.records import FailedAnswer, Failure, Prompt, Response
from rlaif.lm.protocol import GenerateRequest, Generation

Item = TypeVar("Item")
R = TypeVar("R")


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """The items in runs of `size`; the last one may be shorter."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def resume(
    parts: Sequence[Sequence[Item]],
    *,
    files: Sequence[JsonlFile[Any]],
    keys: Callable[[Item], Sequence[Hashable]],
    key_of: Callable[[R], Hashable],
    work: Callable[[Sequence[Item]], Sequence[R]],
    task: Task,
) -> list[R]:
    """All records of the items of the `parts`, from the `files` or by `work`, in the order of the items.

    `keys(item)` are the keys of the records that an item leaves, `key_of(record)` the key of a record. Records that
    `work` returns are appended part by part, each to the file of its kind; those that a crash left behind of a
    part are not written twice. A failure is a record too: an item without any would be asked again at every start.
    """
    known: dict[Hashable, R] = {key_of(record): record for file in files for record in file}
    items = [item for part in parts for item in part]
    for chunk in parts:
        if any(key not in known for item in chunk for key in keys(item)):
            try:
                made = {key_of(record): record for record in work(chunk)}
            except BudgetError as spent:
                left = sum(any(key not in known for key in keys(item)) for item in items)
                raise BudgetError(
                    f"{spent.what}; {left:,} of {len(items):,} items of the stage are left",
                    where=spent.where,
                    remedy=spent.remedy,
                ) from None
            fresh = {key: record for key, record in made.items() if key not in known}
            for file in files:
                rows = [record for record in fresh.values() if isinstance(record, file.kind)]
                if rows:
                    file.append(rows)
            known |= fresh
        task.advance(len(chunk))
    wanted = dict.fromkeys(key for item in items for key in keys(item))
    return [known[key] for key in wanted if key in known]


def failed_answers(folder: Path) -> JsonlFile[FailedAnswer]:
    """The file of a stage folder that keeps what the policy could not answer."""
    return JsonlFile(folder / "failures.jsonl", FailedAnswer)


def answer_record(prompt: Prompt, model: str, request: GenerateRequest, answer: Generation) -> Response | FailedAnswer:
    """The record of what `model` answered to the prompt, or of why it did not."""
    if answer.text is None:
        failure = answer.failure or Failure("backend", "no text and no reason")
        return FailedAnswer(prompt.id, model, request.seed, failure)
    return Response(prompt.id, answer.text, model, request.seed, request.temperature, answer.finish, answer.n_tokens)


def commonest(answers: Sequence[FailedAnswer]) -> str:
    """The end of a sentence that names the commonest kind of failure with the reason of its first; "" for none."""
    if not answers:
        return ""
    (kind, number), *_ = Counter(answer.failure.kind for answer in answers).most_common(1)
    reason = next(answer.failure.reason for answer in answers if answer.failure.kind == kind)
    return f"; {number} of the {len(answers)} failures are {kind}: {reason}"
