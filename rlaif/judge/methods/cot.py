"""`cot`: the judge's reasons first, then the letters, both orders; probabilities clamped (Constitutional AI, arXiv
2212.08073, section 4.1).

With `verdict: json` the judge writes reasons and letter in one answer, under a schema. What a model thinks before its
reasons stands before them in the verdict's rationale, and is shown to nobody else: the letter is asked for behind the
reasons alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    both_orders,
    letters,
    log_odds,
    read_written,
    thinks_before_letters,
    thoughts,
    verdict,
    written,
)
from rlaif.lm.protocol import ChoiceLogprobs, GenerateRequest

WRITTEN = 20.0
"""Log-odds that a letter counts with which was written, and so has none: sigmoid(20) is 1 but for 2e-9."""
HOW = 'Answer in JSON: {"reasons": what you would say, "better": "A" or "B"}'


class WrittenChoice(BaseModel):
    """Reasons and letter in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reasons: str
    better: Literal["A", "B"]


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba", each with its rationale: P(first) by the letters that follow it, kept
    within `clamp`; the margin is not clamped.

    A rationale that is cut at `rationale_tokens` is used as far as it goes, and `raw` says so: it is a means, and the
    letters are asked for in any case. One that failed leaves nothing to judge by: its failure is the verdict's.
    """
    chosen = _written(asks, asker) if asker.settings.verdict == "json" else _by_letters(asks, asker)
    clamp, verdicts = asker.settings.clamp, [list[Verdict]() for _ in asks]
    for place, ((one, order), found) in enumerate(zip(both_orders(asks), chosen, strict=True)):
        probability = None if found.margin is None else sigmoid(found.margin)
        if probability is not None and clamp is not None:
            probability = min(max(probability, clamp[0]), clamp[1])
        about = (asker.model.name, probability, found.margin, found.failure)
        verdicts[place // 2].append(verdict(one, METHOD.name, order, *about, rationale=found.rationale, raw=found.raw))
    return verdicts


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What the judge said in one order; `margin` is None with a failure."""

    rationale: str
    margin: float | None
    failure: Failure | None = None
    raw: str = ""


def _by_letters(asks: Sequence[Ask], asker: Asker) -> list[_Chosen]:
    """Of each ask in both orders: the rationale, and the log-odds of the letters behind it."""
    model, template, length = asker.model, asker.template, asker.settings.rationale_tokens
    sides = both_orders(asks)
    first = [letters(one, order, template, rationale="") for one, order in sides]
    # The seed decides nothing at temperature 0, and one for all asks lets equal questions share an answer.
    answers = model.ask([GenerateRequest(r.messages, length, 0.0, 0, r.prefix) for r in first])
    texts = ["" if answer.text is None else answer.text.strip() for answer in answers]
    second = [letters(*side, template, rationale=text) for side, text in zip(sides, texts, strict=True) if text]
    letter, found = iter(model.ask(second)), []
    for answer, text in zip(answers, texts, strict=True):
        choice = next(letter) if text else ChoiceLogprobs(None, answer.failure or Failure("empty", "no rationale"))
        raw = f"the rationale was cut at {length} tokens" if text and answer.finish == "length" else ""
        rationale = thoughts(answer.thinking, text, choice.thinking)
        found.append(_Chosen(rationale, log_odds(choice), choice.failure, raw))
    return found


def _written(asks: Sequence[Ask], asker: Asker) -> list[_Chosen]:
    """Of each ask in both orders: the reasons and the letter that the judge wrote."""
    length = asker.settings.rationale_tokens + JSON_TOKENS
    asked = [letters(one, order, asker.template, rationale="") for one, order in both_orders(asks)]
    found = []
    for answer in asker.model.ask([written(one.messages, WrittenChoice, HOW, length) for one in asked]):
        choice = read_written(answer, WrittenChoice, room="judge.rationale_tokens")
        if isinstance(choice, Failure):
            found.append(_Chosen(answer.thinking, None, choice))
        else:
            margin = WRITTEN if choice.better == "A" else -WRITTEN
            found.append(_Chosen(thoughts(answer.thinking, choice.reasons), margin))
    return found


def _cost(work: JudgingWork, settings: AskingConfig) -> JudgingCost:
    """Each pair is read in both orders, once for a rationale and once with it for the letters."""
    sides, reasons, thought = 2 * work.pairs, settings.rationale_tokens, settings.thinking_tokens
    shown = work.prompt_tokens + 2 * work.response_tokens
    if settings.verdict == "json":
        return JudgingCost(sides, sides * (reasons + JSON_TOKENS + thought), sides * shown)
    again = thought if thinks_before_letters(settings) else 0
    return JudgingCost(2 * sides, sides * (reasons + thought + again), sides * (2 * shown + reasons))


def _problems(config: RunConfig, settings: AskingConfig) -> Iterator[str]:
    """What the clamp of a judge that decides alone keeps out of reach."""
    judge = config.judge
    if settings is not judge or judge.clamp is None or judge.panel or judge.calibration != "none":
        return
    room = judge.clamp[1] - 0.5
    for name, value in (("abstain_below", judge.abstain_below), ("tier_margin", judge.tier_margin)):
        if value is not None and value >= room:
            yield (
                f"judge.{name} {value:g} is out of reach: judge.clamp keeps cot within {room:g} of 0.5; "
                "widen judge.clamp or set it to null"
            )
    if config.revise.gate >= judge.clamp[1]:
        yield (
            f"no revision can pass revise.gate {config.revise.gate:g}: judge.clamp keeps cot at {judge.clamp[1]:g} or "
            "below; lower the gate, widen judge.clamp or set it to null"
        )


TEMPLATE = TemplateKind(
    "cot", {"principle": Principle, "prompt": Prompt, "response_a": str, "response_b": str, "rationale": str}
)
METHOD = Method(
    "cot",
    ask,
    _cost,
    TEMPLATE,
    shown=("statement", "comparison"),
    by_files=2,
    problems=_problems,
)
