"""`rlaif check`: everything a run needs, opened before it starts.

It generates nothing and loads no weights. A judge behind a server is asked about one made-up pair: nothing less shows
that it can judge. A function as reward is called once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlaif.config import AskingConfig, JudgeConfig, RunConfig, StageName
from rlaif.constitution.load import by_slice, load_constitution, refuse_missing_contexts, refuse_missing_contrast
from rlaif.core.errors import BackendError, ConfigError, DataError, RlaifError, StageError
from rlaif.core.plugins import short_name
from rlaif.core.records import Comparison, Prompt, Response
from rlaif.gold.pairs import read_gold_set
from rlaif.gold.scorers import entry_of, refuse_missing_columns
from rlaif.inputs.prompt_sets import notes_on, split_prompts
from rlaif.inputs.templates import CRITIQUE, PROPOSE, REVISION, load_templates
from rlaif.judge.calibration import LEAST
from rlaif.judge.gate import COIN, least_right
from rlaif.judge.judge import Judge
from rlaif.judge.load import load
from rlaif.judge.methods.table import find, in_use, shown_fields, statement_unread, template_kinds
from rlaif.lm.open import open_asked
from rlaif.lm.server.credentials import shown
from rlaif.lm.server.requests import HOSTED
from rlaif.run.beforehand import (
    headers_of,
    load_function,
    own_models,
    refuse_no_held_out,
    refuse_one_prompt,
    try_function,
)
from rlaif.run.environment import installed
from rlaif.run.lengths import given_losses, losses
from rlaif.stages.label_given import GivenLabels, read_given
from rlaif.stages.table import of_run

if TYPE_CHECKING:
    from rlaif.lm.local.headers import Headers


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `note` is set where something is absent that a run can do without, `warning` where a run
    works, but not with all of what it is given; `error` is what a run would end with."""

    name: str
    text: str
    note: bool = False
    warning: bool = False
    error: RlaifError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def exit_code(self) -> int:
        return 0 if self.error is None else self.error.exit_code

    def __str__(self) -> str:
        state = "failed" if not self.ok else "warning" if self.warning else "absent" if self.note else "ok"
        return f"{state:<7} {self.name:<13} {self.text}"

    def as_json(self) -> dict[str, Any]:
        told = {"name": self.name, "text": self.text, "ok": self.ok, "note": self.note, "warning": self.warning}
        return {**told, "exit_code": self.exit_code}


def check_all(
    path: Path, overrides: Sequence[str] = (), *, until: StageName | None = None, spend: bool = True
) -> list[Finding]:
    """One finding for each thing that a run of this config, or `until` one of its stages, needs; only the config's own
    if that cannot be read. Without `spend` no server is asked and no function called.
    """
    try:
        config = load(path, overrides)
    except RlaifError as error:
        return [_failed("config", error)]
    found, stages = [Finding("config", str(path))], of_run(config, until)
    model: list[Headers] = []

    def opened() -> str:
        model.append(headers_of(config.model.source))
        return model[0].place

    checks: list[tuple[str, Callable[[], str]]] = [
        ("constitution", lambda: _constitution(config)),
        ("templates", lambda: _templates(config)),
        ("prompts", lambda: _prompts(config, stages)),
        ("model", opened),
        ("judge", lambda: _judge(config, spend=spend)),
        ("card", lambda: _card(config)),
        ("reward", lambda: _reward(config, model[0] if model and spend else None)),
    ]
    if not config.judged:
        checks = [one for one in checks if one[0] not in JUDGING]
    if config.given_labels:
        checks = [("labels", lambda: _labels(config)), *checks]
    for name, check in checks[: None if "ppo" in stages else -1]:
        if name == "card" and not all(finding.ok for finding in found):
            continue  # it stands on the constitution, which may be what failed
        try:
            found.append(Finding(name, check()))
        except RlaifError as error:
            found.append(_failed(name, error))
    return found + (_lengths(config, model[0], stages) if model else []) + _gold(config)


JUDGING = ("constitution", "templates", "judge", "card")
"""What is looked at only where a judge has a part."""


def _given(config: RunConfig) -> GivenLabels:
    """The labels that the config gives; DataError where they cannot be read."""
    return read_given(str(config.label.source), split_prompts(config.prompts, config.seed)[1])


def _labels(config: RunConfig) -> str:
    found = _given(config)
    return "; ".join((f"{len(found.labels):,} given, on {found.prompts:,} prompts", *found.notes))


def _failed(name: str, error: RlaifError) -> Finding:
    return Finding(name, str(error), error=error)


def refuse_failing(path: Path, overrides: Sequence[str] = (), *, until: StageName | None = None) -> None:
    """Raises the first error that `check_all` finds without asking a server or calling a function."""
    for finding in check_all(path, overrides, until=until, spend=False):
        if finding.error is not None:
            raise finding.error


def _constitution(config: RunConfig) -> str:
    constitution = load_constitution(config.constitution)
    refuse_missing_contrast(constitution, methods=in_use(config.judge), where=config.constitution)
    refuse_missing_contexts(constitution, config, where=config.constitution)
    by_slice(constitution, config.prompts)
    unread = statement_unread(config.judge, shown_fields(config.judge))
    about = f"{constitution.name} {constitution.version}: {len(constitution.principles)} principles"
    return f"{about}; {unread}" if unread else about


def _templates(config: RunConfig) -> str:
    return ", ".join(load_templates((CRITIQUE, REVISION, *template_kinds(config.judge), PROPOSE)))


def _prompts(config: RunConfig, stages: Sequence[StageName]) -> str:
    train, held_out = split_prompts(config.prompts, config.seed)
    if "evaluate" in stages:
        refuse_no_held_out(held_out)
    return "; ".join((f"{len(train)} to train on, {len(held_out)} held out", *notes_on((*train, *held_out))))


def _lengths(config: RunConfig, model: Headers, stages: Sequence[StageName]) -> list[Finding]:
    """What the limits on length leave out of each of the stages."""
    try:
        train, held_out = split_prompts(config.prompts, config.seed)
        found = losses(config, stages, train, held_out, tokenizer=model.tokenizer, context=model.context)
        lost: list[str] = []
        if config.given_labels:
            labels = _given(config).labels
            lost = given_losses(config, stages, labels, tokenizer=model.tokenizer, context=model.context)
    except DataError:
        return []  # of which the prompts' own check tells
    except RlaifError as error:
        return [_failed("lengths", error)]
    if not found and not lost:
        return [Finding("lengths", "every prompt fits, with an answer as long as it may be")]
    said = [f"{loss}\n  -> {loss.remedy}" for loss in found] + lost
    return [Finding("lengths", sentence, warning=True) for sentence in said]


def _judge(config: RunConfig, *, spend: bool) -> str:
    """The run's judge and whoever votes beside it; one behind a server is asked if that may be."""
    found = [_member(config, config.judge, spend=spend)]
    found += [f"{member.name}: {_member(config, member, spend=spend)}" for member in config.judge.panel]
    return "; ".join(found)


def _member(config: RunConfig, asking: AskingConfig, *, spend: bool) -> str:
    """What is known of one judge of the panel, or of the only one."""
    if asking.backend == "openai" and find(asking.method).asks_model:
        said = _asked(config, asking) if spend else "not asked"
        return f"{asking.method} by {asking.source} at {shown(asking.base_url or HOSTED)}: {said}"
    if asking in own_models(config.judge):
        return f"{asking.method} by {headers_of(asking.source or '').place}"
    by = "the model of the run" if asking.backend == "local" else f"the {asking.backend} judge"
    return f"{asking.method} by {by}"


def _asked(config: RunConfig, asking: AskingConfig) -> str:
    """What came of judging one pair by the server as the run would: under the longest principle, about the longest
    prompt, with answers as long as they can get. That shows a server that is down, a wrong key, an unknown model,
    missing log-probs and a context that is too small before a run spends anything."""
    try:
        constitution = load_constitution(config.constitution)
        prompts = [prompt for part in split_prompts(config.prompts, config.seed) for prompt in part]
    except RlaifError:
        return "not asked, because there is nothing to ask about"
    prompt = max(prompts, key=lambda p: sum(len(message.content) for message in p.messages))
    principle = max(constitution.principles, key=lambda p: len(p.statement) + len(p.comparison or ""))
    tokens = max(config.label.max_new_tokens, config.evaluate.max_new_tokens, config.revise.max_new_tokens)
    a, b = (Response(prompt.id, f"{word} " * tokens, "check", 0, 0.0, "length", tokens) for word in ("some", "other"))
    alone = JudgeConfig.model_validate(asking.model_dump(include=set(AskingConfig.model_fields)) | {"max_retries": 0})
    model = open_asked(alone, config.model)
    try:
        judge = Judge(alone, constitution, models=[model], seed=config.seed)
        verdicts = judge.label_under([Comparison(prompt, a, b)], [[principle]])[0].verdicts
    finally:
        model.close()
    usage = model.usage
    cost = f"{usage.calls} calls, {usage.prompt_tokens + usage.generated_tokens:,} tokens"
    failure = next((verdict.failure for verdict in verdicts if verdict.failure is not None), None)
    if failure is None or failure.kind in ("off_menu", "refused", "empty"):
        return f"judged a made-up pair of the longest answers ({cost})" + (f", but {failure.reason}" if failure else "")
    if failure.kind == "context_overflow":
        words = sum(len(message.content.split()) for message in prompt.messages)
        what, less = f"answers of {tokens} tokens do not fit", "lower label.max_new_tokens"
        if words > 2 * tokens:  # both answers are shown
            what, less = f"a prompt of {words} words does not fit", f"leave it out: {prompt.text[:60]!r} ..."
        remedy = f"serve the judge with a longer context, or {less}"
        raise BackendError(f"{what}: {failure.reason}", where="judge", remedy=remedy)
    raise BackendError(failure.reason, where="judge", remedy="see docs/reference/servers.md, or the server's log")


def _card(config: RunConfig) -> str:
    """What the judge will be measured on; reading the gold finds out whether it can be."""
    table = config.card
    if "card" not in of_run(config):
        return "card.required is false: labels are made by a judge that nobody measured"
    gold = read_gold_set(table.gold, own=load_constitution(config.constitution))
    drawn = gold.drawn(table.pairs, config.seed)
    pairs, prompts = len(drawn), len({pair.prompt_id for pair in drawn})
    asked = f"accuracy {table.min_accuracy:.0%} is asked for" if table.required else "asked for by judge.calibration"
    if table.required and table.min_accuracy > COIN:
        least = least_right(prompts)
        if least is None:
            raise ConfigError(
                f"no judge can be told from a coin by the {prompts} prompts of {gold.name}",
                where="card.gold",
                remedy="write more tests (4 prompts are the least, 20 are good), name other gold, or set "
                "card.min_accuracy: 0.5",
            )
        asked += f", and {least} of {prompts} prompts right, which a coin does not reach"
    kind = config.judge.calibration
    if kind != "none" and pairs < LEAST[kind]:
        raise ConfigError(
            f"judge.calibration: {kind} takes {LEAST[kind]} pairs of gold, and {gold.name} gives {pairs}",
            where="card.gold",
            remedy="name more gold, raise card.pairs, or set judge.calibration: none",
        )
    return f"{pairs} pairs of {gold.name}, {asked}"


def _reward(config: RunConfig, model: Headers | None) -> str:
    """The sources of the reward; functions are called once, with the tokens of the model where it is given."""
    found = [(part.weight, _source(config, part.source, model)) for part in config.ppo.reward]
    return found[0][1] if len(found) == 1 else " + ".join(f"{weight:g} x {kind}" for weight, kind in found)


def _source(config: RunConfig, source: str, model: Headers | None) -> str:
    if source == "model":
        several = f" ({config.reward.members} members, {config.ppo.reward_ensemble})"
        return "the reward model of the reward stage" + (several if config.reward.members > 1 else "")
    if source == "judge":
        return "the judge itself, against the answers of the label stage"
    kind = "how far a response is on topic" if source == "on_topic" else f"the function {source}"
    try:
        train, _ = split_prompts(config.prompts, config.seed)
    except DataError:
        return kind  # the prompts' own check tells what is wrong
    if source == "on_topic":
        refuse_one_prompt(train)
        return kind
    load_function(source, train)
    if model is None or not train:
        return kind
    return f"{kind}, which scored made-up answers {try_function(source, train, model.tokenizer)}"


def _gold(config: RunConfig) -> list[Finding]:
    """What is known of each scorer that the run would measure by; without the one that chooses the policy PPO stops."""
    asked = dict.fromkeys(config.evaluate.gold if config.has("evaluate") else (), "evaluate.gold")
    if config.ppo.eval_steps and "ppo" in config.align_by:
        asked = dict.fromkeys(config.ppo.gold, "ppo.gold") | asked
    try:
        train, held_out = split_prompts(config.prompts, config.seed)
    except DataError:
        train, held_out = [], []  # of which the prompts' own check tells
    scored = {"evaluate.gold": held_out, "ppo.gold": train}
    return [_scorer(config, name, where, scored[where]) for name, where in asked.items()]


def _scorer(config: RunConfig, name: str, where: str, prompts: Sequence[Prompt]) -> Finding:
    title = f"gold {short_name(name)}"
    try:
        packages = entry_of(name, where).packages
        refuse_missing_columns([name], prompts, where)
    except ConfigError as error:
        return _failed(title, error)
    missing = [package.install for package in packages if not installed(package.module)]
    if not missing:
        return Finding(title, ", ".join(package.distribution for package in packages) or f"the class {name}")
    remedy = "; ".join(missing)
    if config.ppo.keep == "best" and config.ppo.best_by == short_name(name):
        return _failed(title, StageError("is not installed", where="ppo.best_by", remedy=remedy))
    return Finding(title, f"will not be measured; to have it: {remedy}", note=True)
