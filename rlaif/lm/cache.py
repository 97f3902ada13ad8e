"""Answers kept in an SQLite file, so that no question is paid for twice: not after a crash, not by a second run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from rlaif.core.errors import BackendError, DataError, DiskError, RunFolderError
from rlaif.core.files import disk_errors, parse_json
from rlaif.core.records import content_id, from_json, to_json
from rlaif.lm.budget import Budget
from rlaif.lm.protocol import (
    A,
    ArrivingModel,
    ChoiceLogprobs,
    ChoiceRequest,
    DecisionRequest,
    Decisions,
    GenerateRequest,
    Generation,
    LanguageModel,
    ModelAnswer,
    Request,
    RequestFor,
    ResponseLogprobs,
    ScoreRequest,
    Usage,
    content_of,
)

_DISK = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_KEYS_PER_QUERY = 500
_ROUNDING = 1e-3
"""What a log-probability near 0 may come out above it by rounding."""
REQUESTS_PER_CALL = 256
"""Requests in one call of a model that answers a call as a whole: a kill costs no more answers than that. From a
server answers arrive one by one, and a kill costs at most those that were in flight."""
_COUNTED = ("calls", "prompt_tokens", "generated_tokens")
_OF_WORK = (*_COUNTED, "scored_tokens")
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS spent (model TEXT PRIMARY KEY, calls INTEGER NOT NULL DEFAULT 0,
    prompt_tokens INTEGER NOT NULL DEFAULT 0, generated_tokens INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS works (work TEXT PRIMARY KEY, calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    generated_tokens INTEGER NOT NULL, scored_tokens INTEGER NOT NULL);
"""


def spent_on(path: Path, work: str) -> Usage:
    """What the cache `path` says that was asked for the work, by all sessions and models; nothing without a file."""
    if not path.exists():
        return Usage()
    with closing(_open(path)) as database:
        row = database.execute(f"SELECT {', '.join(_OF_WORK)} FROM works WHERE work = ?", (work,)).fetchone()
    return Usage() if row is None else Usage(**dict(zip(_OF_WORK, row, strict=True)))


def take_in(path: Path, other: Path) -> None:
    """Moves the answers and the counts of the cache `other` into the cache `path`; then `other` is gone, so that what
    it spent is counted once, whatever is asked in its place later.

    What `other` spent was for works that it names: where `path` knows them all, a kill came before the removal, and
    nothing is counted again.
    """
    if not other.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sqlite_errors(other):
        source = _open(other)

    def rows(table: str, *columns: str) -> Iterator[tuple[Any, ...]]:
        with _sqlite_errors(other):  # damage in the one is not said of the other
            yield from source.execute(f"SELECT {', '.join(columns)} FROM {table}")

    with closing(source), _sqlite_errors(path), closing(_open(path)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows("answers", "key", "answer"))
        known = {work for (work,) in database.execute("SELECT work FROM works")}
        fresh = [row for row in rows("works", "work", *_OF_WORK) if row[0] not in known]
        database.executemany(f"INSERT INTO works (work, {', '.join(_OF_WORK)}) VALUES (?, ?, ?, ?, ?)", fresh)
        if fresh:
            database.executemany(
                f"INSERT INTO spent (model, {', '.join(_COUNTED)}) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (model) DO UPDATE SET " + ", ".join(f"{n} = {n} + excluded.{n}" for n in _COUNTED),
                rows("spent", "model", *_COUNTED),
            )
        database.execute("COMMIT")
    with disk_errors(other):
        other.unlink()


def settle(path: Path) -> None:
    """Puts into the cache itself what a kill left of its log, so that it can be read as it lies."""
    if path.exists():
        with _sqlite_errors(path), closing(_open(path)):
            pass


def _open(path: Path) -> sqlite3.Connection:
    # one thread at a time, and not always the same one: a server's requests are answered each by its own
    database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    # a kill loses nothing that was written; only a power cut may cost the last answers
    database.execute("PRAGMA synchronous=NORMAL")
    database.executescript(_TABLES)
    return database


def request_key(fingerprint: str, request: Request) -> str:
    """What the answer to the request is kept under: the content of model, kind of call and every field."""
    return content_id(fingerprint, _KINDS[type(request)].call, content_of(request))


class _Kind(NamedTuple):
    """What a kind of request is called in the keys of the file, and the class of its answers."""

    call: str
    answer: type[ModelAnswer]


_KINDS: dict[type[Request], _Kind] = {
    GenerateRequest: _Kind("generate", Generation),
    ChoiceRequest: _Kind("choice_logprobs", ChoiceLogprobs),
    ScoreRequest: _Kind("response_logprobs", ResponseLogprobs),
    DecisionRequest: _Kind("decisions", Decisions),
}


class _File(NamedTuple):
    """A cache that is open, and where it lies: what is wrong with it is said of this one."""

    path: Path
    database: sqlite3.Connection


class CachedModel:
    """`inner` with its answers kept in the file `path`; several processes may share the file.

    A key is the content of (the inner model's fingerprint, the kind of request, every field of it); seeds are among the
    fields, so sampling is cached too. Failures are never kept: the next run asks again. Equal requests of a batch are
    asked once. An answer that arrives alone is on disk before another request takes its place; a model that answers a
    call as a whole is asked at most REQUESTS_PER_CALL at a time. `usage` is the inner model's; `cached` counts the
    answers that cost nothing.

    The file also keeps how much each model was ever asked (`spent`). A `budget` counts that too, and what other
    processes add to it meanwhile, unless `counts_before` is False: then it counts this object's own requests. At its
    limit no further request is sent; answers in flight are kept, then BudgetError is raised.

    `count_for` says what work the requests are for, such as a stage of a run: the file then counts all of its sessions.

    Raises DataError for a file that is not such a cache or is damaged, DiskError if it cannot be written.
    """

    def __init__(
        self, inner: LanguageModel, path: Path, *, budget: Budget | None = None, counts_before: bool = True
    ) -> None:
        self.inner, self.path = inner, path
        self.name, self.fingerprint, self.usage = inner.name, inner.fingerprint, inner.usage
        self._closed = False
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._database = _open(path)
        self._books = _File(path, self._database)
        self._work: str | None = None
        self._budget = budget or Budget()
        self._counts_others = counts_before
        self._others = Usage()
        self._beneath: _File | None = None
        self._sent = 0
        self._at_opening, self._noted = replace(inner.usage), replace(inner.usage)

    def spent(self) -> Usage:
        """What the file says that the model was asked for, by all commands together."""
        return sum(map(self._spent_in, self._files()), Usage())

    def _spent_in(self, file: _File) -> Usage:
        with _sqlite_errors(file.path):
            row = file.database.execute(
                f"SELECT {', '.join(_COUNTED)} FROM spent WHERE model = ?", (self.fingerprint,)
            ).fetchone()
        return Usage() if row is None else Usage(**dict(zip(_COUNTED, row, strict=True)))

    def count_for(self, work: str, path: Path | None = None) -> None:
        """Counts what is asked from now on for this work too, in this file or in the cache `path`."""
        self._work = work
        if path is not None and path != self.path:
            with _sqlite_errors(path):
                self._books = _File(path, _open(path))

    def share(self, path: Path, of: int) -> None:
        """Makes this cache that of one of so many shards of the work that the cache `path` began: answers that are
        there are known here, and of what its budget has left this one takes an equal part. Nobody may write to `path`
        meanwhile: shards on several machines read it, and SQLite would not keep them apart."""
        before = Usage()
        if path.exists():
            with _sqlite_errors(path):
                address = f"{path.resolve().as_uri()}?immutable=1"
                self._beneath = _File(path, sqlite3.connect(address, uri=True, check_same_thread=False))
            before = self._spent_in(self._beneath)
        self._budget = self._budget.share(of, before)

    def keep(self, answers: dict[str, Any]) -> None:
        """Writes answers that came by another way under their keys; one that is there already stays."""
        self._write(answers)

    def holds(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that have an answer."""
        return {key for _, key, _ in self._rows(keys)}

    def close(self) -> None:
        """Closes file and model; a second call does nothing."""
        if not self._closed:
            self._closed = True
            for file in (self._books, *self._files()):
                file.database.close()  # the one that stands there twice does nothing the second time
            self.inner.close()

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        """The answers in the order of the requests, asking the inner model only for what the file lacks."""
        asked = cast("Sequence[Request]", requests)
        keys = [request_key(self.fingerprint, request) for request in asked]
        known = self._read(dict(zip(keys, asked, strict=True)))
        missing = {key: request for key, request in zip(keys, asked, strict=True) if key not in known}
        if hasattr(self.inner, "gives_logprobs") and any(not isinstance(a, Generation) for a in known.values()):
            self.inner.gives_logprobs = True  # a server that gave the answers that are here
        todo = list(missing)
        self._look_at_others()
        uncounted = False
        stop: list[str] = []

        def allowed() -> Iterator[Request]:
            """The missing requests, as far as the budget goes; taken one by one when they are about to be sent."""
            for request in missing.values():
                limit = self._budget.reached(self._spent())
                if limit is not None:
                    stop.append(limit)
                if stop or uncounted:
                    return
                self._sent += 1
                yield request

        for group in _groups(self.inner, allowed()):
            fresh = {todo[place]: answer for place, answer in group}
            self._write({key: answer for key, answer in fresh.items() if answer.failure is None})
            known |= fresh
            self._look_at_others()
            # a failure, for example of a prompt that is too long, has no tokens on any server
            answered = any(answer.failure is None for answer in fresh.values())
            if answered and self._budget.counts_tokens:
                uncounted = not self.usage.prompt_tokens + self.usage.generated_tokens
        unasked = len(todo) - sum(key in known for key in todo)
        if stop:
            raise self._budget.error(stop[0], self._spent(), unasked)
        if unasked:
            table = self._budget.table
            raise BackendError(
                f"the server does not say how many tokens it used, so {table}.max_tokens and max_cost cannot be kept",
                where=self.name,
                remedy=f"limit {table}.max_calls instead",
            )
        self.usage.cached += len(requests) - len(missing)
        return cast("list[A]", [known[key] for key in keys])

    def _look_at_others(self) -> None:
        """Takes in what all but this object have written down as spent: earlier commands, a panel's other member with
        the same model, another process."""
        if self._counts_others:
            spent, own, first = self.spent(), self._noted, self._at_opening
            self._others = Usage(**{n: getattr(spent, n) - getattr(own, n) + getattr(first, n) for n in _COUNTED})

    def _spent(self) -> Usage:
        """What counts towards the budget: each request from when it is sent, tokens from when the answer is there."""
        others, now = self._others, self.usage
        return Usage(
            calls=others.calls + self._sent,
            prompt_tokens=others.prompt_tokens + now.prompt_tokens,
            generated_tokens=others.generated_tokens + now.generated_tokens,
        )

    def _read(self, requests: Mapping[str, Request]) -> dict[str, ModelAnswer]:
        """The answers that the file has to the requests, by key."""
        found = {}
        for path, key, text in self._rows(list(requests)):
            try:
                answer = from_json(_KINDS[type(requests[key])].answer, parse_json(text))
            except ValueError:
                raise _damaged(path, "holds an answer that cannot be read") from None
            if not _can_be(answer):
                raise _damaged(path, "holds an answer that no model gives")
            found[key] = answer
        return found

    def _rows(self, keys: Sequence[str]) -> Iterator[tuple[Path, str, str]]:
        """(the file, key, JSON of its answer) of those keys that a file has."""
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), _KEYS_PER_QUERY):
            part = wanted[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(part))
            for file in self._files():
                query = f"SELECT key, answer FROM answers WHERE key IN ({marks})"
                with _sqlite_errors(file.path):
                    rows = file.database.execute(query, part).fetchall()
                yield from ((file.path, key, answer) for key, answer in rows)

    def _files(self) -> list[_File]:
        """Its own file, and before it the one that it stands on."""
        return [*([] if self._beneath is None else [self._beneath]), _File(self.path, self._database)]

    def _write(self, answers: dict[str, Any]) -> None:
        """Keeps the answers and what was spent since the last time, in one transaction."""
        rows = [(key, json.dumps(to_json(answer))) for key, answer in answers.items()]
        now = replace(self.usage)
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                # another process may have asked the same meanwhile: the first answer stays
                self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)
                self._add(self._database, "spent", "model", self.fingerprint, _COUNTED, now)
                if self._work is not None:
                    with _sqlite_errors(self._books.path):
                        self._add(self._books.database, "works", "work", self._work, _OF_WORK, now)
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        self._noted = now

    def _add(
        self, file: sqlite3.Connection, table: str, key: str, name: str, counts: Sequence[str], now: Usage
    ) -> None:
        """Adds what was asked since the last time to the row of that name."""
        spent = [getattr(now, count) - getattr(self._noted, count) for count in counts]
        file.execute(
            f"INSERT INTO {table} ({key}, {', '.join(counts)}) VALUES (?{', ?' * len(counts)}) "
            f"ON CONFLICT ({key}) DO UPDATE SET " + ", ".join(f"{n} = {n} + excluded.{n}" for n in counts),
            (name, *spent),
        )

    def _errors(self) -> AbstractContextManager[None]:
        return _sqlite_errors(self.path)


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turns what SQLite says about the file into an error that the user can act on."""
    try:
        yield
    except sqlite3.ProgrammingError:  # a mistake in this code, for example use after close
        raise
    except sqlite3.DatabaseError as problem:
        code = getattr(problem, "sqlite_errorcode", 0) & 0xFF  # the rest is detail
        if code in _DISK:
            raise DiskError(
                f"cannot write the cache: {problem}", where=str(path), remedy="make room or choose another folder"
            ) from None
        if code in _BUSY:
            raise RunFolderError(
                "another process has held the cache for over a minute",
                where=str(path),
                remedy="wait for it to end, then run the same command with --resume",
            ) from None
        raise _damaged(path, f"is damaged or not a cache ({problem})") from None


def _damaged(path: Path, what: str) -> DataError:
    return DataError(
        f"the cache {what}",
        where=str(path),
        remedy="delete the file; its answers will be asked again, everything else in the run folder stays",
    )


def _can_be(answer: ModelAnswer) -> bool:
    """Whether a model can have given the answer: there is one, of no negative length, with no log-probability that is
    NaN or above 0, and no probability outside of 0 and 1."""
    if isinstance(answer, Generation):
        return answer.text is not None and answer.n_tokens >= 0
    if isinstance(answer, Decisions):
        each = (None,) if answer.probabilities is None else answer.probabilities
        return all(options is not None and all(0 <= value <= 1 for value in options) for options in each)
    logprobs = answer.logprobs if isinstance(answer, ChoiceLogprobs) else answer.token_logprobs
    return logprobs is not None and all(value <= _ROUNDING for value in logprobs)


def _groups(inner: LanguageModel, requests: Iterator[Request]) -> Iterator[Sequence[tuple[int, ModelAnswer]]]:
    """(place of the request, its answer) of everything that `requests` yields, as it comes from the model."""
    if isinstance(inner, ArrivingModel):
        yield from inner.arriving(requests)
        return
    start = 0
    while part := list(islice(requests, REQUESTS_PER_CALL)):
        yield list(enumerate(inner.ask(cast("list[RequestFor[ModelAnswer]]", part)), start))
        start += len(part)
