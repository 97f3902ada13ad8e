"""The score as a sum of sources: by hand, in training, and with the members of an ensemble."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.config import NAMED
from rlaif.core.errors import StageError
from rlaif.core.files import MetricsLog
from rlaif.lm.local.load import load_model
from rlaif.stages import ppo, reward
from rlaif.stages.context import StageContext
from rlaif.training.ppo.policy_model import PolicyModel
from rlaif.training.ppo.step import PpoTrainer
from rlaif.training.rewards import preferences, sources
from rlaif.training.rewards.by_judge import JudgeReward
from rlaif.training.rewards.function import FunctionReward
from rlaif.training.rewards.model import RewardModel
from rlaif.training.rewards.sources import Rewards, WeightedReward, part_figures, part_values
from tests.training.contexts import Heard
from tests.training.planted_labels import planted, reward_context
from tests.training.tiny_ppo import (
    PROMPTS,
    SMALL,
    TWO_ROLLOUTS,
    TWO_TEXTS,
    chosen,
    made,
    ppo_config,
    ppo_context,
    rows,
    same_run,
    trainer,
)
from tests.training.toy_rewards import share_of_e

NAN = math.nan


def no_judge() -> JudgeReward:
    raise AssertionError("nobody asked for the judge")


def source(name: str, *values: float | None, weight: float = 1.0) -> WeightedReward:
    return WeightedReward(name, FunctionReward(lambda responses: list(values), name), weight)


def combined(
    *sources: WeightedReward, members: list[list[float]] | None = None, **fields: Any
) -> tuple[list[float], Any]:
    """(scores, columns) of two responses."""
    rewards = Rewards(sources, **fields)
    given = None if members is None else torch.tensor(members)
    found = rewards.combined(TWO_ROLLOUTS, TWO_TEXTS, given, rewards.of_texts(TWO_ROLLOUTS, TWO_TEXTS))
    return found.scores.tolist(), {name: values.tolist() for name, values in found.parts.items()}


# The sum


def test_the_score_is_the_weighted_sum_and_the_parts_are_before_it() -> None:
    scores, parts = combined(
        source("a", 1, 2, weight=0.5), source("b", 10, -4, weight=-0.25), source("c", 7, 7, weight=0)
    )
    assert scores == [0.5 - 2.5, 1.0 + 1.0]
    assert parts == {"score_a": [1, 2], "score_b": [10, -4], "score_c": [7, 7]}


def test_a_source_that_says_none_is_left_out_of_that_sum() -> None:
    scores, parts = combined(source("a", None, 2, weight=0.5), source("b", 10, 4))
    assert scores == [10.0, 5.0]
    assert str(parts["score_a"]) == "[nan, 2.0]"


def test_a_response_that_nothing_scores_is_an_error() -> None:
    with pytest.raises(StageError, match=r"a, b returned None: .* response 'No' to the prompt 'B' of slice 'second'"):
        combined(source("a", 1, None), source("b", 1, None), source("only logged", 1, 1, weight=0))


def test_a_model_that_gives_no_number_is_not_taken_for_none() -> None:
    scores, _ = combined(WeightedReward("model", None), source("a", 1, None), members=[[NAN], [3.0]])
    assert math.isnan(scores[0])
    assert scores[1] == 3.0


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [2.0, -1.0]),
        ({"ensemble": "worst"}, [0.0, -1.0]),
        # Variances 8/3 and 0; times 0.5.
        ({"ensemble": "uncertainty"}, [2.0 - 4 / 3, -1.0]),
        ({"ensemble": "uncertainty", "uncertainty": 3.0}, [2.0 - 8.0, -1.0]),
    ],
)
def test_members_of_an_ensemble_by_hand(fields: dict[str, Any], wanted: list[float]) -> None:
    members = [[0.0, 2.0, 4.0], [-1.0, -1.0, -1.0]]
    scores, parts = combined(WeightedReward("model", None, weight=2.0), members=members, **fields)
    assert scores == pytest.approx([2 * value for value in wanted])
    assert parts["score_model"] == pytest.approx(wanted)
    assert parts["disagreement"] == pytest.approx([math.sqrt(8 / 3), 0.0])


def test_figures_of_the_parts_count_what_was_scored() -> None:
    parts = {"score_a": torch.tensor([1.0, NAN, 4.0, 1.0]), "score_b": torch.tensor([NAN] * 4)}
    parts["disagreement"] = torch.tensor([0.0, 1.0, 2.0, 1.0])
    assert part_figures(parts) == {
        **{"score_a": 2.0, "score_a_std": pytest.approx(math.sqrt(2)), "score_a_none": 0.25},
        **{"score_b": None, "score_b_std": None, "score_b_none": 1.0, "disagreement": 1.0},
    }
    assert part_values(parts, 1) == {"score_a": None, "score_b": None, "disagreement": 1.0}


def test_the_config_names_weighs_and_opens_the_sources() -> None:
    listed = ["model", {"source": "tests.training.toy_rewards:share_of_e", "weight": 0.3, "name": "e"}]
    found = Rewards.of_config(ppo_config(reward=listed, reward_ensemble="worst"), no_judge)
    assert [(part.name, part.weight) for part in found.sources] == [("model", 1.0), ("e", 0.3)]
    assert (found.by_model, found.judges, found.ensemble) == (True, [], "worst")
    judged = Rewards.of_config(ppo_config(reward=["judge", "math:dist"]), lambda: JudgeReward(None, {}))  # type: ignore[arg-type]
    assert (judged.by_model, len(judged.judges)) == (False, 1)
    assert Rewards.of_config(ppo_config(reward_uncertainty=2.0), no_judge).uncertainty == 2.0


def test_the_functions_of_the_page_run() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "rewards.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(
        next(code for code in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "keeps_format" in code), names
    )
    sources = (WeightedReward(name, FunctionReward(names[name], name)) for name in ("brevity", "keeps_format"))
    rewards = Rewards(tuple(sources))
    asked = replace(TWO_ROLLOUTS, prompts=(replace(TWO_ROLLOUTS.prompts[0], slice="lists"), TWO_ROLLOUTS.prompts[1]))
    texts = ["- one\n- two", "three words here"]
    found = rewards.combined(asked, texts, None, rewards.of_texts(asked, texts))
    assert found.scores.tolist() == pytest.approx([1.0 - 4 / 20, -3 / 20])
    assert math.isnan(found.parts["score_keeps_format"][1])


# In training


def short(completions: list[str], **_: Any) -> list[float]:
    """Minus the characters over ten."""
    return [-len(text) / 10 for text in completions]


def share_of_a(responses: list[str]) -> list[float]:
    return [10 * text.count("a") / max(1, len(text)) for text in responses]


def no_x(responses: list[str]) -> list[float | None]:
    """0 or -1; nothing to say of a response without vowels."""
    return [None if not set(text) & set("aeiou") else -float("x" in text) for text in responses]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_sum_moves_each_part_that_has_a_weight(tiny_model: Path, weight: float) -> None:
    steps = 20
    work = trainer(
        tiny_model,
        algorithm="reinforce",
        baseline="batch",
        normalize_advantages=True,
        batch_size=32,
        micro_batch_size=32,
        num_mini_batches=1,
        max_approx_kl=1e9,
        missing_eos_penalty=0.0,
        steps=steps,
        learning_rate=1e-2,
        kl_coef=0.02,
    )
    e, a = FunctionReward(share_of_e, "e"), FunctionReward(share_of_a, "a")
    work.rewards = Rewards((WeightedReward("e", e), WeightedReward("a", a, weight)))
    found = [work.step(step, chosen(work, step))[2] for step in range(steps)]
    rise = {name: sum(row[name] for row in found[-4:]) / 4 - found[0][name] for name in ("score_e", "score_a")}
    assert rise["score_e"] > 0.8
    assert (rise["score_a"] > 0.8) == (weight > 0), rise


MEMBERS = {"members": 3, "epochs": 2, "batch_size": 8, "learning_rate": 5e-3, "held_out": 0.2}
LISTED: list[Any] = [
    "model",
    {"source": "tests.training.toy_rewards:share_of_e", "weight": 0.5, "name": "e"},
    {"source": "tests.training.rewards.test_sources:no_x", "weight": 2.0},
]


Trained = tuple[StageContext, dict[str, float]]


@pytest.fixture(scope="module")
def members(tiny_model: Path, sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The reward stage with three members, and its counts."""
    context = reward_context(tmp_path_factory.mktemp("run"), tiny_model, sft_adapter, planted(20), **MEMBERS)
    return context, reward.run(context)


def ensemble_context(root: Path, source: Path, sft_adapter: Path, members: Trained, **table: Any) -> StageContext:
    context = ppo_context(root, source, sft_adapter, PROMPTS, **{"reward": LISTED, **table})
    context.config = context.config.model_copy(update={"reward": members[0].config.reward})
    (root / "reward").symlink_to(members[0].folder)
    return context


def policy_of(members: Trained, **fields: Any) -> PpoTrainer:
    context, _ = members
    loaded = load_model(context.config.model, (context.adapter("sft"),))
    folders = [context.run.file("reward", name) for name in context.config.reward.adapters]
    config = ppo_config(**{**SMALL, **fields})
    model = PolicyModel(loaded, config, rewards=folders, seed=0)
    return PpoTrainer(model, config, seed=3, rewards=Rewards.of_config(config, no_judge))


def test_members_differ_by_their_seed(members: Trained) -> None:
    context, counts = members
    names = ("adapter", "adapter-2", "adapter-3")
    weights = [load_file(context.run.file("reward", name) / "adapter_model.safetensors") for name in names]
    key = next(name for name in weights[0] if "lora_A" in name)
    assert all((weights[0][key] - other[key]).abs().max() > 0.01 for other in weights[1:])
    report = json.loads((context.folder / "held_out.json").read_text())
    assert len(report["members"]) == 3
    assert report["accuracy"] == counts["accuracy"]
    assert len({member["log_loss"] for member in report["members"]}) == 3
    assert 0 < report["disagreement"] == counts["disagreement"] < 1
    logs = [MetricsLog(context.folder / f"metrics{number}.jsonl").read() for number in ("", "-2", "-3")]
    assert [len(log) for log in logs] == [2, 2, 2]  # half of the prompts each
    assert len({log[1]["loss"] for log in logs}) == 3  # other rows, or in another order
    assert counts["steps"] == 6


def test_one_alone_has_no_number_and_all_the_prompts(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, members: Trained
) -> None:
    alone = reward_context(tmp_path, tiny_model, sft_adapter, planted(20), **{**MEMBERS, "members": 1})
    counts = reward.run(alone)
    assert not {"disagreement", "prompts_per_member"} & counts.keys()
    assert sorted(path.name for path in alone.folder.iterdir()) == ["adapter", "held_out.json", "metrics.jsonl"]
    assert counts["steps"] == 4
    assert counts["pairs_train"] == members[1]["pairs_train"]


def test_a_stage_cut_between_members_goes_on_with_the_next(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, members: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = reward_context(tmp_path, tiny_model, sft_adapter, planted(20), **MEMBERS)
    cut.progress = heard = Heard()
    trained: list[int] = []
    train = preferences.train

    def dies(*given: Any, seed: int, **named: Any) -> None:
        trained.append(seed)
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(*given, seed=seed, **named)

    monkeypatch.setattr(preferences, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        reward.run(cut)
    assert reward.run(cut) == members[1]
    half, whole = members[1]["prompts_per_member"], members[1]["prompts_train"]
    assert (half, whole) == (8, 16)
    said = "  reward: each of 3 members learns from 8 of the 16 training prompts, drawn for it alone"
    assert heard.lines.count(said) == 2  # once a session
    assert trained[1:3] == [trained[1]] * 2  # the first was not trained again
    assert len(trained) == 4
    for name in cut.config.reward.adapters:
        one, other = (load_file(c.run.file("reward", name) / "adapter_model.safetensors") for c in (cut, members[0]))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_an_ensemble_on_one_base_scores_as_its_members_alone(members: Trained) -> None:
    context, _ = members
    work = policy_of(members)
    rollouts = made(work, "kind bread", "No.", "dough flour water", "yes")
    found, so_far = work.forward.scores(rollouts)
    base = load_model(context.config.model, (context.adapter("sft"),))
    for number, name in enumerate(context.config.reward.adapters):
        alone = RewardModel.load(context.run.file("reward", name), base)
        wanted = alone.score_texts(rollouts.prompts, [work.text(ids) for ids in rollouts.responses], [True] * 4)
        alone.unload()
        assert found[:, number].tolist() == pytest.approx(wanted, abs=1e-4)
    assert so_far.shape == rollouts.mask.shape


def test_the_worst_case_is_below_the_mean_and_uncertainty_costs_where_members_disagree(members: Trained) -> None:
    found = {
        name: policy_of(members, reward_ensemble=name, missing_eos_penalty=0.0)
        for name in ("mean", "worst", "uncertainty")
    }
    rollouts = made(found["mean"], "kind bread", "No.", "dough flour water", "yes")
    scores = {name: work.measure(rollouts)[0] for name, work in found.items()}
    spread = scores["mean"].parts["disagreement"]
    assert (spread > 0).all()
    assert (scores["worst"].scores < scores["mean"].scores).all()
    cost = scores["mean"].scores - scores["uncertainty"].scores
    assert cost.tolist() == pytest.approx((0.5 * spread**2).tolist(), abs=1e-5)
    assert cost.argmax() == spread.argmax()
    assert policy_of(members, reward_ensemble="uncertainty", reward_uncertainty=5.0, missing_eos_penalty=0.0).measure(
        rollouts
    )[0].scores.tolist() == pytest.approx((scores["mean"].scores - 5 * spread**2).tolist(), abs=1e-4)


def test_the_stage_logs_each_source_by_itself(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, members: Trained
) -> None:
    context = ensemble_context(tmp_path, tiny_model, sft_adapter, members, missing_eos_penalty=0.0, steps=2)
    ppo.run(context)
    logged = rows(context)
    assert {"score_model", "score_e", "score_e_std", "score_no_x", "score_no_x_std", "disagreement"} <= logged[0].keys()
    kept = MetricsLog(context.folder / "rollouts.jsonl").read()
    for row in kept:
        parts = [1.0 * row["score_model"], 0.5 * row["score_e"], 2.0 * (row["score_no_x"] or 0.0)]
        assert row["score"] == pytest.approx(sum(parts), abs=1e-5)
        assert row["score_e"] == pytest.approx(share_of_e([], [row["response"]])[0], abs=1e-5)
        assert row["disagreement"] > 0
    assert logged[0]["score_model"] != logged[1]["score_model"]


def fails_at_the_third_call(responses: list[str]) -> list[float]:
    """`short`, but the third call in the life of the file $CALLS raises."""
    counter = Path(os.environ["CALLS"])
    counter.write_text(counter.read_text() + "x")
    if len(counter.read_text()) == 3:
        raise ConnectionError("the server is away")
    return short(responses)


def test_a_source_that_fails_in_the_middle_costs_nothing(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, members: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    (tmp_path / "calls").write_text("xxx")  # past its failure
    failing = {"source": "tests.training.rewards.test_sources:fails_at_the_third_call", "name": "short"}
    whole, cut = (
        ensemble_context(tmp_path / name, tiny_model, sft_adapter, members, reward=[*LISTED, failing], save_steps=1)
        for name in ("whole", "cut")
    )
    counts = ppo.run(whole)
    (tmp_path / "calls").write_text("")
    with pytest.raises(StageError, match="raised ConnectionError: the server is away") as caught:
        ppo.run(cut)
    assert "--resume" in str(caught.value)
    assert len(rows(cut)) == 2
    assert ppo.run(cut) == counts
    same_run(cut, whole)


# The table


def test_every_source_that_the_config_names_stands_in_the_table() -> None:
    assert tuple(sources.SOURCES) == NAMED
    assert sources.SOURCES["model"](lambda: JudgeReward(None, {})) is None
    assert isinstance(sources.SOURCES["judge"](lambda: JudgeReward(None, {})), JudgeReward)
