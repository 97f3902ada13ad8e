"""Questions with a probability for each option: the two protocols of servers that answer them. No network.

- `/v1/systemone` (System One: TypeSafe's API; llama.cpp, vLLM from 0.32, transformers serve): a `state`, questions by
  name, answers by name.
- `/v1/decisions` (OpenAI's API; vLLM from 0.33): an `input`, a list of questions and one of answers, where a question
  may be refused. SGLang has an endpoint of this name that speaks a third protocol, which is not spoken here.

All questions here are of the type `choice`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from rlaif.core.records import Failure
from rlaif.lm.markers import without_tokens
from rlaif.lm.protocol import DecisionRequest, Decisions, Question
from rlaif.lm.server.replies import BrokenReply, Count, shorten

ROUNDING = 0.02
"""What the probabilities of a question may be off from adding up to 1."""

Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1 + ROUNDING)]


@dataclass(frozen=True, slots=True)
class Decided:
    """The probabilities of each question's options, in order; None for a question that was refused."""

    probabilities: tuple[tuple[float, ...] | None, ...]
    prompt_tokens: int
    completion_tokens: int


def decision_body(api: Literal["systemone", "decisions"], request: DecisionRequest) -> dict[str, Any]:
    """The JSON of the request, without the model."""
    state = without_tokens(request.state)
    asked = [(question.name, without_tokens(question.instructions), question.options) for question in request.questions]
    if api == "systemone":
        questions = {
            name: {"type": "choice", "instructions": text, "criteria": dict.fromkeys(options)}
            for name, text, options in asked
        }
        return {"state": state, "questions": questions}
    listed = [
        {"type": "choice", "name": name, "instructions": text, "choices": [{"value": option} for option in options]}
        for name, text, options in asked
    ]
    return {"input": state, "questions": listed}


class _Value(BaseModel):
    value: str
    probability: Share


class _Answer(BaseModel):
    """By option (System One), or a list (OpenAI); none in a refusal."""

    type: Literal["choice", "refusal"]
    name: str | None = None
    probabilities: dict[str, Share] | list[_Value] | None = None


class _DecisionUsage(BaseModel):
    input_tokens: Count | None = None
    output_tokens: Count | None = None


class _Reply(BaseModel):
    answers: dict[str, _Answer] | list[_Answer]
    usage: _DecisionUsage | None = None


def parse_decisions(text: str, questions: Sequence[Question]) -> Decided:
    """The answers to the questions in the body of a reply with status 200; `BrokenReply` says what is malformed in it,
    or missing."""
    try:
        reply = _Reply.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"])) or "answer"
        raise BrokenReply(shorten(f"the server's answer is malformed at {place}: {first['msg']}")) from None
    except RecursionError:
        raise BrokenReply(f"the server's answer is not JSON: {shorten(text)!r}") from None
    answers = reply.answers
    if isinstance(answers, list):
        answers = {answer.name or "": answer for answer in answers}
    usage = reply.usage or _DecisionUsage()
    found = tuple(_probabilities(answers.get(question.name), question) for question in questions)
    return Decided(found, usage.input_tokens or 0, usage.output_tokens or 0)


def _probabilities(answer: _Answer | None, question: Question) -> tuple[float, ...] | None:
    """Of the question's options, scaled to add up to 1; None where it was refused."""
    if answer is None:
        raise BrokenReply(f"the server's answer leaves out the question {question.name}")
    if answer.type == "refusal":
        return None
    given = answer.probabilities or {}
    if isinstance(given, list):
        given = {one.value: one.probability for one in given}
    if given.keys() != set(question.options):
        raise BrokenReply(f"the server's answer to {question.name} has other options than it was asked about")
    total = math.fsum(given.values())
    if abs(total - 1) > ROUNDING:
        raise BrokenReply(f"the probabilities of the server's answer to {question.name} add up to {total:.3g}")
    return tuple(given[option] / total for option in question.options)


def decisions_of(reply: Decided | Failure) -> Decisions:
    """What the reply says; where a question was refused there is a failure beside the answers to the others."""
    if isinstance(reply, Failure):
        return Decisions(None, reply)
    refused = any(found is None for found in reply.probabilities)
    return Decisions(reply.probabilities, Failure("refused", "the model declined to answer") if refused else None)
