"""`rlaif check`: everything a run needs, looked at before it starts.

It generates nothing. A judge behind a server is asked about one made-up pair: nothing less shows that it can judge.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlaif.config import AskingConfig, JudgeConfig, ModelConfig, RunConfig
from rlaif.constitution.load import by_slice, load_constitution, refuse_missing_contexts, refuse_missing_contrast
from rlaif.core.errors import BackendError, ConfigError, ModelError, RlaifError, StageError
from rlaif.core.plugins import short_name
from rlaif.core.records import Comparison, Response
from rlaif.gold.pairs import read_gold_set
from rlaif.gold.scorers import entry_of
from rlaif.gold.text import MOVED
from rlaif.inputs.prompt_sets import split_prompts
from rlaif.inputs.templates import CRITIQUE, PROPOSE, REVISION, load_templates
from rlaif.judge.calibration import LEAST
from rlaif.judge.judge import Judge
from rlaif.judge.load import load
from rlaif.judge.methods.table import find, in_use, template_kinds
from rlaif.lm.open import open_asked
from rlaif.lm.server.requests import HOSTED
from rlaif.run.environment import installed
from rlaif.stages.table import of_run


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `note` is set where something is absent that a run can do without."""

    name: str
    text: str
    ok: bool = True
    note: bool = False
    exit_code: int = 0

    def __str__(self) -> str:
        state = "failed" if not self.ok else "absent" if self.note else "ok"
        return f"{state:<7} {self.name:<13} {self.text}"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_all(path: Path, overrides: Sequence[str] = ()) -> list[Finding]:
    """One finding for each thing that a run of this config needs; only the config's own if that cannot be read."""
    try:
        config = load(path, overrides)
    except RlaifError as error:
        return [_failed("config", error)]
    checks: list[tuple[str, Callable[[], str]]] = [
        ("constitution", lambda: _constitution(config)),
        ("templates", lambda: _templates(config)),
        ("prompts", lambda: _prompts(config)),
        ("model", lambda: _model(config.model)),
        ("judge", lambda: _judge(config)),
        ("card", lambda: _card(config)),
        ("reward", lambda: _reward(config)),
    ]
    found = [Finding("config", str(path))]
    for name, check in checks:
        if name == "card" and not all(finding.ok for finding in found):
            continue  # it stands on the constitution, which may be what failed
        try:
            found.append(Finding(name, check()))
        except RlaifError as error:
            found.append(_failed(name, error))
    return found + _gold(config)


def _failed(name: str, error: RlaifError) -> Finding:
    return Finding(name, str(error), ok=False, exit_code=error.exit_code)


def _constitution(config: RunConfig) -> str:
    constitution = load_constitution(config.constitution)
    refuse_missing_contrast(constitution, methods=in_use(config.judge), where=config.constitution)
    refuse_missing_contexts(constitution, config, where=config.constitution)
    by_slice(constitution, config.prompts)
    return f"{constitution.name} {constitution.version}: {len(constitution.principles)} principles"


def _templates(config: RunConfig) -> str:
    return ", ".join(load_templates((CRITIQUE, REVISION, *template_kinds(config.judge), PROPOSE)))


def _prompts(config: RunConfig) -> str:
    train, held_out = split_prompts(config.prompts, config.seed)
    return f"{len(train)} to train on, {len(held_out)} held out"


def _model(config: ModelConfig) -> str:
    """Where the weights are, without loading them; those of the hub must be in the local cache or may be fetched."""
    from rlaif.lm.local import load as models

    fingerprint = models.model_fingerprint(config)
    if config.source == "embedded" or config.source.endswith(".gguf"):
        return f"{config.source} ({fingerprint})"
    place, _ = models.resolve(config.source)
    if Path(place).is_dir():
        return f"{place} ({fingerprint})"
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(place, "config.json"), str):
        return f"{place}, in the local cache of the hub"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise ModelError(
            "is no folder, is not in the local cache of the hub, and HF_HUB_OFFLINE is set",
            where=config.source,
            remedy="check model.source, or unset HF_HUB_OFFLINE to download it",
        )
    return f"{place}, will be downloaded from the hub"


def _judge(config: RunConfig) -> str:
    """The run's judge and whoever votes beside it; one behind a server is asked."""
    found = [_member(config, config.judge)]
    found += [f"{member.name}: {_member(config, member)}" for member in config.judge.panel]
    return "; ".join(found)


def _member(config: RunConfig, asking: AskingConfig) -> str:
    """What is known of one judge of the panel, or of the only one."""
    if asking.backend == "openai" and find(asking.method).asks_model:
        return f"{asking.method} by {asking.source} at {asking.base_url or HOSTED}: {_asked(config, asking)}"
    if asking.backend == "local" and asking.source is not None:
        return f"{asking.method} by {_model(config.model.model_copy(update={'source': asking.source}))}"
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
        remedy = "serve the judge with a longer context, or lower label.max_new_tokens"
        raise BackendError(f"answers of {tokens} tokens do not fit: {failure.reason}", where="judge", remedy=remedy)
    raise BackendError(failure.reason, where="judge", remedy="see docs/reference/servers.md, or the server's log")


def _card(config: RunConfig) -> str:
    """What the judge will be measured on; reading the gold finds out whether it can be."""
    table = config.card
    if "card" not in of_run(config):
        return "card.required is false: labels are made by a judge that nobody measured"
    gold = read_gold_set(table.gold, own=load_constitution(config.constitution))
    pairs = min(len(gold.pairs), table.pairs) if table.pairs else len(gold.pairs)
    asked = f"accuracy {table.min_accuracy:.0%} is asked for" if table.required else "asked for by judge.calibration"
    kind = config.judge.calibration
    if kind != "none" and pairs < LEAST[kind]:
        raise ConfigError(
            f"judge.calibration: {kind} takes {LEAST[kind]} pairs of gold, and {gold.name} gives {pairs}",
            where="card.gold",
            remedy="name more gold, raise card.pairs, or set judge.calibration: none",
        )
    return f"{pairs} pairs of {gold.name}, {asked}"


def _reward(config: RunConfig) -> str:
    found = [(part.weight, _source(config, part.source)) for part in config.ppo.reward]
    return found[0][1] if len(found) == 1 else " + ".join(f"{weight:g} x {kind}" for weight, kind in found)


def _source(config: RunConfig, source: str) -> str:
    """What one source of the reward is; raises ConfigError for a function in a module that is not there."""
    if source == "model":
        several = f" ({config.reward.members} members, {config.ppo.reward_ensemble})"
        return "the reward model of the reward stage" + (several if config.reward.members > 1 else "")
    if source == "judge":
        return "the judge itself, against the answers of the label stage"
    module = MOVED.get(source, source).partition(":")[0]
    try:
        there = installed(module)
    except ModuleNotFoundError:
        there = False
    if not there:
        raise ConfigError(
            f"there is no module {module!r}", where="ppo.reward", remedy="start rlaif where it can be imported"
        )
    return f"the function {source}"


def _gold(config: RunConfig) -> list[Finding]:
    """What is known of each scorer that the run would measure by; without the one that chooses the policy PPO stops."""
    asked = dict.fromkeys(config.evaluate.gold, "evaluate.gold")
    if config.ppo.eval_steps:
        asked = dict.fromkeys(config.ppo.gold, "ppo.gold") | asked
    return [_scorer(config, name, where) for name, where in asked.items()]


def _scorer(config: RunConfig, name: str, where: str) -> Finding:
    title = f"gold {short_name(name)}"
    try:
        packages = entry_of(name, where).packages
    except ConfigError as error:
        return _failed(title, error)
    missing = [package.install for package in packages if not installed(package.module)]
    if not missing:
        return Finding(title, ", ".join(package.distribution for package in packages) or f"the class {name}")
    remedy = "; ".join(missing)
    if config.ppo.keep == "best" and config.ppo.best_by == short_name(name):
        return _failed(title, StageError("is not installed", where="ppo.best_by", remedy=remedy))
    return Finding(title, f"will not be measured; to have it: {remedy}", note=True)
