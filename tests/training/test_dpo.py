"""The loss of DPO: each pair's own probability, against formulas in float64 and against TRL's own loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import DPOTrainer

from rlaif.config import DpoConfig, ModelConfig
from rlaif.core.files import MetricsLog
from rlaif.core.progress import Silent
from rlaif.lm.local.load import LoadedModel, load_model
from rlaif.training import dpo
from rlaif.training.rewards import preferences
from tests.tiny import Arch, make_tiny_model
from tests.training.contexts import prompt, response
from tests.training.planted_labels import label, planted

TABLE = DpoConfig.model_validate({"beta": 0.5, "batch_size": 3, "lora_r": 4})
ROWS: list[dpo.DpoRow] = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 10, 2], "rejected_ids": [11, 12], "prob": 0.9},
    {"prompt_ids": [20, 21], "chosen_ids": [22], "rejected_ids": [23, 24, 25, 26, 2], "prob": 0.5},
    {"prompt_ids": [30, 31, 32, 33], "chosen_ids": [34, 35], "rejected_ids": [36], "prob": 0.7},
]


def loaded_from(folder: Path, dtype: str = "float32") -> LoadedModel:
    return load_model(ModelConfig.model_validate({"source": str(folder), "dtype": dtype, "device": "cpu"}))


class CaughtError(Exception):
    """Ends the training with its trainer."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer


def trainer_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: DpoConfig = TABLE) -> Any:
    """The trainer as the stage sets it up, its adapter moved off zero."""

    def catch(stage: str, trainer: Any, *_: Any) -> None:
        raise CaughtError(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(dpo.hf_trainer, "train", catch)
        metrics, checkpoints = MetricsLog(tmp_path / "metrics.jsonl"), tmp_path / "checkpoints"
        with pytest.raises(CaughtError) as caught:
            dpo.train(
                loaded_from(folder), ROWS, table, seed=1, checkpoints=checkpoints, metrics=metrics, progress=Silent()
            )
    trainer = caught.value.trainer
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    return trainer


def by_hand(trainer: Any, row: dpo.DpoRow, beta: float) -> float:
    """d of a pair, in float64, each answer alone behind its prompt in a plain pass."""
    model = trainer.model.double()

    def logprob(answer: list[int]) -> float:
        ids = row["prompt_ids"] + answer
        with torch.no_grad():
            rows = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        start = len(row["prompt_ids"]) - 1
        return sum(rows[start + i, token].item() for i, token in enumerate(answer))

    gap = logprob(row["chosen_ids"]) - logprob(row["rejected_ids"])
    with model.disable_adapter():
        gap -= logprob(row["chosen_ids"]) - logprob(row["rejected_ids"])
    model.float()
    return beta * gap


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize("targets", ["soft", "hard"])
@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_the_loss_is_that_of_each_pairs_probability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: Arch, targets: str
) -> None:
    table = TABLE.model_copy(update={"targets": targets})
    trainer = trainer_on(make_tiny_model(tmp_path / "model", arch), tmp_path, monkeypatch, table)
    rows = ROWS if targets == "soft" else [ROWS[0], ROWS[2]]  # a tie has no side
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    margins = [by_hand(trainer, row, 0.5) for row in rows]
    probs = [row["prob"] if targets == "soft" else 1.0 for row in rows]
    expected = [
        -p * log_sigmoid(d) - ((1 - p) * log_sigmoid(-d) if p < 1 else 0) for d, p in zip(margins, probs, strict=True)
    ]
    assert min(abs(d) for d in margins) > 1e-3  # the adapter does something
    assert loss.item() == pytest.approx(sum(expected) / len(rows), abs=1e-5)
    assert trainer.measured["margin"] == pytest.approx(sum(margins) / len(rows), abs=1e-5)
    sided = [d > 0 for d, row in zip(margins, rows, strict=True) if row["prob"] != 0.5]
    assert trainer.measured["accuracy"] == sum(sided) / len(sided)


def test_with_hard_targets_loss_and_gradient_are_trls_own(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_on(tiny_model, tmp_path, monkeypatch, TABLE.model_copy(update={"targets": "hard"}))
    rows = [ROWS[0], ROWS[2]]
    plain = {name: value for name, value in trainer.data_collator(rows).items() if name != "prob"}
    found = []
    for loss in (
        trainer.compute_loss(trainer.model, trainer.data_collator(rows)),
        DPOTrainer.compute_loss(trainer, trainer.model, plain),
    ):
        trainer.model.zero_grad()
        loss.backward()
        gradient = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
        found.append((loss.detach(), gradient))
    (ours, mine), (theirs, its) = found
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert len(mine) == len(its) > 0
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, its, strict=True))


def test_a_row_has_the_preferred_answer_first_and_its_end_where_it_ended(tiny_model: Path) -> None:
    asked, loaded = prompt("Hi"), loaded_from(tiny_model)
    good, cut, other = response(asked, "Yes, thank you."), response(asked, "No", finish="length"), response(asked, "Oh")
    labels = [label(cut, good, asked, 0.25), label(other, cut, asked, 0.5), label(good, other, asked, None)]
    groups, *_ = preferences.group_by_prompt(labels, loaded, 320)
    first, tie = dpo.pair_rows(groups)
    end = loaded.tokenizer.eos_token_id
    text = [loaded.tokenizer.decode(first[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    assert text == ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Yes, thank you.<|im_end|>", "No"]
    assert first["prob"] == 0.75
    assert (tie["prob"], loaded.tokenizer.decode(tie["chosen_ids"])) == (0.5, "Oh<|im_end|>")
    assert tie["rejected_ids"][-1] != end


def test_the_ids_are_those_that_the_rows_hold(tmp_path: Path, tiny_model: Path) -> None:
    """TRL would tokenise texts anew; these go through as they are."""
    rows = dpo.pair_rows(preferences.group_by_prompt(planted(2), loaded_from(tiny_model), 320)[0])
    collator = dpo._Collator(pad_token_id=0)
    batch = collator(rows[:2])
    wanted = [row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids") for row in rows[:2]]
    assert [
        ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ] == (wanted)
    assert batch["prob"].tolist() == [1.0, 1.0]
