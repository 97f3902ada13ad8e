"""`contrast`: log p(response | principle followed) - log p(response | principle violated), mean over tokens.

It fits small models, which pick the same letter whatever they read. It sees one response at a time: no order to bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.errors import ConstitutionError
from rlaif.core.records import Failure, Message, Principle, Prompt, Response, Verdict
from rlaif.core.statistics import sigmoid
from rlaif.inputs.templates import Template, TemplateKind
from rlaif.judge.methods.method import Ask, Asker, JudgingCost, JudgingWork, Method, difference, verdict
from rlaif.lm.protocol import ScoreRequest

TIE = 1e-3
"""Nats per token under which two responses count as equal: those with the same opening, scored together, are no win for
either. What bfloat16 changes from one batch to another is more, about 0.01; a walk on a CPU changes nothing
(docs/reference/results-judging.md)."""


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """One verdict per ask: P(A) = sigmoid((s_A - s_B) / scale), s = mean over tokens of the log-probs' difference.

    With `opening_tokens` only that many tokens at the beginning of a response are judged.
    """
    settings, model = asker.settings, asker.model
    requests: list[ScoreRequest] = []
    place: dict[tuple[str, str], int] = {}
    for one in asks:
        for response in one.responses:
            key = (one.principle.hash, response.id)
            if key not in place:
                place[key] = len(requests)
                prompt = one.comparison.prompt
                requests += _requests(one.principle, prompt, response, asker.template, settings.opening_tokens)
    answers = model.ask(requests)

    def score(principle: Principle, response: Response) -> float | Failure:
        followed, violated = answers[place[principle.hash, response.id] :][:2]
        for answer in (followed, violated):
            if answer.failure is not None:
                return answer.failure
        assert followed.token_logprobs is not None
        assert violated.token_logprobs is not None
        return (math.fsum(followed.token_logprobs) - math.fsum(violated.token_logprobs)) / len(followed.token_logprobs)

    verdicts = []
    for one in asks:
        margin, failure = difference(*(score(one.principle, response) for response in one.responses))
        if margin is not None and abs(margin) < TIE:
            margin = 0.0
        probability = None if margin is None else sigmoid(margin / settings.scale)
        verdicts.append([verdict(one, METHOD.name, "none", model.name, probability, margin, failure)])
    return verdicts


def _requests(
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


def _cost(work: JudgingWork, settings: AskingConfig) -> JudgingCost:
    """Each response is read twice."""
    opening = settings.opening_tokens
    read = work.response_tokens if opening is None else min(work.response_tokens, opening)
    return JudgingCost(2 * work.reads, 0, 2 * work.reads * (work.prompt_tokens + read))


def _problems(config: RunConfig, settings: AskingConfig) -> Iterator[str]:
    if settings.backend == "openai" and settings.api == "chat":
        yield (
            "judge.method: contrast needs the log-probs of given text, which chat servers do not return; "
            "use method: pairwise, cot or rating, backend: local, or api: completions with a server that echoes "
            "(vLLM)"
        )


TEMPLATE = TemplateKind("contrast", {"system": str, "examples": tuple, "conversation": tuple})
METHOD = Method(
    "contrast",
    ask,
    _cost,
    TEMPLATE,
    shown=("contrast",),
    needs_contrast=True,
    problems=_problems,
)
