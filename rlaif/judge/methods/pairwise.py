"""`pairwise`: "(A) or (B)?" by the log-probs of the letters, both orders (RLAIF, arXiv 2309.00267, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from rlaif.config import AskingConfig
from rlaif.core.records import Principle, Prompt, Verdict
from rlaif.core.statistics import sigmoid
from rlaif.inputs.templates import TemplateKind
from rlaif.judge.methods.method import (
    ORDERS,
    Ask,
    Asker,
    JudgingCost,
    JudgingWork,
    Method,
    letters,
    log_odds,
    pair_question,
    verdict,
)


def ask(asks: Sequence[Ask], asker: Asker) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba": P(first) = softmax of the two letters' log-probs."""
    model, template, few_shots = asker.model, asker.template, asker.settings.few_shots
    requests = [letters(pair_question(one, order, template, few_shots=few_shots)) for one in asks for order in ORDERS]
    answers = iter(model.ask(requests))
    verdicts = []
    for one in asks:
        pair = []
        for order in ORDERS:
            answer = next(answers)
            margin = log_odds(answer)
            probability = None if margin is None else sigmoid(margin)
            pair.append(verdict(one, METHOD.name, order, model.name, probability, margin, answer.failure))
        verdicts.append(pair)
    return verdicts


def _cost(work: JudgingWork, settings: AskingConfig) -> JudgingCost:
    """Each pair is read in both orders."""
    sides = 2 * work.pairs
    return JudgingCost(sides, 0, sides * (work.prompt_tokens + 2 * work.response_tokens))


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
)
