"""What a method of judging is: it turns asks into verdicts. A method is one file here and one entry of the table.

Users bring their own as `judge.method: "module:NAME"` (docs/extending.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from rlaif.config import AskingConfig, RunConfig
from rlaif.constitution.diff import JUDGED
from rlaif.core.records import Comparison, Failure, Message, Order, Principle, Response, Verdict
from rlaif.inputs.templates import Template, TemplateKind
from rlaif.lm.protocol import ChoiceLogprobs, ChoiceRequest, GenerateRequest, Generation, LanguageModel

ORDERS: tuple[Order, Order] = ("ab", "ba")
JSON_TOKENS = 64
"""Room for a verdict in JSON, beside what a text in it takes."""
V = TypeVar("V", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Ask:
    """One comparison to be judged under one principle."""

    comparison: Comparison
    principle: Principle

    @property
    def responses(self) -> tuple[Response, Response]:
        return self.comparison.a, self.comparison.b


@dataclass(frozen=True, slots=True)
class Asker:
    """Who is asked, and how: the table of the config, the model, the method's template and the seed of the run.

    `model` and `template` raise where the method says that it has none.
    """

    settings: AskingConfig
    seed: int
    opened: LanguageModel | None = None
    loaded: Template | None = None

    @property
    def model(self) -> LanguageModel:
        if self.opened is None:
            raise TypeError(f"judge.method: {self.settings.method} asks no model")
        return self.opened

    @property
    def template(self) -> Template:
        if self.loaded is None:
            raise TypeError(f"judge.method: {self.settings.method} has no template")
        return self.loaded


@dataclass(frozen=True, slots=True)
class JudgingWork:
    """What is to be judged, for an estimate of the cost. `reads`: (response, principle) that a method reads which sees
    one response at a time. `pairs`: (comparison, principle), of so many `comparisons`. `response_tokens`,
    `prompt_tokens`: of one response at most, and of a rendered prompt with its system text."""

    reads: int
    pairs: int
    comparisons: int
    response_tokens: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class JudgingCost:
    """Calls to the judge's model, and the tokens that it writes and reads, at most; `money` is for `cost_of` to set."""

    calls: int = 0
    generated: int = 0
    scored: int = 0
    money: float = 0.0

    def __add__(self, other: JudgingCost) -> JudgingCost:
        return JudgingCost(
            self.calls + other.calls,
            self.generated + other.generated,
            self.scored + other.scored,
            self.money + other.money,
        )


@dataclass(frozen=True, slots=True)
class Method:
    """One way to judge.

    name            stands on its verdicts
    ask             one list of verdicts per ask, in order: one or, where both orders are shown, two
    cost            what the work takes under these settings; None = the method asks no model, and votes alone
    template        what its template is called and may use; None = it writes its messages itself, or none
    shown           the fields of a principle that it shows to the model with the shipped template
    needs_contrast  whether it refuses a principle without a contrast pair
    by_files        rounds that it takes through a provider's batch interface; 0 = it cannot go that way
    problems        sentences about settings of the config that it cannot work with; None = it takes all
    """

    name: str
    ask: Callable[[Sequence[Ask], Asker], list[list[Verdict]]]
    cost: Callable[[JudgingWork, AskingConfig], JudgingCost] | None
    template: TemplateKind | None = None
    shown: tuple[str, ...] = JUDGED
    needs_contrast: bool = False
    by_files: int = 0
    problems: Callable[[RunConfig, AskingConfig], Iterable[str]] | None = None

    @property
    def asks_model(self) -> bool:
        return self.cost is not None

    def fields(self, *, shipped_template: bool = True, few_shots: int = 0) -> tuple[str, ...]:
        """The fields of a principle that it shows, with `few_shots` the examples too; all of JUDGED where its template
        is handed the whole principle and is not the shipped one."""
        variables = () if self.template is None else self.template.variables
        if not shipped_template and "principle" in variables:
            return JUDGED
        return (*self.shown, "contrast") if few_shots and "few_shots" in variables else self.shown


def verdict(
    ask: Ask,
    method: str,
    order: Order,
    judge: str,
    probability: float | None,
    margin: float | None = None,
    failure: Failure | None = None,
    *,
    rationale: str = "",
    raw: str = "",
) -> Verdict:
    """The verdict of `judge` on the ask; `probability` is that of the response shown first (A for the order "none"),
    None with a `failure`."""
    return Verdict(
        comparison_id=ask.comparison.id,
        principle_id=ask.principle.id,
        principle_hash=ask.principle.hash,
        method=method,
        order=order,
        judge=judge,
        prob_first=probability,
        margin=margin,
        rationale=rationale,
        raw=raw,
        failure=failure,
    )


def both_orders(asks: Sequence[Ask]) -> list[tuple[Ask, Order]]:
    """Each ask twice, with either response first."""
    return [(ask, order) for ask in asks for order in ORDERS]


def letters(ask: Ask, order: Order, template: Template, **more: str | int) -> ChoiceRequest:
    """The question which letter comes next behind the two responses in the order, as the template shows them."""
    shown = ask.comparison if order == "ab" else ask.comparison.swap()
    answers = {"response_a": shown.a.text, "response_b": shown.b.text}
    rendered = template.render(principle=ask.principle, prompt=shown.prompt, **answers, **more)
    return ChoiceRequest(rendered.messages, ("A", "B"), rendered.prefix)


def written(messages: Sequence[Message], verdict: type[BaseModel], how: str, max_new_tokens: int) -> GenerateRequest:
    """The question with the request to answer in the JSON of `verdict`; `how` says so to the model."""
    *before, last = messages
    schema = json.dumps(verdict.model_json_schema())
    asked = Message(last.role, f"{last.content}\n\n{how}")
    # The seed decides nothing at temperature 0, and one for all asks lets equal questions share an answer.
    return GenerateRequest((*before, asked), max_new_tokens, 0.0, 0, json_schema=schema)


def read_written(answer: Generation, verdict: type[V], *, room: str) -> V | Failure:
    """The verdict in the answer. `room`: the field that gives an answer more tokens."""
    if answer.text is None:
        failure = answer.failure or Failure("empty", "the judge wrote nothing")
        return Failure("truncated", f"{failure.reason}: raise {room}") if failure.kind == "truncated" else failure
    try:
        return verdict.model_validate_json(answer.text)
    except ValidationError as problem:
        first = problem.errors()[0]
        what = ".".join(map(str, first["loc"])) or "the whole"
        reason = f"no verdict in {answer.text[:60]!r} ({what}: {first['msg']}); does the server know response_format?"
        return Failure("parse", reason)


def thinks_before_letters(settings: AskingConfig) -> bool:
    """Whether the model may think before the letter or digit that it is asked for: not in an answer that is begun."""
    return settings.thinking_tokens > 0 and (settings.prefix == "folded" or settings.base_url is None)


def no_room_to_think(settings: AskingConfig) -> Iterator[str]:
    """What is wrong where a method asks for nothing but an answer that is begun, and thinking is wanted."""
    if settings.thinking_tokens and not thinks_before_letters(settings):
        yield (
            f"judge.thinking_tokens: {settings.method} asks for an answer that is begun, which leaves no room to "
            "think; set judge.prefix: folded, or method: cot, which thinks before its rationale"
        )


def thoughts(*parts: str) -> str:
    """The parts that say something, one under the other."""
    return "\n\n".join(part.strip() for part in parts if part.strip())


def once_each(asks: Sequence[Ask]) -> dict[tuple[str, str], tuple[Ask, Response]]:
    """(principle's hash, response's id) -> the response with its ask; each once, however many pairs it is in."""
    return {(ask.principle.hash, response.id): (ask, response) for ask in asks for response in ask.responses}


def log_odds(answer: ChoiceLogprobs) -> float | None:
    """Of "A" against "B"."""
    return None if answer.logprobs is None else answer.logprobs[0] - answer.logprobs[1]


def difference(a: float | Failure, b: float | Failure) -> tuple[float | None, Failure | None]:
    """`a` - `b`, or None with the first failure."""
    for value in (a, b):
        if isinstance(value, Failure):
            return None, value
    assert isinstance(a, float)
    assert isinstance(b, float)
    return a - b, None
