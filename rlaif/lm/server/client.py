"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, SGLang, hosted ones) as a language model.

What is sent and how replies are read: requests.py and replies.py. How a server is treated:
1. A call keeps `concurrency` requests in flight, fewer where the server says that it is too much (pace.py). Answers are
   handed out as they come, and a request is taken up only when the answer that had its place has been taken in.
2. What may pass is tried again (connection.py).
3. A prefix is sent in the one way that the config says, in all sessions. A server that rejects to continue one ends the
   call, with what to set; a stray rejection ends nothing.
4. What is left after all tries is a failure of the one request. What no other request can mend (refused connection,
   key, unknown model, redirect, no credit, no log-probs) is a BackendError, raised when the requests in flight have
   ended: their answers are paid for.
5. After a row of requests without one answer the server is asked a short question. It answers: those requests failed by
   themselves, and the call goes on. It does not: a BackendError.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, cast

from rlaif.config import AskingConfig
from rlaif.core.errors import BackendError
from rlaif.core.records import Failure, Message
from rlaif.lm.protocol import (
    A,
    DecisionRequest,
    Generation,
    ModelAnswer,
    Request,
    RequestFor,
    ResponseLogprobs,
    ScoreRequest,
    Usage,
)
from rlaif.lm.server.connection import Connection, NoAnswer, Refused
from rlaif.lm.server.decisions import Decided
from rlaif.lm.server.replies import Reply, own_fault, refusal
from rlaif.lm.server.requests import HOSTED, NO_LOGPROBS, Endpoint

LIKELY_DOWN = 8
"""After at least this many requests in a row without a single answer the server is asked whether it is there."""
QUESTION = (Message("user", "Say yes."),)
"""What it is asked then."""
REMEDIES = {
    401: "put a valid key into the environment variable {key_env} (judge.api_key_env)",
    402: "the account has no credit left",
    403: "the key in {key_env} may not use this model; see judge.source",
    404: "check judge.source (name of the model), that judge.base_url ends in /v1, and that the server has the "
    "endpoint of judge.api",
    501: "serve a model that answers typed questions there, or choose another judge.method and judge.api",
}
"""What to do about a status that every request would meet."""
NEVER = (501,)
"""Statuses that no later try changes: the server has not what is asked for."""
REDIRECTED = "if you trust that server, write its address into judge.base_url"


class OpenAIModel:
    """The model behind a server that a judge's table names; requests of a call run `concurrency` at a time.

    Without `base_url` it is api.openai.com. `usage.calls` counts requests, not tries. Raises BackendError as said at
    the top of this file.
    """

    def __init__(self, judge: AskingConfig) -> None:
        if judge.source is None:
            raise BackendError("judge.source is missing", remedy="write the name of the model on the server")
        if judge.base_url is None and not os.environ.get(judge.api_key_env, "").strip():
            raise BackendError(
                f"the environment variable {judge.api_key_env} does not hold a key",
                where=HOSTED,
                remedy=f"export {judge.api_key_env}=..., or set judge.base_url to your own server",
            )
        self.name, self.usage = judge.source, Usage()
        self.endpoint = Endpoint.of(judge)
        self.fingerprint = self.endpoint.fingerprint
        self._key_env, self._concurrency = judge.api_key_env, judge.concurrency
        self._continues = False  # not seen yet
        self.gives_logprobs = False  # not seen yet
        self._connection = Connection(
            judge.base_url or HOSTED,
            field="judge.base_url",
            key_env=judge.api_key_env,
            timeout=judge.timeout,
            max_retries=judge.max_retries,
            most=judge.concurrency,
        )

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        """One answer per request, in order, as `Endpoint.answer` reads it from the reply."""
        answers = dict(pair for group in self.arriving(cast("Sequence[Request]", requests)) for pair in group)
        return cast("list[A]", [answers[place] for place in range(len(requests))])

    def arriving(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, ModelAnswer]]]:
        """The answers in groups, as they come; errors are raised after the answers to all that was in flight."""
        flight = _Flight(self, self._concurrency, requests)
        work = self._connection.loop.start(flight.run())
        try:
            for group in flight.groups():
                yield group
                self._connection.loop.soon(flight.taken, len(group))
            work.result()
        finally:
            work.cancel()

    def close(self) -> None:
        self._connection.close()

    # -- the network: everything below runs in the thread of the event loop

    async def answer(self, request: Request, flight: _Flight) -> ModelAnswer:
        """The answer, after as many tries as it takes and is allowed."""
        self.endpoint.refuse(request)
        self.usage.calls += 1
        folds = self.endpoint.folds
        begun = not isinstance(request, ScoreRequest | DecisionRequest) and bool(request.prefix)
        begun = begun and self.endpoint.api == "chat"
        body = self.endpoint.body(request, folded=folds)
        reply = await self._post(request, body, flight)
        if begun and not folds:
            if isinstance(reply, Refused) and not self._continues:
                reply = await self._post(request, body, flight)  # a stray refusal would not come twice
                if isinstance(reply, Refused):
                    await self._refuse_begun(request, reply, flight)
            self._continues = self._continues or isinstance(reply, Reply)
        if isinstance(reply, Refused):
            reply = Failure("backend", f"the server rejects the request: {reply.said}")
        answer = self.endpoint.answer(request, reply, folded=folds)
        if isinstance(answer, ResponseLogprobs):
            self.usage.scored_tokens += len(answer.token_logprobs or ())
        return answer

    async def is_there(self, request: Request, flight: _Flight) -> bool:
        """Whether the server answers a short question that is asked in the way of `request`. Raises BackendError."""
        if isinstance(request, DecisionRequest):
            short: Request = replace(request, state=QUESTION[0].content, questions=request.questions[:1])
        elif isinstance(request, ScoreRequest):
            short = replace(request, messages=QUESTION, response="Yes.", first_tokens=None)
        else:
            short = replace(request, messages=QUESTION)
        failure = (await self.answer(short, flight)).failure
        return failure is None or failure.kind != "backend"

    async def _refuse_begun(self, request: Request, refused: Refused, flight: _Flight) -> None:
        """Raises BackendError where the server takes the request without the beginning of its answer."""
        if isinstance(await self._post(request, self.endpoint.body(request, folded=True), flight), Reply):
            raise BackendError(
                f"the server rejects a question with the beginning of its answer ({refused.said})",
                where=self.endpoint.where,
                remedy="set judge.prefix: folded, and it is asked in words to begin so",
            )

    async def _post(
        self, request: Request, body: dict[str, Any], flight: _Flight
    ) -> Reply | Decided | Failure | Refused:
        """The server's reply, why this one request has none, or that the server understands it and will not take it
        (400, 422). Raises BackendError."""
        try:
            reply = await self._connection.send(
                self.endpoint.path,
                body,
                partial(self.endpoint.read, request),
                lasting=NEVER,
                ending=lambda: flight.ending,
            )
        except Refused as problem:
            return self._meaning(problem)
        except NoAnswer as problem:
            if problem.too_long is not None:
                raise BackendError(
                    str(problem),
                    where=self.endpoint.where,
                    remedy="finished work is kept: run the same command with --resume after that",
                ) from None
            if problem.unreachable:
                raise BackendError(
                    f"cannot reach the server ({problem.reason})",
                    where=self.endpoint.where,
                    remedy="start the server or correct judge.base_url, then run again with --resume",
                ) from None
            return Failure("backend", str(problem))
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.generated_tokens += reply.completion_tokens
        return (refusal(reply) if isinstance(reply, Reply) else None) or reply

    def _meaning(self, problem: Refused) -> Failure | Refused:
        """What a refusal means for the request. Raises BackendError where it means all of them."""
        status = 402 if problem.used_up else problem.status
        if status in REMEDIES or problem.redirects:
            remedy = REMEDIES.get(status, REDIRECTED).format(key_env=self._key_env)
            raise BackendError(f"the server refuses ({problem.said})", where=self.endpoint.where, remedy=remedy)
        fault = own_fault(problem.said, problem.code, problem.kind)
        if fault is None and status in (400, 422):
            return problem
        return fault or Failure("backend", problem.said)


class _Flight:
    """The requests of one call on their way, and their answers until somebody takes them in.

    A request holds one of `concurrency` places from when it is taken up until its answer is `taken`: what a kill can
    cost, and what can wait here, is never more.
    """

    def __init__(self, model: OpenAIModel, concurrency: int, requests: Iterable[Request]) -> None:
        self._model, self._concurrency = model, concurrency
        self._source = iter(enumerate(requests))
        self._places = asyncio.Semaphore(concurrency)
        self._arrived: SimpleQueue[tuple[int, ModelAnswer] | None] = SimpleQueue()
        self._problem: BackendError | None = None
        self._answered = False
        self._last_answer = 0.0
        self._lacking: list[str] = []  # why there are no log-probs, of answers without them
        self._failures: list[str] = []  # of requests sent after the last answer came
        self._failed: Request | None = None  # the last of those requests
        self._asking = False  # whether the server is being asked if it is there

    @property
    def ending(self) -> bool:
        """Whether there was an error that ends the call: nothing is tried again."""
        return self._problem is not None

    async def run(self) -> None:
        """Sends everything; raises the error that ended it, when all has come back."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._work())
        except BaseExceptionGroup as problems:
            raise problems.exceptions[0] from None
        finally:
            self._arrived.put(None)
        if not self._answered and len(self._failures) >= LIKELY_DOWN:
            await self._ask_whether_it_is_there()
        if self._lacking:
            self._refuse_without_logprobs()
        if self._problem is not None:
            raise self._problem

    async def _work(self) -> None:
        while True:
            await self._places.acquire()
            taken = None if self.ending else next(self._source, None)
            if taken is None:
                self._places.release()
                return
            place, request = taken
            sent = time.monotonic()
            try:
                answer = await self._model.answer(request, self)
            except BackendError as problem:
                self._problem = self._problem or problem
                self._places.release()
                return
            self._arrived.put((place, answer))
            await self._watch(request, answer, sent)

    async def _watch(self, request: Request, answer: ModelAnswer, sent: float) -> None:
        """Ends the call where the server is found broken after a row of requests, each sent after the last answer, that
        all failed, or where none of the first ones got log-probs."""
        failure = answer.failure
        if failure is None and not isinstance(answer, Generation):
            self._model.gives_logprobs = True
        if failure is not None and failure.kind == "missing_logprobs":
            self._lacking.append(failure.reason)
            if len(self._lacking) >= LIKELY_DOWN:
                self._refuse_without_logprobs()
        if failure is None or failure.kind != "backend":
            self._heard()
        elif sent >= self._last_answer:
            self._failures.append(failure.reason)
            self._failed = request
            if len(self._failures) >= max(LIKELY_DOWN, 2 * self._concurrency) and not self._asking:
                await self._ask_whether_it_is_there()

    def _heard(self) -> None:
        """The server answered."""
        self._answered, self._last_answer = True, time.monotonic()
        self._failures.clear()

    async def _ask_whether_it_is_there(self) -> None:
        assert self._failed is not None
        self._asking = True
        try:
            if await self._model.is_there(self._failed, self):
                self._heard()
            else:
                self._give_up()
        except BackendError as problem:
            self._problem = self._problem or problem
        finally:
            self._asking = False

    def _refuse_without_logprobs(self) -> None:
        if not self._model.gives_logprobs:
            where = self._model.endpoint.where
            self._problem = self._problem or BackendError(self._lacking[0], where=where, remedy=NO_LOGPROBS)

    def _give_up(self) -> None:
        self._problem = self._problem or BackendError(
            f"all of the last {len(self._failures)} requests failed; the first: {self._failures[0]}",
            where=self._model.endpoint.where,
            remedy="look at the server's log; finished work is kept, run again with --resume",
        )

    def taken(self, number: int) -> None:
        """That many answers were taken in: their places are free."""
        for _ in range(number):
            self._places.release()

    def groups(self) -> Iterator[list[tuple[int, ModelAnswer]]]:
        """What has arrived since the last group, until all is there; called from the thread that waits."""
        ended = False
        while not ended:
            waiting = [self._arrived.get()]
            while True:
                try:
                    waiting.append(self._arrived.get_nowait())
                except Empty:
                    break
            ended = waiting[-1] is None
            group = [item for item in waiting if item is not None]
            if group:
                yield group
