"""The reward stage: what it learns, what it leaves behind, and that a killed run ends the same."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.config import PpoConfig
from rlaif.core.errors import StageError
from rlaif.stages import reward
from rlaif.training import hf_trainer as loop
from rlaif.training.rewards import preferences
from rlaif.training.rewards.model import RewardModel
from tests.training.contexts import Heard, prompt, response
from tests.training.planted_labels import Trained, base, label, planted, reward_context


def test_a_planted_preference_is_learnt(trained: Trained) -> None:
    context, counts = trained
    assert counts["pairs_train"] == 48 * 4
    assert counts["pairs_held_out"] == 12 * 4
    assert counts["unlabelled"] == 1
    assert counts["loss_first"] == pytest.approx(math.log(2))  # the head starts at zero
    assert counts["accuracy"] > 0.9
    report = json.loads((context.folder / "held_out.json").read_text())
    assert report["accuracy"] == counts["accuracy"]
    assert report["prompts"] == 12
    assert set(report) == {
        *("accuracy", "log_loss", "brier", "ece", "pairs", "prompts", "label_entropy", "bins", "length_accuracy"),
        *("accuracy_low", "accuracy_high", "parts", "predictors", "probe", "beats_trivial", "verdict"),
    }
    assert [found["name"] for found in report["predictors"]] == [
        *("length", "finished", "refusal opening", "first words", "bag of words", "position")
    ]
    bag = report["predictors"][4]
    assert bag["accuracy"] == 1.0  # the planted preference is a word
    assert report["beats_trivial"] is False
    assert "bag of words alone on 100%" in report["verdict"]
    assert [(kind, [part["pairs"] for part in found]) for kind, found in report["parts"].items()] == [
        ("slice", [48]),
        ("principle", [48]),
        ("answers", [48]),
    ]
    assert set(report["probe"]["cross_validated"]) == {"mean", "last", "end"}
    assert report["probe"]["held_out"]["pairs"] == 48
    assert set(context.metrics.read()[0]) == {"step", "epoch", "loss", "accuracy"}
    assert sorted(path.name for path in context.folder.iterdir()) == ["adapter", "held_out.json", "metrics.jsonl"]


def test_soft_labels_give_the_margin_of_their_log_odds(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    table = {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2, "held_out": 0.2, "save_steps": 1000}
    context = reward_context(tmp_path, tiny_model, sft_adapter, planted(60, prob=0.7), **table)
    counts = reward.run(context)
    model = RewardModel.load(context.adapter("reward"), base(context))
    margins = []
    for row in planted(60):
        pair = row.comparison
        raw_a, raw_b = model.raw_of([model.encode(pair.prompt, r.text, finished=True) for r in (pair.a, pair.b)])
        margins.append(raw_a - raw_b if "kind" in pair.a.text else raw_b - raw_a)
    assert sum(margins) / len(margins) == pytest.approx(math.log(0.7 / 0.3), abs=0.15)
    assert counts["label_entropy"] == pytest.approx(0.6109, abs=1e-4)  # H(0.7) in nats: no loss is below it
    assert counts["label_entropy"] < counts["log_loss"] < counts["label_entropy"] + 0.05


def test_a_run_killed_after_a_checkpoint_ends_as_the_uncut_one(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "held_out": 0.2, "save_steps": 2}
    whole = reward_context(tmp_path / "whole", tiny_model, sft_adapter, planted(12), **table)
    counts = reward.run(whole)
    cut = reward_context(tmp_path / "cut", tiny_model, sft_adapter, planted(12), **table)
    log = loop._Reporter.on_log

    def die(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        log(self, args, state, control, logs, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    def die_at_the_end(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._Reporter, "on_log", die)
    with pytest.raises(KeyboardInterrupt):
        reward.run(cut)
    checkpoint = max((cut.folder / "checkpoints").glob("*/checkpoint-*"))
    assert checkpoint.name == "checkpoint-4"
    weights = sum(tensor.numel() for file in checkpoint.glob("*.safetensors") for tensor in load_file(file).values())
    total = sum(parameter.numel() for parameter in base(cut).model.parameters())
    assert weights < total  # adapter and head, not the base
    monkeypatch.setattr(loop._Reporter, "on_log", log)
    with monkeypatch.context() as patch:
        patch.setattr(reward, "write_folder", die_at_the_end)
        with pytest.raises(KeyboardInterrupt):  # and again, with all steps done
            reward.run(cut)

    assert reward.run(cut) == pytest.approx(counts, rel=1e-6)
    assert cut.metrics.read() == whole.metrics.read()
    for name in ("adapter_model.safetensors", "reward_head.safetensors"):
        one, other = load_file(whole.adapter("reward") / name), load_file(cut.adapter("reward") / name)
        assert one.keys() == other.keys()
        assert all(torch.allclose(one[key], other[key], atol=1e-7) for key in one)


def test_bfloat16_weights_train_a_float32_adapter_and_head(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    context = reward_context(tmp_path, tiny_model, sft_adapter, planted(20), learning_rate=5e-3, epochs=4)
    model = context.config.model.model_copy(update={"dtype": "bfloat16"})
    context.config = context.config.model_copy(update={"model": model})
    assert reward.run(context)["loss_last"] < math.log(2)
    for file in context.adapter("reward").glob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32}


def test_labels_that_cannot_be_learnt_from_are_an_error(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = prompt("Hi")
    rows = [label(response(asked, "Yes"), response(asked, "No"), asked, None)]
    with pytest.raises(StageError, match=r"1 labels of which 0 have a preference[\s\S]*at least 4 labels on 2 prompts"):
        reward.run(reward_context(tmp_path / "none", tiny_model, sft_adapter, rows))
    with pytest.raises(StageError, match=r"4 labels of which 4 have a preference, on 1 prompts"):
        reward.run(reward_context(tmp_path / "one", tiny_model, sft_adapter, planted(1)))


def test_over_long_responses_take_their_pairs_with_them(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = prompt("Hi")
    a, b, long = response(asked, "Yes"), response(asked, "No"), response(asked, "word " * 90)
    rows = [label(a, b, asked, 0.9), label(a, long, asked, 0.8), *planted(3)]
    context = reward_context(tmp_path, tiny_model, sft_adapter, rows, max_length=64)
    counts = reward.run(context)
    assert counts["dropped_too_long"] == 1
    assert counts["pairs_train"] + counts["pairs_held_out"] == 13


def test_labels_that_all_say_the_same_are_an_error(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = [prompt(f"Question {i}") for i in range(3)]
    rows = [label(response(one, f"Yes {k}"), response(one, f"No {k}"), one, 0.5) for one in asked for k in range(2)]
    with pytest.raises(StageError, match=r"all 6 labels say the same, P\(A is preferred\) = 0\.5[\s\S]*rlaif show"):
        reward.run(reward_context(tmp_path / "alike", tiny_model, sft_adapter, rows))
    few = [label(response(one, "Yes"), response(one, "No"), one, 0.1 * n + 0.6) for n, one in enumerate(asked)]
    with pytest.raises(StageError, match=r"3 labels of which 3 .* at least 4 labels on 2 prompts"):
        reward.run(reward_context(tmp_path / "few", tiny_model, sft_adapter, few))


def test_held_out_labels_without_a_side_leave_the_model_unmeasured(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    rows = planted(8, prob=0.8)
    context = reward_context(tmp_path / "a", tiny_model, sft_adapter, rows)
    groups, *_ = preferences.group_by_prompt(rows, base(context), 320)
    _, held_out = preferences.split(groups, share=0.15, seed=context.config.seed)
    tied = {group.prompt.id for group in held_out}
    rows = [replace(row, prob_a=0.5, id="") if row.comparison.prompt.id in tied else row for row in rows]
    context = reward_context(tmp_path / "b", tiny_model, sft_adapter, rows)
    assert "accuracy" not in reward.run(context)
    report = json.loads((context.folder / "held_out.json").read_text())
    assert {found["accuracy"] for found in report["predictors"]} == {None}
    assert report["probe"]["held_out"]["accuracy"] is None
    assert 0 <= report["probe"]["cross_validated"]["mean"] <= 1
    assert (report["beats_trivial"], report["verdict"]) == (
        None,
        "No held-out label has a side, so the reward model was not measured.",
    )


def test_the_score_is_read_where_the_config_says(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    for pooling in ("auto", "mean", "last", "end"):
        context = reward_context(tmp_path / pooling, tiny_model, sft_adapter, planted(8), pooling=pooling)
        reward.run(context)
        taken = json.loads((context.adapter("reward") / "reward.json").read_text())["pooling"]
        probe = json.loads((context.folder / "held_out.json").read_text())["probe"]
        assert taken == probe["pooling"]
        assert pooling in ("auto", taken)


def test_a_model_that_will_be_the_critic_does_not_read_the_end(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, wanted in (("trunk", "end"), ("reward", "last")):
        shares = iter([0.5, 0.8, 0.99])  # mean, last, end
        monkeypatch.setattr(reward.probes, "cross_validated", lambda *given, told=shares: next(told))
        context = reward_context(tmp_path / value, tiny_model, sft_adapter, planted(8))
        ppo = PpoConfig.model_validate({"value": value, "baseline": "batch"})
        reward.run(replace(context, config=context.config.model_copy(update={"ppo": ppo})))
        assert json.loads((context.adapter("reward") / "reward.json").read_text())["pooling"] == wanted


@pytest.mark.parametrize("change", [{"targets": "hard"}, {"targets": "margin"}, {"centering": 0.5}])
def test_targets_and_centering_change_what_is_learnt(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, change: dict[str, Any]
) -> None:
    table = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-2}
    rows = planted(24, prob=0.7)
    soft = reward.run(reward_context(tmp_path / "soft", tiny_model, sft_adapter, rows, **table))
    other = reward.run(reward_context(tmp_path / "other", tiny_model, sft_adapter, rows, **table, **change))
    assert other["loss_last"] != pytest.approx(soft["loss_last"], rel=1e-3)


def test_members_of_an_ensemble_see_other_halves_of_the_prompts() -> None:
    groups = [preferences.PromptGroup(prompt(f"P{i}"), (), (), ()) for i in range(21)]
    first, second = ({g.prompt.id for g in preferences.half(groups, seed=seed)} for seed in (0, 1))
    assert len(first) == len(second) == 11
    assert first != second
    assert {g.prompt.id for g in preferences.half(groups[::-1], seed=0)} == first


def test_ties_count_in_the_soft_loss_alone(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    rows = planted(8, prob=0.8)
    ties = []
    for one, other in zip(rows[::4], rows[3::4], strict=True):  # answers of a prompt that both have, or lack, the word
        pair = one.comparison
        kind = "kind" in pair.a.text
        b = next(r for r in (other.comparison.a, other.comparison.b) if ("kind" in r.text) == kind)
        ties.append(label(pair.a, b, pair.prompt, 0.5))
    heads, table = {}, {"epochs": 4, "learning_rate": 1e-2}
    for targets in ("soft", "hard", "margin"):
        for name, labels in (("without", rows), ("with", rows + ties)):
            folder = tmp_path / targets / name
            context = reward_context(folder, tiny_model, sft_adapter, labels, targets=targets, **table)
            reward.run(context)
            heads[targets, name] = load_file(context.adapter("reward") / "reward_head.safetensors")["weight"]
    for targets in ("hard", "margin"):
        assert torch.equal(heads[targets, "with"], heads[targets, "without"])
    assert not torch.allclose(heads["soft", "with"], heads["soft", "without"], atol=1e-6)


def test_what_nothing_is_learnt_from_is_counted_and_said(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = prompt("Hi")
    same = [response(asked, "Yes", seed=seed) for seed in (1, 2)]
    silent = replace(prompt("Ho"), slice="quiet", id="")
    rows = [
        *planted(4),
        label(same[0], same[1], asked, 0.9),
        label(response(silent, "Yes"), response(silent, "No"), silent, None),
    ]
    context = reward_context(tmp_path, tiny_model, sft_adapter, rows)
    context.progress = heard = Heard()
    counts = reward.run(context)
    assert counts["dropped_identical"] == 1
    assert counts["pairs_train"] + counts["pairs_held_out"] == 16
    assert "  reward: 1 labels compare an answer with itself and are left out" in heard.lines
    assert "  reward: no label of the slice quiet is left: the reward model learns nothing of it" in heard.lines


def test_who_wrote_an_answer_stands_in_the_table_and_not_in_the_verdict(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    rows = []
    for i in range(12):
        asked = prompt(f"Question {i}")
        texts = [f"answer {(7 * i) % 12}", f"answer {(5 * i + 3) % 12}"]  # no word of theirs says which is better
        a, b = (replace(response(asked, t), model=m, id="") for t, m in zip(texts, ("good", "bad"), strict=True))
        rows.append(label(a, b, asked, 1.0) if i % 2 else label(b, a, asked, 0.0))
    context = reward_context(tmp_path, tiny_model, sft_adapter, rows, held_out=0.4)
    reward.run(context)
    report = json.loads((context.folder / "held_out.json").read_text())
    assert report["predictors"][-1]["name"] == "source"
    assert report["predictors"][-1]["accuracy"] == 1.0
    assert "source" not in report["verdict"]


def test_training_ends_and_keeps_the_best_weights_where_validation_says_so(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    noise = [replace(row, prob_a=draw.choice([0.0, 1.0]), id="") for row in planted(16)]  # learnt by heart, if at all
    table = {"epochs": 12, "batch_size": 8, "learning_rate": 1e-2, "held_out": 0.25, "patience": 2}
    whole = reward_context(tmp_path / "whole", tiny_model, sft_adapter, noise, **table)
    counts = reward.run(whole)
    rows = whole.metrics.read()
    losses = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert counts["prompts_validation"] == 3  # a quarter of the 12 that are not held out
    assert counts["step_kept"] == min(losses, key=lambda step: losses[step])
    # 9 prompts in batches of 8: epochs end within steps 2, 3, 4, ...; two measured ones came after the best.
    assert counts["steps"] == counts["step_kept"] + 2 < 14
    model = RewardModel.load(whole.adapter("reward"), base(whole))
    groups, *_ = preferences.group_by_prompt(noise, base(whole), 320)
    train, _ = preferences.split(groups, share=0.25, seed=whole.config.seed)
    _, validation = preferences.split(train, share=0.25, seed=whole.config.seed)
    assert preferences.validation_loss(model, validation, "soft") == pytest.approx(min(losses.values()), abs=1e-5)
    assert not (whole.folder / "checkpoints").exists()

    def die_at_the_end(*_: Any) -> None:
        raise KeyboardInterrupt

    cut = reward_context(tmp_path / "cut", tiny_model, sft_adapter, noise, **table)
    log = loop._Reporter.on_log

    def die(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        log(self, args, state, control, logs, **rest)
        if state.global_step == counts["steps"] - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Reporter, "on_log", die)
    with pytest.raises(KeyboardInterrupt):
        reward.run(cut)
    monkeypatch.setattr(loop._Reporter, "on_log", log)
    with monkeypatch.context() as patch:
        patch.setattr(reward, "write_folder", die_at_the_end)
        with pytest.raises(KeyboardInterrupt):  # and again, after it stopped
            reward.run(cut)
    assert reward.run(cut) == pytest.approx(counts, rel=1e-6)
    assert cut.metrics.read() == rows


def test_no_prompt_is_left_to_train_on(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    with pytest.raises(StageError, match=r"1 prompt to train on[\s\S]*reward\.patience: 0"):
        reward.run(reward_context(tmp_path, tiny_model, sft_adapter, planted(2), patience=1))
