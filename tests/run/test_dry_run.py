"""`rlaif run --dry-run`: the work of each stage, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif.inputs.prompt_sets import split_prompts
from rlaif.judge.load import load
from rlaif.run.dry_run import ASSUMED, plan
from tests.output import rlaif


def test_dry_run_counts_by_hand(project: Path) -> None:
    config = load(project)
    train, held_out = split_prompts(config.prompts, config.seed)
    work = {row.stage: row for row in plan(config, train, held_out, principles=7, limit=None, gold=24).stages}
    # 24 unit tests, 20 of them again, 19 attacks on 12: each of two answers, read twice under one principle.
    assert work["card"].judge_calls == (24 + 20 + 19 * 12) * 2 * 2
    # 18 training prompts, 6 of them revised: 18 answers, 6 critiques, 6 revisions; the judge reads 12 texts twice
    # under each of 7 principles.
    assert (work["revise"].generations, work["revise"].judge_calls) == (30, 12 * 2 * 7)
    assert work["revise"].generated_tokens == 24 * 80 + 6 * 48
    assert (work["label"].generations, work["label"].judge_calls) == (72, 72 * 2 * 7)
    assert work["ppo"].generations == 10 * 32
    validating = config.model_copy(update={"ppo": config.ppo.model_copy(update={"eval_steps": 4})})
    more = {row.stage: row for row in plan(validating, train, held_out, principles=7, limit=None).stages}["ppo"]
    assert more.generations == 10 * 32 + 9 * 4  # after 0, 4, 8 and 10 steps; half of the prompts are set aside
    assert more.trained_tokens == work["ppo"].trained_tokens
    assert work["evaluate"].generations == 6 * 2 * 3
    assert work["evaluate"].seconds(ASSUMED) > 0
    limited = plan(config, train, held_out, principles=7, limit=2).stages[1]
    assert (limited.prompts, limited.generations) == (4, 4 + 2 + 2)


def test_dry_run_counts_what_best_of_n_draws(project: Path) -> None:
    words = ["run", project, "--dry-run", "--json"]
    without, by_model, by_judge = (
        json.loads(rlaif(*words, *more).stdout)["stages"][6]
        for more in ((), ("--set", "evaluate.best_of=5"), ("--set", "evaluate.best_of=5", "--set", "ppo.reward=judge"))
    )
    # 6 held-out prompts: 30 answers of at most 80 tokens, each read once by the reward model, 6 of them by base
    assert by_model["generations"] - without["generations"] == 30
    assert by_model["generated_tokens"] - without["generated_tokens"] == 30 * 80
    assert by_model["scored_tokens"] - without["scored_tokens"] == (30 + 6) * (80 + 120)
    assert by_model["judge_calls"] == without["judge_calls"]
    # each of the 30 twice under each of 8 principles
    assert by_judge["judge_calls"] - without["judge_calls"] == 30 * 2 * 8


def test_dry_run_of_the_judge_as_the_reward(project: Path) -> None:
    words = ["run", project, "--dry-run", "--json", "--set", "ppo.reward=judge"]
    contrast = json.loads(rlaif(*words).stdout)["stages"][5]
    by_model = json.loads(rlaif(*words[:-2]).stdout)["stages"][5]
    # 10 steps of 32 rollouts, each read twice under each of 8 principles, or put beside 4 references in both orders.
    assert (by_model["judge_calls"], contrast["judge_calls"]) == (0, 320 * 2 * 8)
    assert contrast["scored_tokens"] > by_model["scored_tokens"]
    pairwise = json.loads(rlaif(*words, "--set", "judge.method=pairwise").stdout)["stages"][5]
    assert pairwise["judge_calls"] == 320 * 4 * 2 * 8


def test_dry_run_of_dpo(project: Path) -> None:
    words = ["run", project, "--dry-run", "--json", "--set"]
    by_ppo, by_dpo, by_both = (
        {row["stage"]: row for row in json.loads(rlaif(*words, f"align_by={chosen}").stdout)["stages"]}
        for chosen in ("ppo", "dpo", "[ppo, dpo]")
    )
    assert [name for name in by_both if name not in by_dpo] == ["reward", "ppo"]
    # 18 prompts, 6 pairs, two answers of 80 tokens behind 120 of the prompt: once with gradients, once by the reference
    assert by_dpo["dpo"]["trained_tokens"] == by_dpo["dpo"]["scored_tokens"] == 18 * 6 * 2 * 200
    assert by_both["dpo"] == by_dpo["dpo"]
    # 6 held-out prompts, 2 answers of each model; the judge reads each answer of 4 twice under 8 principles
    assert by_dpo["evaluate"] == by_ppo["evaluate"]
    assert by_both["evaluate"]["generations"] == 6 * 2 * 4
    assert by_both["evaluate"]["judge_calls"] == 6 * 2 * 4 * 2 * 8
    pairwise = {
        chosen: json.loads(rlaif(*words, f"align_by={chosen}", "--set", "judge.method=pairwise").stdout)["stages"][-2]
        for chosen in ("ppo", "[ppo, dpo]")
    }
    # three pairs of models, or six, each in both orders
    assert [row["judge_calls"] for row in pairwise.values()] == [6 * 2 * pairs * 2 * 8 for pairs in (3, 6)]


def test_dry_run_of_pairs_by_contrast(project: Path) -> None:
    words = ["run", project, "--dry-run", "--json", "--set", "label.pairs=5", "--set"]
    # 18 prompts, 5 pairs of two answers, each read twice under the one principle that was drawn
    label, reward = json.loads(rlaif(*words, "label.answers=contrast").stdout)["stages"][3:5]
    assert (label["generations"], label["judge_calls"]) == (180, 180 * 2)
    assert label["generated_tokens"] == 180 * 80
    both, after = json.loads(rlaif(*words, "label.answers=both").stdout)["stages"][3:5]
    assert (both["generations"], both["judge_calls"]) == (180 + 72, 180 * 2 + 72 * 2 * 8)
    alone = json.loads(rlaif(*words, "label.answers=policy").stdout)["stages"][4]
    trained = [row["trained_tokens"] for row in (alone, reward, after)]
    assert trained[2] == pytest.approx(trained[0] + trained[1], abs=1)
    assert trained[1] == pytest.approx(2.5 * trained[0], abs=2)
    alone = json.loads(rlaif(*words, "label.answers=contrast", "--set", "label.confirm=false").stdout)["stages"][3]
    assert (alone["generations"], alone["judge_calls"], alone["scored_tokens"]) == (180, 0, 0)


def test_dry_run_of_other_judges(project: Path) -> None:
    words = ["run", project, "--dry-run", "--json", "--set"]
    pairwise = json.loads(rlaif(*words, "judge.method=pairwise").stdout)
    assert pairwise["stages"][3]["judge_calls"] == 18 * 6 * 2 * 8
    cot = json.loads(rlaif(*words, "judge.method=cot", "--set", "judge.rationale_tokens=50").stdout)["stages"][3]
    sides = 18 * 6 * 2 * 8  # for each a rationale and then a letter
    assert cot["judge_calls"] == 2 * sides
    assert cot["generated_tokens"] == pairwise["stages"][3]["generated_tokens"] + sides * 50
    assert cot["scored_tokens"] == 2 * pairwise["stages"][3]["scored_tokens"] + sides * 50
    rating = json.loads(rlaif(*words, "judge.method=rating").stdout)["stages"][3]
    assert rating["judge_calls"] == 18 * 4 * 8
    assert rating["scored_tokens"] == 18 * 4 * 8 * (120 + 80)
    assert "assumed" in pairwise["basis"]
    assert json.loads(rlaif(*words, "judge.method=random").stdout)["stages"][3]["judge_calls"] == 0
    assert not (Path("runs") / "rlaif").exists()
    table = rlaif("run", project, "--dry-run").stdout
    assert "label" in table
    assert "guess from assumed rates" in table


def test_dry_run_counts_the_judges_money_where_there_are_prices(project: Path) -> None:
    words = ["run", project, "--dry-run", "--set", "judge.method=cot"]
    free = json.loads(rlaif(*words, "--json").stdout)
    assert free["money"] == 0
    assert "money" not in rlaif(*words).stdout
    words += ["--set", "judge.price_in=0.5", "--set", "judge.price_out=2"]
    dear = json.loads(rlaif(*words, "--json").stdout)
    card, label = dear["stages"][0], dear["stages"][3]
    judged = label["generated_tokens"] - 72 * 80  # the rest are the policy's own answers
    assert label["money"] == pytest.approx((label["scored_tokens"] * 0.5 + judged * 2) / 1e6)
    assert card["money"] == pytest.approx((card["scored_tokens"] * 0.5 + card["generated_tokens"] * 2) / 1e6)
    assert [row["money"] for row in dear["stages"] if row["stage"] in ("sft", "reward", "ppo", "report")] == [0] * 4
    assert dear["money"] == pytest.approx(sum(row["money"] for row in dear["stages"]))
    assert f"{dear['money']:.2f}" in rlaif(*words).stdout


def test_dry_run_takes_its_times_from_the_size_of_the_model(project: Path) -> None:
    small = json.loads(rlaif("run", project, "--dry-run", "--json").stdout)
    assert ASSUMED.of_size(None) is ASSUMED
    assert ASSUMED.of_size(10 * 134_515_008).train == pytest.approx(30)
    assert (
        "1.3B model on 2 CPU cores (15 tokens/s sampled, 85 read, 30 trained)" in ASSUMED.of_size(1_345_150_080).basis
    )
    assert small["seconds"] < 60  # of a model with thousands of weights
