"""What a run will open, opened before its first stage: what is wrong with it is known then, not hours later."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from rlaif.config import NAMED, AskingConfig, JudgeConfig, RunConfig, StageName
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.records import FinishReason, Prompt
from rlaif.gold.scorers import refuse_missing_columns
from rlaif.inputs.columns import column_names
from rlaif.inputs.prompt_sets import notes_on
from rlaif.judge.methods.table import find
from rlaif.lm.server.credentials import refuse_key_in
from rlaif.run.lengths import given_losses, losses
from rlaif.stages.label_given import read_given
from rlaif.stages.table import of_run, shared
from rlaif.training.trackers import TRACKED, refuse_missing_trackers

if TYPE_CHECKING:
    from rlaif.lm.local.headers import Headers

ANSWERS = ("Yes, of course. Here is how you can do it.", "No.")
"""What a function is asked to score."""


def look(
    config: RunConfig, stages: Collection[StageName], train: Sequence[Prompt], held_out: Sequence[Prompt]
) -> list[str]:
    """Sentences on what the stages, which are about to be run on these prompts, would leave out.

    Raises what they would raise for a model, a function as reward or prompts that they cannot work with, as far as that
    is cheap to know: no weights are loaded, and no function is called.
    """
    for asking in (config.judge, *config.judge.panel):  # before anything of the config is written
        refuse_key_in(json.dumps(asking.extra_body), asking.api_key_env, where="judge.extra_body")
    if TRACKED & set(stages):
        refuse_missing_trackers(config.report_to)
    if "evaluate" in stages:
        refuse_no_held_out(held_out)
    for prompts in [train] * ("ppo" in stages) + [held_out] * bool("evaluate" in stages and config.evaluate.best_of):
        for name in functions(config):
            load_function(name, prompts)
    if "ppo" in stages and config.ppo.scored_by("on_topic"):
        refuse_one_prompt(train)
    if "ppo" in stages and config.ppo.eval_steps:
        refuse_missing_columns(config.ppo.gold, train, "ppo.gold")
    if "evaluate" in stages:
        refuse_missing_columns(config.evaluate.gold, held_out, "evaluate.gold")
    if any("judge" in shared(config, stage) for stage in stages):
        for asking in own_models(config.judge):
            headers_of(asking.source or "")
    if not any(stage in stages for stage in ("revise", "sft", "label", "reward", "ppo", "dpo", "evaluate")):
        return []
    model = headers_of(config.model.source)
    found = losses(config, stages, train, held_out, tokenizer=model.tokenizer, context=model.context)
    said = [*notes_on((*train, *held_out)), *(f"{loss}; {loss.remedy}" for loss in found)]
    if config.label.source is not None and "label" in stages:
        labels = read_given(config.label.source, held_out).labels
        learners = of_run(config)  # which learn of them after this call too
        said += given_losses(config, learners, labels, tokenizer=model.tokenizer, context=model.context)
    return said


def refuse_no_held_out(held_out: Sequence[Prompt]) -> None:
    """Raises ConfigError where `evaluate` would have nothing to compare the models on."""
    if not held_out:
        raise ConfigError(
            "no prompts are held out to evaluate on",
            where="prompts",
            remedy="give a slice held_out: 20 or more; in a run that has begun, add a slice of other prompts, with "
            "train: 0. Or stop before evaluate with --until (ppo or dpo)",
        )


def refuse_one_prompt(prompts: Sequence[Prompt]) -> None:
    """Raises ConfigError where `on_topic` has no prompt to compare with; loads torch."""
    from rlaif.training.rewards.topic import other_prompts

    other_prompts(prompts)


def headers_of(source: str) -> Headers:
    """See `read_headers`; loads torch."""
    from rlaif.lm.local.headers import read_headers

    return read_headers(source)


def own_models(judge: JudgeConfig) -> list[AskingConfig]:
    """The judge and those who vote beside it that are asked on this machine, and are not the run's own model."""
    asked = [asking for asking in (judge, *judge.panel) if find(asking.method).asks_model]
    return [asking for asking in asked if asking.backend == "local" and asking.source is not None]


def functions(config: RunConfig) -> list[str]:
    """The sources of the reward that are functions."""
    return [part.source for part in config.ppo.reward if part.source not in NAMED]


def load_function(name: str, prompts: Sequence[Prompt]) -> Any:
    """The function as a source of the reward for these prompts; ConfigError where it cannot be imported or takes what
    there is not."""
    from rlaif.training.rewards.function import load_function as load

    return load(name, column_names(prompts))


def try_function(name: str, prompts: Sequence[Prompt], tokenizer: Any) -> str:
    """What the function makes of made-up answers to one or two of the prompts; ConfigError where that is no reward."""
    from rlaif.lm.local.load import encode_text
    from rlaif.training.ppo.rollout import Rollouts

    function, asked = load_function(name, prompts), tuple(prompts[: len(ANSWERS)])
    texts = ANSWERS[: len(asked)]
    ids = tuple((*encode_text(tokenizer, text), int(tokenizer.eos_token_id)) for text in texts)
    ended: list[FinishReason] = ["stop"] * len(asked)
    try:
        scores = function.scores(Rollouts(asked, ((),) * len(asked), ids, tuple(ended)), texts)
    except StageError as problem:
        remedy = f"mend the function: it was called with {len(asked)} made-up answers"
        raise ConfigError(problem.what, where=problem.where, remedy=remedy) from problem
    return ", ".join(f"{score:.4g}" for score in scores.tolist())
