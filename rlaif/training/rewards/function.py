"""A reward in plain Python: "module:function" with TRL's signature, f(prompts, completions, **columns) -> list[float].

A function is given, by keyword, those of `COLUMNS` and of the columns of the prompt file that its signature takes,
each a list with one entry per response. A column of the file goes before one of ours that says where the prompt is
from. Where the names of its first two parameters say nothing, these get the prompts and the responses by position.
Departures from TRL: texts stay texts where the prompts are chats (`messages` has these as TRL gives them), and
a NaN is an error, not another way to say None.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from inspect import Parameter
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from rlaif.core.errors import ConfigError, StageError
from rlaif.core.plugins import load_own, raised_at
from rlaif.gold.text import MOVED
from rlaif.inputs.columns import column_values
from rlaif.lm.server.loop_thread import LoopThread
from rlaif.training.ppo.rollout import Rollouts

RewardFunction = Callable[..., Any]
RESUME = "the run goes on from its last checkpoint with --resume"
LARGEST = float(torch.finfo(torch.float32).max)
BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)

Column = Callable[[Rollouts, Sequence[str]], list[Any]]
COLUMNS: dict[str, Column] = {
    "prompts": lambda rollouts, texts: [prompt.text for prompt in rollouts.prompts],
    "responses": lambda rollouts, texts: list(texts),
    "completions": lambda rollouts, texts: list(texts),
    "completion_ids": lambda rollouts, texts: [list(ids) for ids in rollouts.responses],
    "messages": lambda rollouts, texts: [
        [{"role": turn.role, "content": turn.content} for turn in prompt.messages] for prompt in rollouts.prompts
    ],
    "prompt_id": lambda rollouts, texts: [prompt.id for prompt in rollouts.prompts],
    "slice": lambda rollouts, texts: [prompt.slice for prompt in rollouts.prompts],
    "tags": lambda rollouts, texts: [list(prompt.tags) for prompt in rollouts.prompts],
    "source": lambda rollouts, texts: [prompt.source for prompt in rollouts.prompts],
    "finish": lambda rollouts, texts: list(rollouts.finish),
}
"""What a function may ask for, by the name of its parameter."""
GIVES_WAY = frozenset({"prompt_id", "slice", "tags", "source"})
"""Those of COLUMNS that are a column of the prompt file where it has one of that name."""


class FunctionReward:
    """A function as a source of scores; raises ConfigError if it takes something that there is not. `columns` are those
    of the prompt files."""

    def __init__(self, function: RewardFunction, name: str, columns: Sequence[str] = ()) -> None:
        self.function, self.name = function, name
        self.columns = [column for column in columns if column not in COLUMNS.keys() - GIVES_WAY]
        self.by_place, self.by_name = _bound(function, name, self.columns)
        self.loop: LoopThread | None = None  # of an async function; one for all calls, as its connections ask for

    def scores(
        self, rollouts: Rollouts, texts: Sequence[str], own: Mapping[str, Sequence[Any]] | None = None
    ) -> Tensor:
        """(B,) float32 scores, NaN where the function says None. `own`: the columns of the prompts, where they do not
        bring them along.

        Raises StageError if it fails or returns anything but one finite number or None each.
        """
        placed = [COLUMNS[name](rollouts, texts) for name in self.by_place]
        asked = [name for name in self.by_name if name in self.columns]
        named = {name: COLUMNS[name](rollouts, texts) for name in self.by_name if name not in asked}
        found_own = column_values(rollouts.prompts, asked) if own is None else own
        named |= {name: list(found_own[name]) for name in asked}
        try:
            found = self.function(*placed, **named)
            if inspect.iscoroutine(found):
                self.loop = self.loop or LoopThread()
                found = self.loop.start(found).result()
            values = _listed(found)
        except Exception as problem:
            raise StageError(
                f"the reward function {self.name} raised {type(problem).__name__}: {problem}",
                where=raised_at(problem, _defined_in(self.function)),
                remedy=f"mend the function; {RESUME}",
            ) from problem
        if values is None:
            raise self._unusable(f"{type(found).__name__}, not a list of numbers")
        if len(values) != len(texts):
            raise self._unusable(f"{len(values)} scores for {len(texts)} responses")
        scores = [_number(value) for value in values]
        for value, score, prompt, text in zip(values, scores, rollouts.prompts, texts, strict=True):
            if score is None:
                given = f"the response {text[:200]!r} to the prompt {prompt.text[:200]!r}"
                raise self._unusable(f"{repr(value)[:100]} for {given}")
        return torch.tensor(scores, dtype=torch.float32)

    def _unusable(self, what: str) -> StageError:
        return StageError(
            f"the reward function {self.name} returned {what}",
            where=_defined_in(self.function) or "ppo.reward",
            remedy=f"return one finite number, or None, per response; {RESUME}",
        )


def load_function(name: str, columns: Sequence[str] = ()) -> FunctionReward:
    """The function "module:function"; raises ConfigError if it cannot be imported or called with what there is."""
    return FunctionReward(import_function(name), name, columns)


def import_function(name: str) -> RewardFunction:
    """The mere function "module:function"; raises ConfigError if it cannot be imported."""
    remedy = (
        'write "model", "judge", "on_topic" or "module:function", with the module beside the config or where rlaif is '
        "started"
    )
    function = load_own(MOVED.get(name, name), what="reward function", where="ppo.reward", remedy=remedy)
    if not callable(function):
        raise ConfigError(f"{name!r} is not a function", where="ppo.reward")
    return function  # type: ignore[no-any-return]


def _bound(function: RewardFunction, name: str, columns: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(columns given by place, columns given by name), as the function's signature takes them."""
    known = dict.fromkeys((*COLUMNS, *columns))
    both = ("prompts", "responses")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # something compiled that does not say
        return both, ()
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if Parameter.VAR_POSITIONAL in kinds:  # (*args, **kwargs) is most often a decorator that says nothing of its own
        return both, ()
    named = [key for key, parameter in signature.parameters.items() if parameter.kind in BY_NAME]
    wanted = tuple(key for key in known if key in named or Parameter.VAR_KEYWORD in kinds)
    if wanted and _takes(signature, (), wanted) is None:
        return (), wanted
    first, second = ([*signature.parameters] + [""] * 2)[:2]
    left = tuple(key for key in wanted if key not in {*both, first, second})
    misplaced = first in known.keys() - {"prompts"} or second in known.keys() - {"responses", "completions"}
    problem = _takes(signature, (), wanted) if misplaced else _takes(signature, both, left)
    if problem is None:
        return both, left
    raise ConfigError(
        f"the reward function {name} cannot be called: {problem}",
        where=_defined_in(function) or "ppo.reward",
        remedy=f"these are the names that it may ask for: {', '.join(known)}; any other must be a column of the prompt "
        "file",
    )


def _takes(signature: inspect.Signature, by_place: Sequence[str], by_name: Sequence[str]) -> str | None:
    """What is wrong with a call of these arguments; None if nothing is."""
    try:
        signature.bind(*by_place, **dict.fromkeys(by_name))
    except TypeError as problem:
        return str(problem)
    return None


def _defined_in(function: RewardFunction) -> str:
    """The file of the function, the object or what a partial wraps; "" for something compiled."""
    while isinstance(function, functools.partial):
        function = function.func
    inner = inspect.unwrap(function if inspect.isroutine(function) else type(function).__call__)
    code = getattr(inner, "__code__", None)
    return str(code.co_filename) if code is not None else ""


def _listed(found: Any) -> list[Any] | None:
    """The values in the list, tensor, array or iterator that a function returned; None for anything else."""
    if hasattr(found, "tolist"):
        found = found.tolist()
    if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping | Set):
        return None
    return list(found)


def _number(value: Any) -> float | None:
    """The number as float32 can hold it, NaN for None; None for what is no finite number."""
    if value is None:
        return math.nan
    try:
        number = value.item() if hasattr(value, "item") else value
        return float(number) if isinstance(number, Real) and abs(float(number)) <= LARGEST else None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
