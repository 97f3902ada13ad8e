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
   them goes `repetition_penalty: 1`: vLLM and SGLang otherwise take the one that the model was saved with, and list
   probabilities after it. OpenAI rejects the field, and so do servers for which `judge.prefix: folded` is set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rlaif.config import AskingConfig
from rlaif.core.errors import BackendError
from rlaif.core.records import Failure, Message, content_id
from rlaif.lm.markers import without_speakers, without_tokens
from rlaif.lm.protocol import (
    ChoiceLogprobs,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    ModelAnswer,
    Request,
    ResponseLogprobs,
    ScoreRequest,
)
from rlaif.lm.server.credentials import shown
from rlaif.lm.server.replies import Reply, indistinct, read_choices, read_scores, spell, tokens_to_decide

HOSTED = "https://api.openai.com/v1"
TOP_LOGPROBS = {"chat": 20, "completions": 5}
UNKNOWN = 0.05
"""Most of the probability that choices may hold which the server does not list."""
NO_LOGPROBS = "use a server with log-probs (vLLM, llama.cpp, SGLang, ...), or judge.backend: local"

_clash = lru_cache(indistinct)
"""A run has a handful of sets of choices and asks with each of them thousands of times."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model on a server: how it is asked and how its replies are read. `base_url` None is api.openai.com."""

    model: str
    base_url: str | None = None
    api: Literal["chat", "completions"] = "chat"
    prefix: Literal["continued", "folded"] = "continued"

    @classmethod
    def of(cls, judge: AskingConfig) -> Endpoint:
        """That which a judge's table names; it has a source."""
        assert judge.source is not None
        return cls(judge.source, judge.base_url, judge.api, judge.prefix)

    @property
    def fingerprint(self) -> str:
        """Of the model by its name; one's own servers count as one, wherever they run."""
        folded = ["folded"] if self.folds and self.base_url is not None else []
        return content_id("openai", "hosted" if self.base_url is None else "own", self.model, self.api, *folded)

    @property
    def where(self) -> str:
        """The model and the server's address, without a password, for errors."""
        return f"{self.model} at {shown(self.base_url or HOSTED)}"

    @property
    def path(self) -> str:
        return "/chat/completions" if self.api == "chat" else "/completions"

    @property
    def folds(self) -> bool:
        """Whether a prefix is asked for in words, in place of an answer that is begun with it."""
        return self.api == "chat" and (self.prefix == "folded" or self.base_url is None)

    def refuse(self, request: Request) -> None:
        """Raises BackendError for a request that no server of this kind can answer."""
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
        options, max_tokens = self._options(request)
        body: dict[str, Any] = {"model": self.model, **options}
        prefix = _begun(request)
        if self.api == "completions":
            if not isinstance(request, ScoreRequest):
                body["stop"] = [*options.get("stop", []), "\n\nHuman:"][:4]
            return body | {"prompt": _transcript(request.messages) + prefix, "max_tokens": max_tokens}
        # OpenAI's newer models refuse max_tokens, other servers know nothing else
        limit = "max_tokens" if self.base_url is not None else "max_completion_tokens"
        messages = [{"role": m.role, "content": without_tokens(m.content)} for m in request.messages]
        body |= {"messages": messages, limit: max_tokens}
        if prefix and not folded:
            messages.append({"role": "assistant", "content": prefix})
            return body | {"continue_final_message": True, "add_generation_prompt": False}
        if prefix:
            messages[-1]["content"] += f"\n\nBegin your answer with exactly: {prefix}"
            body[limit] += len(prefix)  # the answer repeats the prefix, and no token is shorter than a character
        return body

    def answer(self, request: Request, reply: Reply | Failure, *, folded: bool) -> ModelAnswer:
        """What the reply says about the request; without the log-probs asked for, the failure `missing_logprobs`.

        `n_tokens` of a generation is what the server counted, 0 if it does not count. Choices: `read_choices` from the
        likeliest tokens; without a prefix an answer that merely begins with a choice ("A fruit is ...") counts for it.
        """
        if isinstance(request, GenerateRequest):
            return _generation(reply, _begun(request))
        if isinstance(request, ChoiceRequest):
            return self._choices(reply, request, folded)
        return self._scores(reply, request)

    def _options(self, request: Request) -> tuple[dict[str, Any], int]:
        """The fields that do not depend on the messages, and how many tokens to ask for."""
        if isinstance(request, GenerateRequest):
            # some servers keep seeds in 32 bits
            options: dict[str, Any] = {"temperature": request.temperature, "seed": request.seed & 0x7FFFFFFF}
            return options | ({"stop": list(request.stop)} if request.stop else {}), request.max_new_tokens
        if isinstance(request, ScoreRequest):
            return {"temperature": 0.0, "echo": True, "logprobs": 1}, 1
        top = TOP_LOGPROBS[self.api]
        options = {"logprobs": True, "top_logprobs": top} if self.api == "chat" else {"logprobs": top}
        if self.base_url is not None and self.prefix == "continued":
            options["repetition_penalty"] = 1.0
        return {"temperature": 0.0} | options, tokens_to_decide(request.choices)

    def _choices(self, reply: Reply | Failure, request: ChoiceRequest, folded: bool) -> ChoiceLogprobs:
        if isinstance(reply, Failure):
            return ChoiceLogprobs(None, reply)
        if not reply.positions:
            if not reply.text.strip():
                return ChoiceLogprobs(None, Failure("empty", "the server returned no text"))
            return ChoiceLogprobs(None, Failure("missing_logprobs", "the server returned no log-probs"))
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


def _begun(request: Request) -> str:
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
        reason = "the server returned no text" + (" (only hidden reasoning?)" if finish == "length" else "")
        return Generation(None, finish, reply.completion_tokens, Failure("empty", reason))
    return Generation(text, finish, reply.completion_tokens)


def _transcript(messages: Sequence[Message]) -> str:
    """The conversation as plain text for a base model, up to and with "Assistant:"."""
    names = {"system": "", "user": "Human: ", "assistant": "Assistant: "}
    said = [names[message.role] + without_speakers(without_tokens(message.content)) for message in messages]
    return "\n\n".join([*said, "Assistant:"])
