"""Any OpenAI-compatible server (vLLM, llama.cpp, Ollama, SGLang, hosted ones) as a language model.

How the protocol maps onto a server:
1. A `prefix` is sent as a last assistant message to be continued (vLLM and SGLang need the two extra fields,
   llama.cpp and Ollama do it anyway). A server that rejects this is asked with "Begin your answer with exactly: ..."
   in the last user message instead, and the prefix is taken off its answer.
2. `api: completions` sends a plain "Human: / Assistant:" transcript, for base models; no chat template is applied.
3. Choices are read from the likeliest tokens of a greedy answer (20 for chat, 5 for completions: OpenAI's limits).
4. The SDK retries 408, 409, 429, 5xx, timeouts and lost connections with growing, jittered pauses and honours
   Retry-After. What is left after that is a failure of the one request. What no other request can mend (refused
   connection, key, unknown model, no credit, no log-probs, a whole batch without one answer) is a BackendError.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from rlaif.config import AskingConfig
from rlaif.errors import BackendError
from rlaif.lm.openai_replies import Reply, indistinct, parse_reply, read_choices, read_scores, shorten, tokens_to_decide
from rlaif.lm.protocol import (
    ChoiceLogprobs,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    ResponseLogprobs,
    ScoreRequest,
    Usage,
)
from rlaif.records import Failure, Message, content_id

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

TOP_LOGPROBS = {"chat": 20, "completions": 5}
LIKELY_DOWN = 8
"""A batch of at least this many requests without a single answer means that the server is at fault, not the rows."""

_OVERFLOW = re.compile(
    r"context[ _-]?(length|size|window)|maximum context|max_model_len|too many tokens|prompt is too long", re.IGNORECASE
)
_FILTERED = re.compile(r"content[ _-]?(filter|policy|management)|safety system", re.IGNORECASE)
_HOSTED = "https://api.openai.com/v1"
_NO_LOGPROBS = "use a server with log-probs (vLLM, llama.cpp, SGLang, ...), or judge.backend: local"


@dataclass(frozen=True, slots=True)
class _Call:
    """One request before it is written in the form of an endpoint."""

    messages: tuple[Message, ...]
    prefix: str
    max_tokens: int
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Answer:
    """`folded`: the prefix was asked for in the user's message, so the answer's tokens begin with it."""

    reply: Reply | Failure
    folded: bool = False


class _Rejected(Exception):
    """The server understood the request and will not take it (400, 422)."""


class OpenAIModel:
    """A model behind a server; requests of a batch run `concurrency` at a time, results keep their order.

    `base_url` None is api.openai.com. `timeout` is in seconds per try. `n_tokens` of a generation is what the server
    counted, 0 if it does not count. Raises BackendError as said at the top of this file.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 5,
        api: Literal["chat", "completions"] = "chat",
    ) -> None:
        import openai

        if base_url is not None and not base_url.startswith(("http://", "https://")):
            raise BackendError(
                "is not the address of a server",
                where=base_url,
                remedy="write judge.base_url: http://127.0.0.1:8000/v1",
            )
        key = os.environ.get(api_key_env, "").strip()
        if not key and base_url is None:
            raise BackendError(
                f"the environment variable {api_key_env} does not hold a key",
                where=_HOSTED,
                remedy=f"export {api_key_env}=..., or set judge.base_url to your own server",
            )
        self.name, self.usage = model, Usage()
        self.fingerprint = content_id("openai", base_url, model, api)
        self._api, self._base_url, self._key_env = api, base_url, api_key_env
        self._concurrency, self._timeout, self._max_retries = concurrency, timeout, max_retries
        self._folds_prefix = False
        # a local server wants no key, but the SDK refuses to send none
        self._client = openai.AsyncOpenAI(
            api_key=key or "none", base_url=base_url or _HOSTED, timeout=timeout, max_retries=max_retries
        )
        self._loop = _LoopThread()

    @classmethod
    def from_config(cls, judge: AskingConfig) -> OpenAIModel:
        """The model that a config's `judge` table names."""
        if judge.source is None:
            raise BackendError("judge.source is missing", remedy="write the name of the model on the server")
        return cls(
            judge.source,
            base_url=judge.base_url,
            api_key_env=judge.api_key_env,
            concurrency=judge.concurrency,
            timeout=judge.timeout,
            max_retries=judge.max_retries,
            api=judge.api,
        )

    def check(self, *, logprobs: bool = False) -> None:
        """Makes one cheap call without retries, with log-probs if asked; BackendError says what is wrong."""
        messages = (Message("user", "Which comes first in the alphabet, (A) or (B)?"),)
        if logprobs:
            call = self._choice_call(ChoiceRequest(messages, ("A", "B"), prefix="("))
        else:
            call = _Call(messages, "", 1, {"temperature": 0.0})
        reply = self._ask_all([call], max_retries=0)[0].reply
        if isinstance(reply, Failure):
            raise BackendError(reply.reason, where=self._where, remedy="look at the server's log")
        if logprobs and not reply.positions:
            raise self._no_logprobs()

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """One continuation per request, in order; an answer without text is the failure `empty`."""
        calls = [
            _Call(
                request.messages,
                request.prefix,
                request.max_new_tokens,
                # some servers keep seeds in 32 bits
                {"temperature": request.temperature, "seed": request.seed & 0x7FFFFFFF, "stop": list(request.stop)},
            )
            for request in requests
        ]
        return [
            _generation(answer.reply, call.prefix) for answer, call in zip(self._ask_all(calls), calls, strict=True)
        ]

    def choice_logprobs(self, requests: Sequence[ChoiceRequest]) -> list[ChoiceLogprobs]:
        """Log-probabilities of the choices as `openai_replies.read_choices` reads them from the likeliest tokens.

        Without a prefix an answer that merely begins with a choice ("A fruit is ...") counts for it: give a prefix.
        """
        for request in requests:
            pair = indistinct(request.choices)
            if pair is not None:
                raise BackendError(
                    f"the choices {pair[0]!r} and {pair[1]!r} cannot be told apart by the first token of an answer",
                    where=self._where,
                    remedy="use choices of which none begins another (letters), or judge.backend: local",
                )
        answers = self._ask_all([self._choice_call(request) for request in requests])
        return [self._choices(answer, request) for answer, request in zip(answers, requests, strict=True)]

    def response_logprobs(self, requests: Sequence[ScoreRequest]) -> list[ResponseLogprobs]:
        """Log-probability of each token of the responses, by `echo` of the completions endpoint (vLLM has it)."""
        if self._api == "chat":
            raise BackendError(
                "chat servers do not return the log-probs of given text",
                where=self._where,
                remedy="use judge.api: completions with a server that echoes (vLLM), or judge.backend: local",
            )
        options = {"temperature": 0.0, "echo": True, "logprobs": 1}
        calls = [_Call(request.messages, " " + request.response, 1, options) for request in requests]
        answers = self._ask_all(calls)
        return [
            self._scores(answer.reply, call, request.first_tokens)
            for answer, call, request in zip(answers, calls, requests, strict=True)
        ]

    def close(self) -> None:
        self._loop.close(self._client.close)

    @property
    def _where(self) -> str:
        return f"{self.name} at {self._base_url or _HOSTED}"

    def _choice_call(self, request: ChoiceRequest) -> _Call:
        top = TOP_LOGPROBS[self._api]
        options = {"logprobs": True, "top_logprobs": top} if self._api == "chat" else {"logprobs": top}
        return _Call(
            request.messages, request.prefix, tokens_to_decide(request.choices), {"temperature": 0.0} | options
        )

    def _choices(self, answer: _Answer, request: ChoiceRequest) -> ChoiceLogprobs:
        reply = answer.reply
        if isinstance(reply, Failure):
            return ChoiceLogprobs(None, reply)
        if not reply.positions:
            if not reply.text.strip():
                return ChoiceLogprobs(None, Failure("empty", "the server returned no text"))
            raise self._no_logprobs()
        return read_choices(reply.positions, request.choices, request.prefix if answer.folded else "")

    def _scores(self, reply: Reply | Failure, call: _Call, first_tokens: int | None) -> ResponseLogprobs:
        if isinstance(reply, Failure):
            return ResponseLogprobs(None, reply)
        given = _transcript(call.messages)
        if not reply.positions or not reply.text.startswith(given + call.prefix):
            raise self._no_logprobs("the server does not return the log-probs of given text")
        values = read_scores(reply, len(given), len(given) + len(call.prefix))[:first_tokens]
        if not values or any(value is None for value in values):
            return ResponseLogprobs(None, Failure("missing_logprobs", "no log-probs for the tokens of the response"))
        self.usage.scored_tokens += len(values)
        return ResponseLogprobs(tuple(value for value in values if value is not None))

    def _no_logprobs(self, what: str = "the server returned no log-probs") -> BackendError:
        return BackendError(what, where=self._where, remedy=_NO_LOGPROBS)

    # -- the network: everything below runs in the thread of the event loop, except `_ask_all`

    def _ask_all(self, calls: Sequence[_Call], *, max_retries: int | None = None) -> list[_Answer]:
        """One answer per call, in order. A batch of which nothing came back is a BackendError."""
        retries = self._max_retries if max_retries is None else max_retries
        answers = self._loop.run(self._gather(calls, retries)) if calls else []
        failures = [a.reply for a in answers if isinstance(a.reply, Failure) and a.reply.kind == "backend"]
        if len(answers) >= LIKELY_DOWN and len(failures) == len(answers):
            raise BackendError(
                f"all {len(answers)} requests of a batch failed; the first: {failures[0].reason}",
                where=self._where,
                remedy="look at the server's log; finished work is kept, run again with --resume",
            )
        return answers

    async def _gather(self, calls: Sequence[_Call], max_retries: int) -> list[_Answer]:
        slots = asyncio.Semaphore(self._concurrency)

        async def one(call: _Call) -> _Answer:
            async with slots:
                return await self._ask(call, max_retries)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(call)) for call in calls]
        except BaseExceptionGroup as problems:
            raise problems.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, call: _Call, max_retries: int) -> _Answer:
        """One answer; a prefix is folded into the user's message once the server has rejected continuing it."""
        fold = self._api == "chat" and bool(call.prefix) and self._folds_prefix
        try:
            return _Answer(await self._post(self._body(call, fold=fold), max_retries), fold)
        except _Rejected as first:
            if self._api == "completions" or not call.prefix or fold:
                return _Answer(Failure("backend", str(first)), fold)
        try:
            reply = await self._post(self._body(call, fold=True), max_retries)
        except _Rejected as second:
            return _Answer(Failure("backend", str(second)), True)
        self._folds_prefix = True
        return _Answer(reply, True)

    def _body(self, call: _Call, *, fold: bool) -> dict[str, Any]:
        """The JSON of one request."""
        options = {key: value for key, value in call.options.items() if value != []}
        body: dict[str, Any] = {"model": self.name, **options}
        if self._api == "completions":
            if "echo" not in options:
                body["stop"] = [*options.get("stop", []), "\n\nHuman:"][:4]
            return body | {"prompt": _transcript(call.messages) + call.prefix, "max_tokens": call.max_tokens}
        # OpenAI's newer models refuse max_tokens, other servers know nothing else
        limit = "max_tokens" if self._base_url is not None else "max_completion_tokens"
        messages = [{"role": message.role, "content": message.content} for message in call.messages]
        body |= {"messages": messages, limit: call.max_tokens}
        if call.prefix and not fold:
            messages.append({"role": "assistant", "content": call.prefix})
            return body | {"continue_final_message": True, "add_generation_prompt": False}
        if call.prefix:
            messages[-1]["content"] += f"\n\nBegin your answer with exactly: {call.prefix}"
            body[limit] += len(call.prefix)  # the answer repeats the prefix, and no token is shorter than a character
        return body

    async def _post(self, body: dict[str, Any], max_retries: int) -> Reply | Failure:
        """The server's reply, or why this one request has none. Raises BackendError, _Rejected."""
        import openai

        self.usage.calls += 1
        path = "/chat/completions" if self._api == "chat" else "/completions"
        try:
            text = await self._client.post(path, cast_to=str, body=body, options={"max_retries": max_retries})
            reply = parse_reply(text)
        except openai.APIStatusError as problem:
            return self._status_failure(problem)
        except openai.APITimeoutError:
            return Failure("backend", f"no answer within {self._timeout:g} s, tried {max_retries + 1} times")
        except openai.APIConnectionError as problem:
            cause = problem.__cause__ or problem
            if type(cause).__name__ == "ConnectError":
                raise BackendError(
                    f"cannot reach the server ({shorten(str(cause))})",
                    where=self._where,
                    remedy="start the server or correct judge.base_url, then run again with --resume",
                ) from None
            return Failure("backend", f"connection lost ({shorten(str(cause))}), tried {max_retries + 1} times")
        except (openai.OpenAIError, ValueError) as problem:
            return Failure("backend", shorten(str(problem)))
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.generated_tokens += reply.completion_tokens
        if reply.refusal:
            return Failure("refused", shorten(reply.refusal))
        if reply.finish == "content_filter":
            return Failure("refused", "the server's content filter stopped the answer")
        return reply

    def _status_failure(self, problem: openai.APIStatusError) -> Failure:
        """What an error status means for this request. Raises BackendError where it means all of them, or _Rejected."""
        status, said = problem.status_code, shorten(problem.message)
        remedies = {
            401: f"put a valid key into the environment variable {self._key_env} (judge.api_key_env)",
            402: "the account has no credit left",
            403: f"the key in {self._key_env} may not use this model; see judge.source",
            404: "check judge.source (name of the model) and that judge.base_url ends in /v1",
        }
        if problem.code == "insufficient_quota":
            status = 402
        if status in remedies:
            raise BackendError(f"the server refuses ({said})", where=self._where, remedy=remedies[status])
        if _OVERFLOW.search(f"{problem.code} {problem.type} {problem.message}"):
            return Failure("context_overflow", said)
        if _FILTERED.search(f"{problem.code} {problem.message}"):
            return Failure("refused", said)
        if status in (400, 422):
            raise _Rejected(f"the server rejects the request: {said}")
        return Failure("backend", f"{said} (after all retries)")


class _LoopThread:
    """An event loop in a thread of its own: works inside notebooks, keeps connections, and Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rlaif-openai", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except (KeyboardInterrupt, CancelledError):
            future.cancel()
            raise

    def close(self, last: Any) -> None:
        if self._thread.is_alive():
            self.run(last())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _generation(reply: Reply | Failure, prefix: str) -> Generation:
    if isinstance(reply, Failure):
        return Generation(None, "stop", 0, reply)
    finish: Literal["stop", "length"] = "length" if reply.finish == "length" else "stop"
    text = reply.text
    # llama.cpp repeats a continued prefix, and an answer to a folded one begins with it
    if prefix.strip() and text.lstrip().startswith(prefix.strip()):
        whole, bare = prefix.lstrip(), prefix.strip()
        text = text.lstrip()
        text = text[len(whole if text.startswith(whole) else bare) :]
    if not text.strip():
        reason = "the server returned no text" + (" (only hidden reasoning?)" if finish == "length" else "")
        return Generation(None, finish, reply.completion_tokens, Failure("empty", reason))
    return Generation(text, finish, reply.completion_tokens)


def _transcript(messages: Sequence[Message]) -> str:
    """The conversation as plain text for a base model, up to and with "Assistant:"."""
    names = {"system": "", "user": "Human: ", "assistant": "Assistant: "}
    return "\n\n".join([names[message.role] + message.content for message in messages] + ["Assistant:"])
