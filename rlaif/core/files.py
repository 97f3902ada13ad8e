"""Files of a run: append-only JSONL, the run folder, the stage marker, metrics.

A stage is finished <=> its `stage.json` exists; that file is written last and by atomic rename. A JSONL file is
read back to resume: a broken last line is what a crash leaves and is dropped, any other broken line is an error.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from rlaif.core.errors import DataError, DiskError, RlaifError, RunFolderError
from rlaif.core.formats import refuse_format
from rlaif.core.records import Rollout, StageRecord, content_id, from_json, to_json

R = TypeVar("R")


UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
UNUSABLE = frozenset(
    {errno.EIO, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a disk that is full, read-only or failing, and a path that cannot be one, into a DiskError that names the
    file."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE | UNUSABLE:
            raise
        other = error.filename if isinstance(error.filename, str) and error.filename != str(path) else None
        unwritable = error.errno in UNWRITABLE
        raise DiskError(
            f"cannot {'write' if unwritable else 'read or write'}: {error.strerror}" + (f" ({other})" if other else ""),
            where=str(path),
            remedy="make room or choose another folder" if unwritable else "check the path and the disk",
        ) from error


def append_to(path: Path) -> BinaryIO:
    """The file, made if it is not there, open to read and to append. Raises DiskError for a link, which could lead to
    a file of somebody else, and for what is no file, such as a pipe, which would wait for a reader for ever."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe or socket
                raise _no_file(path) from None
            raise
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise _no_file(path)
        return os.fdopen(handle, "a+b")


def _no_file(path: Path) -> DiskError:
    what = "is a link, which is not written through" if path.is_symlink() else "is no file"
    return DiskError(what, where=str(path), remedy="remove it, then run the same command with --resume")


def is_file(path: Path) -> bool:
    """Whether there is a file to read, be it by a link. Raises DiskError for what is none, such as a pipe, whose end
    may never come."""
    if path.exists() and not path.is_file():
        raise _no_file(path)
    return path.exists()


def write_atomic(path: Path, text: str) -> None:
    """Writes the whole file or nothing: a temporary file beside it, flushed to disk, then renamed. The permissions of a
    file that is replaced are kept."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        try:
            # "x" opens nothing that is there, and no link; half a character is written as JSON writes it
            with temporary.open("x", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            if path.is_file():
                shutil.copymode(path, temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_folder(path: Path, write: Callable[[Path], object], *, unless: Callable[[], bool] | None = None) -> None:
    """Puts what `write` leaves in the folder that it is given at `path`: the whole folder or nothing, on the disk
    before it has its name. What stood there is at `path.old` until then.

    One process at a time writes a folder of a run. Where several may write the same one, `unless` says at the end that
    another was faster; its folder stays.
    """
    temporary, former = path.with_name(f"{path.name}.tmp"), path.with_name(f"{path.name}.old")
    if unless is not None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        temporary.mkdir()  # fails where anything is there, be it a link
        try:
            write(temporary)
            if unless is not None and unless():
                return
            for folder, _, names in os.walk(temporary, topdown=False):
                for name in names:
                    _flush(Path(folder, name))
                _flush(Path(folder))
            if path.exists() or path.is_symlink():
                _remove(former)
                path.rename(former)
            move_folder(temporary, path)
        finally:
            _remove(temporary)  # on a full disk it would take what room is left
        _remove(former)


def move_folder(path: Path, to: Path) -> None:
    """Renames a folder that is on the disk, for good: the new name survives a power cut."""
    path.rename(to)
    _flush(to.parent)


def remove_folder(path: Path) -> None:
    """Removes the folder, which is there as a whole or not at all. Of a link, the link alone."""
    temporary = path.with_name(f"{path.name}.tmp")
    with disk_errors(path):
        _remove(temporary)
        if path.exists() or path.is_symlink():
            path.rename(temporary)
            _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Sees a file, or a folder's list of names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def refuse_existing_file(path: Path) -> None:
    """Raises RunFolderError if something is there already, be it a link that leads nowhere."""
    if path.exists() or path.is_symlink():
        raise RunFolderError("exists and is not overwritten", where=str(path), remedy="choose another name")


def read_text(path: Path, error: type[RlaifError], *, most: int | None = None) -> str:
    """The text of a UTF-8 file of at most `most` bytes, without a byte order mark, with line ends as in Unix; raises
    `error` for any other file."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise error("no such file", where=str(path), remedy="check the path") from None
    except (OSError, ValueError) as problem:
        what = problem.strerror if isinstance(problem, OSError) else problem
        raise error(f"cannot be read: {what}", where=str(path), remedy="give a file") from None
    if most is not None and len(raw) > most:
        raise error(f"{len(raw):,} bytes is more than {most:,}", where=str(path), remedy="split the file")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as problem:
        line = raw.count(b"\n", 0, problem.start) + 1
        raise error("is not UTF-8 text", where=f"{path}:{line}", remedy="save the file as UTF-8") from None


def file_hash(path: Path) -> str:
    """First 16 hex characters of the SHA-256 of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def path_hash(path: Path) -> str:
    """Hash of a file, or of the names and contents of all files in a folder (hidden ones, which a crash may leave,
    aside); "missing" if there is neither."""
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        return "missing"
    files = sorted(item for item in path.rglob("*") if item.is_file() and item.name[0] != ".")
    return content_id([(str(item.relative_to(path)), file_hash(item)) for item in files])


def parse_json(text: str) -> Any:
    """What the JSON says. A whole number that no float can hold is infinite, as 1e400 is, so that no sum meets it.

    Raises ValueError for what is no JSON or nested too deep.
    """
    try:
        return json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("is nested too deep") from None


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < 300 else float(digits)


def read_json_lines(path: Path, *, drop_broken_tail: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line number, object) of every line that is not blank.

    A broken line raises DataError with file and line; with `drop_broken_tail` a last line without its newline is
    taken for the trace of a crash and skipped.
    """
    import jsonlines

    number = 0
    with path.open("rb") as file:

        def lines() -> Iterator[bytes]:
            nonlocal number
            for number, raw in enumerate(file, start=1):  # noqa: B007 - read below, when an object comes of the line
                if drop_broken_tail and not raw.endswith(b"\n"):
                    return
                yield raw if raw.strip() else b"\n"

        try:
            for value in jsonlines.Reader(lines(), loads=parse_json).iter(skip_empty=True):
                if not isinstance(value, dict):
                    raise DataError("is not a JSON object", where=f"{path}:{number}", remedy='write {"prompt": "..."}')
                yield number, value
        except (jsonlines.InvalidLineError, UnicodeDecodeError) as problem:
            cause = problem.__cause__ or problem
            reason, remedy = "not UTF-8 text", "save the file as UTF-8, or mend this line"
            if not isinstance(cause, UnicodeDecodeError):
                reason = getattr(cause, "msg", str(cause))
                remedy = "every line holds one JSON object; mend or remove this line"
            raise DataError(f"is not a line of JSON ({reason})", where=f"{path}:{number}", remedy=remedy) from None


class JsonlFile(Generic[R]):
    """An append-only JSONL file of one kind of record. Readable by `datasets.load_dataset("json")`.

    `read` makes the record of a line, where its lines are not the record field by field."""

    def __init__(self, path: Path, kind: type[R], read: Callable[[dict[str, Any]], R] | None = None) -> None:
        self.path, self.kind = path, kind
        self._of_line = partial(from_json, kind) if read is None else read

    def read(self) -> list[R]:
        """All records in file order; [] where there is no file yet. A half-written last line is dropped."""
        return list(self)

    def __iter__(self) -> Iterator[R]:
        """The same records one at a time, for files that are larger than memory."""
        if not is_file(self.path):
            return
        for number, data in read_json_lines(self.path, drop_broken_tail=True):
            try:
                yield self._of_line(data)
            except ValueError as problem:
                first = str(problem).splitlines()
                raise DataError(
                    f"is not a {self.kind.__name__}: {' '.join(part.strip() for part in first[1:3])}",
                    where=f"{self.path}:{number}",
                    remedy="mend the line, or move the file away and run the stage again",
                ) from None

    def append(self, records: Iterable[R]) -> None:
        """Adds records and flushes them to disk, after cutting off what a crash left of a last line. Without any there
        is no file: `datasets` cannot load an empty one."""
        text = _lines(records)
        if not text:
            return
        with disk_errors(self.path), append_to(self.path) as file:
            _cut_broken_tail(file)
            start = file.tell()
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise

    def replace(self, records: Iterable[R]) -> None:
        """Writes the file anew with these records: all of it, or it stays as it was."""
        write_atomic(self.path, _lines(records).decode("utf-8"))


def _lines(records: Iterable[object]) -> bytes:
    """The records as they stand in the file; what is no UTF-8 is written as an escape."""
    text = "".join(json.dumps(to_json(record), ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", "backslashreplace")


def _cut_broken_tail(file: Any) -> None:
    """Truncates an open binary file after its last newline and leaves the position at the end."""
    size = file.seek(0, os.SEEK_END)
    end = size
    while end > 0:
        step = min(65536, end)
        file.seek(end - step)
        found = file.read(step).rfind(b"\n")
        if found >= 0:
            end = end - step + found + 1
            break
        end -= step
    if end != size:
        file.truncate(end)
    file.seek(0, os.SEEK_END)


class MetricsLog:
    """`metrics.jsonl` of a stage: one flat object per step. `also` is shown each row once it is on the disk."""

    def __init__(self, path: Path, also: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.path, self.also = path, also

    def append(self, **values: float | int | str | None) -> None:
        with disk_errors(self.path), append_to(self.path) as file:
            _cut_broken_tail(file)
            file.write((json.dumps(values) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())  # before the checkpoint that says the step is done
        if self.also is not None:
            self.also(values)

    def read(self) -> list[dict[str, Any]]:
        """The rows, whose `step` is a number where they have one; raises DataError naming the line of another."""
        if not is_file(self.path):
            return []
        rows = []
        for number, row in read_json_lines(self.path, drop_broken_tail=True):
            if isinstance(row.get("step", 0), bool) or not isinstance(row.get("step", 0), int | float):
                raise DataError(
                    "has a step that is no number", where=f"{self.path}:{number}", remedy="mend or remove this line"
                )
            rows.append(row)
        return rows

    def keep_before(self, step: int) -> None:
        """Drops rows with `step` >= the given one: what an interrupted stage logged after its last checkpoint."""
        rows = [row for row in self.read() if row.get("step", 0) < step]
        if self.path.exists():
            write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in rows))


def read_record(path: Path, kind: type[R], what: str, stage: str) -> R:
    """The record in a JSON file that `stage` wrote; raises DataError naming the field that is wrong. `what`: it is."""
    try:
        return from_json(kind, parse_json(path.read_text(encoding="utf-8")))
    except ValueError as problem:
        raise DataError(
            f"is not {what}: {' '.join(part.strip() for part in str(problem).splitlines()[:3])}",
            where=str(path),
            remedy=f"run the stage again: rlaif {stage} --force",
        ) from None


class RunFolder:
    """`runs/<name>/`: config, constitution, templates, a folder per stage, the cache and the report."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def config_path(self) -> Path:
        return self.root / "config.yaml"

    @property
    def constitution_path(self) -> Path:
        return self.root / "constitution.yaml"

    @property
    def templates_path(self) -> Path:
        return self.root / "templates"

    @property
    def cache_path(self) -> Path:
        return self.root / "cache"

    @property
    def report_path(self) -> Path:
        return self.root / "report.html"

    def stage(self, name: str) -> Path:
        """The stage's folder, made if needed."""
        path = self.root / name
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def file(self, stage: str, name: str) -> Path:
        return self.root / stage / name

    def rollouts(self) -> JsonlFile[Rollout]:
        """The responses that `ppo` keeps of its steps, to be read."""
        return JsonlFile(self.file("ppo", "rollouts.jsonl"), Rollout, Rollout.of_row)

    def record(self, stage: str) -> StageRecord | None:
        """The stage's record, or None while it is not finished."""
        path = self.root / stage / "stage.json"
        return read_record(path, StageRecord, "a stage record", stage) if path.exists() else None

    def finish(self, record: StageRecord) -> None:
        """Marks the stage as finished."""
        path = self.root / record.stage / "stage.json"
        write_atomic(path, json.dumps(to_json(record), indent=1, ensure_ascii=False))

    def clear(self, stage: str) -> None:
        """Removes everything the stage wrote (its marker first, so that a crash in between leaves it unfinished)."""
        folder = self.root / stage
        if folder.is_symlink():  # what it leads to is not ours
            folder.unlink()
            return
        (folder / "stage.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the run for one process; a second one gets a RunFolderError. The lock dies with its process."""
        with self._locked(".lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    @contextmanager
    def shared_lock(self) -> Iterator[None]:
        """Holds the run for the shards that work in it side by side; `lock` and this exclude each other."""
        with self._locked(".lock", fcntl.LOCK_SH | fcntl.LOCK_NB):
            yield

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Lets one shard at a time begin; the others wait for the moment that it takes."""
        with self._locked(".turn", fcntl.LOCK_EX):
            yield

    @contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        handle = append_to(self.root / name)
        try:
            try:
                fcntl.flock(handle, how)
            except BlockingIOError:
                raise RunFolderError(
                    "another rlaif process works in this run folder",
                    where=str(self.root),
                    remedy="wait for it, or choose another folder with --out",
                ) from None
            except OSError as problem:
                raise DiskError(
                    f"the file system locks no files: {problem.strerror}",
                    where=str(self.root / name),
                    remedy="choose a folder on another disk, or mount this one with locks (flock)",
                ) from None
            yield
        finally:
            handle.close()


def refuse_no_run(folder: Path) -> None:
    """Raises RunFolderError unless the folder is a run, and ConfigError for one in a format that cannot be read."""
    config = folder / "config.yaml"
    if not config.is_file():
        raise RunFolderError(
            "is not a run of rlaif",
            where=str(folder),
            remedy="give the folder that --out named; without --out it is runs/<name of the config>",
        )
    for number, line in enumerate(config.read_text("utf-8", "replace").splitlines(), start=1):
        if found := re.match(r"format: *(\d+)", line):
            refuse_format(int(found[1]), f"{config}:{number}")
