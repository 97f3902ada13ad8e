"""Plans of walks by hand: what is computed, what is taken over, and where the states of the targets stand."""

from __future__ import annotations

import numpy as np
import pytest

from rlaif.lm.local.cpu import walk_plan as walk
from rlaif.lm.local.cpu.walk_plan import Ids, WalkStep, common, groups, passes, plan
from rlaif.lm.local.packing import Row


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "SHARED", 3)


def test_each_row_is_computed_from_where_it_leaves_the_one_before() -> None:
    rows: list[Row] = [((1, 2, 5), (6, 7)), ((1, 2), (3, 4)), ((1, 2, 5), (6, 8, 9)), ((4,), (1,))]
    found = plan(rows)
    assert found.steps == [WalkStep((1, 2, 3), 0), WalkStep((5, 6), 2), WalkStep((8,), 4), WalkStep((4,), 0)]
    # The tokens of the steps are numbered 0 to 6: 1 2 3 | 5 6 | 8 | 4; a target is predicted by the token before it.
    assert found.places == [[3, 4], [1, 2], [3, 4, 5], [6]]
    assert found.held == (4,)


def test_choices_after_one_context_need_one_state() -> None:
    found = plan([((1, 2, 3), (8,)), ((1, 2, 3), (9,)), ((1, 2, 3), ())])
    assert found.steps == [WalkStep((1, 2, 3), 0)]
    assert found.places == [[2], [2], []]


def test_what_the_buffer_holds_is_not_computed_but_for_the_states_that_are_asked_for() -> None:
    found = plan([((1, 2, 3, 4), (5, 6))], held=(1, 2, 3, 4, 5, 9))
    assert found.steps == [WalkStep((4, 5), 3)]  # their keys are there, their states are not
    assert found.places == [[0, 1]]
    assert plan([((1, 2, 7), (8,))], held=(1, 2, 3, 4)).steps == [WalkStep((7,), 2)]


@pytest.mark.usefixtures("small")
def test_a_kept_beginning_is_loaded_where_it_reaches_further_than_the_buffer() -> None:
    rows: list[Row] = [((1, 2, 3, 4, 5, 6), (7,)), ((1, 2, 3, 4, 5, 8), (7,))]
    kept: list[Ids] = [(9, 9, 9), (1, 2, 3, 4, 9)]
    loaded = plan(rows, (1, 2), kept)
    assert loaded.steps == [WalkStep((5, 6), 4, load=((1, 2, 3, 4, 9), 4), keep=(1, 2, 3, 4, 5)), WalkStep((8,), 5)]
    assert plan(rows, (1, 2, 3, 4, 5), kept).steps[0] == WalkStep((6,), 5, keep=(1, 2, 3, 4, 5))
    assert plan(rows, (), [(1, 2, 3, 4, 5, 9)]).steps == [
        WalkStep((6,), 5, load=((1, 2, 3, 4, 5, 9), 5)),
        WalkStep((8,), 5),
    ]


@pytest.mark.usefixtures("small")
def test_groups_end_where_rows_share_little_or_less_than_half() -> None:
    sequences: list[Ids] = [(1, 2, 3, 9), (1, 2, 3, 4), (), (1, 2, 5), (7,) * 9, (7,) * 8 + (8,), (7, 7, 7, 9)]
    assert list(groups(sequences)) == [
        ((1, 2, 3), [1, 0]),
        ((1, 2, 5), [3]),
        ((7,) * 8, [4, 5]),
        ((7, 7, 7, 9), [6]),
    ]


def test_passes_are_full_and_a_step_that_does_not_fit_is_cut() -> None:
    steps = [WalkStep((1, 2, 3, 4, 5, 6, 7), 0, load=((1,), 1), keep=(1, 2)), WalkStep((8,), 3), WalkStep((9, 9), 1)]
    assert list(passes(steps, 3)) == [
        [WalkStep((1, 2, 3), 0, load=((1,), 1))],
        [WalkStep((4, 5, 6), 3)],
        [WalkStep((7,), 6, keep=(1, 2)), WalkStep((8,), 3), WalkStep((9,), 1)],
        [WalkStep((9,), 2)],
    ]
    assert list(passes(steps[1:], 3)) == [steps[1:]]
    assert list(passes([], 3)) == []


def test_common() -> None:
    assert [common((1, 2, 3), other) for other in ((), (1,), (1, 2, 4), (1, 2, 3, 4), (2, 2, 3))] == [0, 1, 2, 3, 0]


def test_a_walk_computes_every_beginning_once_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    rows: list[Row] = [
        (tuple(draw.integers(0, 2, draw.integers(1, 9))), tuple(draw.integers(0, 2, draw.integers(0, 6))))
        for _ in range(200)
    ]
    sequences = {(*context, *target[:-1]) for context, target in rows if target}
    beginnings = {ids[:size] for ids in sequences for size in range(1, len(ids) + 1)}
    found = plan(rows)
    assert sum(len(step.ids) for step in found.steps) == len(beginnings)
    # Followed step by step the buffer holds the very tokens that predict each target.
    held: list[int] = []
    token_of: list[Ids] = []
    for step in found.steps:
        held[step.start :] = step.ids
        token_of += [tuple(held[: place + 1]) for place in range(step.start, step.end)]
    for (context, target), places in zip(rows, found.places, strict=True):
        whole = (*context, *target)
        assert [token_of[place] for place in places] == [whole[: len(context) + n] for n in range(len(target))]
