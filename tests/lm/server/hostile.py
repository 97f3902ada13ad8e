"""Everything that a server does wrong in test_faults.py, in one table, and the honest answer beside it."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from rlaif.core.records import Comparison
from tests.fault_server import Answer, chat, error
from tests.judge.cases import comparison, logistic

CANARY = "sk-canary-7e57ed0123456789"
"""The key that the client has; the server writes it into its answers, and it must show nowhere."""


def pairs(number: int) -> list[Comparison]:
    """Pair n asks question n about two answers whose quality stands in them."""
    return [
        comparison(f"The answer of quality {n % 13}.", f"The answer of quality {n % 7} or so.", f"Question {n}?")
        for n in range(number)
    ]


def expected(pair: Comparison) -> float:
    """P(A) of a judge that sees the qualities: exact, so that an answer given to the wrong request shows."""
    a, b = (int(re.findall(r"quality (\d+)", response.text)[0]) for response in (pair.a, pair.b))
    return logistic((a - b) / 10)


def right(body: dict[str, Any]) -> Any:
    """The judge's honest answer to the request."""
    shown = " ".join(message["content"] for message in body["messages"])
    first, second = (int(found) for found in re.findall(r"answer of quality (\d+)", shown))
    p = logistic((first - second) / 10)
    listed = [("A", math.log(p)), ("B", math.log(1 - p)), *((f"x{n}", -30.0) for n in range(18))]
    return chat("A", positions=[("A", math.log(p), listed)]).body


class Fault(NamedTuple):
    """`answer` to the JSON of a request, given the address of another server. `says`: what the failure says; None where
    the honest answer is read all the same. `again`: whether it is tried again. `ends`: the call ends with an error."""

    answer: Callable[[dict[str, Any], str], Answer]
    says: str | None
    again: bool = True
    ends: bool = False


def _status(status: int, message: str, **headers: str) -> Fault:
    return Fault(lambda *_: error(status, message, **headers), message)


def _bytes(make: Callable[[bytes], Answer], says: str | None) -> Fault:
    """The honest answer, made into something else on its way."""
    return Fault(lambda body, _: make(json.dumps(right(body)).encode()), says)


def _body(change: Callable[[Any], Any], says: str | None, *, again: bool = True) -> Fault:
    """The honest answer with something changed in it, by hand; what the change returns stands in its place."""

    def answer(body: dict[str, Any], _: str) -> Answer:
        found = right(body)
        changed = change(found)
        return Answer(found if changed is None else changed)

    return Fault(answer, says, again)


def _top(change: Callable[[list[dict[str, Any]]], Any], says: str | None, *, again: bool = True) -> Fault:
    """As `_body`, with the list of likely tokens."""
    return _body(lambda found: change(_listed(found)) and None, says, again=again)


def _listed(found: Any) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    return listed


def _first(value: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda listed: listed[0].update(logprob=value)


def _listing(*tokens: str) -> Callable[[list[dict[str, Any]]], None]:
    return lambda listed: listed.__setitem__(slice(None), [{"token": token, "logprob": -4.0} for token in tokens])


def _all_over_zero(listed: list[dict[str, Any]]) -> None:
    """Log-odds in the place of log-probs, as large as they come."""
    for token in listed:
        token["logprob"] += 800.0


def _wrong_order(found: Any) -> None:
    """Two choices, the second first; the second is about nothing that was asked."""
    stray = chat("B", positions=[("B", -0.01, [("B", -0.01), ("A", -9.0)])]).body["choices"][0]
    found["choices"] = [{**stray, "index": 1}, found["choices"][0]]


def _twice(found: Any) -> None:
    """The answer is there twice, and every likely token too."""
    found["choices"][0]["logprobs"]["content"][0]["top_logprobs"] *= 2
    found["choices"] *= 2


def _refusal(words: str) -> Callable[[Any], None]:
    return lambda found: found["choices"][0]["message"].update(refusal=words)


def _only(name: str, value: Any) -> Callable[[Any], None]:
    return lambda found: found["choices"][0].update({name: value})


@cache
def _bomb() -> bytes:
    return gzip.compress(b" " * 20_000_000)


def _wire(*lines: bytes) -> Answer:
    return Answer(wire=b"\r\n".join(lines))


def _packed(content: bytes, name: str = "gzip") -> Answer:
    return Answer(content, headers={"Content-Encoding": name})


FAULTS: dict[str, Fault] = {
    # -- it has no time
    "429 with Retry-After": _status(429, "slow down", retry_after_ms="5"),
    "429 with a date": _status(429, "later", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "429 with nonsense": _status(429, "some day", Retry_After="soon"),
    "429": _status(429, "too many"),
    # -- it is broken, or in the way of one that is
    "408": _status(408, "too slow"),
    "409": _status(409, "conflict"),
    "500": _status(500, "oh"),
    "502 as a page": Fault(lambda *_: Answer(b"<html>bad gateway</html>", status=502), "bad gateway"),
    "503": _status(503, "overloaded"),
    "504": _status(504, "upstream"),
    "500, not to be tried again": Fault(lambda *_: error(500, "so be it", x_should_retry="false"), "so be it", False),
    "500 with the key": Fault(lambda *_: error(500, f"you sent Bearer {CANARY}"), "you sent Bearer ***"),
    # -- it will not
    "400": Fault(lambda *_: error(400, "who knows"), "who knows", False),
    "413": Fault(lambda *_: error(413, "too large"), "too large", False),
    "422": Fault(lambda *_: error(422, "bad seed"), "bad seed", False),
    "too long": Fault(lambda *_: error(400, "the prompt is too long"), "too long", False),
    "filtered": Fault(lambda *_: error(400, "content policy", code="content_filter"), "content policy", False),
    # -- the way
    "cut": _bytes(lambda raw: Answer(raw, cut=60), "connection lost"),
    "closed at once": Fault(lambda *_: _wire(b""), "connection lost"),
    "no HTTP": Fault(lambda *_: _wire(b"HELO there", b"", b""), "connection lost"),
    "endless headers": Fault(lambda *_: _wire(b"HTTP/1.1 200 OK", b"X: " + b"x" * 200_000), "connection lost"),
    "broken chunks": Fault(
        lambda *_: _wire(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"", b"zz", b""), "connection lost"
    ),
    "HTTP/1.0 without a length": _bytes(lambda raw: _wire(b"HTTP/1.0 200 OK", b"", raw), None),
    "100 first": _bytes(
        lambda raw: _wire(b"HTTP/1.1 100 Go on", b"", b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(raw), b"", raw),
        None,
    ),
    "gzip": _bytes(lambda raw: _packed(gzip.compress(raw, 1)), None),
    "gzip, cut": _bytes(lambda raw: _packed(gzip.compress(raw, 1)[:-9]), "cut on its way"),
    "gzip that is none": _bytes(_packed, "not the gzip"),
    "another packing": _bytes(lambda raw: _packed(raw, "br"), "packed as 'br'"),
    "a bomb": Fault(lambda *_: _packed(_bomb()), "longer than 8 MB"),
    "over 8 MB": _bytes(lambda raw: Answer(raw + b" " * 8_000_000), "longer than 8 MB"),
    "hang": _bytes(lambda raw: Answer(raw, hang=600.0), "no answer within"),
    "drip": _bytes(lambda raw: Answer(raw, drip=5.0), "no answer within"),
    # -- it is no answer
    "empty": Fault(lambda *_: Answer(b""), "not JSON"),
    "204": Fault(lambda *_: Answer(b"", status=204), "not JSON"),
    "a page": Fault(lambda *_: Answer(b"<html>hello</html>"), "not JSON"),
    "bytes": Fault(lambda *_: Answer(bytes(range(256))), "not JSON"),
    "half of it": _bytes(lambda raw: Answer(raw[:200]), "not JSON"),
    "brackets": Fault(lambda *_: Answer(b"[" * 100_000), "not JSON"),
    "null": Fault(lambda *_: Answer(None), "malformed"),
    "an error with 200": Fault(lambda *_: Answer({"error": {"message": "no capacity"}}), "no capacity"),
    "no choices": Fault(lambda *_: Answer({"choices": []}), "no choice"),
    "choices of another type": Fault(lambda *_: Answer({"choices": {"0": "A"}}), "malformed"),
    "content of another type": Fault(lambda *_: Answer({"choices": [{"message": {"content": ["x"]}}]}), "malformed"),
    "tokens below zero": _body(lambda found: found["usage"].update(prompt_tokens=-5), "malformed"),
    "tokens beyond count": _body(lambda found: found["usage"].update(prompt_tokens=10**30), "malformed"),
    # -- its numbers are none
    "positive log-probs": _top(_all_over_zero, "over 0"),
    "mass over one": _top(lambda listed: listed.append({"token": "C", "logprob": -0.1}), "together"),
    "a boolean": _top(_first(False), "valid number"),
    "a number as text": _top(_first("-0.1"), "valid number"),
    "not a number": _top(_first(math.nan), "finite"),
    "minus infinity": _top(_first(-math.inf), "finite"),
    "401 digits": _top(_first(-(10**400)), "malformed"),
    # -- it does not say enough
    "missing log-probs": _body(_only("logprobs", None), "no log-probs", again=False),
    "short log-probs": _top(_listing("A"), "1 of 20 likely tokens", again=False),
    "other words": _top(_listing(*map(str, range(20))), "none of 'A', 'B'", again=False),
    "no text": Fault(lambda *_: chat(""), "no text", False),
    "refused": _body(_refusal("I will not \ud800."), "I will not", again=False),
    "refused with the key": _body(_refusal(f"I know {CANARY}"), "I know ***", again=False),
    "stopped by a filter": _body(_only("finish_reason", "content_filter"), "filter", again=False),
    # -- it is odd, and right
    "wrong order": _body(_wrong_order, None),
    "twice": _body(_twice, None),
    "another model's name": _body(lambda found: found.update(model="not what was asked"), None),
    "the key beside the answer": _body(lambda found: found.update(system_fingerprint=CANARY), None),
    # -- it speaks for all requests
    "redirect": Fault(lambda _, other: Answer({}, status=307, headers={"Location": other}), "redirect", ends=True),
    "moved": Fault(lambda _, other: Answer({}, status=301, headers={"Location": other}), "redirect", ends=True),
    "401 with the key": Fault(lambda *_: error(401, f"wrong key {CANARY}"), "wrong key ***", ends=True),
    "402": Fault(lambda *_: error(402, "pay first"), "pay first", ends=True),
    "403": Fault(lambda *_: error(403, "not for you"), "not for you", ends=True),
    "404": Fault(lambda *_: error(404, "no such model"), "no such model", ends=True),
    "used up": Fault(lambda *_: error(429, "quota", code="insufficient_quota"), "quota", ends=True),
    "come back tomorrow": Fault(lambda *_: error(429, "closed", Retry_After="86400"), "closed", ends=True),
}  # fmt: skip
SLOW = ("hang", "drip")
"""Each costs the time limit of a try."""


def fate(body: dict[str, Any]) -> tuple[str | None, bool]:
    """(fault or None, whether it stays) of a request: a fifth goes wrong, a quarter of those for good. What ends a call
    or takes a time limit is rare, and passes."""
    number = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12], 16)
    point, which = number % 4000, number // 4000
    rare = [name for name, fault in FAULTS.items() if fault.ends or name in SLOW]
    usual = [name for name in FAULTS if name not in rare]
    if point >= 800:
        return None, False
    if point < 6:
        return rare[which % len(rare)], False
    return usual[which % len(usual)], which // len(usual) % 4 == 0
