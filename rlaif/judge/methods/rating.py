"""`rating`: one response at a time, the mean of a scale by the log-probs of its numbers (RLAIF, arXiv 2309.00267,
section 2.2.2).

The scale is 1 to 9, not the paper's 1 to 10: "1" begins "10", so the first token of an answer, which is all that a
server shows, cannot tell them apart, and P("1") of a local model would hold that of "10".

With `verdict: json` the judge writes its rating, and that is the mean. What a model thinks before a rating is part of
the verdict's rationale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.records import Failure, Principle, Prompt, Verdict
from rlaif.core.statistics import sigmoid
from rlaif.inputs.templates import TemplateKind
from rlaif.judge.methods.method import (
    JSON_TOKENS,
    Ask,
    Asker,
    JudgingCost,
    JudgingWork,
    Method,
    difference,
    no_room_to_think,
    once_each,
    read_written,
    thoughts,
    verdict,
    written,
)
from rlaif.lm.protocol import ChoiceLogprobs, ChoiceRequest, Generation

RATINGS = ("1", "2", "3", "4", "5", "6", "7", "8", "9")
UNLISTED = 0.01
"""Most of the probability that ratings without a log-prob may hold; it can move a mean rating by 0.08 points."""


class WrittenRating(BaseModel):
    """A rating in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rating: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9]


HOW = 'Answer in JSON: {"rating": a whole number from 1 to 9}'


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """One verdict per ask: P(A) = sigmoid((E_A - E_B) / rating_scale), E = mean rating of a response, 1 to 9.

    A response is rated once per principle, however many pairs it is in.
    """
    model, settings = asker.model, asker.settings
    known, questions = once_each(asks), []
    for one, response in known.values():
        shown = asker.template.render(
            principle=one.principle,
            prompt=one.comparison.prompt,
            response=response.text,
            few_shots=settings.few_shots,
        )
        questions.append(ChoiceRequest(shown.messages, RATINGS, shown.prefix))
    if settings.verdict == "json":
        asked = [written(question.messages, WrittenRating, HOW, JSON_TOKENS) for question in questions]
        found = [(_rated(answer), answer.thinking) for answer in model.ask(asked)]
    else:
        found = [(mean_rating(answer), answer.thinking) for answer in model.ask(questions)]
    rated = dict(zip(known, found, strict=True))
    verdicts = []
    for one in asks:
        (a, of_a), (b, of_b) = (rated[one.principle.hash, response.id] for response in one.responses)
        margin, failure = difference(a, b)
        probability = None if margin is None else sigmoid(margin / settings.rating_scale)
        raw = "" if margin is None else f"ratings {a:.2f} and {b:.2f}"
        thought = thoughts(*(f"Answer ({name}): {text}" for name, text in (("A", of_a), ("B", of_b)) if text))
        about = (model.name, probability, margin, failure)
        verdicts.append([verdict(one, METHOD.name, "none", *about, rationale=thought, raw=raw)])
    return verdicts


def _rated(answer: Generation) -> float | Failure:
    """The rating that the judge wrote."""
    found = read_written(answer, WrittenRating, room="judge.thinking_tokens")
    return found if isinstance(found, Failure) else float(found.rating)


def mean_rating(answer: ChoiceLogprobs) -> float | Failure:
    """The mean of RATINGS by their probabilities, scaled to add up to 1.

    A rating that a server did not list counts with the largest probability it can have. Where that is more than
    UNLISTED of the whole, the answer is the failure `missing_logprobs`.
    """
    if answer.failure is not None:
        return answer.failure
    assert answer.logprobs is not None
    highest = max(answer.logprobs)
    masses = [math.exp(value - highest) for value in answer.logprobs]
    unlisted = math.fsum(masses[place] for place in answer.bounds) / math.fsum(masses)
    if unlisted > UNLISTED:
        names = ", ".join(RATINGS[place] for place in answer.bounds)
        reason = (
            f"the server lists no log-probs for the ratings {names}, which may hold {unlisted:.0%} of the probability; "
            "use judge.api: chat (20 tokens are listed, completions lists 5), backend: local, or method: pairwise"
        )
        return Failure("missing_logprobs", reason)
    return math.fsum(int(name) * mass for name, mass in zip(RATINGS, masses, strict=True)) / math.fsum(masses)


def _cost(work: JudgingWork, settings: AskingConfig) -> JudgingCost:
    """Each response is read once."""
    each = settings.thinking_tokens + (JSON_TOKENS if settings.verdict == "json" else 0)
    return JudgingCost(work.reads, work.reads * each, work.reads * (work.prompt_tokens + work.response_tokens))


def _problems(config: RunConfig, settings: AskingConfig) -> Iterator[str]:
    if settings.verdict == "logprobs":
        yield from no_room_to_think(settings)


TEMPLATE = TemplateKind("rating", {"principle": Principle, "prompt": Prompt, "response": str, "few_shots": int})
METHOD = Method(
    "rating",
    ask,
    _cost,
    TEMPLATE,
    shown=("statement",),
    by_files=1,
    problems=_problems,
)
