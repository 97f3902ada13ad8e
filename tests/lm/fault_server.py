"""A server on 127.0.0.1 that speaks the OpenAI protocol as well or as badly as a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What goes over the wire. `hang`: seconds of silence first; `drip`: seconds before each byte of the body; `cut`:
    bytes of the body that are really sent."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    drip: float = 0.0
    cut: int | None = None


Behaviour = Callable[[dict[str, Any], int], Answer]
"""(JSON of the request, how often this very request was seen before) -> answer."""


@dataclass
class Seen:
    path: str
    body: dict[str, Any]
    at: float
    key: str


class FaultServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.seen: list[Seen] = []
        self.times: Counter[bytes] = Counter()
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def bodies(self) -> list[dict[str, Any]]:
        return [seen.body for seen in self.seen]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultServer

    def do_POST(self) -> None:
        server = self.server
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        with server.lock:
            before = server.times[raw]
            server.times[raw] += 1
            server.seen.append(Seen(self.path, body, time.monotonic(), self.headers.get("Authorization", "")))
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        try:
            answer = server.behaviour(body, before)
            if answer.hang:
                server.closing.wait(answer.hang)
        finally:
            with server.lock:
                server.in_flight -= 1
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for place in range(len(raw) if answer.drip else 0):
            if self.server.closing.wait(answer.drip):
                return
            self.wfile.write(raw[place : place + 1])
        if not answer.drip:
            self.wfile.write(raw if answer.cut is None else raw[: answer.cut])
        self.close_connection = answer.cut is not None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[FaultServer]:
    server = FaultServer(behaviour)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


Top = Sequence[tuple[str, float]]


def chat(
    text: str | None, *, finish: str = "stop", positions: Sequence[tuple[str, float, Top]] | None = None
) -> Answer:
    """A good chat answer; `positions` are (sampled token, its logprob, the likeliest tokens)."""
    content = positions and [
        {"token": t, "logprob": p, "top_logprobs": [{"token": a, "logprob": b} for a, b in top]}
        for t, p, top in positions
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": None if positions is None else {"content": content},
    }
    return Answer({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def error(status: int, message: str, *, code: str | None = None, **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer({"error": {"message": message, "code": code}}, status=status, headers=names)


def last(body: dict[str, Any]) -> str:
    """The last message of a chat request."""
    text: str = body["messages"][-1]["content"]
    return text
