"""Answers kept in an SQLite file, so that no question is paid for twice: not after a crash, not by a second run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rlaif.errors import DataError, DiskError, RunFolderError
from rlaif.lm.protocol import (
    ChoiceLogprobs,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    LanguageModel,
    ResponseLogprobs,
    ScoreRequest,
)
from rlaif.records import content_id, from_json, to_json
from rlaif.store import disk_errors

Q = TypeVar("Q", GenerateRequest, ChoiceRequest, ScoreRequest)
A = TypeVar("A", Generation, ChoiceLogprobs, ResponseLogprobs)

_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_KEYS_PER_QUERY = 500
REQUESTS_PER_CALL = 256
"""What a kill or a server that goes down can cost at most: the answers of one inner call."""


class CachedModel:
    """`inner` with its answers kept in the file `path`; several processes may share the file.

    A key is the content of (the inner model's fingerprint, the kind of call, every field of the request); seeds are
    among the fields, so sampling is cached too. Failures are never kept: the next run asks again. Equal requests of a
    batch are asked once, at most REQUESTS_PER_CALL in one inner call, and the answers of each inner call are on disk,
    in one transaction, before the next one begins. `usage` is the inner model's, with `cached` counting the answers
    that cost nothing.

    Raises DataError for a file that is not such a cache or is damaged, DiskError if it cannot be written.
    """

    def __init__(self, inner: LanguageModel, path: Path) -> None:
        self.inner, self.path = inner, path
        self.name, self.fingerprint, self.usage = inner.name, inner.fingerprint, inner.usage
        self._closed = False
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        return self._answers("generate", requests, Generation, self.inner.generate)

    def choice_logprobs(self, requests: Sequence[ChoiceRequest]) -> list[ChoiceLogprobs]:
        return self._answers("choice_logprobs", requests, ChoiceLogprobs, self.inner.choice_logprobs)

    def response_logprobs(self, requests: Sequence[ScoreRequest]) -> list[ResponseLogprobs]:
        return self._answers("response_logprobs", requests, ResponseLogprobs, self.inner.response_logprobs)

    def close(self) -> None:
        """Closes file and model; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._database.close()
            self.inner.close()

    def _answers(
        self, call: str, requests: Sequence[Q], kind: type[A], ask: Callable[[Sequence[Q]], list[A]]
    ) -> list[A]:
        """The answers in the order of the requests, asking the inner model only for what the file lacks."""
        keys = [content_id(self.fingerprint, call, request) for request in requests]
        known = self._read(keys, kind)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        todo = list(missing)
        for start in range(0, len(todo), REQUESTS_PER_CALL):
            part = todo[start : start + REQUESTS_PER_CALL]
            fresh = dict(zip(part, ask([missing[key] for key in part]), strict=True))
            self._write({key: answer for key, answer in fresh.items() if answer.failure is None})
            known |= fresh
        self.usage.cached += len(requests) - len(missing)
        return [known[key] for key in keys]

    def _read(self, keys: Sequence[str], kind: type[A]) -> dict[str, A]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, A] = {}
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            part = wanted[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            with self._errors():
                rows = self._database.execute(
                    f"SELECT key, answer FROM answers WHERE key IN ({marks})", part
                ).fetchall()
            try:
                found |= {key: from_json(kind, json.loads(answer)) for key, answer in rows}
            except ValueError:
                raise self._damaged("holds an answer that cannot be read") from None
        return found

    def _write(self, answers: dict[str, A]) -> None:
        rows = [(key, json.dumps(to_json(answer))) for key, answer in answers.items()]
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                # another process may have asked the same meanwhile: the first answer stays
                self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns what SQLite says about the file into an error that the user can act on."""
        try:
            yield
        except sqlite3.ProgrammingError:  # a mistake in this code, for example use after close
            raise
        except sqlite3.DatabaseError as problem:
            code = getattr(problem, "sqlite_errorcode", 0) & 0xFF  # the rest is detail
            if code in _DISK:
                raise DiskError(
                    f"cannot write the cache: {problem}",
                    where=str(self.path),
                    remedy="make room or choose another folder, then run the same command with --resume",
                ) from None
            if code in _BUSY:
                raise RunFolderError(
                    "another process has held the cache for over a minute",
                    where=str(self.path),
                    remedy="wait for it to end, then run the same command with --resume",
                ) from None
            raise self._damaged(f"is damaged or not a cache ({problem})") from None

    def _damaged(self, what: str) -> DataError:
        return DataError(
            f"the cache {what}",
            where=str(self.path),
            remedy="delete the file; its answers will be asked again, everything else in the run folder stays",
        )
