"""Working through items in fixed chunks, so that a killed stage resumes with the same batches and records.

The chunks are cut from the whole list before anything is skipped: what a model is asked together never depends on
where the last session died. A chunk whose records are all on disk is not asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

from rlaif.progress import Task
from rlaif.store import JsonlFile

Item = TypeVar("Item")
R = TypeVar("R")


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """The items in runs of `size`; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def resume(
    items: Sequence[Item],
    *,
    size: int,
    file: JsonlFile[R],
    keys: Callable[[Item], Sequence[Hashable]],
    key_of: Callable[[R], Hashable],
    work: Callable[[Sequence[Item]], Sequence[R]],
    task: Task,
) -> list[R]:
    """All records of `items`, from `file` or by `work`, in the order of the items.

    `keys(item)` are the keys of the records that an item leaves, `key_of(record)` the key of a record. Records that
    `work` returns are appended chunk by chunk, those that a crash left behind of a chunk are not written twice.
    """
    known = {key_of(record): record for record in file.read()}
    for chunk in chunks(items, size):
        wanted = [key for item in chunk for key in keys(item)]
        if any(key not in known for key in wanted):
            fresh = [record for record in work(chunk) if key_of(record) not in known]
            file.append(fresh)
            known.update((key_of(record), record) for record in fresh)
        task.advance(len(chunk))
    return [known[key] for item in items for key in keys(item) if key in known]
