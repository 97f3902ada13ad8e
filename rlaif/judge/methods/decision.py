"""`decision`: typed questions about the two answers, all principles of a comparison in one request, both orders.

Asked are decision models and chat models that a server reads as such (/v1/systemone, /v1/decisions), or the local model
through transformers' decision pipeline. Nothing is written: each question is answered by a probability of its options.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from rlaif.config import AskingConfig, RunConfig
from rlaif.config.judge import DECIDING
from rlaif.core.errors import TemplateError
from rlaif.core.records import Failure, Principle, Prompt, Verdict
from rlaif.inputs.templates import Rendered, TemplateKind
from rlaif.judge.methods.method import Ask, Asker, JudgingCost, JudgingWork, Method, both_orders, verdict
from rlaif.lm.protocol import DecisionRequest, Question

OPTIONS = ("answer (A)", "answer (B)")
MOST_QUESTIONS = 64
"""In one request: what vLLM and transformers take; OpenAI takes more."""


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba": P(first) is the probability of its option.

    What is shown of a comparison is one `state`; every principle is a question about it.
    """
    sides = both_orders(asks)
    questions: dict[str, dict[str, None]] = {}  # state -> its questions, each once, in order
    shown = []
    for one, order in sides:
        pair = one.comparison if order == "ab" else one.comparison.swap()
        answers = {"response_a": pair.a.text, "response_b": pair.b.text}
        state, question = _parted(asker.template.render(principle=one.principle, prompt=pair.prompt, **answers))
        questions.setdefault(state, {})[question] = None
        shown.append((state, question))
    requests, places = list[DecisionRequest](), dict[tuple[str, str], tuple[int, int]]()
    for state, asked in questions.items():
        texts = list(asked)
        for start in range(0, len(texts), MOST_QUESTIONS):
            part = texts[start : start + MOST_QUESTIONS]
            places |= {(state, text): (len(requests), place) for place, text in enumerate(part)}
            named = tuple(Question(f"rule-{n}", text, OPTIONS) for n, text in enumerate(part, start=1))
            requests.append(DecisionRequest(state, named))
    decided = asker.model.ask(requests)
    verdicts: list[list[Verdict]] = [[] for _ in asks]
    for place, ((one, order), key) in enumerate(zip(sides, shown, strict=True)):
        number, within = places[key]
        found = decided[number]
        options = None if found.probabilities is None else found.probabilities[within]
        probability = None if options is None else options[0]
        failure = None if options is not None else found.failure or Failure("refused", "the question has no answer")
        verdicts[place // 2].append(verdict(one, METHOD.name, order, asker.model.name, probability, failure=failure))
    return verdicts


def _parted(rendered: Rendered) -> tuple[str, str]:
    """(what the question is about, the question)."""
    *before, last = rendered.messages
    if not before or rendered.prefix:
        raise TemplateError(
            "writes no question before what it is about, or something behind that",
            where="decision.jinja",
            remedy="write the question as a system message and what it is about as the user's, and nothing else",
        )
    return last.content, "\n\n".join(message.content for message in before)


def _cost(work: JudgingWork, settings: AskingConfig) -> JudgingCost:
    """Each comparison is asked about in both orders, under all its principles at once; each question reads it."""
    calls = 2 * max(work.comparisons, ceil(work.pairs / MOST_QUESTIONS))
    return JudgingCost(calls, 0, 2 * work.pairs * (work.prompt_tokens + 2 * work.response_tokens))


def _problems(config: RunConfig, settings: AskingConfig) -> Iterator[str]:
    if settings.backend == "openai" and settings.api not in DECIDING:
        yield f"judge.method: decision needs judge.api: {' or '.join(DECIDING)}, which answer typed questions"


TEMPLATE = TemplateKind("decision", {"principle": Principle, "prompt": Prompt, "response_a": str, "response_b": str})
METHOD = Method(
    "decision",
    ask,
    _cost,
    TEMPLATE,
    shown=("statement", "comparison"),
    problems=_problems,
)
