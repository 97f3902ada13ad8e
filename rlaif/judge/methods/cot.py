"""`cot`: the judge's reasons first, then the letters, both orders; probabilities clamped (Constitutional AI, arXiv
2212.08073, section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.records import Failure, Principle, Prompt, Verdict
from rlaif.core.statistics import sigmoid
from rlaif.inputs.templates import TemplateKind
from rlaif.judge.methods.method import (
    Ask,
    Asker,
    JudgingCost,
    JudgingWork,
    Method,
    both_orders,
    letters,
    log_odds,
    verdict,
)
from rlaif.lm.protocol import ChoiceLogprobs, GenerateRequest


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba", each with its rationale: P(first) by the letters that follow it, kept
    within `clamp`; the margin is not clamped.

    A rationale that is cut at `rationale_tokens` is used as far as it goes, and `raw` says so: it is a means, and the
    letters are asked for in any case. One that failed leaves nothing to judge by: its failure is the verdict's.
    """
    model, template = asker.model, asker.template
    length, clamp = asker.settings.rationale_tokens, asker.settings.clamp
    sides = both_orders(asks)
    first = [letters(one, order, template, rationale="") for one, order in sides]
    # The seed decides nothing at temperature 0, and one for all asks lets equal questions share an answer.
    written = model.ask([GenerateRequest(r.messages, length, 0.0, 0, r.prefix) for r in first])
    texts = ["" if answer.text is None else answer.text.strip() for answer in written]
    second = [letters(*side, template, rationale=text) for side, text in zip(sides, texts, strict=True) if text]
    chosen = iter(model.ask(second))
    verdicts: list[list[Verdict]] = [[] for _ in asks]
    for place, ((one, order), answer, text) in enumerate(zip(sides, written, texts, strict=True)):
        choice = next(chosen) if text else ChoiceLogprobs(None, answer.failure or Failure("empty", "no rationale"))
        margin = log_odds(choice)
        probability = None if margin is None else sigmoid(margin)
        if probability is not None and clamp is not None:
            probability = min(max(probability, clamp[0]), clamp[1])
        raw = f"the rationale was cut at {length} tokens" if text and answer.finish == "length" else ""
        verdicts[place // 2].append(
            verdict(one, METHOD.name, order, model.name, probability, margin, choice.failure, rationale=text, raw=raw)
        )
    return verdicts


def _cost(work: JudgingWork, settings: AskingConfig) -> JudgingCost:
    """Each pair is read in both orders, once for a rationale and once with it for the letters."""
    sides, written = 2 * work.pairs, settings.rationale_tokens
    shown = work.prompt_tokens + 2 * work.response_tokens
    return JudgingCost(2 * sides, sides * written, sides * (2 * shown + written))


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
