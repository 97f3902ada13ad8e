"""A deterministic stand-in for a language model: rules and hashes instead of weights. For dry runs and tests."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rlaif.core.errors import DataError
from rlaif.core.files import disk_errors, read_json_lines
from rlaif.core.records import Failure, FinishReason, Message, content_id
from rlaif.lm.protocol import (
    ChoiceLogprobs,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    ResponseLogprobs,
    ScoreRequest,
    Usage,
)

Score = Callable[[tuple[Message, ...], str], float]

_SUBJECTS = ("The answer", "A good reply", "This question", "The best advice", "One option", "A careful person")
_VERBS = ("depends on", "starts with", "is about", "asks for", "needs", "begins and ends with")
_OBJECTS = ("patience", "a second look", "plain words", "kindness", "the facts", "what you already know", "some rest")


class ScriptedModel:
    """A model whose tokens are words and whose answers depend on its rules and the request alone.

    `generate`: the reply of the first rule whose regex is found in the last message, cut at `stop` and after
    `max_new_tokens` words; without such a rule a short sentence made from a hash of the request (of its seed too,
    unless the temperature is 0). `choice_logprobs`: log-softmax of `score(messages, choice)`, or of hashes.
    `response_logprobs`: each word gets log(sigmoid(score(messages, response))), or a value made from hashes.
    The fingerprint knows `score` by its name only.
    """

    def __init__(
        self, rules: Sequence[tuple[str, str]] = (), name: str = "scripted", *, score: Score | None = None
    ) -> None:
        self.name, self.usage = name, Usage()
        self.fingerprint = content_id("scripted", name, rules, None if score is None else score.__qualname__)
        self._rules = [(re.compile(pattern), reply) for pattern, reply in rules]
        self._score = score

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
        return cls(rules, name=path.stem)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """One reply per request, in order; an empty one is the failure `empty`."""
        return [self._generate(request) for request in requests]

    def choice_logprobs(self, requests: Sequence[ChoiceRequest]) -> list[ChoiceLogprobs]:
        """Log-probabilities that add up to 1 over the choices of each request."""
        return [self._choose(request) for request in requests]

    def response_logprobs(self, requests: Sequence[ScoreRequest]) -> list[ResponseLogprobs]:
        """One log-probability per word; a response without words is the failure `empty`."""
        return [self._weigh(request) for request in requests]

    def close(self) -> None:
        pass

    def _generate(self, request: GenerateRequest) -> Generation:
        self._count(request.messages)
        last = request.messages[-1].content
        text = next((reply for pattern, reply in self._rules if pattern.search(last)), None)
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

    def _choose(self, request: ChoiceRequest) -> ChoiceLogprobs:
        self._count(request.messages)
        scores = [
            4.0 * _fraction(self.fingerprint, request, choice)
            if self._score is None
            else self._score(request.messages, choice)
            for choice in request.choices
        ]
        highest = max(scores)
        total = highest + math.log(math.fsum(math.exp(score - highest) for score in scores))
        return ChoiceLogprobs(tuple(score - total for score in scores))

    def _weigh(self, request: ScoreRequest) -> ResponseLogprobs:
        self._count(request.messages)
        words = request.response.split()[: request.first_tokens]
        if not words:
            return ResponseLogprobs(None, Failure("empty", "the response has no words"))
        self.usage.scored_tokens += len(words)
        if self._score is not None:
            return ResponseLogprobs((_log_sigmoid(self._score(request.messages, request.response)),) * len(words))
        return ResponseLogprobs(
            tuple(-0.05 - 4.0 * _fraction(self.fingerprint, request, place) for place in range(len(words)))
        )

    def _count(self, messages: Sequence[Message]) -> None:
        self.usage.calls += 1
        self.usage.prompt_tokens += sum(len(message.content.split()) for message in messages)


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
