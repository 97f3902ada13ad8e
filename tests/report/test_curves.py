"""Which curves of PPO are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlaif.core.evaluation import HeldOut, HeldOutAccuracy, Probe
from rlaif.core.files import MetricsLog, RunFolder
from rlaif.report.curves import accuracies, ppo_curves, reward_curves


def test_sources_of_the_score_and_disagreement_have_curves_where_there_are_several(tmp_path: Path) -> None:
    def titles(name: str, **parts: float) -> str:
        run = RunFolder(tmp_path / name)
        for step in range(2):
            MetricsLog(run.stage("ppo") / "metrics.jsonl").append(step=step, score=1.0, score_std=1.0, **parts)
        return "".join(map(str, ppo_curves(run, None).plots))

    alone = titles("one", score_model=1.0, score_model_std=1.0)
    assert "Score by source" not in alone
    assert "Disagreement" not in alone
    both = titles("two", score_model=1.0, score_model_std=1.0, score_e=2.0, score_e_std=0.5, disagreement=0.1)
    assert "Score by source" in both
    assert "score_e" in both
    assert "Disagreement" in both


def test_all_who_tell_the_held_out_labels_stand_in_one_table() -> None:
    def row(name: str, accuracy: float) -> HeldOutAccuracy:
        return HeldOutAccuracy(name, accuracy, accuracy - 0.1, accuracy + 0.1, 20)

    held_out = HeldOut(
        accuracy=0.8,
        accuracy_low=0.7,
        accuracy_high=0.9,
        pairs=40,
        parts={"slice": (row("harmful", 0.75), row("everyday", 0.85)), "answers": (row("policy", 0.8),)},
        predictors=(row("length", 0.55), row("bag of words", 0.65)),
        probe=Probe("mean", {"mean": 0.7, "last": 0.5}, row("probe", 0.72)),
    )
    assert [(found.name, found.accuracy) for found in accuracies(held_out)] == [
        ("reward model", 0.8),
        ("reward model, slice harmful", 0.75),
        ("reward model, slice everyday", 0.85),  # one part alone would say the first row again
        ("probe, mean of the frozen states", 0.72),
        ("length", 0.55),
        ("bag of words", 0.65),
    ]
    assert accuracies(held_out)[0].pairs == 40  # those of both slices: a tie has no side to tell
    assert accuracies(replace(held_out, pairs=43))[0].pairs == 40
    assert accuracies(HeldOut(accuracy=0.8)) == accuracies(None) == []


def test_the_loss_of_validation_prompts_stands_beside_the_loss_where_there_is_one(tmp_path: Path) -> None:
    for name, validated in (("plain", {}), ("validated", {"validation_loss": 0.6})):
        log = MetricsLog(RunFolder(tmp_path / name).stage("reward") / "metrics.jsonl")
        log.append(step=1, loss=0.7, accuracy=0.5)
        log.append(step=2, loss=0.65, accuracy=0.6, **validated)
        drawn = "".join(map(str, reward_curves(RunFolder(tmp_path / name)).plots))
        assert ("validation_loss" in drawn) == bool(validated)
