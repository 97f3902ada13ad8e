"""Language models that tests share: each is the product's scripted model with a handler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from rlaif.core.records import Failure, Message, content_id
from rlaif.core.statistics import Estimate
from rlaif.judge.calibration import CalibrationMap
from rlaif.judge.card.records import Accuracy, CardSubject, Failures, FittedMap, JudgeCard
from rlaif.lm.protocol import A, ChoiceRequest, GenerateRequest, Request, RequestFor, ScoreRequest
from rlaif.lm.scripted import Handler, ScriptedModel, ScriptedReply

Score = Callable[[tuple[Message, ...], str], float]
Q = TypeVar("Q", GenerateRequest, ChoiceRequest, ScoreRequest)


def by_score(score: Score) -> Handler:
    """Choices and responses are as likely as `score(messages, text)` says; generations are made up."""

    def reply(request: Request) -> ScriptedReply:
        if isinstance(request, ChoiceRequest):
            return [score(request.messages, choice) for choice in request.choices]
        return score(request.messages, request.response) if isinstance(request, ScoreRequest) else None

    return reply


def scored(score: Score, name: str = "scripted") -> ScriptedModel:
    """A model of `by_score`."""
    return ScriptedModel(by_score(score), name, fingerprint=content_id("scripted", name, (), score.__qualname__))


class Listener(ScriptedModel):
    """The scripted model, which keeps the batches that it is asked. `before(batch)` is called first and may raise."""

    def __init__(
        self,
        handler: Handler | None = None,
        name: str = "scripted",
        *,
        before: Callable[[Sequence[Request]], None] = lambda _: None,
        fingerprint: str = "",
    ) -> None:
        super().__init__(handler, name, fingerprint=fingerprint)
        self.before = before
        self.batches: list[list[Request]] = []
        self.opened = self.closed = False  # `opened` is for whoever opens it

    def ask(self, requests: Sequence[RequestFor[A]]) -> list[A]:
        self.before(requests)  # type: ignore[arg-type]
        self.batches.append(list(requests))  # type: ignore[arg-type]
        return super().ask(requests)

    def close(self) -> None:
        self.closed = True

    @property
    def asked(self) -> list[Request]:
        return [request for batch in self.batches for request in batch]

    def asked_for(self, kind: type[Q]) -> list[Q]:
        """The requests of the kind, in order."""
        return [request for request in self.asked if isinstance(request, kind)]


def mute() -> ScriptedModel:
    """A model that refuses every question."""
    return ScriptedModel(lambda _: Failure("refused", "no <b>comment</b>"))


def judge_card(
    accuracy: float = 0.75,
    *,
    pairs: int = 40,
    labelled: int = 40,
    gold: str = "stub",
    maps: Sequence[CalibrationMap] = (),
    **more: Any,
) -> JudgeCard:
    """A card with that accuracy on all pairs and on the length-matched ones, and with these calibration maps."""
    found = Estimate(accuracy, None, None, labelled, labelled)
    share = Accuracy(labelled, found, None, None, None, None)
    subject = CardSubject(
        model="judge", fingerprint="", method="contrast", settings={}, seed=0, template_hash="", constitution="mine",
        constitution_version="1", constitution_hash="", principles=[], gold=gold, gold_about="", gold_hash="",
    )  # fmt: skip
    return JudgeCard(
        subject=replace(subject, **{name: more.pop(name) for name in ("gold_about",) if name in more}),
        failures=Failures(pairs, pairs, labelled, {}, pairs, {}),
        accuracy=share,
        length_matched=share,
        maps=[FittedMap(entry, pairs, found, 0.0, found) for entry in maps],
        **more,
    )
