"""What a language model is here: `ask` takes a batch of requests and gives their answers, in order.

There are four kinds of request, each with an answer of its own: a GenerateRequest gives a Generation, a ChoiceRequest
gives ChoiceLogprobs, a ScoreRequest gives ResponseLogprobs, a DecisionRequest gives Decisions. A request that fails has
a `failure` in its answer.
Concurrency, retries, batching and caching are the backend's own matter. BackendError or ModelError is raised only for
what no retry and no other request can mend: the server is down, the key is wrong, there are no log-probs at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from rlaif.core.records import Failure, FinishReason, Message

A = TypeVar("A", covariant=True)
"""The kind of answer."""


class RequestFor(Generic[A]):
    """A request whose answer is an A."""

    __slots__ = ()

    def failed(self, failure: Failure) -> A:
        """The answer that says why there is none."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Generation:
    """`text` is None exactly when there is a `failure`. `thinking`: what a reasoning model thought before it."""

    text: str | None
    finish: FinishReason
    n_tokens: int
    failure: Failure | None = None
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class GenerateRequest(RequestFor[Generation]):
    """Continue `messages` with an assistant turn that starts with `prefix` (which is not part of the result).

    `json_schema`: the JSON schema that the answer must fit, as JSON, "" for none.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float
    seed: int
    prefix: str = ""
    stop: tuple[str, ...] = ()
    json_schema: str = ""

    def failed(self, failure: Failure) -> Generation:
        return Generation(None, "stop", 0, failure)


@dataclass(frozen=True, slots=True)
class ChoiceLogprobs:
    """Natural-log probabilities, one per choice, summed over *all* tokens of the choice; None with a `failure`.

    `bounds` are the places of the choices that a server did not list: theirs is the most that it can be. `thinking`:
    what a reasoning model thought before it chose.
    """

    logprobs: tuple[float, ...] | None
    failure: Failure | None = None
    bounds: tuple[int, ...] = ()
    thinking: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceRequest(RequestFor[ChoiceLogprobs]):
    """Log-probability of each of `choices` as the continuation of an assistant turn that starts with `prefix`."""

    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    prefix: str = ""

    def failed(self, failure: Failure) -> ChoiceLogprobs:
        return ChoiceLogprobs(None, failure)


@dataclass(frozen=True, slots=True)
class ResponseLogprobs:
    """Natural-log probability of each token of the response that was asked for; None with a `failure`."""

    token_logprobs: tuple[float, ...] | None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ScoreRequest(RequestFor[ResponseLogprobs]):
    """Log-probability of `response` as the whole assistant turn after `messages` (its end-of-turn token excluded).

    With `first_tokens` only that many tokens at its beginning are scored. `temperature`: of the distribution whose
    log-probabilities they are, by which the logits are divided.
    """

    messages: tuple[Message, ...]
    response: str
    first_tokens: int | None = None
    temperature: float = 1.0

    def failed(self, failure: Failure) -> ResponseLogprobs:
        return ResponseLogprobs(None, failure)


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a DecisionRequest: which of the options is right."""

    name: str
    instructions: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decisions:
    """The probabilities of each question's options, in order, each question's adding up to 1; None for a question that
    has no answer, and for all of them, with a `failure`."""

    probabilities: tuple[tuple[float, ...] | None, ...] | None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class DecisionRequest(RequestFor[Decisions]):
    """Which option of each of `questions` about `state` is right; all are asked at once, and their names differ."""

    state: str
    questions: tuple[Question, ...]

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that is read, as messages: the questions, and then what they are about."""
        return (*(Message("system", question.instructions) for question in self.questions), Message("user", self.state))

    def failed(self, failure: Failure) -> Decisions:
        return Decisions(None, failure)


Request = GenerateRequest | ChoiceRequest | ScoreRequest | DecisionRequest
ModelAnswer = Generation | ChoiceLogprobs | ResponseLogprobs | Decisions


def content_of(request: Request) -> dict[str, Any]:
    """The fields by which a request is known. A temperature of 1 is not among those of a score, nor an absent schema
    among those of a generation: they are newer than files that hold such answers."""
    content = asdict(request)
    if isinstance(request, ScoreRequest) and request.temperature == 1:
        del content["temperature"]
    if isinstance(request, GenerateRequest) and not request.json_schema:
        del content["json_schema"]
    return content


@dataclass(slots=True)
class Usage:
    """What a model was asked for since it was opened. `cached` calls cost nothing and are not in `calls`."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def as_counts(self, prefix: str) -> dict[str, float]:
        """Flat counts for a stage record, e.g. {"judge_calls": 12, ...}."""
        return {f"{prefix}_{name}": float(value) for name, value in asdict(self).items()}


class LanguageModel(Protocol):
    """`name` goes on rows; `fingerprint` changes whenever the weights or the server's model do (cache key)."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def usage(self) -> Usage: ...

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        """One answer per request, in order."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class ArrivingModel(LanguageModel, Protocol):
    """A model whose answers come one by one and cost money, so that each can be kept before the next ones are there."""

    def arriving(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, ModelAnswer]]]:
        """The answers in groups, as they come: (place of the request, answer of its kind).

        A request is taken from `requests` when it is about to be sent, so where they end nothing more is paid for. An
        error is raised after the answers to everything that was in flight.
        """
        ...
