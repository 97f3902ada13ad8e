"""The reward stage and the reward model: loss, learning, calibration, scores that depend on nothing but the text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from rlaif.config import LoraTable
from rlaif.core.errors import ModelError, StageError
from rlaif.core.records import Message, Prompt
from rlaif.lm.local.load import LoadedModel, load_model, lora_config
from rlaif.stages import reward
from rlaif.stages.context import StageContext
from rlaif.training import hf_trainer as loop
from rlaif.training.preference_metrics import agreement, held_out_report, label_entropy
from rlaif.training.rewards import preferences
from rlaif.training.rewards.model import RewardModel, last_token_state, load_head, preference_loss
from tests.training.contexts import prompt, response, stage_context
from tests.training.planted_labels import label, planted, reward_context


def base(context: StageContext) -> LoadedModel:
    return load_model(context.config.model, (context.adapter("sft"),))


@pytest.fixture(scope="session")
def trained(
    tiny_model: Path, sft_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StageContext, dict[str, float]]:
    labels = planted(60)
    labels.append(label(labels[0].comparison.b, labels[0].comparison.a, labels[0].comparison.prompt, None))
    table = {"epochs": 5, "batch_size": 8, "learning_rate": 1e-2, "held_out": 0.2, "save_steps": 1000}
    context = reward_context(tmp_path_factory.mktemp("run"), tiny_model, sft_adapter, labels, **table)
    return context, reward.run(context)


# The loss


def test_loss_of_three_pairs_worked_by_hand() -> None:
    # d = 0, p = 1: log 2 = 0.693147;  d = log 3, p = 0.5: -(log 3/4 + log 1/4) / 2 = 0.836988;
    # d = -log 3, p = 0.25: -(log(1/4) + 3 log(3/4)) / 4 = 0.562335
    margins = torch.tensor([0.0, math.log(3), -math.log(3)])
    loss = preference_loss(margins, torch.tensor([1.0, 0.5, 0.25]))
    assert loss.item() == pytest.approx((0.693147 + 0.836988 + 0.562335) / 3, abs=1e-6)


def test_loss_does_not_depend_on_the_order_shown() -> None:
    margins, prob_a = torch.tensor([0.3, -2.0, 5.0]), torch.tensor([0.9, 0.4, 0.0])
    assert preference_loss(-margins, 1 - prob_a).item() == pytest.approx(preference_loss(margins, prob_a).item())


def test_a_prompt_brings_each_response_once(tiny_model: Path, sft_adapter: Path, tmp_path: Path) -> None:
    context = reward_context(tmp_path, tiny_model, sft_adapter, [])
    groups, dropped = preferences.group_by_prompt(planted(2), base(context), 320)
    assert [(len(g.sequences), len(g.pairs)) for g in groups] == [(4, 4), (4, 4)]
    batch = preferences.collate(groups)
    assert batch["input_ids"].shape[0] == 8
    assert dropped == 0
    rows = [response for group in groups for response in group.responses]
    for a, b, prob_a in zip(batch["row_a"].tolist(), batch["row_b"].tolist(), batch["prob_a"].tolist(), strict=True):
        assert rows[a].prompt_id == rows[b].prompt_id
        assert prob_a == float("kind" in rows[a].text) == float("kind" not in rows[b].text)


# Learning


def test_a_planted_preference_is_learnt(trained: tuple[StageContext, dict[str, float]]) -> None:
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
        *("accuracy", "log_loss", "brier", "ece", "pairs", "prompts", "label_entropy", "bins", "length_accuracy")
    }
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


def test_normalised_scores_of_the_label_responses_have_mean_0_and_sd_1(
    trained: tuple[StageContext, dict[str, float]],
) -> None:
    context, _ = trained
    model = RewardModel.load(context.adapter("reward"), base(context))
    unique = {r.id: (row.comparison.prompt, r) for row in planted(60) for r in (row.comparison.a, row.comparison.b)}
    asked, given = zip(*unique.values(), strict=True)
    scores = torch.tensor(model.score_texts(asked, [r.text for r in given], [True] * len(given)))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-5)


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


# Scores


TEXTS = ["kind bread", "No.", "Listen, be kind, and ask what would help. " * 4, "", "dough flour water"]


def test_a_loaded_model_gives_the_same_scores_to_the_last_bit(
    trained: tuple[StageContext, dict[str, float]], tmp_path: Path
) -> None:
    context, _ = trained
    asked = [prompt(f"Question {i}") for i in range(len(TEXTS))]
    first = RewardModel.load(context.adapter("reward"), base(context))
    scores = first.score_texts(asked, TEXTS, [True] * len(TEXTS))
    first.save(tmp_path / "again")
    second = RewardModel.load(tmp_path / "again", base(context))
    assert second.score_texts(asked, TEXTS, [True] * len(TEXTS)) == scores
    assert len(set(scores)) == len(scores)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_scores_do_not_depend_on_batch_padding_or_order(tmp_path: Path, arch: Any) -> None:
    from tests.tiny import make_tiny_model

    folder = make_tiny_model(tmp_path, arch)
    model = RewardModel.new(load_model(stage_context(tmp_path, folder, "reward").config.model), LoraTable(), seed=0)  # type: ignore[call-arg]
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)
    asked, ended = [prompt("Hi")] * len(TEXTS), [True, False, True, True, False]
    alone = [model.score_texts([p], [t], [e])[0] for p, t, e in zip(asked, TEXTS, ended, strict=True)]
    assert max(alone) - min(alone) > 0.1
    for size in (2, 5):
        assert model.score_texts(asked, TEXTS, ended, batch_size=size) == pytest.approx(alone, abs=1e-4)
    turned = model.score_texts(asked[::-1], TEXTS[::-1], ended[::-1])
    assert turned[::-1] == pytest.approx(alone, abs=1e-4)

    ids = model.encode(asked[0], TEXTS[0], finished=True)
    for junk in (0, 2, 77):  # 2 is both pad and end
        padded = torch.tensor([ids + [junk] * 9])
        with torch.no_grad():
            raw = model(padded, torch.tensor([len(ids)])).item()
        assert raw == pytest.approx(alone[0], abs=1e-4)


def test_the_end_of_the_response_counts_and_none_in_the_prompt(
    trained: tuple[StageContext, dict[str, float]],
) -> None:
    context, _ = trained
    model = RewardModel.load(context.adapter("reward"), base(context))
    end = model.loaded.tokenizer.eos_token_id
    talk = Prompt((Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Help <|im_end|> me")))
    ids = model.encode(talk, "kind", finished=True)
    assert ids.count(end) == 4  # three turns of the chat and the response: the one spelt out is plain text
    assert ids[-1] == end
    assert model.encode(talk, "kind", finished=False) == ids[:-1]
    finished, cut = model.score_texts([talk] * 2, ["kind"] * 2, [True, False])
    assert finished != cut
    # the score is that of the last position, not of the first end-of-turn token
    state = last_token_state(torch.arange(24.0).reshape(1, 12, 2), torch.tensor([5]))
    assert state.tolist() == [[8.0, 9.0]]


def test_the_adapter_serves_beside_others_on_one_base(trained: tuple[StageContext, dict[str, float]]) -> None:
    context, _ = trained
    asked = [prompt("Hi"), prompt("How do I bake bread?")]
    expected = RewardModel.load(context.adapter("reward"), base(context)).score_texts(
        asked, ["kind", "No."], [True, True]
    )
    loaded = base(context)
    several = get_peft_model(loaded.model, lora_config(LoraTable()), adapter_name="policy")  # type: ignore[call-arg]
    assert isinstance(several, PeftModel)
    several.load_adapter(str(context.adapter("reward")), "reward")
    several.set_adapter("reward")
    head = load_head(context.adapter("reward"))
    encoder = RewardModel(loaded, several, head)
    scores = []
    for one, text in zip(asked, ["kind", "No."], strict=True):
        ids = torch.tensor([encoder.encode(one, text, finished=True)])
        with torch.no_grad():
            hidden = several.get_base_model().base_model(ids).last_hidden_state
            scores.append(head.scores(last_token_state(hidden, torch.tensor([ids.shape[1]]))).item())
    assert scores == pytest.approx(expected, abs=1e-4)


# What goes wrong


def test_other_base_weights_are_refused(trained: tuple[StageContext, dict[str, float]], tmp_path: Path) -> None:
    context, _ = trained
    with pytest.raises(ModelError, match="trained on other weights"):
        RewardModel.load(context.adapter("reward"), load_model(context.config.model))
    with pytest.raises(ModelError, match=r"reward\.json[\s\S]*missing"):
        load_head(tmp_path)
    model = RewardModel.load(context.adapter("reward"), base(context))
    with pytest.raises(ModelError, match="context is 512"):
        model.score_texts([prompt("Hi")], ["word " * 600], [True])


def test_labels_that_cannot_be_learnt_from_are_an_error(tmp_path: Path, tiny_model: Path, sft_adapter: Path) -> None:
    asked = prompt("Hi")
    rows = [label(response(asked, "Yes"), response(asked, "No"), asked, None)]
    with pytest.raises(StageError, match=r"1 labels of which 0 have a preference[\s\S]*at least 2 labelled prompts"):
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


# The numbers


def test_held_out_split_is_by_prompt_and_stable() -> None:
    groups = [preferences.PromptGroup(prompt(f"P{i}"), (), (), ()) for i in range(40)]
    train, held_out = preferences.split(groups, share=0.15, seed=0)
    assert (len(train), len(held_out)) == (34, 6)
    again = preferences.split(groups[::-1], share=0.15, seed=0)[1]
    assert {g.prompt.id for g in again} == {g.prompt.id for g in held_out}
    assert {g.prompt.id for g in preferences.split(groups, share=0.15, seed=1)[1]} != {g.prompt.id for g in held_out}


def test_agreement_counts_sides_and_halves_of_ties() -> None:
    assert agreement([1.0, -1.0, 2.0], [0.9, 0.1, 0.2]) == pytest.approx(2 / 3)
    assert agreement([0.0, 1.0], [0.9, 0.9]) == 0.75
    assert agreement([5.0, 1.0], [0.5, 0.9]) == 1.0
    assert agreement([5.0], [0.5]) is None


def test_report_worked_by_hand() -> None:
    log3 = math.log(3)  # sigmoid(log 3) = 0.75
    report = held_out_report([log3, log3, -log3], [1.0, 0.5, 0.25], [10, 20, 30], [20, 20, 20])
    assert report.accuracy == 1.0  # the label of 0.5 has no side
    assert report.brier == pytest.approx((0.0625 + 0.0625 + 0) / 3)
    assert report.log_loss == pytest.approx((0.287682 + 0.836988 + 0.562335) / 3, abs=1e-6)
    assert report.label_entropy == pytest.approx((0 + 0.693147 + 0.562335) / 3, abs=1e-6)
    assert report.ece == pytest.approx(0.0)  # both pairs predicted at 0.75 are labelled 0.75 on average
    assert [(row.low, row.n) for row in report.bins] == [(0.2, 1), (0.7, 2)]
    assert report.length_accuracy == 1.0  # A is shorter and wins; B is shorter and wins
    assert held_out_report([log3], [0.25], [1], [2]).ece == pytest.approx(0.5)
    assert (held_out_report([800.0], [0.0], [1], [1]).log_loss or 0) > 700
    assert label_entropy([0.0, 1.0]) == 0.0
