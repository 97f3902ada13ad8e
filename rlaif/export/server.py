"""A reward behind HTTP: what another trainer asks, in this process or on another machine.

- `POST /score` takes `prompts`, `completions` and if wanted `finished`, a list of each; it gives `scores`, null where
  there is none, and `failures`, which say why.
- `POST /get_reward` takes `query`, `prompts` and `labels`, as OpenRLHF's `--reward.remote_url` sends them; it gives
  `rewards`, `scores` and `extra_logs`.
- `GET /health` says what scores: the run, its constitution, its card.

The standard library's server is enough: a request waits in a thread of its own, and those that wait are scored in one
pass (`PortableReward`). A connection serves one request, so that none is held open. OpenRLHF knows no missing reward:
there a response without a score is an error, with its reason.
"""

from __future__ import annotations

import base64
import errno
import hmac
import ipaddress
import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlaif import __version__
from rlaif.core.errors import BackendError, ConfigError, RlaifError, near
from rlaif.core.files import parse_json
from rlaif.core.records import Failure
from rlaif.core.terminal import say
from rlaif.lm.local.chat_text import ChatText
from rlaif.training.rewards.for_trainers import PortableReward

MOST_BYTES, MOST_PAIRS, MOST_AT_ONCE = 16 << 20, 1024, 256
"""Of a body; in a request; requests that are worked on. Others wait to be accepted."""
MOST_SAID = 100
"""Kinds of errors that are said."""
SILENCE = 30.0
"""Seconds that a client may be silent in the middle of a request."""
TOKEN = "RLAIF_TOKEN"
"""The environment variable with what a client must know."""
SCORE, REWARD, HEALTH = "/score", "/get_reward", "/health"


class Refusal(Exception):
    """A request that is not answered: the status, and what is wrong with it."""

    def __init__(self, status: HTTPStatus, what: str, remedy: str) -> None:
        self.status, self.what, self.remedy = status, what, remedy
        super().__init__(what)


class RewardServer(ThreadingHTTPServer):
    """Holds the port from the start on, and lets clients in from `listen` on. Raises ConfigError where it has no port.

    Where it listens for other machines, a client must know the token: that of RLAIF_TOKEN, or one made up here.
    """

    daemon_threads = True
    request_queue_size = MOST_AT_ONCE

    def __init__(self, host: str, port: int) -> None:
        self.reward: PortableReward | None = None
        self.chats: Callable[[], ChatText] | None = None
        self.slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self.said: set[str] = set()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family = found[0][0]
            super().__init__(found[0][4][:2], _Handler, bind_and_activate=False)  # type: ignore[arg-type]
            self.server_bind()
        except (OSError, OverflowError) as problem:
            raise no_port(host, port, problem, where="rlaif judge serve") from None
        local = ipaddress.ip_address(str(self.server_address[0]).partition("%")[0]).is_loopback
        self.token = os.environ.get(TOKEN, "").strip() or ("" if local else secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The address, with the token where one is needed, as clients take it."""
        host, port = str(self.server_address[0]), self.server_address[1]
        known = f"rlaif:{self.token}@" if self.token else ""
        return f"http://{known}{f'[{host}]' if ':' in host else host}:{port}"

    def listen(self, reward: PortableReward, chats: Callable[[], ChatText]) -> None:
        """From now on clients are let in, and `serve_forever` answers them. `chats` opens what reads the texts that
        OpenRLHF sends."""
        self.reward, self.chats = reward, chats
        self.server_activate()

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.slots.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self.slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no concern of ours."""


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE
    server: RewardServer
    server_version = f"rlaif/{__version__}"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer("GET", {HEALTH: self._health})

    def do_POST(self) -> None:
        self._answer("POST", {SCORE: self._score, REWARD: self._get_reward})

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a trainer asks thousands of times."""

    def _answer(self, method: str, here: dict[str, Callable[[], dict[str, Any]]]) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        try:
            self._refuse_stranger()
            if path not in here:
                raise self._elsewhere(path, method)
            status, body = HTTPStatus.OK, here[path]()
        except Refusal as refusal:
            status, body = refusal.status, _error(refusal.what, refusal.remedy)
        except RlaifError as problem:
            down = isinstance(problem, BackendError)
            status = HTTPStatus.BAD_GATEWAY if down else HTTPStatus.UNPROCESSABLE_ENTITY
            body = _error(problem.what, problem.remedy or "", problem.where or "")
        except (TimeoutError, ConnectionError):
            self.close_connection = True
            return
        except Exception as problem:
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            body = _error(f"{type(problem).__name__}: {problem}", "this is a fault of rlaif: please report it")
        self._say(status, body)
        self._send(status, body)

    def _say(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        """Each kind of error once: most trainers show their user the status alone."""
        if status is HTTPStatus.OK:
            return
        what = body["error"]["what"]
        known, kind = self.server.said, f"{status.value} {what[:40]}"
        if kind not in known and len(known) < MOST_SAID:
            known.add(kind)
            say(f"answered {status.value}: {what}\n  -> {body['error']['remedy']}", error=True)

    def _send(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        with suppress(OSError):  # a client that went away
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            if status is HTTPStatus.UNAUTHORIZED:
                self.send_header("WWW-Authenticate", 'Basic realm="rlaif"')
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()
            if status is not HTTPStatus.OK:  # what was not read would take the answer with it
                self.connection.shutdown(socket.SHUT_WR)
                self.connection.settimeout(1.0)
                for _ in range(4 * MOST_BYTES >> 16):
                    if not self.connection.recv(1 << 16):
                        break

    def _refuse_stranger(self) -> None:
        if not self.server.token:
            return
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "basic":  # http://rlaif:TOKEN@host/..., where a client can be told no header
            with suppress(ValueError):
                given = base64.b64decode(given).decode("utf-8", "replace").partition(":")[2]
        if not hmac.compare_digest(given.strip().encode(), self.server.token.encode()):
            what = "this server wants a token"
            remedy = "ask by http://rlaif:TOKEN@HOST:PORT/..., or with the header Authorization: Bearer TOKEN"
            raise Refusal(HTTPStatus.UNAUTHORIZED, what, remedy)

    def _elsewhere(self, path: str, method: str) -> Refusal:
        known = {SCORE: "POST", REWARD: "POST", HEALTH: "GET"}
        if path in known:
            what = f"{path} does not take {method}"
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, what, f"ask {known[path]} {path}")
        there = ", ".join(f"{verb} {name}" for name, verb in known.items())
        return Refusal(HTTPStatus.NOT_FOUND, f"there is no {path or '/'}{near(path, known)}", f"there are {there}")

    def _body(self, wanted: tuple[str, ...], unless: tuple[str, ...] = ()) -> dict[str, list[Any]]:
        """The JSON object of the request: `wanted` and perhaps `unless`, each a list, all of one length."""
        if self.headers.get_content_type() != "application/json":
            what = f"the body is {self.headers.get_content_type()}"
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, what, "send JSON, with Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the request says no length", "send a Content-Length")
        if int(length) > MOST_BYTES:
            what = f"the body of {int(length):,} bytes is above {MOST_BYTES:,}"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, what, "send fewer pairs in a request")
        sent = self.rfile.read(int(length))
        try:
            found = parse_json(sent.decode("utf-8"))
        except ValueError as problem:
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the body is no JSON: {problem}", "send a JSON object") from None
        example = json.dumps({name: ["..."] for name in wanted})
        if not isinstance(found, dict):
            raise _unlike("the body is no object", example)
        for name in found:
            if name not in (*wanted, *unless):
                raise _unlike(f"there is no field {name[:100]!r} here{near(name, (*wanted, *unless))}", example)
        for name in wanted:
            if name not in found:
                raise _unlike(f"{name} is missing", example)
        for name, values in found.items():
            if not isinstance(values, list) or len(values) != len(found[wanted[0]]):
                raise _unlike(f"{name} is no list with one entry for each of {wanted[0]}", example)
        if len(found[wanted[0]]) > MOST_PAIRS:
            what = f"{len(found[wanted[0]]):,} pairs in one request are above {MOST_PAIRS:,}"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, what, "send them in several requests")
        return found

    def _score(self) -> dict[str, Any]:
        given = self._body(("prompts", "completions"), ("finished",))
        finished = given.get("finished")
        if finished is not None and not all(isinstance(ended, bool) for ended in finished):
            raise _unlike("finished holds something that is neither true nor false", '"finished": [true, false]')
        assert self.server.reward is not None
        found = self.server.reward.scored(given["prompts"], given["completions"], finished=finished)
        return {
            "scores": [None if isinstance(said, Failure) else said for said in found],
            "failures": [
                {"kind": said.kind, "reason": said.reason} if isinstance(said, Failure) else None for said in found
            ],
        }

    def _get_reward(self) -> dict[str, Any]:
        given = self._body(("query", "prompts"), ("labels",))
        assert self.server.reward is not None
        assert self.server.chats is not None
        chats = self.server.chats()
        for name in ("query", "prompts"):
            if not all(isinstance(text, str) for text in given[name]):
                raise _unlike(f"{name} holds something that is no text", '"query": ["..."], "prompts": ["..."]')
        answers = [chats.answer(query, text) for query, text in zip(given["query"], given["prompts"], strict=True)]
        asked = [[{"role": m.role, "content": m.content} for m in chats.messages(text)] for text in given["prompts"]]
        found = self.server.reward.scored(
            asked, [text for text, _ in answers], finished=[ended for _, ended in answers]
        )
        for said in found:
            if isinstance(said, Failure):
                what = f"a response has no score ({said.kind}): {said.reason}"
                remedy = "OpenRLHF takes no missing reward: shorten its responses, or ask /score, which gives null"
                raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, what, remedy)
        return {"rewards": found, "scores": found, "extra_logs": {}}

    def _health(self) -> dict[str, Any]:
        assert self.server.reward is not None
        return {"status": "ok", "version": __version__, **self.server.reward.about}


def _error(what: str, remedy: str, where: str = "") -> dict[str, Any]:
    return {"error": {"what": what, "where": where, "remedy": remedy}}


def _unlike(what: str, example: str) -> Refusal:
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, what, f"send {example}")


def no_port(host: str, port: int, problem: Exception, *, where: str) -> ConfigError:
    """Why nothing can listen there, and what to write instead; `where` is the command."""
    if isinstance(problem, socket.gaierror):
        what, remedy = f"there is no host {host!r}", "write an address of this machine, such as 127.0.0.1 or 0.0.0.0"
    elif isinstance(problem, OSError) and problem.errno == errno.EADDRINUSE:
        what, remedy = f"port {port} of {host} is in use", "choose another --port; 0 takes one that is free"
    elif isinstance(problem, OSError) and problem.errno == errno.EADDRNOTAVAIL:
        what, remedy = f"{host} is no address of this machine", "write 127.0.0.1, or 0.0.0.0 for all of its addresses"
    else:
        what, remedy = f"cannot listen on port {port} of {host}: {problem}", "choose another --port"
    return ConfigError(what, where=where, remedy=remedy)
