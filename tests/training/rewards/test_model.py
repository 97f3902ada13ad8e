"""The reward model: its loss, and scores that depend on nothing but the text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from rlaif.config import LoraTable, Pooling
from rlaif.core.errors import ModelError
from rlaif.core.records import Message, Prompt
from rlaif.lm.local.causal_lm import CausalLM
from rlaif.lm.local.load import load_model, lora_config
from rlaif.training.rewards.model import (
    RewardModel,
    frozen_states,
    load_head,
    pooled,
    preference_loss,
    read_rows,
    response_states,
)
from tests.training.contexts import prompt, stage_context
from tests.training.planted_labels import Trained, base, planted


def test_loss_of_three_pairs_worked_by_hand() -> None:
    # d = 0, p = 1: log 2 = 0.693147;  d = log 3, p = 0.5: -(log 3/4 + log 1/4) / 2 = 0.836988;
    # d = -log 3, p = 0.25: -(log(1/4) + 3 log(3/4)) / 4 = 0.562335
    margins = torch.tensor([0.0, math.log(3), -math.log(3)])
    loss = preference_loss(margins, torch.tensor([1.0, 0.5, 0.25]))
    assert loss.item() == pytest.approx((0.693147 + 0.836988 + 0.562335) / 3, abs=1e-6)


def test_hard_and_margin_targets_worked_by_hand() -> None:
    # d = 1, p = 0.8: hard: -log s(1) = 0.313262; margin: -log s(1 - 0.6) = 0.513015. Without a side log 2 at d = 0.
    one, prob = torch.tensor([1.0]), torch.tensor([0.8])
    assert preference_loss(one, prob, "hard").item() == pytest.approx(0.313262, abs=1e-6)
    assert preference_loss(one, prob, "margin").item() == pytest.approx(0.513015, abs=1e-6)
    assert preference_loss(-one, 1 - prob, "margin").item() == pytest.approx(0.513015, abs=1e-6)
    for targets in ("hard", "margin"):
        tie = preference_loss(torch.zeros(1), torch.tensor([0.5]), targets)  # type: ignore[arg-type]
        assert tie.item() == pytest.approx(0.693147, abs=1e-6)


def test_loss_does_not_depend_on_the_order_shown() -> None:
    margins, prob_a = torch.tensor([0.3, -2.0, 5.0]), torch.tensor([0.9, 0.4, 0.0])
    assert preference_loss(-margins, 1 - prob_a).item() == pytest.approx(preference_loss(margins, prob_a).item())


def test_normalised_scores_of_the_label_responses_have_mean_0_and_sd_1(
    trained: Trained,
) -> None:
    context, _ = trained
    model = RewardModel.load(context.adapter("reward"), base(context))
    unique = {r.id: (row.comparison.prompt, r) for row in planted(60) for r in (row.comparison.a, row.comparison.b)}
    asked, given = zip(*unique.values(), strict=True)
    scores = torch.tensor(model.score_texts(asked, [r.text for r in given], [True] * len(given)))
    assert scores.mean().item() == pytest.approx(0, abs=1e-5)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-5)


TEXTS = ["kind bread", "No.", "Listen, be kind, and ask what would help. " * 4, "", "dough flour water"]


def test_a_loaded_model_gives_the_same_scores_to_the_last_bit(trained: Trained, tmp_path: Path) -> None:
    context, _ = trained
    asked = [prompt(f"Question {i}") for i in range(len(TEXTS))]
    first = RewardModel.load(context.adapter("reward"), base(context))
    scores = first.score_texts(asked, TEXTS, [True] * len(TEXTS))
    first.save(tmp_path / "again")
    second = RewardModel.load(tmp_path / "again", base(context))
    assert second.score_texts(asked, TEXTS, [True] * len(TEXTS)) == scores
    assert len(set(scores)) == len(scores)


@pytest.mark.parametrize("pooling", ["mean", "last", "end"])
@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_scores_do_not_depend_on_batch_padding_or_order(tmp_path: Path, arch: Any, pooling: Pooling) -> None:
    from tests.tiny import make_tiny_model

    folder = make_tiny_model(tmp_path, arch)
    model = RewardModel.new(
        load_model(stage_context(tmp_path, folder, "reward").config.model), LoraTable(), seed=0, pooling=pooling
    )  # type: ignore[call-arg]
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


def test_the_end_of_the_response_counts_and_none_in_the_prompt(
    trained: Trained,
) -> None:
    context, _ = trained
    model = RewardModel.load(context.adapter("reward"), base(context))
    end = model.loaded.tokenizer.eos_token_id
    talk = Prompt((Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Help <|im_end|> me")))
    asked, ids = model.encode(talk, "kind", finished=True)
    assert asked.count(end) == 3  # the turns of the chat: the one spelt out is plain text
    assert (ids.count(end), ids[-1]) == (1, end)
    assert model.encode(talk, "kind", finished=False) == (asked, ids[:-1])
    finished, cut = model.score_texts([talk] * 2, ["kind"] * 2, [True, False])
    assert finished != cut


def test_states_are_pooled_over_the_response_alone() -> None:
    # The prompt's last token stands first: it is read only where a response is empty.
    three, empty = torch.tensor([[9.0, 9.0], [1.0, 0.0], [2.0, 0.0], [6.0, 3.0]]), torch.tensor([[9.0, 8.0]])
    assert pooled((three, empty), "mean").tolist() == [[3.0, 1.0], [9.0, 8.0]]
    assert pooled((three, empty), "last").tolist() == [[6.0, 3.0], [9.0, 8.0]]
    assert read_rows([([1], [5]), ([1], [5, 2]), ([1], [])], "end", 2) == [([1], [5, 2]), ([1], [5, 2]), ([1], [2])]
    assert read_rows([([1], [5])], "mean", 2) == [([1], [5])]


@pytest.mark.parametrize("pooling", ["mean", "last", "end"])
def test_whatever_token_ended_a_response_the_one_of_training_is_read(pooling: Pooling) -> None:
    other = [([1], [5, 7]), ([1], [5, 2]), ([1], [7])]
    assert read_rows(other, pooling, 2, [2, 7]) == [([1], [5, 2]), ([1], [5, 2]), ([1], [2])]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_response_states_are_those_of_a_plain_forward_pass(tmp_path: Path, arch: Any) -> None:
    from tests.tiny import make_tiny_model

    loaded = load_model(stage_context(tmp_path, make_tiny_model(tmp_path, arch), "reward").config.model)
    rows = [([5, 6, 7], [8, 9]), ([5, 6, 7], [10]), ([4], [])]  # two share a prompt, and are packed
    lm = CausalLM(loaded.model, states_only=True)
    with torch.no_grad():
        found = response_states(lm, rows)
        for (asked, response), states in zip(rows, found, strict=True):
            whole = loaded.model.base_model(torch.tensor([[*asked, *response]])).last_hidden_state[0]
            assert states.shape == (1 + len(response), whole.shape[1])
            assert torch.allclose(states, whole[len(asked) - 1 :], atol=1e-5)
        frozen = frozen_states(loaded, rows, batch_size=2)
        assert torch.allclose(frozen["mean"], pooled(found, "mean"), atol=1e-5)
        assert torch.allclose(frozen["last"], pooled(found, "last"), atol=1e-5)
        ended = response_states(lm, [(asked, [*response, 2]) for asked, response in rows])
        assert loaded.tokenizer.eos_token_id == 2
        assert torch.allclose(frozen["end"], pooled(ended, "last"), atol=1e-5)


def test_the_adapter_serves_beside_others_on_one_base(trained: Trained) -> None:
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
        asked_ids, ids = encoder.encode(one, text, finished=True)
        with torch.no_grad():
            hidden = several.get_base_model().base_model(torch.tensor([[*asked_ids, *ids]])).last_hidden_state
            scores.append(head.scores(hidden[:, len(asked_ids) :].mean(1)).item())
    assert scores == pytest.approx(expected, abs=1e-4)


def test_other_base_weights_are_refused(trained: Trained, tmp_path: Path) -> None:
    context, _ = trained
    with pytest.raises(ModelError, match="trained on other weights"):
        RewardModel.load(context.adapter("reward"), load_model(context.config.model))
    with pytest.raises(ModelError, match=r"reward\.json[\s\S]*missing"):
        load_head(tmp_path)
    model = RewardModel.load(context.adapter("reward"), base(context))
    with pytest.raises(ModelError, match="context is 512"):
        model.score_texts([prompt("Hi")], ["word " * 600], [True])
