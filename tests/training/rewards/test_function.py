"""Functions as rewards: what they are given, what they may return, and how their faults are told."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlaif.core.errors import ConfigError, StageError
from rlaif.gold.text import length_reward
from rlaif.inputs.columns import column_names
from rlaif.training.rewards.for_trainers import of_function
from rlaif.training.rewards.function import COLUMNS, FunctionReward, load_function
from tests.training.tiny_ppo import ASKED, TWO_ROLLOUTS, TWO_TEXTS


def scored(function: Any, texts: Sequence[str] = TWO_TEXTS) -> list[float]:
    return FunctionReward(function, "mine:f").scores(TWO_ROLLOUTS, texts).tolist()


# What it is given


def test_a_function_with_keywords_gets_every_column() -> None:
    seen: dict[str, Any] = {}

    def f(**columns: Any) -> list[float]:
        seen.update(columns)
        return [1.0, 2.0]

    assert scored(f) == [1.0, 2.0]
    assert seen == {
        "prompts": ["A", "B"],
        "responses": ["Yes", "No"],
        "completions": ["Yes", "No"],
        "completion_ids": [[1, 2, 3], [4]],
        "messages": [
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "A"}],
            [{"role": "user", "content": "B"}],
        ],
        "prompt_id": [ASKED[0].id, ASKED[1].id],
        "slice": ["first", "second"],
        "tags": [["x", "y"], []],
        "source": ["set", ""],
        "finish": ["stop", "length"],
    }


class Callable_:
    def __call__(self, completions: list[str], slice: list[str]) -> list[float]:
        return [len(text) + len(name) for text, name in zip(completions, slice, strict=True)]


def by_own_names(p: list[str], r: list[str]) -> list[float]:
    return [float(one == "A") + 10 * len(other) for one, other in zip(p, r, strict=True)]


def trl(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
    assert {"prompts", "completions", "responses"} & kwargs.keys() == {"responses"}
    return by_own_names(prompts, completions)


def undeclared(*args: Any, **kwargs: Any) -> list[float]:
    assert not kwargs
    return by_own_names(*args)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (by_own_names, [31, 20]),
        (trl, [31, 20]),
        (undeclared, [31, 20]),
        (lambda responses: [len(text) for text in responses], [3, 2]),
        (lambda texts, answers, slice: [len(name) for name in slice], [5, 6]),
        (lambda p, r, /: by_own_names(p, r), [31, 20]),
        (lambda p, r, **rest: [len(rest), "prompts" in rest or "responses" in rest], [len(COLUMNS) - 2, 0]),
        (lambda completions, *, finish, margin=2: [margin * (end == "stop") for end in finish], [2, 0]),
        (Callable_(), [8, 8]),
        (functools.partial(lambda completions, bonus: [bonus, bonus], bonus=4), [4, 4]),
    ],
)
def test_a_function_gets_what_its_signature_takes(function: Any, wanted: list[float]) -> None:
    assert scored(function) == wanted


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions, answer: [], "missing a required argument: 'answer'"),
        (lambda finish, texts: [], "missing a required argument: 'texts'"),
        (lambda p, r, q: [], "missing a required argument: 'q'"),
        (lambda: [], "too many positional arguments"),
        (math.sqrt, "too many positional arguments"),
    ],
)
def test_a_signature_that_cannot_be_served_is_told_when_it_is_loaded(function: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FunctionReward(function, "mine:f")
    assert f"the reward function mine:f cannot be called: {message}" in str(caught.value)
    assert "completion_ids" in str(caught.value)
    if function is not math.sqrt:
        assert Path(__file__).name in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere:f", "math:nothing", "math:pi", "math", ":", "math:sqrt"])
def test_a_function_that_is_not_there_or_not_fit(name: str) -> None:
    with pytest.raises(ConfigError):
        load_function(name)


WITH_COLUMNS = replace(
    TWO_ROLLOUTS,
    prompts=(
        replace(ASKED[0], columns='{"answer": "Yes", "source": "mine", "finish": "never"}'),
        replace(ASKED[1], columns='{"answer": null, "topic": "b"}'),
    ),
)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda completions, answer: [one == text for one, text in zip(answer, completions, strict=True)], [1, 0]),
        (lambda texts, answers, topic: [topic == [None, "b"]] * 2, [1, 1]),
        (lambda prompts, completions, **columns: [columns["answer"] == ["Yes", None]] * 2, [1, 1]),
        (lambda completions, source: [source == ["mine", None]] * 2, [1, 1]),
        (lambda completions, finish: [finish == ["stop", "length"]] * 2, [1, 1]),
        (lambda completions, other=3: [other, other], [3, 3]),
    ],
)
def test_a_function_gets_the_columns_of_the_prompt_file_that_it_asks_for(function: Any, wanted: list[float]) -> None:
    reward = FunctionReward(function, "mine:f", column_names(WITH_COLUMNS.prompts))
    assert reward.scores(WITH_COLUMNS, TWO_TEXTS).tolist() == wanted


def test_a_column_that_no_prompt_has_is_told_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"missing a required argument: 'gold'\n.*answer, topic; any other must be a column"
    ):
        FunctionReward(lambda completions, gold: [], "mine:f", ["answer", "topic"])


def test_another_trainer_passes_its_columns_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_columns.py").write_text(
        "def right(completions, answer, messages):\n"
        "    assert messages[0][0]['role'] == 'user'\n"
        "    return [float(a in c) for a, c in zip(answer, completions)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    reward = of_function("own_columns:right")
    asked = {"prompts": ["2 + 2?", "3 + 3?"], "completions": ["It is 4.", "It is 5."]}
    assert reward(**asked, answer=["4", "6"], trainer_state=object(), completion_ids=[[1], [2]]) == [1.0, 0.0]
    with pytest.raises(ConfigError, match="missing a required argument: 'answer'"):
        reward(**asked)


def test_functions_of_trl_run_unchanged_where_they_need_what_there_is() -> None:
    from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

    assert scored(get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2)) == [-0.5, 0.0]
    assert scored(get_repetition_penalty_reward(ngram_size=1)) == [0.0, 0.0]


# What it may return


async def waits(completions: list[str]) -> list[float]:
    import asyncio

    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


@pytest.mark.parametrize(
    "returned",
    [[1, 0], (1.0, 0.0), torch.tensor([1, 0]), np.array([1.0, 0.0]), [True, False], [np.float32(1), torch.tensor(0.0)]],
)
def test_numbers_of_every_kind_are_taken(returned: Any) -> None:
    found = FunctionReward(lambda responses: returned, "f").scores(TWO_ROLLOUTS, TWO_TEXTS)
    assert (found.tolist(), found.dtype) == ([1.0, 0.0], torch.float32)
    assert scored(lambda responses: iter(returned)) == [1.0, 0.0]


def test_none_is_nothing_to_say() -> None:
    found = scored(lambda responses: [None, 2.0])
    assert math.isnan(found[0])
    assert found[1] == 2.0


def test_an_async_function_is_run_and_its_loop_kept() -> None:
    reward = FunctionReward(waits, "f")
    assert reward.scores(TWO_ROLLOUTS, TWO_TEXTS).tolist() == [3.0, 2.0]
    loop = reward.loop
    reward.scores(TWO_ROLLOUTS, TWO_TEXTS)
    assert reward.loop is loop is not None


# How its faults are told


def broken(prompts: list[str], responses: list[str]) -> list[float]:
    raise KeyError("no such table")


async def broken_later(responses: list[str]) -> list[float]:
    return [int("x") for _ in responses]


def yields_and_breaks(responses: list[str]) -> Any:
    yield 1.0
    raise OSError("gone")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (broken, "mine:f raised KeyError: 'no such table'"),
        (broken_later, "raised ValueError: invalid literal"),
        (yields_and_breaks, "raised OSError: gone"),
        (lambda p, r: [1.0], "1 scores for 2 responses"),
        (lambda p, r: [1.0] * 3, "3 scores for 2 responses"),
        (lambda p, r: None, "NoneType, not a list"),
        (lambda p, r: 1.0, "float, not a list"),
        (lambda p, r: "12", "str, not a list"),
        (lambda p, r: {"A": 1, "B": 2}, "dict, not a list"),
        (lambda p, r: torch.tensor(1.0), "Tensor, not a list"),
        (lambda p, r: [1.0, math.nan], "nan for the response 'No' to the prompt 'B'"),
        (lambda p, r: [math.inf, 1.0], "inf for the response 'Yes' to the prompt 'A'"),
        (lambda p, r: np.array([1.0, np.nan]), "nan for the response 'No'"),
        (lambda p, r: [1e300, 1.0], "1e+300 for the response 'Yes'"),
        (lambda p, r: [10**400, 1.0], "0000 for the response 'Yes'"),
        (lambda p, r: ["good", 1.0], "'good' for the response 'Yes'"),
        (lambda p, r: ["1", 1.0], "'1' for the response 'Yes'"),
        (lambda p, r: torch.ones(2, 2), "[1.0, 1.0] for the response 'Yes'"),
        (lambda p, r: [torch.ones(2), 1.0], "tensor([1., 1.]) for the response 'Yes'"),
    ],
)
def test_a_function_that_fails_says_how(function: Any, message: str) -> None:
    with pytest.raises(StageError) as caught:
        scored(function)
    assert message in str(caught.value)
    assert "--resume" in str(caught.value)
    assert Path(__file__).name in str(caught.value)


@pytest.mark.parametrize("function", [broken, broken_later])
def test_an_error_is_told_with_its_line(function: Any) -> None:
    with pytest.raises(StageError) as caught:
        scored(function)
    assert f"{Path(__file__).name}:{function.__code__.co_firstlineno + 1}" in str(caught.value)


def test_an_error_inside_a_library_is_told_with_the_line_that_called_it() -> None:
    def f(responses: list[str]) -> list[float]:
        return [np.linalg.inv(np.zeros((2, 2))) for _ in responses]

    with pytest.raises(StageError, match="LinAlgError") as caught:
        scored(f)
    assert f"{Path(__file__).name}:{f.__code__.co_firstlineno + 1}" in str(caught.value)


def test_a_reward_of_ours_goes_by_the_name_in_older_configs_too() -> None:
    assert load_function("rlaif.evaluation.controls:length_reward").function is length_reward
