"""The dpo stage: that it learns, what it leaves behind, what it leaves out, and that a killed run ends the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import PreferenceLabel
from rlaif.lm.local.load import encode_chat, encode_text, load_model
from rlaif.stages import dpo
from rlaif.stages.context import StageContext
from rlaif.training import hf_trainer as loop
from tests.tiny import by_forward
from tests.training.contexts import Heard, prompt, response, stage_context
from tests.training.planted_labels import label, planted

COLUMNS = {"step", "epoch", "loss", "accuracy", "margin", "reward_chosen", "reward_rejected"}


def dpo_context(
    root: Path, tiny_model: Path, sft_adapter: Path, labels: list[PreferenceLabel], **table: Any
) -> StageContext:
    context = stage_context(root, tiny_model, "dpo", dpo=table, align_by=["dpo"])
    context.adapter("sft").parent.mkdir(parents=True)
    context.adapter("sft").symlink_to(sft_adapter)
    JsonlFile(context.run.file("label", "labels.jsonl"), PreferenceLabel).append(labels)
    return context


def gained(context: StageContext, asked: str, answer: str) -> float:
    """By how many nats the answer is likelier under DPO than under SFT."""
    found = []
    for stages in (("sft", "dpo"), ("sft",)):
        loaded = load_model(context.config.model, tuple(map(context.adapter, stages)))
        ids = encode_chat(loaded.tokenizer, prompt(asked).messages), encode_text(loaded.tokenizer, answer)
        with torch.no_grad():
            found.append(by_forward(loaded.model, *ids).sum().item())
    return found[0] - found[1]


def test_a_planted_preference_is_learnt_on_top_of_sft(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    table = {"epochs": 3, "batch_size": 16, "learning_rate": 5e-3, "save_steps": 1000}
    labels = planted(30)
    labels.append(label(labels[0].comparison.b, labels[0].comparison.a, labels[0].comparison.prompt, None))
    context = dpo_context(tmp_path, tiny_model, sft_adapter, labels, **table)
    counts = dpo.run(context)
    assert (counts["pairs"], counts["prompts"], counts["unlabelled"]) == (120, 30, 1)
    assert counts["loss_first"] == pytest.approx(math.log(2))  # the adapter starts as nothing: policy = reference
    assert (counts["margin_first"], counts["accuracy_first"]) == (0.0, 0.5)
    assert counts["loss_last"] < 0.4
    assert counts["accuracy_last"] > 0.8
    assert gained(context, "Question 99?", "dough kind salt") > gained(context, "Question 99?", "dough fox salt") + 1
    rows = context.metrics.read()
    assert set(rows[0]) == COLUMNS
    assert rows[-1]["margin"] == pytest.approx(rows[-1]["reward_chosen"] - rows[-1]["reward_rejected"], abs=1e-4)
    assert sorted(path.name for path in context.folder.iterdir()) == ["adapter", "metrics.jsonl"]
    config = json.loads((context.adapter("dpo") / "adapter_config.json").read_text())
    assert "sft/adapter merged in" in config["base_model_name_or_path"]


def test_soft_labels_end_at_their_log_odds_and_hard_ones_go_on(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    """Of one pair that is seen again and again: d = logit(0.8) is where the soft loss is least."""
    asked = prompt("Hi")
    pairs = [(response(asked, f"Yes {n}"), response(asked, f"No {n}")) for n in range(2)]
    rows = [label(a, b, asked, p) for a, b in pairs for p in (0.8, 0.8)] + [
        label(b, a, asked, p) for a, b in pairs for p in (0.2, 0.2)
    ]
    table = {"epochs": 20, "batch_size": 8, "learning_rate": 3e-3, "beta": 1.0}
    margins = {}
    for targets in ("soft", "hard"):
        context = dpo_context(tmp_path / targets, tiny_model, sft_adapter, rows, targets=targets, **table)
        margins[targets] = dpo.run(context)["margin_last"]
    assert margins["soft"] == pytest.approx(math.log(0.8 / 0.2), abs=0.3)
    assert margins["hard"] > 2.5


def test_a_run_killed_after_a_checkpoint_ends_as_the_uncut_one(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "save_steps": 2}
    whole = dpo_context(tmp_path / "whole", tiny_model, sft_adapter, planted(8), **table)
    counts = dpo.run(whole)
    cut = dpo_context(tmp_path / "cut", tiny_model, sft_adapter, planted(8), **table)
    log = loop._Reporter.on_log

    def die(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        log(self, args, state, control, logs, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop._Reporter, "on_log", die)
        with pytest.raises(KeyboardInterrupt):
            dpo.run(cut)
    checkpoint = max((cut.folder / "checkpoints").glob("*/checkpoint-*"))
    assert checkpoint.name == "checkpoint-4"
    assert dpo.run(cut) == counts
    assert cut.metrics.read() == whole.metrics.read()
    files = [context.adapter("dpo") / "adapter_model.safetensors" for context in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_seed_gives_another_adapter_and_the_same_one_the_same(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        context = dpo_context(tmp_path / name, tiny_model, sft_adapter, planted(2))
        context.config = context.config.model_copy(update={"seed": seed})
        dpo.run(context)
        weights.append(load_file(context.adapter("dpo") / "adapter_model.safetensors"))
    same, other = ([torch.equal(weights[0][key], found[key]) for key in found] for found in weights[1:])
    assert all(same)
    assert not all(other)


def test_bfloat16_weights_train_a_float32_adapter(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    context = dpo_context(tmp_path, tiny_model, sft_adapter, planted(8), epochs=3, learning_rate=5e-3)
    model = context.config.model.model_copy(update={"dtype": "bfloat16"})
    context.config = context.config.model_copy(update={"model": model})
    assert dpo.run(context)["loss_last"] < math.log(2)
    weights = load_file(context.adapter("dpo") / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_what_nothing_is_learnt_from_is_counted_and_said(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = prompt("Hi")
    a, b, long = response(asked, "Yes"), response(asked, "No"), response(asked, "word " * 90)
    rows = [
        *planted(3, prob=0.8),
        label(a, b, asked, 0.5),
        label(a, long, asked, 0.8),
        label(a, response(asked, "Yes", seed=1), asked, 0.9),
    ]
    told = {}
    for targets in ("soft", "hard"):
        context = dpo_context(tmp_path / targets, tiny_model, sft_adapter, rows, targets=targets, max_length=64)
        context.progress = heard = Heard()
        counts = dpo.run(context)
        assert (counts["dropped_too_long"], counts["dropped_identical"]) == (1, 1)
        assert (counts["pairs"], counts.get("ties")) == ((13, None) if targets == "soft" else (12, 1))
        told[targets] = heard.lines
    assert told["soft"] == [
        "  dpo: 1 labels have a response longer than 64 tokens and are left out",
        "  dpo: 1 labels compare an answer with itself and are left out",
    ]
    assert told["hard"] == [*told["soft"], "  dpo: 1 labels are exactly 0.5, have no side, and are left out"]


def test_labels_that_cannot_be_learnt_from_are_an_error(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = prompt("Hi")
    few = [label(response(asked, "Yes"), response(asked, "No"), asked, p) for p in (0.9, None)]
    with pytest.raises(StageError, match=r"2 labels of which 1 have a preference, on 1 prompts: at least 4 labels are"):
        dpo.run(dpo_context(tmp_path / "few", tiny_model, sft_adapter, few))
    ties = [label(response(asked, f"Yes {n}"), response(asked, f"No {n}"), asked, 0.5) for n in range(5)]
    with pytest.raises(StageError, match=r"all 5 labels say the same, P\(A is preferred\) = 0\.5"):
        dpo.run(dpo_context(tmp_path / "ties", tiny_model, sft_adapter, ties))
    with pytest.raises(StageError, match=r"the loss is nan at step \d+[\s\S]*lower dpo\.learning_rate"):
        dpo.run(dpo_context(tmp_path / "nan", tiny_model, sft_adapter, planted(4), learning_rate=1e30, epochs=4))
