"""The methods of judging that there are: those of the table, and those that users bring as "module:NAME"."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from rlaif.config import AskingConfig, JudgeConfig, RunConfig
from rlaif.config.judge import DECIDING
from rlaif.config.load import Location
from rlaif.constitution.diff import JUDGED, reading
from rlaif.core.errors import ConfigError
from rlaif.core.plugins import check_name, load_own, own_code
from rlaif.core.records import Constitution
from rlaif.inputs.templates import TemplateKind, load_template
from rlaif.judge.methods import contrast, cot, decision, pairwise, random, rating
from rlaif.judge.methods.method import JudgingCost, JudgingWork, Method
from rlaif.lm.budget import Budget
from rlaif.lm.protocol import Usage

METHODS = {
    method.name: method
    for method in (pairwise.METHOD, cot.METHOD, rating.METHOD, decision.METHOD, contrast.METHOD, random.METHOD)
}  # fmt: skip
WHERE, WHAT = "judge.method", "judging method"
REMEDY = "name a rlaif.judge.methods.method.Method, or a function that makes one (docs/extending.md)"


@cache
def find(name: str) -> Method:
    """The method that a config names: one of the table, or the object "module:NAME" of a user, a Method or what makes
    one when it is called.

    Raises ConfigError for a name that nothing goes by, and for an object that is no method.
    """
    if name in METHODS:
        return METHODS[name]
    check_name(name, METHODS, what=WHAT, where=WHERE)
    found = load_own(name, what=WHAT, where=WHERE, remedy=REMEDY)
    if not isinstance(found, Method) and callable(found):
        with own_code(name, what=WHAT):
            found = found()
    if not isinstance(found, Method):
        raise ConfigError(f"{name!r} is no judging method but {type(found).__name__}", where=WHERE, remedy=REMEDY)
    if found.name in METHODS:
        raise ConfigError(
            f"{name!r} calls itself {found.name!r}, as one of ours is called",
            where=WHERE,
            remedy="give it a name of its own: verdicts are told apart by it",
        )
    return found


def in_use(judge: JudgeConfig) -> tuple[Method, ...]:
    """The methods of the judge and of those who vote beside it, each once."""
    return tuple({method.name: method for method in map(find, judge.methods)}.values())


def shown_fields(judge: JudgeConfig, templates: Path | None = None) -> tuple[str, ...]:
    """The fields of a principle that the judge and those who vote beside it show to a model, in the order of JUDGED;
    with the templates in the folder, or the shipped ones."""
    found: set[str] = set()
    for asking in (judge, *judge.panel):
        method = find(asking.method)
        kind = method.template
        shipped = kind is None or load_template(kind, templates).hash == load_template(kind).hash
        found.update(method.fields(shipped_template=shipped, few_shots=asking.few_shots))
    return (*(name for name in JUDGED if name in found), *sorted(found.difference(JUDGED)))


def statement_unread(judge: JudgeConfig, shown: Collection[str]) -> str:
    """ "judge.method contrast reads ..., never the statement", of a judge that is shown these fields; "" where the
    statement is among them, or no model is asked."""
    if "statement" in shown or not find(judge.method).asks_model:
        return ""
    return f"judge.method {' + '.join(method.name for method in in_use(judge))} reads {reading(shown)}"


def askings(judge: JudgeConfig) -> tuple[AskingConfig, ...]:
    """The judge and those who vote beside it, as far as they ask a model: one model each."""
    return (judge, *judge.panel) if find(judge.method).asks_model else ()


def cost_of(judge: JudgeConfig, work: JudgingWork) -> JudgingCost:
    """What the work takes at most, by the judge and all who vote beside it, each at its own prices."""
    total = JudgingCost()
    for asking in askings(judge):
        cost = find(asking.method).cost
        with own_code(asking.method, what=WHAT):
            found = JudgingCost() if cost is None else cost(work, asking)
        money = Budget.from_config(asking).cost(Usage(prompt_tokens=found.scored, generated_tokens=found.generated))
        total += replace(found, money=money)
    return total


def template_kinds(judge: JudgeConfig) -> list[TemplateKind]:
    """The templates that a run may have of its own: of all our methods, and of the user's that are in use."""
    kinds = [method.template for method in (*METHODS.values(), *in_use(judge))]
    return list({kind.name: kind for kind in kinds if kind is not None}.values())


def taking(constitution: Constitution) -> list[str]:
    """The names of the methods that ask a model and do not refuse the constitution."""
    lacking = any(principle.contrast is None for principle in constitution.principles)
    return [m.name for m in METHODS.values() if m.asks_model and not (m.needs_contrast and lacking)]


def problems(config: RunConfig) -> Iterator[tuple[Location, str]]:
    """(place in the config, sentence) for each thing that the methods cannot work with."""
    judge = config.judge
    for place, asking in ((("judge",), judge), *((("judge", "panel", n), m) for n, m in enumerate(judge.panel))):
        try:
            method = find(asking.method)
        except ConfigError as problem:
            yield (*place, "method"), problem.advice
            continue
        if not method.asks_model and asking is not judge:
            yield place, f"{method.name} asks no model, and a coin has no vote: choose another method"
        if not method.asks_model and judge.panel and asking is judge:
            yield place, f"judge.method: {method.name} is a control and votes alone: take judge.panel out"
        decides = asking.backend == "openai" and asking.api in DECIDING
        if decides and method.asks_model and METHODS.get(asking.method, decision.METHOD) is not decision.METHOD:
            yield place, f"judge.api: {asking.api} answers judge.method: decision alone"
        if method.problems is not None:
            with own_code(asking.method, what=WHAT):
                sentences = list(method.problems(config, asking))
            yield from ((place, sentence) for sentence in sentences)
