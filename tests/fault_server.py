"""A server on 127.0.0.1 that speaks the OpenAI protocol as well or as badly as a test tells it to."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rlaif.config import AskingConfig
from rlaif.lm.server.client import OpenAIModel


@dataclass
class Answer:
    """What goes over the wire. `hang`: seconds of silence first; `drip`: seconds before each byte of the body; `cut`:
    bytes of the body that are really sent; `wire`: all that is sent, head and body, before the connection ends."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hang: float = 0.0
    drip: float = 0.0
    cut: int | None = None
    wire: bytes | None = None


Behaviour = Callable[[dict[str, Any], int], Answer]
"""(JSON of the request, how often this very request was seen before) -> answer."""


@dataclass
class Seen:
    path: str
    body: dict[str, Any]
    at: float
    key: str


class FaultServer:
    """An HTTP server on one event loop, cheap enough for ten thousand requests beside the client under test."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.seen: list[Seen] = []
        self.times: Counter[bytes] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def bodies(self) -> list[dict[str, Any]]:
        return [seen.body for seen in self.seen]

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request after another; a client that gives up is what the tests are about."""
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; whether the connection stays open."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        raw = await reader.readexactly(int(headers["content-length"]))
        body = json.loads(raw)
        before = self.times[raw]
        self.times[raw] += 1
        self.seen.append(Seen(first.split(" ")[1], body, time.monotonic(), headers.get("authorization", "")))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            answer = self.behaviour(body, before)
            await asyncio.sleep(answer.hang)
        finally:
            self.in_flight -= 1
        if answer.wire is not None:
            writer.write(answer.wire)
            return False
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        given = {"Content-Type": "application/json", "Content-Length": len(content), **answer.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        writer.write(f"HTTP/1.1 {answer.status} Whatever\r\n{head}\r\n".encode())
        if not answer.drip:
            writer.write(content[: answer.cut])
            return answer.cut is None
        for place in range(len(content)):
            await asyncio.sleep(answer.drip)
            writer.write(content[place : place + 1])
            await writer.drain()
        return True


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[FaultServer]:
    server = FaultServer(behaviour)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen() -> None:
        listening = await asyncio.start_server(server.connection, "127.0.0.1", 0, backlog=256)
        server.port = listening.sockets[0].getsockname()[1]

    async def end() -> None:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(listen(), loop).result()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


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


def client(url: str | None, **fields: Any) -> OpenAIModel:
    """The model "m" behind the server; `fields` of the judge's table."""
    table = {"backend": "openai", "method": "pairwise", "source": "m", "base_url": url}
    return OpenAIModel(AskingConfig.model_validate(table | fields))
