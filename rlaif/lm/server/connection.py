"""The HTTP client of one server, for a judge and for rollouts: it paces requests and tries again what may pass.

Tried again are 408, 409, 429, 5xx, timeouts, lost connections and answers that cannot be read (cut on their way,
malformed, too long, with impossible numbers): after a growing, jittered pause, or after the one that the server asks
for (Retry-After), which then holds for all requests. Not tried again is what the server says about the request itself
(too long, filtered), a quota that is used up, and a redirect, which is never followed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from rlaif.lm.server.credentials import Credentials
from rlaif.lm.server.loop_thread import LoopThread
from rlaif.lm.server.pace import LONGEST_WAIT, Pace, asked_pause, own_pause
from rlaif.lm.server.replies import BrokenReply, own_fault, shorten

if TYPE_CHECKING:
    import openai

T = TypeVar("T")


class Refused(Exception):
    """The server said no, and another try would not change that. `said`: the status and the server's own words."""

    def __init__(self, problem: openai.APIStatusError) -> None:
        body = problem.body
        words = body.get("message", body.get("detail")) if isinstance(body, dict) else body
        self.status, self.code, self.kind = problem.status_code, problem.code, problem.type
        self.headers = problem.response.headers
        self.redirects = 300 <= self.status < 400
        if self.redirects:
            words = _redirect(str(problem.request.url), self.headers.get("location"))
        self.said = f"{self.status} {shorten(str(words or problem.message))}"
        self.used_up = self.code == "insufficient_quota"
        super().__init__(self.said)

    def may_pass(self, lasting: Collection[int]) -> bool:
        """Whether another try may find the server of another mind; never with a status that is `lasting`."""
        if self.used_up or self.redirects or own_fault(self.said, self.code, self.kind) is not None:
            return False
        advice = self.headers.get("x-should-retry")
        if advice in ("true", "false"):
            return bool(advice == "true")
        passing = self.status in (408, 409, 429) or self.status >= 500
        return passing and self.status not in lasting


def _redirect(asked: str, location: str | None) -> str:
    """Where a server sends us: scheme, host and port, for the rest may hold secrets of others."""
    try:
        target = urlsplit(urljoin(asked, location or ""))
    except ValueError:
        target = urlsplit("")
    there = f"{target.scheme}://{target.netloc.rpartition('@')[2]}" if target.netloc and location else "nowhere"
    return f"a redirect to {there}, which is not followed"


class NoAnswer(Exception):
    """No try brought an answer. `unreachable`: nothing listens at the address; `too_long`: seconds that the server asks
    to wait, where that is more than LONGEST_WAIT."""

    def __init__(self, reason: str, tries: int, *, unreachable: bool, too_long: float | None) -> None:
        self.reason, self.unreachable, self.too_long = reason, unreachable, too_long
        self.tried = f"tried {tries} time{'s' * (tries > 1)}"
        asked = "" if too_long is None else f"the server asks to wait {too_long / 60:,.0f} minutes ({reason})"
        super().__init__(asked or f"{reason}, {self.tried}")


class Connection:
    """HTTP to the server at `url`, at most `most` requests at a time. `timeout`: seconds for the whole of a try.

    `field` is the config field of the address, for errors; `key_env` the environment variable with the key, if any.
    """

    def __init__(self, url: str, *, field: str, key_env: str, timeout: float, max_retries: int, most: int) -> None:
        self._credentials = Credentials.of(url, field=field, key_env=key_env)
        import openai

        from rlaif.lm.server.border import BorderClient

        self._timeout, self._tries = timeout, max_retries + 1
        self._pace = Pace(most)
        self._client = openai.AsyncOpenAI(
            api_key=self._credentials.key,
            base_url=self._credentials.url,
            timeout=timeout,
            max_retries=0,  # the SDK's own know no other request's pause
            http_client=BorderClient(self._credentials, timeout),
        )
        self.loop = LoopThread()

    async def send(
        self,
        path: str,
        body: dict[str, Any] | None,
        read: Callable[[str], T],
        *,
        tries: int | None = None,
        lasting: Collection[int] = (),
        ending: Callable[[], bool] = lambda: False,
    ) -> T:
        """What `read` makes of the server's answer to a POST of `body`, or to a GET where there is none.

        `tries` at most, or as many as the connection has; none after the first while `ending()`. Raises Refused,
        NoAnswer, and what `read` raises, but for BrokenReply, which is tried again.
        """
        most, done = self._tries if tries is None else tries, 0
        while True:
            try:
                return await self._try(path, body, read, lasting)
            except _Fault as fault:
                done += 1
                too_long = fault.pause if fault.pause is not None and fault.pause > LONGEST_WAIT else None
                if too_long is not None or done >= most or ending():
                    unreachable = fault.unreachable
                    raise NoAnswer(fault.reason, done, unreachable=unreachable, too_long=too_long) from None
                pause = fault.pause
            if pause is None:
                await asyncio.sleep(own_pause(done))
            else:
                self._pace.wait(pause)

    async def _try(
        self, path: str, body: dict[str, Any] | None, read: Callable[[str], T], lasting: Collection[int]
    ) -> T:
        import openai

        async with self._pace:
            sent = time.monotonic()
            try:
                # the SDK's own timeout is for each read: a server that sends a byte now and then would never meet it
                async with asyncio.timeout(self._timeout):
                    if body is None:
                        text = await self._client.get(path, cast_to=str)
                    else:
                        text = await self._client.post(path, cast_to=str, body=body)
                found = read(text)
            except openai.APIStatusError as problem:
                refused = Refused(problem)
                if not refused.may_pass(lasting):
                    raise refused from None
                if refused.status == 429:
                    self._pace.too_many(sent)
                raise _Fault(refused.said, pause=asked_pause(refused.headers)) from None
            except (TimeoutError, openai.APITimeoutError):
                raise _Fault(f"no answer within {self._timeout:g} s") from None
            except openai.APIConnectionError as problem:
                cause = problem.__cause__ or problem
                if type(cause).__name__ == "ConnectError":
                    raise _Fault(self._words(cause), unreachable=True) from None
                raise _Fault(f"connection lost ({self._words(cause)})") from None
            except openai.OpenAIError as problem:  # whatever else the SDK finds wrong with an answer
                raise _Fault(self._words(problem)) from None
            except BrokenReply as problem:
                raise _Fault(str(problem)) from None
            self._pace.answered()
            return found

    def _words(self, problem: BaseException) -> str:
        """What a library says is wrong, which may quote what was sent."""
        return shorten(self._credentials.hide(str(problem)))

    def close(self) -> None:
        self.loop.close(self._client.close)


class _Fault(Exception):
    """Why a try failed that another one may mend; `pause`: seconds that the server asks to wait."""

    def __init__(self, reason: str, *, pause: float | None = None, unreachable: bool = False) -> None:
        self.reason, self.pause, self.unreachable = reason, pause, unreachable
