"""`rlaif check`: everything a run needs, looked at before it starts. Generates nothing and asks no judge."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlaif.card.gold import read_gold_set
from rlaif.config import JudgeConfig, ModelConfig, RunConfig, load
from rlaif.constitution.load import check_constitution, load_constitution
from rlaif.constitution.scope import by_slice
from rlaif.environment import GOLD_PACKAGES, OPTIONAL, installed
from rlaif.errors import BackendError, ConfigError, ModelError, RlaifError
from rlaif.judge.calibration import LEAST
from rlaif.prompt_sets import split_prompts
from rlaif.stages import of_run
from rlaif.templates import VARIABLES, load_template


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
        ("templates", _templates),
        ("prompts", lambda: _prompts(config)),
        ("model", lambda: _model(config.model)),
        ("judge", lambda: _judge(config.judge, config.model)),
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
    return found + [_gold(name) for name in config.evaluate.gold]


def _failed(name: str, error: RlaifError) -> Finding:
    return Finding(name, str(error), ok=False, exit_code=error.exit_code)


def _constitution(config: RunConfig) -> str:
    constitution = load_constitution(config.constitution)
    check_constitution(constitution, methods=config.judge.methods, where=config.constitution)
    by_slice(constitution, config.prompts)
    return f"{constitution.name} {constitution.version}: {len(constitution.principles)} principles"


def _templates() -> str:
    return ", ".join(load_template(name).name for name in VARIABLES)


def _prompts(config: RunConfig) -> str:
    train, held_out = split_prompts(config.prompts, config.seed)
    return f"{len(train)} to train on, {len(held_out)} held out"


def _model(config: ModelConfig) -> str:
    """Where the weights are, without loading them; those of the hub must be in the local cache or may be fetched."""
    from rlaif import models

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


def _judge(judge: JudgeConfig, model: ModelConfig) -> str:
    if judge.backend == "openai":
        return f"{judge.method} by {judge.source} at {_reach(judge)}"
    if judge.backend == "local" and judge.source is not None:
        return f"{judge.method} by {_model(model.model_copy(update={'source': judge.source}))}"
    return f"{judge.method} by {'the model of the run' if judge.backend == 'local' else 'the scripted judge'}"


def _reach(judge: JudgeConfig) -> str:
    """The server's address, after it answered a request that costs nothing (the list of its models)."""
    base = (judge.base_url or "https://api.openai.com/v1").rstrip("/")
    key = os.environ.get(judge.api_key_env)
    if judge.base_url is None and not key:
        raise BackendError(
            f"the environment variable {judge.api_key_env} is not set",
            where="judge.api_key_env",
            remedy=f"export {judge.api_key_env}=..., or set judge.base_url to a server of your own",
        )
    if not base.startswith(("http://", "https://")):
        raise ConfigError(f"{base!r} is no http address", where="judge.base_url", remedy="http://127.0.0.1:8000/v1")
    request = urllib.request.Request(f"{base}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=min(judge.timeout, 10.0)):
            return base
    except urllib.error.HTTPError as answer:
        if answer.code in (401, 403):
            raise BackendError(
                f"the server refuses the key (HTTP {answer.code})", where=base, remedy=f"check {judge.api_key_env}"
            ) from None
        return base  # it is there; not every server lists its models
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "reason", problem)
        raise BackendError(
            f"cannot be reached: {reason}", where=base, remedy="start the server, or correct judge.base_url"
        ) from None


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
    reward = config.ppo.reward
    if reward == "model":
        return "the reward model of the reward stage"
    if reward == "judge":
        return "the judge itself, against the answers of the label stage"
    module, colon, function = reward.partition(":")
    if not (colon and module and function):
        raise ConfigError(f'{reward!r} is neither "model" nor "judge" nor "module:function"', where="ppo.reward")
    try:
        there = installed(module)
    except ModuleNotFoundError:
        there = False
    if not there:
        raise ConfigError(
            f"there is no module {module!r}", where="ppo.reward", remedy="start rlaif where it can be imported"
        )
    return f"the function {reward}"


def _gold(name: str) -> Finding:
    missing = [module for module in GOLD_PACKAGES[name] if not installed(module)]
    if missing:
        remedy = "; ".join(OPTIONAL[module][2] for module in missing)
        return Finding(f"gold {name}", f"will not be measured; to have it: {remedy}", note=True)
    return Finding(f"gold {name}", ", ".join(OPTIONAL[module][0] for module in GOLD_PACKAGES[name]))
