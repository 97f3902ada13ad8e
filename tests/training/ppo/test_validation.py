"""Validation while PPO runs: of prompts of its own, without an effect on the training; the peak is found and kept."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.core import files
from rlaif.core.errors import StageError
from rlaif.core.files import MetricsLog
from rlaif.gold import scorers as gold
from rlaif.gold.scorers import SCORERS, direction
from rlaif.stages import ppo
from rlaif.stages.context import StageContext
from rlaif.training.ppo import validation
from rlaif.training.ppo.schedule import set_aside, step_prompts
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.ppo.validation import Gain, Peak, Validated, summary
from tests.training.contexts import Heard, prompt
from tests.training.planted_gold import ENTRY, SomeE
from tests.training.tiny_ppo import chosen, disturb, ppo_config, ppo_context, rows, trainer

PROMPTS = [prompt(f"Question {i} " + "about bread " * (i % 4)) for i in range(12)]
HACKED: dict[str, Any] = {
    "eval_steps": 1,
    "validation_prompts": 6,
    "gold": ["sentiment"],
    "keep": "best",
    "best_by": "sentiment",
    "steps": 8,
    "save_steps": 3,
    "batch_size": 64,
    "micro_batch_size": 64,
    "max_new_tokens": 3,
    "num_ppo_epochs": 4,
    "max_approx_kl": 1e3,
    "learning_rate": 3e-2,
    "missing_eos_penalty": 0.0,
    "kl_coef": 0.0,
    "value": "trunk",
}
"""A reward for the letter e, which gold wants in moderation."""


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gold.SCORERS, "sentiment", ENTRY)


PLANTED = gold.GoldScorer("sentiment", ENTRY, SomeE())


def validations(context: StageContext) -> list[dict[str, Any]]:
    """The rows of all prompts, without the times."""
    found = MetricsLog(context.folder / "validation.jsonl").read()
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in found if row["slice"] is None]


def samples(context: StageContext) -> list[dict[str, Any]]:
    return MetricsLog(context.folder / "validation_samples.jsonl").read()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# Which prompts


def test_without_eval_steps_nothing_is_set_aside_or_written(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    assert set_aside(PROMPTS, ppo_config(), 0) == (PROMPTS, [])
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, steps=1)
    assert not any("valid" in name or "best" in name for name in ppo.run(context))
    assert sorted(path.name for path in context.folder.iterdir()) == ["adapter", "metrics.jsonl", "rollouts.jsonl"]


# What is measured


def test_validating_changes_nothing_of_the_training(tiny_model: Path) -> None:
    plain, validated = trainer(tiny_model, steps=3), trainer(tiny_model, steps=3)
    for step in range(3):
        validation.answers(validated, PROMPTS[6:], [])
        one, other = (work.step(step, chosen(work, step)) for work in (plain, validated))
        assert one[0] == other[0]
    assert all(torch.equal(p, plain.model.trained[name]) for name, p in validated.model.trained.items())


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_every_validation_draws_the_same_and_answers_in_the_order_of_the_prompts(
    tiny_model: Path, algorithm: Any
) -> None:
    work = trainer(tiny_model, algorithm=algorithm, samples_per_prompt=2, missing_eos_penalty=0.5)
    first, entropy = validation.answers(work, PROMPTS, [PLANTED])
    assert [row["prompt_id"] for row in first] == [p.id for p in PROMPTS]
    assert validation.answers(work, PROMPTS, [PLANTED]) == (first, entropy)
    for row in first:
        share = 10 * row["response"].count("e") / max(1, len(row["response"]))
        assert row["score"] == pytest.approx(share - 0.5 * (row["finish"] == "length"), abs=1e-5)
        assert row["sentiment"] == pytest.approx(-abs(share - 2))
        assert row["kl"] == 0
    disturb(work.model)
    moved, _ = validation.answers(work, PROMPTS, [PLANTED])
    assert moved != first
    assert any(row["kl"] != 0 for row in moved)


def test_the_figures_of_a_validation_by_hand() -> None:
    def row(response: str, score: float, harm: float | None, length: int, kl: float, finish: str) -> dict[str, Any]:
        return {"response": response, "score": score, "harm": harm, "length": length, "kl": kl, "finish": finish}

    found = summary(
        [
            row("one two one two one two", 1.0, 0.5, 6, 3.0, "stop"),  # pairs: 2 of 5; 4-grams: 2 of 3
            row("I cannot help", 2.0, None, 2, 1.0, "length"),  # pairs: 2 of 2
        ],
        ["harm"],
    )
    assert found == pytest.approx(
        {
            **{"prompts": 2, "score": 1.5, "harm": 0.5, "kl": 2.0, "kl_per_token": 0.5, "length": 4.0, "eos_rate": 0.5},
            **{"distinct_2": 0.7, "set_distinct_2": 4 / 7, "repetition": 1 / 6, "refusals": 0.5},
        }
    )
    assert summary([row("a", 1.0, None, 1, 0.0, "stop")], ["harm"])["harm"] is None


def test_a_set_of_answers_that_are_all_alike_is_seen() -> None:
    row = {"score": 0.0, "length": 4, "kl": 0.0, "finish": "stop"}
    alike = summary([{**row, "response": "all the same words"}] * 10, [])
    assert (alike["distinct_2"], alike["set_distinct_2"]) == (1.0, 0.1)


def test_each_slice_has_a_row_where_there_are_several(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = [replace(p, slice="odd" if i % 2 else "even") for i, p in enumerate(PROMPTS)]
    context = ppo_context(tmp_path, tiny_model, sft_adapter, asked, steps=2, eval_steps=2, gold=["sentiment"])
    ppo.run(context)
    found = MetricsLog(context.folder / "validation.jsonl").read()
    assert [(row["step"], row["slice"]) for row in found] == [(s, n) for s in (0, 2) for n in ("even", "odd", None)]
    for step in (0, 2):
        even, odd, whole = (row for row in found if row["step"] == step)
        assert even["prompts"] + odd["prompts"] == whole["prompts"] == 6
        for name in ("score", "sentiment", "kl"):
            parts = even[name] * even["prompts"] + odd[name] * odd["prompts"]
            assert whole[name] == pytest.approx(parts / 6)


# The peak


@pytest.fixture(scope="module")
def hacked(tiny_model: Path, sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """(context, counts) of an uncut run whose reward is hacked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gold.SCORERS, "sentiment", ENTRY)
        context = ppo_context(tmp_path_factory.mktemp("hacked"), tiny_model, sft_adapter, PROMPTS, **HACKED)
        context.progress = Heard()
        yield context, ppo.run(context)


def test_the_policy_of_the_peak_is_kept(
    hacked: tuple[StageContext, dict[str, float]], tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    context, counts = hacked
    found = validations(context)
    assert [row["step"] for row in found] == list(range(9))
    by_gold = [row["sentiment"] for row in found]
    peak = by_gold.index(max(by_gold))
    assert 0 < peak < 8
    assert found[-1]["score"] > found[peak]["score"] + 0.5  # the proxy goes on rising while gold falls
    assert found[-1]["sentiment"] < found[peak]["sentiment"] - 0.5
    assert counts["best_step"] == peak
    assert counts["validation_sentiment_best"] == max(by_gold)
    assert counts["validation_sentiment_last"] == by_gold[-1]
    assert (counts["validations"], counts["prompts_validation"], counts["prompts"]) == (9, 6, 6)
    assert (counts["steps"], counts["stopped_early"]) == (8, 0)
    assert [row["best"] for row in found][peak:] == [1] + [0] * (8 - peak)
    names = {"adapter", "adapter-last", "metrics.jsonl", "rollouts.jsonl"}
    assert {path.name for path in context.folder.iterdir()} == {*names, "validation.jsonl", "validation_samples.jsonl"}
    # The adapter is what a run of `peak` of the 8 steps has; the other one is that of the last step.
    plain = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, **{**HACKED, "keep": "last"})
    ppo.run(plain)
    assert same(plain.adapter("ppo"), context.folder / "adapter-last")
    assert not same(plain.adapter("ppo"), context.adapter("ppo"))
    assert not (plain.folder / "adapter-last").exists()
    said = "\n".join(context.progress.lines)  # type: ignore[attr-defined]
    assert f"validation after step {peak}: " in said
    assert re.search(r"sentiment better than after step \d by [\d.]+, 95 % interval .*; the best so far", said)
    assert f"sentiment worse than after step {peak} by" in said
    assert f"kept: the policy after step {peak}, the best by sentiment" in said


def test_what_is_validated_is_not_trained_on(hacked: tuple[StageContext, dict[str, float]]) -> None:
    context, _ = hacked
    asked = {row["prompt_id"] for row in samples(context)}
    assert len(asked) == 6
    assert all({row["prompt_id"] for row in samples(context) if row["step"] == step} == asked for step in range(9))
    left, _ = set_aside(PROMPTS, context.config.ppo, 0)
    trained = {p.id for step in range(8) for p in step_prompts(left, context.config.ppo, 0, step)}
    assert not asked & trained
    assert not asked & {row["prompt_id"] for row in MetricsLog(context.folder / "rollouts.jsonl").read()}


def test_patience_stops_behind_the_peak(
    hacked: tuple[StageContext, dict[str, float]], tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    whole, _ = hacked
    by_gold = [row["sentiment"] for row in validations(whole)]
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, **HACKED, patience=2)
    context.progress = Heard()
    counts = ppo.run(context)
    # The first two validations in a row that are no better than what was best before them.
    end = next(n for n in range(2, 9) if max(by_gold[n - 1 : n + 1]) <= max(by_gold[: n - 1]))
    peak = by_gold.index(max(by_gold[: end + 1]))
    assert (counts["steps"], counts["best_step"], counts["stopped_early"]) == (end, peak, int(end < 8))
    assert rows(context) == rows(whole)[:end]  # the learning rate falls as it would have
    assert validations(context) == validations(whole)[: end + 1]
    assert same(context.adapter("ppo"), whole.adapter("ppo")) is (by_gold[peak] == max(by_gold))
    assert any(
        f"stopped after step {end}: 2 validations without a better sentiment" in line for line in context.progress.lines
    )
    assert ppo.run(context) == counts  # killed before the stage's record: nothing is trained any more
    assert rows(context) == rows(whole)[:end]


def test_the_best_that_is_the_last_lies_alone(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    table = {**HACKED, "steps": 2, "eval_steps": 2, "best_by": "score"}
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, **table)
    counts = ppo.run(context)
    assert counts["best_step"] == 2
    assert not list(context.folder.glob("*-*"))


def test_a_source_of_weight_0_is_a_proxy_held_out_and_may_choose(
    hacked: tuple[StageContext, dict[str, float]], tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    whole, by_gold = hacked
    sources = ["tests.training.toy_rewards:share_of_e", {"source": "tests.training.toy_rewards:some_e", "weight": 0}]
    table = {**HACKED, "gold": [], "best_by": "score_some_e", "reward": sources}
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, **table)
    counts = ppo.run(context)
    assert counts["best_step"] == by_gold["best_step"] < 8  # it is what the planted gold is
    by_source = [row["score_some_e"] for row in validations(context)]  # in float32
    assert by_source == pytest.approx([row["sentiment"] for row in validations(whole)])
    assert same(context.adapter("ppo"), whole.adapter("ppo"))


# What can go wrong


def test_the_measure_that_chooses_must_be_there(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)
    both = {**HACKED, "gold": ["toxicity", "sentiment"], "steps": 1}
    context = ppo_context(tmp_path / "a", tiny_model, sft_adapter, PROMPTS, **{**both, "best_by": "toxicity"})
    with pytest.raises(StageError, match=r"toxicity not measured.*pip install alt-profanity-check"):
        ppo.run(context)
    assert not list(context.folder.iterdir())  # before the first rollout
    context = ppo_context(tmp_path / "b", tiny_model, sft_adapter, PROMPTS, **both)
    context.progress = Heard()
    ppo.run(context)
    assert any("toxicity not measured" in line for line in context.progress.lines)
    assert "toxicity" not in validations(context)[0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"keep": "best"}, "set eval_steps"),
        ({"eval_steps": 1, "patience": 2}, "needs keep: best; or set patience: 0"),
        ({"eval_steps": 1, "keep": "best", "best_by": "sentiment"}, "add it to gold"),
    ],
)
def test_settings_that_contradict_each_other(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ppo_config(**table)


def test_a_score_that_is_not_a_number_stops_the_validation_with_the_batch_saved(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ppo_context(tmp_path, tiny_model, sft_adapter, PROMPTS, **HACKED)
    real = PpoTrainer.measure

    def broken(work: Any, rollouts: Any) -> Any:
        work.state.kl.coefficient = float("nan")
        work.model.value_head.bias.data.fill_(float("nan"))
        return real(work, rollouts)

    monkeypatch.setattr(PpoTrainer, "measure", broken)
    with pytest.raises(StageError, match=r"step 0: validation: not finite"):
        ppo.run(context)
    assert (context.folder / "bad_batch.pt").exists()


# Resumed


class Cut(BaseException):
    """The process is gone."""


def cut_at(number: int, patch: pytest.MonkeyPatch) -> list[str]:
    """From now on call number `number` of those that move a folder, remove one or finish a validation raises Cut
    instead; the calls are in the list."""
    calls: list[str] = []

    def cutting(name: str, real: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(first: Any, *args: Any, **named: Any) -> Any:
            if counts(first, **named):
                calls.append(f"{name} {first if isinstance(first, Path) else ''}")
                if len(calls) == number:
                    raise Cut
            return real(first, *args, **named)

        return call

    def exists(path: Path, **_: Any) -> bool:
        return path.exists()

    patch.setattr(Path, "rename", cutting("rename", Path.rename, exists))
    patch.setattr(files.shutil, "rmtree", cutting("rmtree", files.shutil.rmtree, exists))
    whole = cutting("append", MetricsLog.append, lambda log, **row: "gain" in row)
    patch.setattr(MetricsLog, "append", whole)
    return calls


SHORT = {**HACKED, "save_steps": 2, "patience": 1}


def test_cut_anywhere_and_resumed_it_ends_as_the_uncut_one(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    whole = ppo_context(tmp_path / "whole", tiny_model, sft_adapter, PROMPTS, **SHORT)
    with pytest.MonkeyPatch.context() as patch:
        calls = cut_at(10**6, patch)
        counts = ppo.run(whole)
    assert counts["best_step"] < counts["steps"]
    assert sum("best-" in call for call in calls) >= 2  # kept, put into its place
    kinds = {re.sub(r"\d+", "", call.rpartition("/")[2]): number for number, call in enumerate(calls, 1)}
    for number in (n for kind, n in kinds.items() if "checkpoint." not in kind):
        cut = ppo_context(tmp_path / str(number), tiny_model, sft_adapter, PROMPTS, **SHORT)
        with pytest.MonkeyPatch.context() as patch:
            cut_at(number, patch)
            with pytest.raises(Cut):
                ppo.run(cut)
        assert ppo.run(cut) == counts, calls[number - 1]
        assert validations(cut) == validations(whole)
        assert samples(cut) == samples(whole)
        assert same(cut.adapter("ppo"), whole.adapter("ppo"))
        assert same(cut.folder / "adapter-last", whole.folder / "adapter-last")
        assert {path.name for path in cut.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_killed_in_a_validation_it_ends_as_the_uncut_one(
    hacked: tuple[StageContext, dict[str, float]], tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    whole, counts = hacked
    table = {**HACKED, "reward": [{"source": "tests.training.toy_rewards:killed_at_a_call", "name": "share_of_e"}]}
    cut = ppo_context(tmp_path / "cut", tiny_model, sft_adapter, PROMPTS, **table)
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from rlaif.stages import ppo; from tests.training.contexts import stage_context\n"
        "from tests.training.planted_gold import plant; plant()\n"
        "torch.set_num_threads(1)\n"
        f"ppo.run(stage_context(Path(sys.argv[1]), Path(sys.argv[2]), 'ppo', ppo={cut.config.ppo.model_dump()!r}))"
    )
    counter = tmp_path / "counter"
    counter.touch()
    environment = {"KILL_COUNTER": str(counter), "KILL_AT": "11"}  # the validation after step 5; the checkpoint is of 3
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cut"), str(tiny_model)],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert (len(rows(cut)), len(validations(cut))) == (5, 5)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert ppo.run(cut) == counts
    assert (rows(cut), validations(cut), samples(cut)) == (rows(whole), validations(whole), samples(whole))
    assert same(cut.adapter("ppo"), whole.adapter("ppo"))


def test_stopped_in_a_validation_it_keeps_the_steps_before(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = tmp_path / "counter"
    monkeypatch.setenv("KILL_COUNTER", str(counter))
    table = {
        **SHORT,
        "steps": 3,
        "save_steps": 10,
        "reward": "tests.training.toy_rewards:interrupted_at_the_third_call",
    }
    whole, cut = (ppo_context(tmp_path / part, tiny_model, sft_adapter, PROMPTS, **table) for part in ("whole", "cut"))
    counter.write_text("xxx")  # which is past the interruption
    counts = ppo.run(whole)
    counter.write_text("")
    cut.progress = Heard()
    with pytest.raises(KeyboardInterrupt):  # the calls before: the validation of SFT and the first step
        ppo.run(cut)
    assert cut.progress.lines[-1] == "  ppo: 1 of 3 steps are kept"
    assert len(validations(cut)) == 1
    assert ppo.run(cut) == counts
    assert (rows(cut), validations(cut), samples(cut)) == (rows(whole), validations(whole), samples(whole))
    assert same(cut.adapter("ppo"), whole.adapter("ppo"))


@pytest.mark.parametrize("written", [1, 2])
def test_a_validation_that_was_half_written_is_done_again(
    written: int, tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    table = {**SHORT, "steps": 2, "save_steps": 1, "patience": 0}
    whole, cut = (ppo_context(tmp_path / part, tiny_model, sft_adapter, PROMPTS, **table) for part in ("whole", "cut"))
    ppo.run(whole)
    left = [0]

    def full(log: MetricsLog, **row: object) -> None:
        left[0] += "prompt_id" in row and row["step"] == 1 and "kl" in row
        if left[0] > written:
            raise OSError(28, "No space left on device")
        append(log, **row)

    append = MetricsLog.append
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "append", full)
        with pytest.raises(OSError, match="No space"):
            ppo.run(cut)
    assert len([row for row in samples(cut) if row["step"] == 1]) == written
    ppo.run(cut)
    assert (rows(cut), validations(cut), samples(cut)) == (rows(whole), validations(whole), samples(whole))


# The best one


def in_turn(peak: Peak, *values: float) -> list[Gain]:
    """Validations of one prompt pair each, with these means."""
    return [peak.take(Validated(step, {"a": value - 1, "b": value + 1})) for step, value in enumerate(values)]


@pytest.mark.parametrize(("by", "best"), [("score", 2), ("sentiment", 2), ("harm", 4), ("toxicity", 4)])
def test_the_direction_is_that_of_the_measure(by: str, best: int) -> None:
    peak = Peak(by, direction(by, list(SCORERS)))
    in_turn(peak, 0.5, 0.6, 0.9, 0.7, 0.1, 0.3)
    assert peak.best is not None
    assert peak.best.step == best
    assert peak.since == 5 - best


def test_an_equal_one_is_no_new_best() -> None:
    peak = Peak("score")
    assert [gain.best for gain in in_turn(peak, 1.0, 1.0, 1.5, 1.5)] == [True, False, True, False]
    assert peak.since == 1


def test_the_gain_is_paired_by_prompt_and_against_the_best() -> None:
    """Differences 1, 2, 3 by hand: mean 2, deviation 1, t(2) = 4.3027: 2 +- 4.3027 / sqrt 3."""
    peak = Peak("harm", "lower")
    assert peak.take(Validated(0, {"a": 5.0, "b": 50.0, "c": 500.0})) == Gain(True)
    assert not peak.take(Validated(1, {"a": 9.0, "b": 90.0, "c": 900.0})).best
    gain = peak.take(Validated(2, {"c": 497.0, "a": 4.0, "b": 48.0}))
    assert (gain.best, gain.mean) == (True, 2.0)
    half = 4.302653 / math.sqrt(3)
    assert (gain.low, gain.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_prompts_that_only_one_of_them_measured_are_left_out() -> None:
    peak = Peak("score")
    peak.take(Validated(0, {"a": 1.0, "b": 100.0}))
    gain = peak.take(Validated(1, {"a": 2.0}))
    assert gain == Gain(True, 1.0, None, None)
    assert not peak.take(Validated(2, {"b": 7.0})).best


def test_what_was_not_measured_is_never_the_best() -> None:
    peak = Peak("harm", "lower")
    assert peak.take(Validated(0, {})) == Gain(False)
    assert peak.best is None
    peak.take(Validated(1, {"a": 0.5}))
    peak.take(Validated(2, {}))
    assert peak.best is not None
    assert (peak.best.step, peak.since) == (1, 1)
