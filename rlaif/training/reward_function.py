"""A reward in plain Python: "module:function", called as f(prompt texts, response texts) -> one number each."""

from __future__ import annotations

import importlib
import math
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlaif.errors import ConfigError, StageError

RewardFunction = Callable[[list[str], list[str]], Iterable[Any]]
RESUME = "the run goes on from its last checkpoint with --resume"


def load_function(name: str) -> RewardFunction:
    """The function "module:function"; raises ConfigError if it cannot be imported."""
    module_name, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ConfigError(
            f"cannot import the reward function {name!r}: {problem}",
            where="ppo.reward",
            remedy='write "model", "judge" or "module:function" of something importable',
        ) from None
    if not callable(function):
        raise ConfigError(f"{name!r} is not a function", where="ppo.reward")
    result: RewardFunction = function
    return result


def function_scores(function: RewardFunction, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
    """(B,) float32 scores; raises StageError if the function fails or returns anything but one finite number each.

    The texts are given by position: TRL calls the second argument "completions", others "responses".
    """
    try:
        found = list(function(list(prompts), list(responses)))
    except Exception as problem:
        place = traceback.extract_tb(problem.__traceback__)[-1]
        raise StageError(
            f"the reward function raised {type(problem).__name__}: {problem}",
            where=f"{place.filename}:{place.lineno}",
            remedy=f"mend the function; {RESUME}",
        ) from problem
    if len(found) != len(responses):
        raise _unusable(f"{len(found)} scores for {len(responses)} responses")
    scores = []
    for value, prompt, response in zip(found, prompts, responses, strict=True):
        score = _finite(value)
        if score is None:
            raise _unusable(f"{value!r} for the response {response[:200]!r} to the prompt {prompt[:200]!r}")
        scores.append(score)
    return torch.tensor(scores, dtype=torch.float32)


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _unusable(what: str) -> StageError:
    return StageError(
        f"the reward function returned {what}",
        where="ppo.reward",
        remedy=f"return one finite number per response; {RESUME}",
    )
