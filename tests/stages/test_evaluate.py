"""The stage on a scripted model and the random judge: what it writes, what it leaves out, and how it resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaif.config import ModelConfig
from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import Comparison, Message, PreferenceLabel, Prompt, Response
from rlaif.judge.gold_agreement import read_agreement
from rlaif.lm.local.load import encode_chat, encode_text, load_model
from rlaif.lm.local.model import LocalModel
from rlaif.lm.protocol import LanguageModel
from rlaif.stages import evaluate
from rlaif.stages.summary import LogprobRow
from tests.stages.evaluation_run import LOGPROB, PROMPTS, config, context_in, summary_in

Log = list[tuple[str, str, int]]
FILES = ("responses.jsonl", "labels.jsonl", "logprobs.jsonl", "scores.jsonl", "summary.json")


def test_the_whole_stage(tmp_path: Path) -> None:
    log: Log = []
    counts = evaluate.run(context_in(tmp_path, log))
    answers = JsonlFile(tmp_path / "evaluate/responses.jsonl", Response).read()
    labels = JsonlFile(tmp_path / "evaluate/labels.jsonl", PreferenceLabel).read()

    # 8 prompts x 2 samples x 3 models; 3 pairs of models x 16 pairs of answers
    assert counts["responses"] == len(answers) == 48
    assert counts["labels"] == len(labels) == 48
    assert counts["prompts"] == 8
    assert counts["answer_tokens"] == sum(len(row.text.split()) for row in answers)
    assert len({row.seed for row in answers}) == 48  # no two draws alike, not even between models

    # a pair is of one prompt, and its a is the model that the win rate is of
    assert {(row.comparison.a.model, row.comparison.b.model) for row in labels} == {
        ("ppo", "sft"),
        ("sft", "base"),
        ("ppo", "base"),
    }
    assert all(row.comparison.a.prompt_id == row.comparison.b.prompt_id == row.comparison.prompt.id for row in labels)

    # one policy at a time, PPO before SFT, base last, and each closed before the next
    visits = [(name, what) for name, what, _ in log if what in ("open", "close")]
    assert visits == [(name, what) for name in ("ppo", "sft", "base") for what in ("open", "close")]


@pytest.mark.parametrize("align_by", [["dpo"], ["ppo", "dpo"]])
def test_dpo_stands_in_the_place_of_ppo_or_beside_it(tmp_path: Path, align_by: list[str]) -> None:
    log: Log = []
    settings = config().model_copy(update={"align_by": align_by})
    counts = evaluate.run(context_in(tmp_path, log, adapters=("sft", *align_by), settings=settings))
    summary = summary_in(tmp_path)
    assert summary["models"] == ["base", "sft", *align_by]
    wanted = {(first, second) for first in align_by for second in ("sft", "base")} | {("sft", "base")}
    wanted |= {("ppo", "dpo")} if len(align_by) == 2 else set()
    assert {(rate["model"], rate["against"]) for rate in summary["win_rates"]} == wanted
    assert {row["model"]: row["per_token"] for row in summary["kl"]} == {
        name: {"ppo": 0.25, "dpo": 0.125}[name] for name in align_by
    }
    # SFT scores the answers of both in one visit
    opened = [name for name, what, _ in log if what == "open"]
    assert opened == [*align_by, "sft", "base"]
    assert any(note.startswith("win rates of DPO: it learnt this judge's labels") for note in summary["notes"])
    for name in align_by:
        assert {f"kl_{name}_v_sft_harmful", f"words_{name}_minus_sft_harmful"} <= counts.keys()


def test_dpo_that_is_not_there_yet_is_noted(tmp_path: Path) -> None:
    settings = config().model_copy(update={"align_by": ["dpo"]})
    evaluate.run(context_in(tmp_path, [], adapters=("sft",), settings=settings))
    notes = summary_in(tmp_path)["notes"]
    assert "dpo not evaluated: there is no adapter of the stage dpo" in notes
    assert "KL not measured: it needs the SFT adapter and that of PPO or DPO" in notes


class Killed(BaseException):
    pass


@pytest.mark.parametrize("survives", [0, 4, 6, 11, 15, 19, 29, 30, 45])
def test_killed_and_run_again_it_ends_with_the_same_files(tmp_path: Path, survives: int) -> None:
    """46 model calls: 6 of PPO, 6 that score PPO's answers by PPO, 6 and 6 by SFT, 6 of base, 16 that score all 48."""
    whole = tmp_path / "whole"
    log: Log = []
    evaluate.run(context_in(whole, log))
    calls: Log = [entry for entry in log if entry[1] in ("generate", "score")]

    left = [survives]

    class Dying:
        def __init__(self, model: LanguageModel) -> None:
            self._model = model

        def __getattr__(self, name: str) -> Any:
            if name == "ask":
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return getattr(self._model, name)

    cut = tmp_path / "cut"
    first: Log = []
    second: Log = []
    with pytest.raises(Killed):
        evaluate.run(context_in(cut, first, wrap=Dying))
    scoring = 6 <= survives < 12 or 18 <= survives < 24 or survives >= 30
    with (cut / "evaluate" / ("logprobs.jsonl" if scoring else "responses.jsonl")).open("a") as file:
        file.write('{"prompt_id": "half a li')
    evaluate.run(context_in(cut, second))
    for name in FILES:
        assert (cut / "evaluate" / name).read_text() == (whole / "evaluate" / name).read_text(), name
    done = [entry for entry in first + second if entry[1] in ("generate", "score")]
    assert sorted(done) == sorted(calls)  # nothing was asked twice, and nothing in another batch


def test_a_chunk_of_which_only_a_part_was_written_is_done_again_whole(tmp_path: Path) -> None:
    evaluate.run(context_in(tmp_path, []))
    path = tmp_path / "evaluate/responses.jsonl"
    before = {row.id for row in JsonlFile(path, Response).read()}
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    log: Log = []
    evaluate.run(context_in(tmp_path, log))
    assert {row.id for row in JsonlFile(path, Response).read()} == before
    assert len(path.read_text().splitlines()) == 48
    assert [entry for entry in log if entry[1] == "generate"] == [("base", "generate", 1)]  # 16 answers in chunks of 3


@pytest.mark.parametrize("kept", [0, 3, 16, 47])
def test_labels_lost_in_a_crash_are_judged_again_and_no_others(tmp_path: Path, kept: int) -> None:
    evaluate.run(context_in(tmp_path, []))
    path, summary = tmp_path / "evaluate/labels.jsonl", summary_in(tmp_path)
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    path.write_text("".join(lines[:kept]) + lines[kept][:40])
    evaluate.run(context_in(tmp_path, []))
    assert path.read_text() == text
    assert summary_in(tmp_path) == summary


def test_finished_work_opens_no_model(tmp_path: Path) -> None:
    first = evaluate.run(context_in(tmp_path, []))
    log: Log = []
    assert evaluate.run(context_in(tmp_path, log)) == first
    assert log == []


def test_a_stage_that_was_not_run_is_left_out_with_a_note(tmp_path: Path) -> None:
    counts = evaluate.run(context_in(tmp_path, [], adapters=("sft",)))
    summary = summary_in(tmp_path)
    assert summary["models"] == ["base", "sft"]
    assert summary["kl"] == []
    assert any("ppo not evaluated" in note for note in summary["notes"])
    assert any("KL not measured" in note for note in summary["notes"])
    assert {(w["model"], w["against"]) for w in summary["win_rates"]} == {("sft", "base")}
    assert not any("ppo" in name for name in counts)


def test_an_abstention_is_no_failure(tmp_path: Path) -> None:
    settings = config("random")
    judge = settings.judge.model_copy(update={"abstain_below": 0.25})
    counts = evaluate.run(context_in(tmp_path, [], settings=settings.model_copy(update={"judge": judge})))
    assert 0 < counts["abstained"] == counts["labels_unscored"] < counts["labels"]
    assert counts["failed"] == 0


def test_answers_that_failed_are_counted_and_not_asked_for_again(tmp_path: Path) -> None:
    prompts = (*PROMPTS, Prompt((Message("user", "fail please"),), slice="harmful"))
    counts = evaluate.run(context_in(tmp_path, [], prompts=prompts))
    assert counts["responses"] == 48
    assert (counts["failed_context_overflow"], counts["failed"], counts["abstained"]) == (6, 6, 0)
    ppo = next(w for w in summary_in(tmp_path)["win_rates"] if (w["model"], w["slice"]) == ("ppo", "harmful"))
    assert (ppo["scored"], ppo["unscored"]) == (10, 2)
    assert any("2 of 12 pairs have no label" in note for note in summary_in(tmp_path)["notes"])
    log: Log = []
    evaluate.run(context_in(tmp_path, log, prompts=prompts))
    assert log == []


def test_a_judge_that_sees_no_difference_gives_one_half_and_is_opened_last(tmp_path: Path) -> None:
    """The scripted judge gives every token the same log-probability with and without the principle."""
    log: Log = []
    evaluate.run(context_in(tmp_path, log, settings=config("contrast")))
    rates = summary_in(tmp_path)["win_rates"]
    assert len(rates) == 6
    assert all((w["rate"], w["unscored"]) == (0.5, 0) for w in rates)
    assert all(w["low"] < 0.5 < w["high"] for w in rates), "a few ties are no certainty"
    names = [name for name, what, _ in log if what == "open"]
    assert names == ["ppo", "sft", "base", "judge"]


def test_base_model_says_how_likely_it_finds_every_answer(tmp_path: Path) -> None:
    """It gives each word -2 nats, whoever wrote it; a second start reads that back."""
    evaluate.run(context_in(tmp_path, []))
    rows = JsonlFile(tmp_path / "evaluate/logprobs.jsonl", LogprobRow).read()
    assert sum(row.model == "base" for row in rows) == 48
    scores = [json.loads(line) for line in (tmp_path / "evaluate/scores.jsonl").read_text().splitlines()]
    assert {row["base_logprob"] for row in scores} == {LOGPROB["base"]}
    cells = [cell for cell in summary_in(tmp_path)["cells"] if cell["measure"] == "base_logprob"]
    assert [(cell["model"], cell["slice"], cell["mean"], cell["difference"]) for cell in cells] == [
        (model, part, -2.0, None if model == "sft" else 0.0)
        for part in ("harmful", "harmless")
        for model in ("base", "sft", "ppo")
    ]


def test_kl_is_that_of_the_distributions_that_were_sampled_from(
    tmp_path: Path, tiny_model: Path, sft_adapter: Path
) -> None:
    """By hand: the tiny model with an adapter against the one without, their logits divided by 0.7."""
    table = ModelConfig(source=str(tiny_model), dtype="float32", device="cpu")
    loaded = {"sft": load_model(table), "ppo": load_model(table, (sft_adapter,))}
    settings = config(gold=["sentiment"], temperature=0.7, max_new_tokens=8, samples=1)
    context = context_in(tmp_path, [], settings=settings)
    context.limit = 2

    def open_policy(folders: tuple[Path, ...]) -> LanguageModel:
        return LocalModel(loaded["ppo" if len(folders) == 2 else "sft"])

    evaluate.run(replace(context, open_policy=open_policy))
    answers = [row for row in JsonlFile(tmp_path / "evaluate/responses.jsonl", Response) if row.model == "ppo"]
    prompts = {prompt.id: prompt for prompt in PROMPTS}

    def logprob(name: str, row: Response, temperature: float) -> float:
        model, tokenizer = loaded[name].model, loaded[name].tokenizer
        chat, text = encode_chat(tokenizer, prompts[row.prompt_id].messages), encode_text(tokenizer, row.text)
        logits = model(input_ids=torch.tensor([chat + text])).logits[0, len(chat) - 1 : -1]
        return float((logits / temperature).log_softmax(-1)[range(len(text)), text].sum())

    def divergence(rows: list[Response], temperature: float) -> float:
        each = [logprob("ppo", row, temperature) - logprob("sft", row, temperature) for row in rows]
        return sum(each) / len(each)

    summary = summary_in(tmp_path)
    for part in ("harmful", "harmless"):
        own = [row for row in answers if prompts[row.prompt_id].slice == part]
        found = next(row for row in summary["kl"] if row["slice"] == part)
        assert (found["n"], found["mean"]) == (len(own), pytest.approx(divergence(own, 0.7), abs=1e-3))
        assert abs(divergence(own, 1.0) - divergence(own, 0.7)) > 1e-2, "the temperature makes a difference here"
    assert any(note.startswith("KL") and "at temperature 0.7" in note for note in summary["notes"])

    rows = JsonlFile(tmp_path / "evaluate/logprobs.jsonl", LogprobRow).read()
    assert {(row.model, row.temperature) for row in rows} == {("ppo", 0.7), ("sft", 0.7), ("base", 1.0)}
    base = {row.response_id: row.logprob for row in rows if row.model == "base"}
    assert all(base[row.id] == pytest.approx(logprob("sft", row, 1.0), abs=1e-3) for row in answers)


def test_likeliest_answers_have_their_kl_at_temperature_one(tmp_path: Path) -> None:
    evaluate.run(context_in(tmp_path, [], settings=config(temperature=0.0)))
    rows = JsonlFile(tmp_path / "evaluate/logprobs.jsonl", LogprobRow).read()
    assert {row.temperature for row in rows} == {1.0}


def test_without_held_out_prompts_the_error_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="held_out"):
        evaluate.run(context_in(tmp_path, [], prompts=()))


def test_the_config_decides_samples_scorers_and_limits(tmp_path: Path) -> None:
    context = context_in(tmp_path, [], settings=config(samples=1, gold=["sentiment"], temperature=0.5))
    context.limit = 2
    counts = evaluate.run(context)
    assert counts["responses"] == 3 * 4
    assert "sentiment" in summary_in(tmp_path)["measures"]
    assert "toxicity" not in summary_in(tmp_path)["measures"]
    rows = JsonlFile(tmp_path / "evaluate/responses.jsonl", Response).read()
    assert {row.temperature for row in rows} == {0.5}


def test_gold_is_asked_of_the_labels_that_there_are(tmp_path: Path) -> None:
    context = context_in(tmp_path, [])
    evaluate.run(context)
    assert read_agreement(context.run) is None
    prompt = PROMPTS[0]
    a, b = (Response(prompt.id, text, "sft followed", 0, 1.0, "stop", 3) for text in ("You idiot, damn you", "Hello"))
    label = PreferenceLabel(Comparison(prompt, a, b), 0.1, (), answers="contrast", principle_id="kind")
    JsonlFile(context.run.file("label", "labels.jsonl"), PreferenceLabel).append([label])
    evaluate.run(context)
    found = read_agreement(context.run)
    assert found is not None
    assert [(row.answers, row.gold, row.share.mean, row.share.n) for row in found.rows] == [
        ("contrast", "toxicity", 1.0, 1)
    ]
