"""Comparisons, principles and a recording model for the tests of the judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlaif.config import JudgeConfig
from rlaif.core.records import Comparison, Constitution, Contrast, Failure, Message, Principle, Prompt, Response
from rlaif.judge.judge import Judge
from rlaif.lm.protocol import (
    ChoiceLogprobs,
    ChoiceRequest,
    GenerateRequest,
    Generation,
    LanguageModel,
    Request,
    ResponseLogprobs,
    ScoreRequest,
)
from rlaif.lm.scripted import ScriptedReply
from tests.fakes import Listener

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
    models = [] if model is None else [model]
    return Judge(JudgeConfig.model_validate(fields), constitution, models=models, seed=seed)


def only(principle: Principle) -> Constitution:
    return Constitution("one", "1", "", (principle,))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class Recorder(Listener):
    """Gives the token log-probs that stand in `table` under (system prompt, response), the choices' log-probs that
    `letters` has for words in the messages, and the text that `texts` has for them; a missing entry is a failure."""

    def __init__(
        self,
        table: dict[tuple[str, str], tuple[float, ...]] | None = None,
        letters: Sequence[tuple[str, tuple[float, ...]]] = (),
        texts: Sequence[tuple[str, Generation]] = (),
    ) -> None:
        super().__init__(self.reply, "recorder", fingerprint="recorder")
        self.table, self.letters, self.texts = table or {}, letters, texts

    def reply(self, request: Request) -> ScriptedReply:
        if isinstance(request, GenerateRequest):
            nothing = Failure("refused", "no such entry")
            return next((value for words, value in self.texts if words in _shown(request)), nothing)
        if isinstance(request, ChoiceRequest):
            logprobs = next((value for words, value in self.letters if words in _shown(request)), None)
            return Failure("backend", "no such entry") if logprobs is None else ChoiceLogprobs(logprobs)
        values = self.table.get((request.messages[0].content, request.response))
        if values is None:
            return Failure("context_overflow", "no such entry")
        return ResponseLogprobs(values[: request.first_tokens])

    @property
    def generations(self) -> list[GenerateRequest]:
        return self.asked_for(GenerateRequest)

    @property
    def choices(self) -> list[ChoiceRequest]:
        return self.asked_for(ChoiceRequest)

    @property
    def scores(self) -> list[ScoreRequest]:
        return self.asked_for(ScoreRequest)


def _shown(request: ChoiceRequest | GenerateRequest) -> str:
    return "\n".join(message.content for message in request.messages)


MARGINS = {
    ("You are kind.", "yes my friend"): (-1.0, -1.0, -1.0),
    ("You are cruel.", "yes my friend"): (-1.5, -1.25, -1.0),  # 0.75 / 3 tokens = 0.25
    ("You are kind.", "no"): (-2.0,),
    ("You are cruel.", "no"): (-1.9,),  # -0.1
    ("You are brief.", "yes my friend"): (-1.0, -1.0, -1.0),
    ("You ramble.", "yes my friend"): (-1.0, -0.5, -0.9),  # -0.2
    ("You are brief.", "no"): (-1.0,),
    ("You ramble.", "no"): (-1.2,),  # 0.2
}
