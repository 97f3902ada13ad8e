"""What each stage stands on."""

from __future__ import annotations

from pathlib import Path

from rlaif.config import RunConfig
from rlaif.core.files import RunFolder
from rlaif.judge.load import parse
from rlaif.stages import table as stages


def test_a_reward_of_several_sources_needs_what_each_of_them_does(tmp_path: Path) -> None:
    def of(*sources: str, members: int = 1) -> RunConfig:
        tables = {"ppo": {"reward": list(sources)}, "reward": {"members": members}}
        return parse({"prompts": {"mine": {"source": "everyday"}}, **tables}, where="test")

    assert stages.stands_on(of("mine:f", "judge"), "ppo") == ("sft", "label")
    assert stages.stands_on(of("model", "mine:f"), "ppo") == ("sft", "reward")
    assert stages.stands_on(of("model", "judge"), "ppo") == ("sft", "reward", "label")
    assert "judge" in stages.shared(of("model", "judge"), "ppo")
    assert "judge" not in stages.shared(of("model", "mine:f"), "ppo")
    run = RunFolder(tmp_path)
    assert {"reward/adapter", "reward/adapter-2"} <= stages.own_inputs(of("model", members=2), "ppo", run).keys()
    assert "reward/adapter-2" not in stages.own_inputs(of("model"), "ppo", run)
    assert "reward/adapter-2" not in stages.own_inputs(of("mine:f", members=2), "ppo", run)
    assert stages.settings(of("model"), "ppo", None)["ppo.reward"] == "model"  # as in runs before there were lists


def test_best_of_n_needs_the_reward_that_chooses(tmp_path: Path) -> None:
    def of(reward: str, best_of: int) -> RunConfig:
        tables = {"ppo": {"reward": reward}, "evaluate": {"best_of": best_of}, "reward": {"members": 2}}
        return parse({"prompts": {"mine": {"source": "everyday"}}, **tables}, where="test")

    run, read = RunFolder(tmp_path), {"reward/adapter", "reward/adapter-2"}
    assert stages.stands_on(of("model", 4), "evaluate") == ("sft", "ppo", "reward")
    assert read <= stages.own_inputs(of("model", 4), "evaluate", run).keys()
    for config in (of("model", 0), of("mine:f", 4), of("judge", 4)):
        assert stages.stands_on(config, "evaluate") == ("sft", "ppo")
        assert not read & stages.own_inputs(config, "evaluate", run).keys()
    # a run from before there was the field goes on
    before = stages.settings(of("model", 0), "evaluate", None)
    del before["evaluate.best_of"]
    assert stages.changes(before, stages.settings(of("model", 0), "evaluate", None)) == []
    assert len(stages.changes(before, stages.settings(of("model", 4), "evaluate", None))) == 1
