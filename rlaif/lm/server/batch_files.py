"""Requests as files for the batch interface of a provider, and the files of results that come back.

The format is OpenAI's, which others (vLLM's `run-batch`, Groq, Together, ...) read too: a line per request with
`custom_id`, `method`, `url` and `body`; results come in any order, with errors among them. The id is the key of the
answer in the cache and the body is the one that the client would send.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from rlaif.core.errors import DataError
from rlaif.core.files import disk_errors, refuse_existing_file
from rlaif.core.records import Failure
from rlaif.lm.protocol import ChoiceRequest, GenerateRequest, Request
from rlaif.lm.server.replies import Reply, own_fault, read_reply, refusal, shorten
from rlaif.lm.server.requests import Endpoint

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
"""What OpenAI takes in one file."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What has to be known of a request to read its answer. `member`: the judge of a panel that it is for, "" = the
    run's own; `folded`: the answer begins with the prefix itself."""

    key: str
    member: str
    prefix: str
    choices: tuple[str, ...] | None
    folded: bool
    json_schema: str = ""

    @classmethod
    def of(cls, key: str, member: str, request: GenerateRequest | ChoiceRequest, *, folded: bool) -> Exported:
        choices = request.choices if isinstance(request, ChoiceRequest) else None
        schema = request.json_schema if isinstance(request, GenerateRequest) else ""
        return cls(key, member, request.prefix, choices, folded and bool(request.prefix), schema)

    @property
    def request(self) -> GenerateRequest | ChoiceRequest:
        """The request without its messages."""
        if self.choices is None:
            return GenerateRequest((), 0, 0.0, 0, self.prefix, json_schema=self.json_schema)
        return ChoiceRequest((), self.choices, self.prefix)


def batch_line(key: str, endpoint: Endpoint, request: Request, *, folded: bool) -> bytes:
    """One request as a line of a batch file."""
    body = endpoint.body(request, folded=folded)
    row = {"custom_id": key, "method": "POST", "url": "/v1" + endpoint.path, "body": body}
    return (json.dumps(row) + "\n").encode()


class RequestFiles:
    """Lines into `out`, or into as many files (out-001.jsonl, out-002.jsonl, ...) as a provider's limits make of them.

    `with` keeps the files only if the block ends well; nothing that exists is overwritten.
    """

    def __init__(self, out: Path, *, most_requests: int = MOST_REQUESTS, most_bytes: int = MOST_BYTES) -> None:
        self.out, self.paths = out, list[Path]()
        self._most_requests, self._most_bytes = most_requests, most_bytes
        self._parts: list[Path] = []
        self._file: BinaryIO | None = None
        self._requests = self._bytes = 0

    def __enter__(self) -> RequestFiles:
        refuse_existing_file(self.out)
        return self

    def add(self, line: bytes) -> None:
        with disk_errors(self.out):
            full = self._requests == self._most_requests or self._bytes + len(line) > self._most_bytes
            if self._file is None or full:
                self._begin()
            assert self._file is not None
            self._file.write(line)
        self._requests, self._bytes = self._requests + 1, self._bytes + len(line)

    def _begin(self) -> None:
        if self._file is not None:
            self._file.close()
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._parts.append(self.out.with_name(f".{self.out.name}.{len(self._parts) + 1}.tmp"))
        self._parts[-1].unlink(missing_ok=True)
        self._file = self._parts[-1].open("xb")  # opens nothing that is there, and no link
        self._requests = self._bytes = 0

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        try:
            if kind is None:
                names = [self.out]
                if len(self._parts) > 1:
                    numbers = range(1, len(self._parts) + 1)
                    names = [self.out.with_name(f"{self.out.stem}-{n:03}{self.out.suffix}") for n in numbers]
                    for name in names:
                        refuse_existing_file(name)
                with disk_errors(self.out):
                    for part, name in zip(self._parts, names, strict=False):
                        part.replace(name)
                        self.paths.append(name)
        finally:
            for part in self._parts:
                part.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """One line of a results file: the reply to the request `key`, or why there is none."""

    key: str
    reply: Reply | Failure


def read_results(path: Path) -> Iterator[BatchResult]:
    """The results in the order of the file; DataError with file and line for a line that is none. A last line that was
    cut off is left out: the rest of the file has not come."""
    with disk_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):
                    return
                raise _bad_line(path, number, "is not a line of JSON") from None
            if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
                raise _bad_line(path, number, "is not a result: it has no custom_id")
            if "body" in row and "response" not in row:
                raise _bad_line(path, number, "is a request, not a result")
            yield BatchResult(row["custom_id"], _reply(row))


def _bad_line(path: Path, number: int, what: str) -> DataError:
    return DataError(
        what,
        where=f"{path}:{number}",
        remedy="download the file of results again, or remove the line: what stands before it is imported",
    )


def _reply(row: dict[str, Any]) -> Reply | Failure:
    response = row.get("response")
    if not isinstance(response, dict):
        return _error(row.get("error"), "there is no response")
    body, status = response.get("body"), response.get("status_code", 200)
    if status != 200:
        return _error(body.get("error") if isinstance(body, dict) else row.get("error"), f"status {status}")
    try:
        reply = read_reply(body)
    except ValueError as problem:
        return Failure("backend", str(problem))
    return refusal(reply) or reply


def _error(error: object, otherwise: str) -> Failure:
    if isinstance(error, dict) and isinstance(error.get("error"), dict):  # vLLM's run-batch: one in the other
        error = error["error"]
    said = error if isinstance(error, dict) else {"message": error or otherwise}
    message = shorten(f"{otherwise}: {said.get('message') or said.get('code')}" if error else otherwise)
    return own_fault(message, said.get("code"), said.get("type")) or Failure("backend", message)
