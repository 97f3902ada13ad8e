"""The sft stage: what is learnt from, what the loss sees, that it learns, and that a killed run ends the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import Critique, Prompt, Revision, RevisionRound, RevisionTrace, SftExample
from rlaif.lm.local.load import encode_chat, load_model
from rlaif.stages import sft
from rlaif.stages.context import StageContext
from rlaif.training import hf_trainer as loop
from rlaif.training.sft import encode_example
from tests.training.contexts import Heard, prompt, response, stage_context

PHRASE = "I would rather help you."


def revised(to: Prompt, text: str, *, accepted: bool = True, finish: Any = "stop") -> RevisionTrace:
    better = Revision(response(to, text, finish=finish, seed=1), 0.9, accepted)
    turn = RevisionRound(0, "kind", Critique("It is unkind.", False, 0), (better,))
    return RevisionTrace(to, response(to, "No."), (turn,), "c")


def helpful(to: Prompt, text: str) -> RevisionTrace:
    return RevisionTrace(to, response(to, text), (), "c")


def traces(n: int = 12) -> list[RevisionTrace]:
    return [revised(prompt(f"Question {i}{' please' * (i % 5)}"), PHRASE) for i in range(n)]


def write(context: StageContext, rows: list[RevisionTrace]) -> StageContext:
    JsonlFile(context.run.file("revise", "traces.jsonl"), RevisionTrace).append(rows)
    return context


def test_a_planted_phrase_is_learnt_and_said(tmp_path: Path, tiny_model: Path) -> None:
    table = {"epochs": 10, "batch_size": 4, "learning_rate": 2e-2, "save_steps": 1000}
    context = write(stage_context(tmp_path, tiny_model, "sft", sft=table), traces())
    counts = sft.run(context)

    assert counts["steps"] == 30
    assert counts["loss_first"] > 5.0  # about log 400, the vocabulary
    assert counts["loss_last"] < 0.2
    loaded = load_model(context.config.model, (context.adapter("sft"),))
    ids = torch.tensor([encode_chat(loaded.tokenizer, prompt("Question 99").messages)])
    with torch.no_grad():
        out = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40)
    answer = loaded.tokenizer.decode(out[0, ids.shape[1] :])
    assert answer == PHRASE + "<|im_end|>"  # and it learnt to stop


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_left_behind(tmp_path: Path, tiny_model: Path, dtype: str) -> None:
    model = {"source": str(tiny_model), "dtype": dtype, "device": "cpu"}
    context = write(stage_context(tmp_path, tiny_model, "sft", model=model, sft={"batch_size": 4}), traces(10))
    counts = sft.run(context)

    assert sorted(path.name for path in context.folder.iterdir()) == ["adapter", "examples.jsonl", "metrics.jsonl"]
    weights = load_file(context.adapter("sft") / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert json.loads((context.adapter("sft") / "adapter_config.json").read_text())["r"] == 16
    rows = context.metrics.read()
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["epoch"] for row in rows] == [0.4, 0.8, 1.0]
    assert set(rows[0]) == {"step", "epoch", "loss", "token_accuracy"}
    examples = JsonlFile(context.folder / "examples.jsonl", SftExample).read()
    assert [example.response for example in examples] == [PHRASE] * 10
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert counts["trained_tokens"] == 10 * (len(tokenizer(PHRASE)["input_ids"]) + 1)  # + the end


def test_loss_of_the_first_step_is_that_of_the_responses_alone(tmp_path: Path, tiny_model: Path) -> None:
    rows = [revised(prompt("Hi"), "Yes, thank you."), revised(prompt("A longer question, please"), "No.")]
    context = write(stage_context(tmp_path, tiny_model, "sft", sft={"batch_size": 2}), rows)
    counts = sft.run(context)

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    losses = []
    for text, answer in (("Hi", "Yes, thank you."), ("A longer question, please", "No.")):
        head = tokenizer(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        tail = tokenizer(answer + "<|im_end|>")["input_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        losses += [-logprobs[len(head) - 1 + i, token].item() for i, token in enumerate(tail)]
    assert counts["loss_first"] == pytest.approx(sum(losses) / len(losses), abs=1e-3)


def test_a_run_killed_after_a_checkpoint_ends_as_the_uncut_one(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-3, "save_steps": 2}
    whole = write(stage_context(tmp_path / "whole", tiny_model, "sft", sft=table), traces(10))
    sft.run(whole)

    cut = write(stage_context(tmp_path / "cut", tiny_model, "sft", sft=table), traces(10))
    log = loop._Reporter.on_log

    def die(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        log(self, args, state, control, logs, **rest)
        if state.global_step == 6:  # after the checkpoint of step 4, in the second epoch
            raise KeyboardInterrupt

    def die_at_the_end(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._Reporter, "on_log", die)
    with pytest.raises(KeyboardInterrupt):
        sft.run(cut)
    assert not cut.adapter("sft").exists()
    newest = max((cut.folder / "checkpoints").glob("*/checkpoint-*"))
    assert newest.name == "checkpoint-4"
    (newest.parent / "checkpoint-6").mkdir()  # a kill in the middle of the next checkpoint
    monkeypatch.setattr(loop._Reporter, "on_log", log)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "write_folder", die_at_the_end)
        with pytest.raises(KeyboardInterrupt):  # and again, with all steps done
            sft.run(cut)
    sft.run(cut)

    assert [row["step"] for row in cut.metrics.read()] == list(range(1, 9))
    for one, other in zip(whole.metrics.read(), cut.metrics.read(), strict=True):
        assert other == pytest.approx(one, rel=1e-6)
    before = load_file(whole.adapter("sft") / "adapter_model.safetensors")
    after = load_file(cut.adapter("sft") / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)


def test_examples_mix_revisions_with_helpful_answers(tmp_path: Path) -> None:
    rows = traces(4) + [helpful(prompt(f"Bread {i}"), "Mix flour and water.") for i in range(10)]
    rows += [revised(prompt("Rejected"), "Better.", accepted=False), revised(prompt("Empty"), " ")]
    for ratio, expected in ((0.0, 0), (0.5, 2), (1.0, 4), (9.0, 10)):
        examples = sft.select_examples(rows, helpful_ratio=ratio, seed=0)
        assert [example.kind for example in examples] == ["revision"] * 4 + ["helpful"] * expected
    chosen = [example.id for example in sft.select_examples(rows, helpful_ratio=1.0, seed=0)]
    assert (
        chosen
        == [example.id for example in sft.select_examples(rows[::-1], helpful_ratio=1.0, seed=0)][3::-1]
        + [example.id for example in sft.select_examples(rows[::-1], helpful_ratio=1.0, seed=0)][4:]
    )
    assert chosen != [example.id for example in sft.select_examples(rows, helpful_ratio=1.0, seed=1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two. Three four. Five", ("One two. Three four.", True)),
        ("One. Two three four five", ("One. Two three four five", False)),  # would keep 1 of 5 words
        ('He said "no." Then', ('He said "no."', True)),
        ("It costs 3.50 and more", ("It costs 3.50 and more", False)),
        ("no end at all", ("no end at all", False)),
        ("你好。再见", ("你好。", True)),
    ],
)
def test_a_cut_off_answer_ends_at_its_last_sentence(text: str, expected: tuple[str, bool]) -> None:
    assert sft.end_at_sentence(text) == expected


def test_only_text_that_ends_teaches_to_end(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    cut = sft.select_examples([revised(prompt("Hi"), "and then we", finish="length")], helpful_ratio=1, seed=0)[0]
    whole = sft.select_examples([revised(prompt("Hi"), "and then we")], helpful_ratio=1, seed=0)[0]
    row, full = encode_example(tokenizer, cut), encode_example(tokenizer, whole)
    assert full["input_ids"] == row["input_ids"] + [tokenizer.eos_token_id]
    trained = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(trained) == "and then we"
    assert row["input_ids"][-len(trained) :] == trained


def test_over_long_examples_are_counted_and_left_out(tmp_path: Path, tiny_model: Path) -> None:
    heard = Heard()
    rows = [*traces(3), revised(prompt("Long"), "word " * 60)]
    context = write(stage_context(tmp_path, tiny_model, "sft", sft={"max_length": 64}), rows)
    context.progress = heard
    assert sft.run(context)["dropped_too_long"] == 1
    assert heard.lines == ["  sft: 1 of 4 examples are longer than 64 tokens and left out"]


def test_nothing_to_learn_from_is_an_error(tmp_path: Path, tiny_model: Path) -> None:
    rejected = [revised(prompt("Hi"), "Better.", accepted=False), helpful(prompt("Bread"), "Mix flour.")]
    with pytest.raises(StageError, match=r"no revision was accepted[\s\S]*revise\.gate"):
        sft.run(write(stage_context(tmp_path / "none", tiny_model, "sft"), rejected))
    context = write(stage_context(tmp_path / "long", tiny_model, "sft", sft={"max_length": 16}), traces(2))
    with pytest.raises(StageError, match=r"longer than 16 tokens[\s\S]*sft\.max_length"):
        sft.run(context)


def test_a_loss_that_is_not_a_number_stops_the_stage(tmp_path: Path, tiny_model: Path) -> None:
    table = {"learning_rate": 1e30, "batch_size": 2, "epochs": 4}
    with pytest.raises(StageError, match=r"the loss is nan at step \d+[\s\S]*learning_rate"):
        sft.run(write(stage_context(tmp_path, tiny_model, "sft", sft=table), traces(4)))
