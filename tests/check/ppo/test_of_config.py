"""What of a config and a run the suite is asked about."""

from __future__ import annotations

from pathlib import Path

from rlaif.check.ppo import rewards, start, suite
from rlaif.check.ppo.of_config import opened
from rlaif.config import LoraTable
from rlaif.core.files import RunFolder
from rlaif.core.records import StageRecord
from rlaif.judge.load import load
from rlaif.lm.local.load import load_model
from rlaif.training.rewards.model import RewardModel
from tests.check.ppo.subjects import failures, written
from tests.training.tiny_ppo import disturb, model_config, policy_model


def test_the_judge_can_be_the_reward(tmp_path: Path, tiny_model: Path) -> None:
    overrides = ["ppo.reward=judge", "judge.backend=scripted", "judge.method=pairwise"]
    with opened(load(written(tmp_path, tiny_model), overrides), None) as (tried, about):
        assert "reward: judge; 4 prompts" in about
        found = suite.outcome(rewards.reward_source, tried)
        assert found.ok, found
        assert all(len(tried.rewards.judges[0].references[p.id]) == 2 for p in tried.prompts)


def test_each_source_and_each_member_is_checked(tmp_path: Path, tiny_model: Path) -> None:
    sources = (
        '[model, {source: "tests.training.toy_rewards:share_of_e", weight: 0.5, name: e}, '
        '"tests.training.toy_rewards:ends"]'
    )
    overrides = [f"ppo.reward={sources}", "reward.members=2", "ppo.reward_ensemble=worst"]
    with opened(load(written(tmp_path, tiny_model), overrides), None) as (tried, about):
        assert "reward: 2 reward models of random weights + tests.training.toy_rewards:share_of_e + tests" in about
        found = [suite.outcome(check, tried) for check in (rewards.reward_source, rewards.reward_model)]
        assert failures(found) == []
        said = {measure.what.partition(" ")[0] for measure in rewards.reward_source(tried)}
        assert said == {"score", "score_model", "score_e", "score_ends", "disagreement"}
        assert any("PPO's copy of adapter-2" in measure.what for measure in rewards.reward_model(tried))


def test_with_a_run_its_sft_policy_and_reward_model_are_checked(tmp_path: Path, tiny_model: Path) -> None:
    run = RunFolder(tmp_path / "run")
    sft = policy_model(tiny_model)
    disturb(sft, std=0.03)
    sft.save_policy(run.stage("sft") / "adapter")
    config = model_config(tiny_model)
    scorer = RewardModel.new(load_model(config, (run.file("sft", "adapter"),)), LoraTable(), seed=0)  # type: ignore[call-arg]
    scorer.head.weight.data.normal_(std=0.1)
    scorer.save(run.stage("reward") / "adapter")
    for stage in ("sft", "reward"):
        run.finish(StageRecord(stage, {}, "", {}, {}, 1.0, 0.1, {}, "", 0, "", "", ""))
    overrides = ["ppo.reward=model", "model.dtype=float32"]
    settings = load(written(tmp_path, tiny_model), overrides)
    with opened(settings, run) as (tried, about):
        assert about.startswith("model SFT policy")
        assert "the run's reward model" in about
        found = [suite.outcome(check, tried) for check in (start.sft_model, rewards.reward_model)]
        assert failures(found) == []
        merged = tried.truth[0].logprobs
    with opened(settings, None) as (plain, _):
        assert (plain.truth[0].logprobs - merged).abs().max() > 0.01  # the SFT policy is another model
