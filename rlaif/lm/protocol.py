"""What a language model is here: batches in, batches out. Failures are results, never exceptions.

Concurrency, retries, batching and caching live inside the backend. A problem that no retry and no other request
can mend (server down, wrong key, no log-probs at all) raises BackendError or ModelError.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlaif.core.records import Failure, FinishReason, Message


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue `messages` with an assistant turn that starts with `prefix` (which is not part of the result)."""

    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float
    seed: int
    prefix: str = ""
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """`text` is None exactly when there is a `failure`."""

    text: str | None
    finish: FinishReason
    n_tokens: int
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """Log-probability of each of `choices` as the continuation of an assistant turn that starts with `prefix`."""

    messages: tuple[Message, ...]
    choices: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class ChoiceLogprobs:
    """Natural-log probabilities, one per choice, summed over *all* tokens of the choice; None with a `failure`.

    `bounds` are the places of the choices that a server did not list: theirs is the most that it can be.
    """

    logprobs: tuple[float, ...] | None
    failure: Failure | None = None
    bounds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Log-probability of `response` as the whole assistant turn after `messages` (its end-of-turn token excluded).

    With `first_tokens` only that many tokens at its beginning are scored.
    """

    messages: tuple[Message, ...]
    response: str
    first_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ResponseLogprobs:
    """Natural-log probability of each token of the response that was asked for; None with a `failure`."""

    token_logprobs: tuple[float, ...] | None
    failure: Failure | None = None


Request = GenerateRequest | ChoiceRequest | ScoreRequest
Answer = Generation | ChoiceLogprobs | ResponseLogprobs


@dataclass(slots=True)
class Usage:
    """What a model was asked for since it was opened. `cached` calls cost nothing and are not in `calls`."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    scored_tokens: int = 0

    def as_counts(self, prefix: str) -> dict[str, float]:
        """Flat counts for a stage record, e.g. {"judge_calls": 12, ...}."""
        names = ("calls", "cached", "prompt_tokens", "generated_tokens", "scored_tokens")
        return {f"{prefix}_{name}": float(getattr(self, name)) for name in names}


class LanguageModel(Protocol):
    """`name` goes on rows; `fingerprint` changes whenever the weights or the server's model do (cache key)."""

    name: str
    fingerprint: str

    @property
    def usage(self) -> Usage: ...

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]: ...

    def choice_logprobs(self, requests: Sequence[ChoiceRequest]) -> list[ChoiceLogprobs]: ...

    def response_logprobs(self, requests: Sequence[ScoreRequest]) -> list[ResponseLogprobs]: ...

    def close(self) -> None: ...


@runtime_checkable
class ArrivingModel(LanguageModel, Protocol):
    """A model whose answers come one by one and cost money, so that each can be kept before the next ones are there."""

    def arriving(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, Answer]]]:
        """The answers in groups, as they come: (place of the request, answer of its kind).

        A request is taken from `requests` when it is about to be sent, so where they end nothing more is paid for. An
        error is raised after the answers to everything that was in flight.
        """
        ...
