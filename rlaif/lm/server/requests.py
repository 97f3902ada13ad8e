"""What an OpenAI-compatible server is sent for a request, and what its reply means for the request. No network.

1. A `prefix` is sent as a last assistant message to be continued (vLLM and SGLang need the two extra fields,
   llama.cpp and Ollama do it anyway). With `judge.prefix: folded`, and at OpenAI, which rejects the continuation, it is
   *folded*: "Begin your answer with exactly: ..." stands in the last user message instead, and the prefix is taken off
   the answer. These are two questions: each has cache keys of its own.
2. `api: completions` sends a plain "Human: / Assistant:" transcript, for base models; no chat template is applied.
3. A server is asked in text, and many take what looks like a token of their chat format for the token itself. So such
   text gets a blank, wherever it stands: "< |im_end|>" (rlaif.lm.markers). In a transcript so do "Human:" and
   "Assistant:" at the beginning of a line.
4. Choices are read from the likeliest tokens of a greedy answer (20 for chat, 5 for completions: OpenAI's limits). With
   them goes `repetition_penalty: 1`: SGLang, and vLLM with `--logprobs-mode processed_logprobs`, otherwise list
   probabilities after the penalty that the model was saved with. OpenAI rejects the field, and so may servers for which
   `judge.prefix: folded` is set.
5. A model may think before its answer, and gets `judge.thinking_tokens` for it beside the answer's own; a continued
   prefix leaves no room to think. What was thought is kept apart: no choice is ever read from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from rlaif.config import AskingConfig
from rlaif.config.judge import DECIDING
from rlaif.core.errors import BackendError
from rlaif.core.records import Failure, Message, content_id
from rlaif.lm.markers import without_speakers, without_tokens
from rlaif.lm.protocol import (
    ChoiceLogprobs,
    ChoiceRequest,
    DecisionRequest,
    GenerateRequest,
    Generation,
    ModelAnswer,
    Request,
    ResponseLogprobs,
    ScoreRequest,
)
from rlaif.lm.server.credentials import refuse_key_in, shown
from rlaif.lm.server.decisions import Decided, decision_body, decisions_of, parse_decisions
from rlaif.lm.server.replies import Reply, indistinct, parse_reply, read_choices, read_scores, spell, tokens_to_decide

HOSTED = "https://api.openai.com/v1"
TOP_LOGPROBS = {"chat": 20, "completions": 5}
UNKNOWN = 0.05
"""Most of the probability that choices may hold which the server does not list."""
NO_LOGPROBS = "use a server with log-probs (vLLM, llama.cpp, SGLang, ...), or judge.backend: local"

Written = GenerateRequest | ChoiceRequest | ScoreRequest
"""What is asked in messages, of which an answer is written."""

_clash = lru_cache(indistinct)
"""A run has a handful of sets of choices and asks with each of them thousands of times."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model on a server: how it is asked and how its replies are read. `base_url` None is api.openai.com."""

    model: str
    base_url: str | None = None
    api: Literal["chat", "completions", "systemone", "decisions"] = "chat"
    prefix: Literal["continued", "folded"] = "continued"
    temperature: float | None = 0.0
    thinking_tokens: int = 0
    reasoning_effort: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, judge: AskingConfig) -> Endpoint:
        """That which a judge's table names; it has a source. ConfigError for an `extra_body` that holds the key."""
        assert judge.source is not None
        refuse_key_in(json.dumps(judge.extra_body), judge.api_key_env, where="judge.extra_body")
        return cls(
            judge.source,
            judge.base_url,
            judge.api,
            judge.prefix,
            judge.temperature,
            judge.thinking_tokens,
            judge.reasoning_effort,
            judge.extra_body,
        )

    @property
    def fingerprint(self) -> str:
        """Of the model by its name and of how it is asked; one's own servers count as one, wherever they run.

        Whether it may think is a part of that, and how long is none: an answer that is there was not cut, and is the
        same under a higher limit, which so asks again only what failed.
        """
        parts: list[object] = ["folded"] if self.folds and self.base_url is not None else []
        asked = {
            "temperature": None if self.temperature == 0 else [self.temperature],
            "reasoning_effort": self.reasoning_effort,
            "thinks": self.thinking_tokens > 0,
            "extra_body": dict(self.extra_body),
        }
        parts += [given] if (given := {name: value for name, value in asked.items() if value}) else []
        return content_id("openai", "hosted" if self.base_url is None else "own", self.model, self.api, *parts)

    @property
    def where(self) -> str:
        """The model and the server's address, without a password, for errors."""
        return f"{self.model} at {shown(self.base_url or HOSTED)}"

    @property
    def path(self) -> str:
        return "/chat/completions" if self.api == "chat" else f"/{self.api}"

    @property
    def folds(self) -> bool:
        """Whether a prefix is asked for in words, in place of an answer that is begun with it."""
        return self.api == "chat" and (self.prefix == "folded" or self.base_url is None)

    def refuse(self, request: Request) -> None:
        """Raises BackendError for a request that no server of this kind can answer."""
        if isinstance(request, DecisionRequest) != (self.api in DECIDING):
            raise BackendError(
                f"the endpoint {self.path} answers no {type(request).__name__}",
                where=self.where,
                remedy=f"judge.api: {' and '.join(DECIDING)} are for judge.method: decision, and for it alone",
            )
        if isinstance(request, ScoreRequest) and self.api == "chat":
            raise BackendError(
                "chat servers do not return the log-probs of given text",
                where=self.where,
                remedy="use judge.api: completions with a server that echoes (vLLM), or judge.backend: local",
            )
        if isinstance(request, ScoreRequest) and request.temperature != 1:
            raise BackendError(
                "servers give the log-probs of given text at temperature 1 alone",
                where=self.where,
                remedy="score at temperature 1, or with a local model",
            )
        pair = _clash(request.choices) if isinstance(request, ChoiceRequest) else None
        if pair is not None:
            raise BackendError(
                f"the choices {pair[0]!r} and {pair[1]!r} cannot be told apart by the first token of an answer",
                where=self.where,
                remedy="use choices of which none begins another (letters), or judge.backend: local",
            )

    def body(self, request: Request, *, folded: bool) -> dict[str, Any]:
        """The JSON of the request."""
        if isinstance(request, DecisionRequest):
            return {"model": self.model, **self.extra_body, **decision_body(self._deciding, request)}
        options, max_tokens = self._options(request, folded)
        body: dict[str, Any] = {"model": self.model, **self.extra_body, **options}
        if self.reasoning_effort is not None:
            body["reasoning_effort"] = self.reasoning_effort
        prefix = _begun(request)
        if self.api == "completions":
            if not isinstance(request, ScoreRequest):
                body["stop"] = [*options.get("stop", []), "\n\nHuman:"][:4]
            return body | {"prompt": _transcript(request.messages) + prefix, "max_tokens": max_tokens}
        # OpenAI's newer models refuse max_tokens, other servers know nothing else
        limit = "max_tokens" if self.base_url is not None else "max_completion_tokens"
        messages = [{"role": m.role, "content": without_tokens(m.content)} for m in request.messages]
        body |= {"messages": messages, limit: max_tokens + self._room(request, folded)}
        if prefix and not folded:
            messages.append({"role": "assistant", "content": prefix})
            return body | {"continue_final_message": True, "add_generation_prompt": False}
        if prefix:
            messages[-1]["content"] += f"\n\nBegin your answer with exactly: {prefix}"
            body[limit] += len(prefix)  # the answer repeats the prefix, and no token is shorter than a character
        return body

    @property
    def _deciding(self) -> Literal["systemone", "decisions"]:
        assert self.api in ("systemone", "decisions")
        return self.api

    def read(self, request: Request, text: str) -> Reply | Decided:
        """The reply in the body of an answer with status 200; `BrokenReply` says what is malformed in it."""
        return parse_decisions(text, request.questions) if isinstance(request, DecisionRequest) else parse_reply(text)

    def _room(self, request: Written, folded: bool) -> int:
        """How many tokens the model may think before it answers; none in an answer that is begun."""
        return 0 if self.api != "chat" or (_begun(request) and not folded) else self.thinking_tokens

    def _cut_thinking(self, request: Written, reply: Reply, folded: bool) -> Failure | None:
        """The failure of a reply that ends before the model has thought enough, or None.

        A server that does not tell thinking from answer, and a model whose prompt opens the thinking, leave no mark in
        what was cut: where there was room to think, a reply that fills all of it and closed no thinking is such a one.
        """
        if reply.finish != "length" or self.api != "chat" or isinstance(request, ScoreRequest):
            return None
        begun = bool(_begun(request)) and not folded
        if reply.text.strip() and (reply.thinking or not self._room(request, folded)):
            return None
        if begun and not reply.thinking:
            return None  # some blanks of an answer that is begun
        took = f"{reply.completion_tokens:,} tokens" if reply.completion_tokens else "all its tokens"
        room = f"raise judge.thinking_tokens ({self.thinking_tokens})"
        if begun:
            room = "set judge.prefix: folded and give it judge.thinking_tokens"
        reason = f"the thinking took {took} and was cut before the answer: {room}, or turn it off where the model can: "
        reason += "judge.extra_body: {chat_template_kwargs: {enable_thinking: false}}"
        return Failure("thinking_cut", reason)

    def answer(self, request: Request, reply: Reply | Decided | Failure, *, folded: bool) -> ModelAnswer:
        """What the reply says about the request; without the log-probs asked for, the failure `missing_logprobs`, and
        for one that was cut in its thinking `thinking_cut`.

        `n_tokens` of a generation is what the server counted, 0 if it does not count. Choices: `read_choices` from the
        likeliest tokens; without a prefix an answer that merely begins with a choice ("A fruit is ...") counts for it.
        """
        if isinstance(request, DecisionRequest):
            assert not isinstance(reply, Reply)
            return decisions_of(reply)
        assert not isinstance(reply, Decided)
        if isinstance(reply, Reply):
            if reply.unparted and _begun(request) and not folded and self.api == "chat":
                # Behind a beginning there is hardly any thinking: if it can be read as the answer, it is the answer.
                whole = replace(reply, text=reply.thinking, thinking="")
                if isinstance(request, GenerateRequest):
                    reply = whole
                elif isinstance(request, ChoiceRequest):
                    read = self._choices(whole, request, folded)
                    if read.failure is None:
                        return read
            if reply.unparted and reply.positions is not None:
                reply = replace(reply, positions=())
            reply = self._cut_thinking(request, reply, folded) or reply
        if isinstance(request, GenerateRequest):
            written = _generation(reply, _begun(request))
            if request.json_schema and written.failure is None and written.finish == "length":
                reason = f"the verdict was cut at {written.n_tokens} tokens"
                return request.failed(Failure("truncated", reason))  # so it is not kept, and is asked again
            return written
        if isinstance(request, ChoiceRequest):
            found = self._choices(reply, request, folded)
            return found if isinstance(reply, Failure) else replace(found, thinking=reply.thinking)
        return self._scores(reply, request)

    def _options(self, request: Written, folded: bool) -> tuple[dict[str, Any], int]:
        """The fields that do not depend on the messages, and how many tokens to ask for."""
        if isinstance(request, GenerateRequest):
            # some servers keep seeds in 32 bits
            options = self._warmth(request.temperature) | {"seed": request.seed & 0x7FFFFFFF}
            if request.stop:
                options["stop"] = list(request.stop)
            if request.json_schema:
                schema = {"name": "verdict", "strict": True, "schema": json.loads(request.json_schema)}
                options["response_format"] = {"type": "json_schema", "json_schema": schema}
            return options, request.max_new_tokens
        if isinstance(request, ScoreRequest):
            return {"temperature": 0.0, "echo": True, "logprobs": 1}, 1
        top = TOP_LOGPROBS[self.api]
        options = {"logprobs": True, "top_logprobs": top} if self.api == "chat" else {"logprobs": top}
        if self._own and self.prefix == "continued" and not folded and "repetition_penalty" not in self.extra_body:
            options["repetition_penalty"] = 1.0
        # Some servers list log-probs after the temperature: it is sent where the model thinks before it chooses, alone.
        thinks = self.temperature is None or self._room(request, folded) > 0
        warmth = self._warmth(0.0) if thinks else {"temperature": 0.0}
        return warmth | options, tokens_to_decide(request.choices)

    @property
    def _own(self) -> bool:
        """Whether it is another server than OpenAI's."""
        return self.base_url is not None and urlsplit(self.base_url).hostname != "api.openai.com"

    def _warmth(self, temperature: float) -> dict[str, Any]:
        """The temperature that is sent: the judge's own for a question that asks for its likeliest answer."""
        sent = self.temperature if temperature == 0 else temperature
        return {} if sent is None else {"temperature": sent}

    def _choices(self, reply: Reply | Failure, request: ChoiceRequest, folded: bool) -> ChoiceLogprobs:
        if isinstance(reply, Failure):
            return ChoiceLogprobs(None, reply)
        if not reply.positions:
            if not reply.text.strip():
                return ChoiceLogprobs(None, Failure("empty", "the server returned no text"))
            reason = "the server returned no log-probs" + " of the answer behind the thinking" * bool(reply.thinking)
            return ChoiceLogprobs(None, Failure("missing_logprobs", reason))
        answer = read_choices(reply.positions, request.choices, _begun(request) if folded else "")
        if answer.logprobs is not None and answer.bounds:
            masses = [math.exp(value) for value in answer.logprobs]
            unknown = sum(masses[place] for place in answer.bounds) / sum(masses)
            if unknown > UNKNOWN:
                names = ", ".join(repr(request.choices[place]) for place in answer.bounds)
                listed, most = min(len(position.top) for position in reply.positions), TOP_LOGPROBS[self.api]
                share = f"{names}, which may hold {unknown:.0%} of the probability"
                if listed < most:
                    reason = f"the server lists {listed} of {most} likely tokens, without {share}"
                    return ChoiceLogprobs(None, Failure("missing_logprobs", reason))
                more = "" if self.api == "chat" else "; with judge.api: chat 20 tokens are listed"
                return ChoiceLogprobs(None, Failure("off_menu", f"the {most} likeliest tokens leave out {share}{more}"))
        return answer

    def _scores(self, reply: Reply | Failure, request: ScoreRequest) -> ResponseLogprobs:
        if isinstance(reply, Failure):
            return ResponseLogprobs(None, reply)
        given, response = _transcript(request.messages), _begun(request)
        if not reply.positions or not reply.text.startswith(given + response):
            reason = "the server does not return the log-probs of given text"
            return ResponseLogprobs(None, Failure("missing_logprobs", reason))
        scored = read_scores(reply, len(given), len(given) + len(response))
        if not spell([position.token for position in scored], response):
            reason = "the server's tokens do not spell the response, so their log-probs may be of other text"
            return ResponseLogprobs(None, Failure("missing_logprobs", reason))
        values = [position.logprob for position in scored][: request.first_tokens]
        known = tuple(value for value in values if value is not None)
        if not values or len(known) < len(values):
            return ResponseLogprobs(None, Failure("missing_logprobs", "no log-probs for the tokens of the response"))
        return ResponseLogprobs(known)


def _begun(request: Written) -> str:
    """What stands already of the assistant's turn."""
    return without_tokens(" " + request.response if isinstance(request, ScoreRequest) else request.prefix)


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
        failure = Failure("empty", "the server returned no text")
        return Generation(None, finish, reply.completion_tokens, failure, reply.thinking)
    return Generation(text, finish, reply.completion_tokens, thinking=reply.thinking)


def _transcript(messages: Sequence[Message]) -> str:
    """The conversation as plain text for a base model, up to and with "Assistant:"."""
    names = {"system": "", "user": "Human: ", "assistant": "Assistant: "}
    said = [names[message.role] + without_speakers(without_tokens(message.content)) for message in messages]
    return "\n\n".join([*said, "Assistant:"])
