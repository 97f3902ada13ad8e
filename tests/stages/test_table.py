"""What each stage stands on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.config import RunConfig
from rlaif.core.errors import ConfigError
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


def test_given_labels_need_no_judge_and_nothing_that_is_trained_before_them(tmp_path: Path) -> None:
    def of(**tables: object) -> RunConfig:
        given = {"prompts": {"mine": {"source": "everyday"}}, "label": {"source": "a/pairs.jsonl"}}
        return parse({**given, **tables}, where="test")

    config = of(judge={"calibration": "temperature", "principles": "one"})
    assert stages.of_run(config) == ("label", "reward", "ppo", "evaluate", "report")
    assert stages.of_run(config, "label") == ("label",)
    assert [stages.needs(config, name) for name in ("label", "reward", "ppo", "evaluate")] == [
        (),
        ("label",),
        ("reward",),
        ("ppo",),
    ]
    assert stages.needs(of(ppo={"reward": "mine:f"}), "ppo") == ()
    assert all("judge" not in stages.shared(config, name) for name in stages.of_run(config))
    assert "sft/adapter" not in stages.own_inputs(config, "ppo", RunFolder(tmp_path))
    assert stages.settings(config, "label", 3) == {
        "seed": 0,
        "limit": 3,
        "start": "model",
        "label.source": "pairs.jsonl",
    }
    judged = parse({"prompts": {"mine": {"source": "everyday"}}, "ppo": {"reward": "mine:f"}}, where="test")
    assert stages.changes(
        stages.settings(judged, "ppo", None), stages.settings(of(ppo={"reward": "mine:f"}), "ppo", None)
    ) == ["start (was not there, now model)"], "a policy that started from SFT is not kept"
    assert set(stages.abouts(given=True)) == {"card", *stages.of_run(config)}
    for name in ("revise", "sft"):
        with pytest.raises(ConfigError, match=f"the labels are given, so this run has no stage {name}"):
            stages.of_run(config, name)
        with pytest.raises(ConfigError):
            stages.refuse_absent(config, (name,))
    stages.refuse_absent(judged, ("sft",))


def test_what_aligns_is_chosen_and_what_only_the_other_needs_is_left_out(tmp_path: Path) -> None:
    def of(align_by: object, **tables: object) -> RunConfig:
        return parse({"prompts": {"mine": {"source": "everyday"}}, "align_by": align_by, **tables}, where="test")

    by_ppo, by_dpo, by_both = of("ppo"), of("dpo"), of(["ppo", "dpo", "ppo"])
    assert (by_dpo.align_by, by_both.align_by) == (["dpo"], ["ppo", "dpo"])
    before = ("card", "revise", "sft", "label")
    assert stages.of_run(by_ppo) == (*before, "reward", "ppo", "evaluate", "report")
    assert stages.of_run(by_dpo) == (*before, "dpo", "evaluate", "report")
    assert stages.of_run(by_both) == (*before, "reward", "ppo", "dpo", "evaluate", "report")
    assert "reward" in stages.of_run(of("dpo", evaluate={"best_of": 4}))  # it chooses the best of four
    assert "reward" not in stages.of_run(of("dpo", evaluate={"best_of": 4}, ppo={"reward": "mine:f"}))
    needed = [stages.stands_on(config, "evaluate") for config in (by_ppo, by_dpo, by_both)]
    assert needed == [("sft", "ppo"), ("sft", "dpo"), ("sft", "ppo", "dpo")]
    assert stages.with_followers(by_both, ("dpo",)) == ("dpo", "evaluate", "report")
    # a run from before there was a choice is kept as it is
    run = RunFolder(tmp_path)
    assert "dpo/adapter" not in stages.own_inputs(by_ppo, "evaluate", run)
    assert "dpo/adapter" in stages.own_inputs(by_both, "evaluate", run)
    for name in ("reward", "ppo", "evaluate"):
        assert stages.settings(by_ppo, name, None) == stages.settings(by_both, name, None)
    given = {"label": {"source": "x.jsonl"}}
    assert stages.of_run(of("dpo", **given)) == ("label", "dpo", "evaluate", "report")
    assert stages.stands_on(of("dpo", **given), "dpo") == ("label",)
    for config, name in ((by_ppo, "dpo"), (by_dpo, "ppo")):
        with pytest.raises(ConfigError, match=f"no stage {name}: it is aligned by {config.align_by[0]}"):
            stages.of_run(config, name)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"align_by: write ppo, dpo or both"):
        of([])
    with pytest.raises(ConfigError, match=r"align_by.*write one of ppo, dpo"):
        of("kto")


def test_a_run_has_the_stages_that_it_names(tmp_path: Path) -> None:
    def of(*names: str, **tables: object) -> RunConfig:
        return parse({"prompts": {"mine": {"source": "everyday"}}, "stages": list(names), **tables}, where="test")

    by_function, labels = of("evaluate", "ppo", "ppo", ppo={"reward": "mine:f"}), of("label")
    assert stages.of_run(by_function) == ("ppo", "evaluate", "report")
    assert (by_function.align_by, by_function.start, by_function.judged) == (["ppo"], (), False)
    assert not any("judge" in stages.shared(by_function, name) for name in stages.of_run(by_function))
    assert stages.settings(by_function, "ppo", None)["start"] == "model"
    assert stages.stands_on(by_function, "ppo") == ()
    assert stages.stands_on(by_function, "evaluate") == ("ppo",)
    # a card comes with the labels that ask for it
    assert stages.of_run(labels) == ("card", "label", "report")
    assert stages.of_run(of("label", card={"required": False})) == ("label", "report")
    assert stages.of_run(of("card", "label", card={"required": False})) == ("card", "label", "report")
    assert stages.of_run(of("revise", judge={"calibration": "temperature"}, card={"gold": "pyrit"})) == (
        *("card", "revise", "report"),
    )
    assert (labels.align_by, labels.judged) == ([], True)
    assert stages.stands_on(labels, "label") == ()
    assert stages.own_inputs(labels, "label", RunFolder(tmp_path)) == {}
    both = of("revise", "sft", "label", "dpo", "evaluate")
    assert stages.of_run(both) == ("card", "revise", "sft", "label", "dpo", "evaluate", "report")
    assert stages.of_run(of("label", "reward")) == ("card", "label", "reward", "report")  # its own purpose
    given = of("label", "reward", label={"source": "x.jsonl"})
    assert stages.of_run(given) == ("label", "reward", "report")
    assert set(stages.abouts(given=False, named=["ppo", "evaluate"])) == {"ppo", "evaluate", "report"}
    assert set(stages.abouts(given=False, named=["label"])) == {"card", "label", "report"}
    assert "held near the model" in stages.abouts(given=False, named=["ppo"])["ppo"]
    with pytest.raises(ConfigError, match=r"no stage sft: its stages are label\n  -> add sft to stages"):
        stages.refuse_absent(labels, ("sft",))


@pytest.mark.parametrize(
    ("named", "tables", "message"),
    [
        (["sft"], {}, "sft reads what revise writes"),
        (["reward"], {}, "reward reads what label writes.*label.source takes labels of your own"),
        (["ppo"], {}, "ppo reads what reward writes.*ppo.reward takes a function"),
        (["ppo"], {"ppo": {"reward": "judge"}}, "ppo reads what label writes"),
        (["dpo"], {}, "dpo reads what label writes"),
        (["ppo", "evaluate"], {"ppo": {"reward": "a:f"}, "evaluate": {"best_of": 4}}, None),
        (["label", "evaluate"], {}, "evaluate compares models, and this run trains none"),
        ([], {}, "stages: name at least one of"),
        (["report"], {}, "stages: name at least one of"),
        (["ppo"], {"align_by": "dpo"}, "stages names ppo and align_by dpo: leave align_by out"),
        (["label"], {"align_by": "dpo"}, "stages names neither ppo nor dpo and align_by dpo"),
        (["sft", "label"], {"label": {"source": "x.jsonl"}}, "leave sft out of stages"),
        (["tune"], {}, "stages"),
    ],
)
def test_stages_that_lack_another_are_refused(named: list[str], tables: dict[str, Any], message: str | None) -> None:
    def found() -> None:
        raw = {"prompts": {"mine": {"source": "everyday"}}, "stages": named, **tables}
        stages.of_run(parse(raw, where="test"))

    if message is None:
        found()
        return
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        found()


def test_a_run_is_said_to_have_the_stages_that_it_has() -> None:
    assert "dpo" not in stages.abouts(given=False)
    assert not {"reward", "ppo"} & set(stages.abouts(given=False, align_by=["dpo"]))
    assert "reward" in stages.abouts(given=False, align_by=["dpo"], there=["reward"])
    assert "that are given" in stages.abouts(given=True, align_by=["dpo"])["dpo"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"label": {"source": "x.jsonl", "answers": "both"}},
            "source gives answers and labels: leave answers: both out",
        ),
        ({"label": {"source": "x.jsonl"}, "ppo": {"reward": "judge"}}, "with label.source there are none"),
    ],
)
def test_given_labels_beside_what_needs_others(tables: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse({"prompts": {"mine": {"source": "everyday"}}, **tables}, where="test")


def test_a_panel_that_is_older_than_a_field_of_its_members_is_unchanged() -> None:
    member = {"name": "second", "method": "contrast", "backend": "local", "source": "embedded"}
    given = {"judge": {"panel": [member]}, "prompts": {"mine": {"source": "everyday", "train": 1}}}
    now = parse(given, where="test").judge.settings()["panel"]
    old = [{name: value for name, value in one.items() if name not in ("verdict", "extra_body")} for one in now]
    assert "extra_body" in now[0]
    assert stages.changes({"judge.panel": old}, {"judge.panel": now}) == []
    other = [{**old[0], "method": "rating"}]
    assert len(stages.changes({"judge.panel": other}, {"judge.panel": now})) == 1
