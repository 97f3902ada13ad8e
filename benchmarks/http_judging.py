"""CPU time and memory that the client of a judge's server takes per request, beside plain loops over the same ones.

    python benchmarks/http_judging.py [REQUESTS=10000] [CONCURRENCY=64] [WAYS=cached,client,sdk,http]

A server in another process answers every request at once with the same log-probs, so what is measured is the client:
`OpenAIModel` alone, with the cache under it, and two plain `asyncio.gather` loops, one over the SDK's own
`chat.completions.create` and one over the HTTP library that the SDK uses. Each runs in a process of its own. CPU time
is that of the whole process and of the kernel for it, from before the first request to after the last answer; memory is
how far the peak of the process grew meanwhile (the list of requests was made before).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = {
    "cached": "`OpenAIModel` and the cache",
    "client": "`OpenAIModel`",
    "sdk": "gather over the SDK's `create`",
    "http": "gather over the HTTP library",
}
TEXT = "word " * 300
"""About what a pair of short answers and the template come to."""


def main(requests: str = "10000", concurrency: str = "64", ways: str = "cached,client,sdk,http") -> None:
    server = subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    print(f"{requests} requests, {concurrency} in flight\n")
    print("| way | CPU, ms a request | seconds | memory grew by, MB |\n|---|---|---|---|")
    try:
        for way in ways.split(","):
            command = [sys.executable, __file__, "measure", way, url, requests, concurrency]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            cpu, seconds, grown = json.loads(done.stdout)
            print(
                f"| {NAMES[way]} | {1000 * cpu / int(requests):.2f} | {seconds:.1f} | {grown / 1024:.0f} |", flush=True
            )
    finally:
        server.kill()


def measure(way: str, url: str, requests: int, concurrency: int) -> tuple[float, float, int]:
    """CPU seconds, seconds, and KiB by which the peak memory grew."""
    os.environ["NO_PROXY"] = "127.0.0.1"
    work = _ours(url, requests, concurrency, way == "cached") if way in ("cached", "client") else None
    plain = _sdk if way == "sdk" else _http
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    if work is None:
        asyncio.run(plain(url, requests, concurrency))
    else:
        work()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, seconds, after.ru_maxrss - before.ru_maxrss


def _ours(url: str, requests: int, concurrency: int, cached: bool) -> Any:
    """The call that is measured; the requests are made, and one of them asked, before."""
    from rlaif.config import AskingConfig
    from rlaif.core.records import Message
    from rlaif.lm.cache import CachedModel
    from rlaif.lm.protocol import ChoiceRequest, LanguageModel
    from rlaif.lm.server.client import OpenAIModel

    asked = [ChoiceRequest((Message("user", f"{n} {TEXT}"),), ("A", "B"), "(") for n in range(requests)]
    table = {"backend": "openai", "method": "pairwise", "source": "m", "base_url": url, "concurrency": concurrency}
    model: LanguageModel = OpenAIModel(AskingConfig.model_validate(table))
    if cached:
        model = CachedModel(model, Path(tempfile.mkdtemp()) / "judge.sqlite")
    model.ask([ChoiceRequest((Message("user", "first"),), ("A", "B"), "(")])

    def work() -> None:
        answers = model.ask(asked)
        assert all(answer.logprobs is not None for answer in answers)

    return work


def _body(n: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{n} {TEXT}"}, {"role": "assistant", "content": "("}]
    return {"model": "m", "messages": messages, "max_tokens": 2, "logprobs": True, "top_logprobs": 20}


async def _sdk(url: str, requests: int, concurrency: int) -> None:
    import openai

    client, slots = openai.AsyncOpenAI(base_url=url, api_key="none"), asyncio.Semaphore(concurrency)

    async def one(n: int) -> Any:
        async with slots:
            return await client.chat.completions.create(**_body(n))

    await asyncio.gather(*map(one, range(requests)))


async def _http(url: str, requests: int, concurrency: int) -> None:
    import openai

    client, slots = openai.DefaultAsyncHttpxClient(), asyncio.Semaphore(concurrency)

    async def one(n: int) -> Any:
        async with slots:
            return (await client.post(f"{url}/chat/completions", json=_body(n))).json()

    await asyncio.gather(*map(one, range(requests)))


def _answer() -> bytes:
    """The whole HTTP answer: two tokens with the twenty likeliest at each place."""
    top = [{"token": letter, "logprob": -0.5 - n, "bytes": [65]} for n, letter in enumerate("ABCDEFGHIJKLMNOPQRST")]
    content = [{"token": token, "logprob": -0.5, "bytes": [65], "top_logprobs": top} for token in ("A", ".")]
    message = {"role": "assistant", "content": "A."}
    choice = {"index": 0, "message": message, "finish_reason": "length", "logprobs": {"content": content}}
    usage = {"prompt_tokens": 320, "completion_tokens": 2, "total_tokens": 322}
    body = json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


class _Server(asyncio.Protocol):
    """Answers each request with the same bytes."""

    answer = _answer()

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = int(head[head.index(b"content-length:") + 15 :].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.transport.write(self.answer)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            asyncio.run(_serve())
        case ["measure", way, url, requests, concurrency]:
            print(json.dumps(measure(way, url, int(requests), int(concurrency))))
        case numbers:
            main(*numbers)
