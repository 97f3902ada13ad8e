"""How fast one server is asked: how many requests are in flight, and when none is sent because it asked for a pause.

A server that says "too many" to one request means all of them. So there is one pace for a client: a pause that the
server asks for holds for every request, each "too many" halves the number in flight, and every answer lets it grow
again, by one for a full round of answers (additive increase, multiplicative decrease, as in TCP: RFC 5681).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0
"""Seconds before the second try, and before any later one at most, where the server says nothing."""
LONGEST_WAIT = 600.0
"""Seconds; a server that asks for a longer pause (the quota of a day) ends the work instead."""


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait before the next try (`retry-after-ms`, or `Retry-After` as seconds or as an
    HTTP date); None where it does not say, or what it says makes no sense or is over."""
    try:
        if "retry-after-ms" in headers:
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            seconds = float(headers["retry-after"])
    except KeyError:
        return None
    except ValueError:
        try:
            seconds = parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
        except (KeyError, ValueError, OverflowError):
            return None
    return seconds if 0 < seconds < math.inf else None  # "nan" and "inf" are numbers to float()


def own_pause(tries: int) -> float:
    """Seconds to wait after that many tries: doubling, and somewhere in the upper half, so that requests which failed
    together do not come again together."""
    return min(FIRST_PAUSE * 2.0 ** (tries - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


class Pace:
    """`async with pace:` around each try. Used within one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._in_flight = self._waiting = 0
        self._halved = self._until = 0.0
        self._room = asyncio.Condition()

    async def __aenter__(self) -> None:
        while True:
            wait = self._until - time.monotonic()
            if wait > 0:
                # those who waited together come one after another
                await asyncio.sleep(wait + random.uniform(0, min(0.1 * wait, 1.0)))
            elif self._in_flight >= int(self._limit):
                await self._wait_for_room()
            else:
                break
        self._in_flight += 1

    async def __aexit__(self, *_: object) -> None:
        self._in_flight -= 1
        free = int(self._limit) - self._in_flight
        if free > 0 and self._waiting:
            async with self._room:
                self._room.notify(free)

    async def _wait_for_room(self) -> None:
        self._waiting += 1
        try:
            async with self._room:
                await self._room.wait()
        finally:
            self._waiting -= 1

    def answered(self) -> None:
        """An answer came: one more may be in flight after a full round of them."""
        self._limit = min(float(self._most), self._limit + 1 / self._limit)

    def too_many(self, sent: float) -> None:
        """The server was asked too much by a request that was `sent` then (time.monotonic): half as many from now on,
        once for all that were in flight together."""
        if sent >= self._halved:
            self._limit, self._halved = max(1.0, self._limit / 2), time.monotonic()

    def wait(self, seconds: float) -> None:
        """No request is sent for so long."""
        self._until = max(self._until, time.monotonic() + seconds)
