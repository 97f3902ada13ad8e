"""The ways to ask a judge which of two responses follows a principle better. Each turns asks into verdicts.

`contrast`  log p(response | principle followed) - log p(response | principle violated), mean over tokens; fits small
            models, which pick the same letter whatever they read. It sees one response at a time: no order to bias.
`pairwise`  "(A) or (B)?" by the log-probs of the letters, both orders (RLAIF, arXiv 2309.00267, section 2.1).
`random`    a coin from a hash: the control that shows what labels without information do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlaif.errors import ConstitutionError
from rlaif.lm.protocol import ChoiceRequest, LanguageModel, ScoreRequest
from rlaif.records import Comparison, Failure, Message, Order, Principle, Prompt, Response, Verdict, record_seed
from rlaif.templates import Template

TIE = 1e-3
"""Nats per token under which `contrast` calls two responses equal: in bfloat16 a sum taken in another batch differs by
about that much, and responses with the same opening are no win for either."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One comparison to be judged under one principle."""

    comparison: Comparison
    principle: Principle


def contrast(
    asks: Sequence[Ask], model: LanguageModel, template: Template, *, scale: float, opening: int | None = None
) -> list[list[Verdict]]:
    """One verdict per ask: P(A) = sigmoid((s_A - s_B) / scale), s = mean over tokens of the log-probs' difference.

    With `opening` only that many tokens at the beginning of a response are judged.
    """
    requests: list[ScoreRequest] = []
    place: dict[tuple[str, str], int] = {}
    for ask in asks:
        for response in (ask.comparison.a, ask.comparison.b):
            key = (ask.principle.hash, response.id)
            if key not in place:
                place[key] = len(requests)
                requests += _contrast_requests(ask.principle, ask.comparison.prompt, response, template, opening)
    answers = model.response_logprobs(requests)

    def score(principle: Principle, response: Response) -> float | Failure:
        followed, violated = answers[place[principle.hash, response.id] :][:2]
        for answer in (followed, violated):
            if answer.failure is not None:
                return answer.failure
        assert followed.token_logprobs is not None
        assert violated.token_logprobs is not None
        return (math.fsum(followed.token_logprobs) - math.fsum(violated.token_logprobs)) / len(followed.token_logprobs)

    verdicts = []
    for ask in asks:
        a, b = score(ask.principle, ask.comparison.a), score(ask.principle, ask.comparison.b)
        failure = next((s for s in (a, b) if isinstance(s, Failure)), None)
        margin = a - b if isinstance(a, float) and isinstance(b, float) else None
        if margin is not None and abs(margin) < TIE:
            margin = 0.0
        probability = None if margin is None else sigmoid(margin / scale)
        verdicts.append([_verdict(ask, "contrast", "none", model.name, probability, margin, failure)])
    return verdicts


def _contrast_requests(
    principle: Principle, prompt: Prompt, response: Response, template: Template, opening: int | None
) -> tuple[ScoreRequest, ScoreRequest]:
    pair = principle.contrast
    if pair is None:
        raise ConstitutionError(
            "the method contrast needs a pair of system prompts",
            where=f"principle {principle.id}",
            remedy="give it a `contrast` with `followed` and `violated`, or choose judge.method: pairwise",
        )
    followed = [m for e in pair.examples for m in (Message("user", e.prompt), Message("assistant", e.followed))]
    violated = [m for e in pair.examples for m in (Message("user", e.prompt), Message("assistant", e.violated))]
    contexts = (
        template.render(system=system, examples=tuple(examples), conversation=prompt.messages).messages
        for system, examples in ((pair.followed, followed), (pair.violated, violated))
    )
    first, second = (ScoreRequest(messages, response.text, opening) for messages in contexts)
    return first, second


def pairwise(asks: Sequence[Ask], model: LanguageModel, template: Template) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba": P(first) = softmax of the two letters' log-probs."""
    orders: tuple[Order, Order] = ("ab", "ba")
    requests = []
    for ask in asks:
        for order in orders:
            shown = ask.comparison if order == "ab" else ask.comparison.swap()
            rendered = template.render(
                principle=ask.principle, prompt=shown.prompt, response_a=shown.a.text, response_b=shown.b.text
            )
            requests.append(ChoiceRequest(rendered.messages, ("A", "B"), rendered.prefix))
    answers = iter(model.choice_logprobs(requests))
    verdicts = []
    for ask in asks:
        pair = []
        for order in orders:
            answer = next(answers)
            margin = None if answer.logprobs is None else answer.logprobs[0] - answer.logprobs[1]
            probability = None if margin is None else sigmoid(margin)
            pair.append(_verdict(ask, "pairwise", order, model.name, probability, margin, answer.failure))
        verdicts.append(pair)
    return verdicts


def random(asks: Sequence[Ask], *, seed: int) -> list[list[Verdict]]:
    """One verdict per ask with P(A) uniform on [0, 1], drawn from the seed, the two responses and the principle.

    The two stand in the draw in the order of their ids: swapped, they get the complement.
    """
    verdicts = []
    for ask in asks:
        a, b = ask.comparison.a.id, ask.comparison.b.id
        point = record_seed(seed, "random judge", min(a, b), max(a, b), ask.principle.id) / (1 << 63)
        verdicts.append([_verdict(ask, "random", "none", "random", point if a <= b else 1 - point, None, None)])
    return verdicts


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _verdict(
    ask: Ask,
    method: str,
    order: Order,
    judge: str,
    probability: float | None,
    margin: float | None,
    failure: Failure | None,
) -> Verdict:
    return Verdict(
        comparison_id=ask.comparison.id,
        principle_id=ask.principle.id,
        principle_hash=ask.principle.hash,
        method=method,
        order=order,
        judge=judge,
        prob_first=probability,
        margin=margin,
        failure=failure,
    )
