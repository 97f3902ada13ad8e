"""`pairwise`: "(A) or (B)?" by the log-probs of the letters, both orders (RLAIF, arXiv 2309.00267, section 2.1).

A model may think before the letter; that is the verdict's rationale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlaif.config import AskingConfig, RunConfig
from rlaif.core.records import Principle, Prompt, Verdict
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
    no_room_to_think,
    verdict,
)


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba": P(first) = softmax of the two letters' log-probs."""
    sides = both_orders(asks)
    requests = [letters(one, order, asker.template, few_shots=asker.settings.few_shots) for one, order in sides]
    verdicts: list[list[Verdict]] = [[] for _ in asks]
    for place, ((one, order), answer) in enumerate(zip(sides, asker.model.ask(requests), strict=True)):
        margin = log_odds(answer)
        probability = None if margin is None else sigmoid(margin)
        about = (asker.model.name, probability, margin, answer.failure)
        verdicts[place // 2].append(verdict(one, METHOD.name, order, *about, rationale=answer.thinking))
    return verdicts


def _cost(work: JudgingWork, settings: AskingConfig) -> JudgingCost:
    """Each pair is read in both orders."""
    sides = 2 * work.pairs
    return JudgingCost(sides, sides * settings.thinking_tokens, sides * (work.prompt_tokens + 2 * work.response_tokens))


def _problems(config: RunConfig, settings: AskingConfig) -> Iterator[str]:
    yield from no_room_to_think(settings)
    if settings.verdict == "json":
        yield "judge.verdict: json is for cot and rating; pairwise is nothing but the log-probs of two letters"


TEMPLATE = TemplateKind(
    "pairwise", {"principle": Principle, "prompt": Prompt, "response_a": str, "response_b": str, "few_shots": int}
)
METHOD = Method(
    "pairwise",
    ask,
    _cost,
    TEMPLATE,
    shown=("statement", "comparison"),
    by_files=1,
    problems=_problems,
)
