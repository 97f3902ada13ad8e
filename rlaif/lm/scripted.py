"""A deterministic stand-in for a language model: a function or a file of rules answers instead of weights.

It serves `judge.backend: scripted`, dry runs and tests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from rlaif.core.errors import DataError
from rlaif.core.files import disk_errors, read_json_lines
from rlaif.core.records import Failure, FinishReason, content_id
from rlaif.lm.protocol import (
    A,
    ChoiceLogprobs,
    ChoiceRequest,
    DecisionRequest,
    Decisions,
    GenerateRequest,
    Generation,
    ModelAnswer,
    Request,
    RequestFor,
    ResponseLogprobs,
    ScoreRequest,
    Usage,
    content_of,
)

ScriptedReply = ModelAnswer | Failure | str | float | Sequence[float] | None
"""What a handler says to a request; `ScriptedModel` tells what becomes of it."""
Handler = Callable[[Request], ScriptedReply]

_SUBJECTS = ("The answer", "A good reply", "This question", "The best advice", "One option", "A careful person")
_VERBS = ("depends on", "starts with", "is about", "asks for", "needs", "begins and ends with")
_OBJECTS = ("patience", "a second look", "plain words", "kindness", "the facts", "what you already know", "some rest")


class ScriptedModel:
    """A model whose answers are what `handler` says to each request. Its tokens are words.

    - To a GenerateRequest a text: it is cut at `stop` and after `max_new_tokens` words, an empty one is the failure
      `empty`. None: a short sentence made from a hash of the request (of its seed too, unless the temperature is 0).
    - To a ChoiceRequest a score for each choice: the answer is their log-softmax. None: scores made from hashes.
    - To a ScoreRequest a score of the response: each word gets log(sigmoid(score)). None: values made from hashes. A
      response without words is the failure `empty`.
    - To a DecisionRequest a score for each option of all questions, in order: the probabilities are their softmax, for
      each question. None: scores made from hashes.
    - To any request a Failure, or the answer itself.

    Without a `fingerprint` the name and the handler's make one: two handlers of one name count as the same model.
    """

    def __init__(self, handler: Handler | None = None, name: str = "scripted", *, fingerprint: str = "") -> None:
        self.name, self.usage = name, Usage()
        self.fingerprint = fingerprint or content_id("scripted", name, (), getattr(handler, "__qualname__", None))
        self._handler = handler

    @classmethod
    def from_rules(cls, rules: Sequence[tuple[str, str]], name: str = "scripted") -> ScriptedModel:
        """The model that generates the reply of the first (regex, reply) whose regex is found in the last message."""
        compiled = [(re.compile(pattern), reply) for pattern, reply in rules]

        def reply(request: Request) -> ScriptedReply:
            if not isinstance(request, GenerateRequest):
                return None
            return next((text for regex, text in compiled if regex.search(request.messages[-1].content)), None)

        return cls(reply, name, fingerprint=content_id("scripted", name, rules, None))

    @classmethod
    def from_file(cls, path: Path) -> ScriptedModel:
        """The model with the rules in a JSONL file of {"match": regex, "reply": text}; DataError with file:line."""
        if not path.is_file():
            raise DataError(
                "there is no such file of rules", where=str(path), remedy='write lines {"match": "...", "reply": "..."}'
            )
        rules = []
        with disk_errors(path):
            for number, row in read_json_lines(path):
                if set(row) != {"match", "reply"} or not all(isinstance(value, str) for value in row.values()):
                    raise DataError(
                        "is not a rule",
                        where=f"{path}:{number}",
                        remedy='write {"match": "a regex", "reply": "a text"}',
                    )
                try:
                    re.compile(row["match"])
                except re.error as problem:
                    raise DataError(
                        f"the regex {row['match']!r} is wrong: {problem}",
                        where=f"{path}:{number}",
                        remedy="write a Python regex; a backslash is written twice in JSON",
                    ) from None
                rules.append((row["match"], row["reply"]))
        return cls.from_rules(rules, path.stem)

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        return cast("list[A]", [self._answer(request) for request in cast("Sequence[Request]", requests)])

    def close(self) -> None:
        pass

    def _answer(self, request: Request) -> ModelAnswer:
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(len(message.content.split()) for message in request.messages)
        reply = None if self._handler is None else self._handler(request)
        if isinstance(reply, Failure):
            return request.failed(reply)
        if isinstance(reply, Generation | ChoiceLogprobs | ResponseLogprobs | Decisions):
            return reply
        if isinstance(request, DecisionRequest):
            return self._decisions(request, cast("Sequence[float] | None", reply))
        if isinstance(request, GenerateRequest):
            return self._generation(request, cast("str | None", reply))
        if isinstance(request, ChoiceRequest):
            return self._choice(request, cast("Sequence[float] | None", reply))
        return self._score(request, cast("float | None", reply))

    def _generation(self, request: GenerateRequest, text: str | None) -> Generation:
        if text is None:
            seed = request.seed if request.temperature > 0 else None
            text = _sentence(self.fingerprint, request.messages, request.prefix, seed)
        for stop in request.stop:
            text = text.partition(stop)[0]
        words = re.findall(r"\s*\S+", text)
        finish: FinishReason = "stop" if len(words) <= request.max_new_tokens else "length"
        words = words[: request.max_new_tokens]
        self.usage.generated_tokens += len(words)
        if not words:
            return Generation(None, finish, 0, Failure("empty", "the rule's reply is empty"))
        return Generation("".join(words), finish, len(words))

    def _choice(self, request: ChoiceRequest, scores: Sequence[float] | None) -> ChoiceLogprobs:
        if scores is None:
            scores = [4.0 * _fraction(self.fingerprint, request, choice) for choice in request.choices]
        highest = max(scores)
        total = highest + math.log(math.fsum(math.exp(score - highest) for score in scores))
        return ChoiceLogprobs(tuple(score - total for score in scores))

    def _decisions(self, request: DecisionRequest, scores: Sequence[float] | None) -> Decisions:
        asked = [(question, option) for question in request.questions for option in question.options]
        if scores is None:
            scores = [4.0 * _fraction(self.fingerprint, request.state, *one) for one in asked]
        left, found = iter(scores), []
        for question in request.questions:
            own = [next(left) for _ in question.options]
            masses = [math.exp(score - max(own)) for score in own]
            found.append(tuple(mass / math.fsum(masses) for mass in masses))
        return Decisions(tuple(found))

    def _score(self, request: ScoreRequest, score: float | None) -> ResponseLogprobs:
        words = request.response.split()[: request.first_tokens]
        if not words:
            return ResponseLogprobs(None, Failure("empty", "the response has no words"))
        self.usage.scored_tokens += len(words)
        if score is not None:
            return ResponseLogprobs((_log_sigmoid(score),) * len(words))
        content = content_of(request)
        return ResponseLogprobs(
            tuple(-0.05 - 4.0 * _fraction(self.fingerprint, content, place) for place in range(len(words)))
        )


def _fraction(*parts: object) -> float:
    """A number in [0, 1) made from the content of the parts."""
    return (int(content_id(*parts), 16) >> 11) / (1 << 53)


def _sentence(*parts: object) -> str:
    """A short sentence made from the content of the parts."""
    point = int(content_id(*parts), 16)
    words = []
    for options in (_SUBJECTS, _VERBS, _OBJECTS):
        point, index = divmod(point, len(options))
        words.append(options[index])
    return " ".join(words) + "."


def _log_sigmoid(value: float) -> float:
    return -math.log1p(math.exp(-value)) if value >= 0 else value - math.log1p(math.exp(value))
