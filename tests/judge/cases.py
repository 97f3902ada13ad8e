"""Comparisons, principles and a recording model for the tests of the judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlaif.config import JudgeConfig
from rlaif.core.records import (
    Comparison,
    Constitution,
    Contrast,
    Failure,
    Message,
    Principle,
    Prompt,
    Response,
)
from rlaif.judge.judge import Judge
from rlaif.lm.protocol import (
    ChoiceLogprobs,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    LanguageModel,
    ResponseLogprobs,
    ScoreRequest,
    Usage,
)

KIND = Principle("kind", "Be kind.", contrast=Contrast("You are kind.", "You are cruel."))
SHORT = Principle("short", "Be brief.", weight=3.0, contrast=Contrast("You are brief.", "You ramble."))
MUTE = Principle("mute", "Say nothing.", weight=0.0, contrast=Contrast("You are silent.", "You shout."))
CONSTITUTION = Constitution("test", "1", "", (KIND, SHORT, MUTE))


def response(prompt: Prompt, text: str) -> Response:
    return Response(prompt.id, text, "sft", 1, 1.0, "stop", len(text.split()))


def comparison(a: str = "yes my friend", b: str = "no", question: str = "May I?") -> Comparison:
    prompt = Prompt((Message("user", question),))
    return Comparison(prompt, response(prompt, a), response(prompt, b))


def judge(
    model: LanguageModel | None, constitution: Constitution = CONSTITUTION, seed: int = 0, **fields: Any
) -> Judge:
    return Judge(JudgeConfig.model_validate(fields), constitution, model=model, seed=seed)


def only(principle: Principle) -> Constitution:
    return Constitution("one", "1", "", (principle,))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class Recorder:
    """Gives the token log-probs that stand in `table` under (system prompt, response), the choices' log-probs that
    `letters` has for words in the messages, and the text that `texts` has for them; a missing entry is a failure. Keeps
    what it was asked."""

    name, fingerprint = "recorder", "recorder"

    def __init__(
        self,
        table: dict[tuple[str, str], tuple[float, ...]] | None = None,
        letters: Sequence[tuple[str, tuple[float, ...]]] = (),
        texts: Sequence[tuple[str, Generation]] = (),
    ) -> None:
        self.table, self.letters, self.texts, self.usage = table or {}, letters, texts, Usage()
        self.generations: list[GenerateRequest] = []
        self.scores: list[ScoreRequest] = []
        self.choices: list[ChoiceRequest] = []

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        self.generations += requests
        nothing = Generation(None, "stop", 0, Failure("refused", "no such entry"))
        return [
            next((value for words, value in self.texts if words in _shown(request)), nothing) for request in requests
        ]

    def choice_logprobs(self, requests: Sequence[ChoiceRequest]) -> list[ChoiceLogprobs]:
        self.choices += requests
        found = []
        for request in requests:
            logprobs = next((value for words, value in self.letters if words in _shown(request)), None)
            failure = None if logprobs is not None else Failure("backend", "no such entry")
            found.append(ChoiceLogprobs(logprobs, failure))
        return found

    def response_logprobs(self, requests: Sequence[ScoreRequest]) -> list[ResponseLogprobs]:
        self.scores += requests
        found = []
        for request in requests:
            values = self.table.get((request.messages[0].content, request.response))
            failure = None if values is not None else Failure("context_overflow", "no such entry")
            found.append(ResponseLogprobs(values and values[: request.first_tokens], failure))
        return found

    def close(self) -> None:
        pass


def _shown(request: ChoiceRequest | GenerateRequest) -> str:
    return "\n".join(message.content for message in request.messages)
