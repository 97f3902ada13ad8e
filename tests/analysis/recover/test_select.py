"""The search on small matrices worked out by hand; chance is no gain; its mean is the one that the judge makes."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from rlaif.analysis.recover.candidates import of_statements
from rlaif.analysis.recover.clusters import by_behaviour
from rlaif.analysis.recover.evidence import Bench, Evidence
from rlaif.analysis.recover.recover import select_principles
from rlaif.analysis.recover.select import DRAWS, LEVEL, MIN_SHARE, forward, log_loss
from rlaif.core.progress import Silent
from rlaif.inputs.comparisons import GivenPair
from tests.analysis.recover.cases import POOL, comparisons, score, settings
from tests.fakes import scored

PROMPTS = [f"p{n // 2}" for n in range(200)]


def test_the_loss_of_knowing_nothing_is_ln_2_and_sharpness_forgives_overconfidence() -> None:
    labels = np.array([1.0, 1.0, 1.0, 0.0])
    assert log_loss(np.full((1, 4), 0.5), labels)[0] == pytest.approx(math.log(2))
    sure = np.full((1, 4), 0.9999)  # of A, and wrong once
    three_quarters = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # what predicting 3/4 costs
    assert three_quarters < log_loss(sure, labels)[0] < three_quarters + 0.01
    assert log_loss(1 - sure, labels)[0] == pytest.approx(math.log(2))  # never turned round


def test_a_second_principle_is_taken_for_what_the_first_lacks() -> None:
    """x decides the first half of the pairs, y the second, z repeats x, and w knows nothing."""
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(200) < 0.5, 0.9, 0.1)
    half = np.arange(200) < 100
    x, y = np.where(half, labels, 0.5), np.where(half, 0.5, labels)
    found = forward(["w", "z", "x", "y"], np.stack([rng.random(200), x, x, y]), labels, PROMPTS, keep=4, seed=0)
    assert [step.id for step in found.steps] == ["z", "y"]
    assert found.refused is not None
    assert found.alone["x"] == pytest.approx(found.steps[0].gain)
    assert found.steps[0].gain + found.steps[1].gain == pytest.approx(math.log(2) - found.steps[1].loss)
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert entropy <= found.steps[1].loss < entropy + 0.02  # both together predict the labels themselves


def test_chance_is_kept_in_about_one_of_twenty_draws() -> None:
    """12 candidates that know nothing: without the comparison with chance, half the draws would keep one."""
    kept = beyond_least = 0
    for draw in range(20):
        rng = np.random.default_rng(draw)
        labels, matrix = np.round(rng.random(60)), rng.random((12, 60))
        found = forward([str(n) for n in range(12)], matrix, labels, PROMPTS[:60], keep=1, seed=draw)
        kept += len(found.steps)
        beyond_least += max(found.alone.values()) > MIN_SHARE * math.log(2)
    assert kept <= 3
    assert beyond_least > 10


def test_what_chance_gains_is_the_best_of_all_candidates_with_random_prompts_turned_round() -> None:
    """Here drawn and turned one by one."""
    rng = np.random.default_rng(3)
    labels, matrix = rng.random(60), rng.random((6, 60))
    matrix[0], matrix[1, :20] = np.where(np.arange(60) < 40, labels, 0.5), np.nan
    found = forward(list("xyzuvw"), matrix, labels, [f"p{n // 2:02}" for n in range(60)], keep=1, seed=7)
    assert [step.id for step in found.steps][:1] == ["x"]
    coins = np.repeat(np.random.default_rng(7).random((DRAWS, 30)) < 0.5, 2, axis=1)
    loss, gains = math.log(2), []
    for coin in coins:
        turned = np.where(coin, 1 - matrix, matrix)
        gains.append(loss - log_loss(np.nan_to_num(turned, nan=0.5), labels).min())
    assert found.steps[0].needed == pytest.approx(np.quantile(gains, LEVEL), abs=1e-12)


def test_a_thousand_candidates_take_no_minutes() -> None:
    rng = np.random.default_rng(0)
    ids, labels, matrix = [str(n) for n in range(1000)], rng.random(200), rng.random((1000, 200))
    start = time.process_time()
    forward(ids, matrix, labels, PROMPTS, keep=1, seed=0)
    by_behaviour(of_statements(ids), matrix)
    assert time.process_time() - start < 8  # some 1.5 here; 25 with every draw computed anew


def test_pairs_of_one_prompt_that_are_alike_are_not_counted_as_many() -> None:
    """20 equal pairs of each of 10 prompts, right on 7 of these: a coin does so in one of six draws."""
    labels = np.repeat(np.array([1.0, 0.0] * 5), 20)
    right_on_seven = np.where(np.arange(200) < 140, 0.2 + 0.6 * labels, 0.8 - 0.6 * labels)[None]
    for prompts, kept in (([f"p{n // 20}" for n in range(200)], 0), ([f"p{n}" for n in range(200)], 1)):
        assert len(forward(["s"], right_on_seven, labels, prompts, keep=1, seed=0).steps) == kept


def test_chance_turns_round_all_pairs_of_a_group_of_prompts() -> None:
    """The same ten prompts, each in twenty spellings: these are 200 prompts of one pair, in ten groups."""
    told = np.repeat(np.array([1.0, 0.0] * 5), 20)
    probs = np.where(np.arange(200) < 140, 0.2 + 0.6 * told, 0.8 - 0.6 * told)[None]
    given = [GivenPair(pair, float(p), n) for n, (pair, p) in enumerate(zip(comparisons(200, 1), told, strict=True))]
    for pairs, kept in (([replace(p, group=f"g{n // 20}") for n, p in enumerate(given)], 0), (given, 1)):
        evidence = Evidence(tuple(pairs), POOL[:1], {POOL[0].id: []}, probs)
        assert len(select_principles(evidence, 1, 0).steps) == kept


def test_what_is_needed_is_a_share_of_what_there_is_to_explain() -> None:
    """Labels of 0.9 and 0.1 leave ln 2 less their own entropy; the second principle must beat a fiftieth of that."""
    labels = np.tile([0.9, 0.1], 100)
    twice = np.stack([labels, labels])
    found = forward(["x", "y"], twice, labels, PROMPTS, keep=2, seed=0)
    assert [step.id for step in found.steps] == ["x"]
    assert found.refused is not None
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert found.refused.gain == pytest.approx(0.0)
    assert found.refused.needed == pytest.approx(0.02 * (math.log(2) - entropy))


def test_a_pair_without_a_verdict_is_predicted_as_one_half() -> None:
    labels = np.array([1.0, 0.0] * 100)
    silent = np.full(200, np.nan)
    silent[:100] = labels[:100]
    found = forward(["s"], silent[None], labels, PROMPTS, keep=1, seed=0)
    assert found.alone["s"] == pytest.approx(math.log(2) / 2, abs=1e-3)  # half of the pairs are explained in full


def test_the_mean_of_the_search_is_the_label_that_the_judge_settles() -> None:
    pairs = [GivenPair(pair, 0.9, n) for n, pair in enumerate(comparisons(3, 2))]
    bench = Bench(settings().judge, [scored(score)], 0)
    with Silent().task("", 0) as task:
        evidence = bench.hear(POOL[:3], pairs, task)
    assert bench.together(evidence) == pytest.approx(list(evidence.probs.mean(axis=0)))
    some = evidence.only([POOL[2].id, POOL[0].id])
    assert bench.together(some) == pytest.approx(list((evidence.probs[2] + evidence.probs[0]) / 2))
