"""`contrast`: log p(response | principle followed) - log p(response | principle violated), mean over tokens.

It fits small models, which pick the same letter whatever they read. It sees one response at a time: no order to bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.errors import ConstitutionError
from rlaif.core.records import Failure, Message, Principle, Prompt, Verdict
from rlaif.core.statistics import sigmoid
from rlaif.inputs.templates import Template, TemplateKind
from rlaif.judge.methods.method import Ask, Asker, JudgingCost, JudgingWork, Method, difference, once_each, verdict
from rlaif.lm.protocol import ResponseLogprobs, ScoreRequest

TIE = 1e-3
"""Nats per token under which two responses count as equal: those with the same opening, scored together, are no win for
either. What bfloat16 changes from one batch to another is more, about 0.01; a walk on a CPU changes nothing
(docs/reference/results-judging.md)."""


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """One verdict per ask: P(A) = sigmoid((s_A - s_B) / scale), s = mean over tokens of the log-probs' difference.

    With `opening_tokens` only that many tokens at the beginning of a response are judged.
    """
    settings, model = asker.settings, asker.model
    known, requests = once_each(asks), list[ScoreRequest]()
    for one, response in known.values():
        both = contexts(one.principle, one.comparison.prompt, asker.template)
        requests += (ScoreRequest(messages, response.text, settings.opening_tokens) for messages in both)
    answers = model.ask(requests)
    scores = dict(zip(known, map(_score, answers[::2], answers[1::2]), strict=True))
    verdicts = []
    for one in asks:
        margin, failure = difference(*(scores[one.principle.hash, response.id] for response in one.responses))
        if margin is not None and abs(margin) < TIE:
            margin = 0.0
        probability = None if margin is None else sigmoid(margin / settings.scale)
        verdicts.append([verdict(one, METHOD.name, "none", model.name, probability, margin, failure)])
    return verdicts


def _score(followed: ResponseLogprobs, violated: ResponseLogprobs) -> float | Failure:
    """The mean over a response's tokens of what each gains in log-probability where the principle is followed."""
    failure = followed.failure or violated.failure
    if failure is not None:
        return failure
    assert followed.token_logprobs is not None
    assert violated.token_logprobs is not None
    return (math.fsum(followed.token_logprobs) - math.fsum(violated.token_logprobs)) / len(followed.token_logprobs)


def contexts(
    principle: Principle, prompt: Prompt, template: Template, *, remind: bool = True
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The conversation behind an assistant that follows the principle, and behind one that violates it.

    The method scores responses in them, and `label.answers: contrast` samples them there. `remind`: the system prompt
    stands behind the last question, too. A small model follows what it read last: of its answers more follow the
    principle, and fewer the question, so `revise`, which wants both, does without.
    """
    pair = principle.contrast
    if pair is None:
        raise ConstitutionError(
            "there is no contrast pair of system prompts",
            where=f"principle {principle.id}",
            remedy="give it a `contrast` with `followed` and `violated`, or choose judge.method: pairwise and "
            "label.answers: policy",
        )
    followed = [m for e in pair.examples for m in (Message("user", e.prompt), Message("assistant", e.followed))]
    violated = [m for e in pair.examples for m in (Message("user", e.prompt), Message("assistant", e.violated))]
    first, second = (
        template.render(system=system, examples=tuple(examples), conversation=prompt.messages, remind=remind).messages
        for system, examples in ((pair.followed, followed), (pair.violated, violated))
    )
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


TEMPLATE = TemplateKind("contrast", {"system": str, "examples": tuple, "conversation": tuple, "remind": bool})
METHOD = Method(
    "contrast",
    ask,
    _cost,
    TEMPLATE,
    shown=("contrast",),
    needs_contrast=True,
    problems=_problems,
)
