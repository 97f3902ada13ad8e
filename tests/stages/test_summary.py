"""The summary of an evaluation: its numbers are those of the files, and its notes say what they mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif.core.evaluation import read_summary
from rlaif.stages import evaluate
from tests.stages.evaluation_run import config, context_in, summary_in


def test_summary_has_the_numbers_of_the_files(tmp_path: Path) -> None:
    evaluate.run(context_in(tmp_path, []))
    summary = summary_in(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "evaluate/scores.jsonl").read_text().splitlines()]
    assert (summary["models"], summary["slices"]) == (["base", "sft", "ppo"], ["harmful", "harmless"])
    assert list(summary["measures"]) == ["toxicity", "words", "finished", "distinct_2", "repetition", "refusal"]
    assert len(summary["cells"]) == 3 * 2 * 6

    def mean_words(model: str, part: str) -> float:
        words = [row["words"] for row in rows if (row["model"], row["slice"]) == (model, part)]
        return float(sum(words) / len(words))

    cell = next(c for c in summary["cells"] if (c["model"], c["slice"], c["measure"]) == ("ppo", "harmful", "words"))
    assert cell["n"] == 10
    assert cell["mean"] == pytest.approx(mean_words("ppo", "harmful"))
    assert cell["difference"] == pytest.approx(mean_words("ppo", "harmful") - mean_words("sft", "harmful"))
    assert cell["low"] <= cell["mean"] <= cell["high"]
    assert all((c["difference"] is None) == (c["model"] == "sft") for c in summary["cells"])

    # KL: 0.25 nats a token on PPO's own answers (see scripted.LOGPROB)
    kl = {row["slice"]: row for row in summary["kl"]}
    assert kl["harmful"]["mean"] == pytest.approx(0.25 * mean_words("ppo", "harmful"))
    assert kl["harmful"]["per_token"] == pytest.approx(0.25)
    assert {(row["model"], row["against"]) for row in summary["kl"]} == {("ppo", "sft")}
    assert [(w["model"], w["against"], w["slice"]) for w in summary["win_rates"]][:2] == [
        ("ppo", "sft", "harmful"),
        ("ppo", "sft", "harmless"),
    ]
    matched = {(w["model"], w["against"], w["slice"]): w for w in summary["win_rates_length_matched"]}
    for whole in summary["win_rates"]:
        assert whole["scored"] + whole["unscored"] == (10 if whole["slice"] == "harmful" else 6)
        assert matched[whole["model"], whole["against"], whole["slice"]]["scored"] <= whole["scored"]


def test_the_report_reads_the_summary(tmp_path: Path) -> None:
    context = context_in(tmp_path, [])
    evaluate.run(context)
    found = read_summary(context.run)
    assert found is not None
    assert len(found.cells) == len(summary_in(tmp_path)["cells"])
    rate, distance = found.win_rate("ppo", "harmless"), found.divergence("ppo", "harmless")
    assert rate is not None
    assert rate.scored == 6
    assert distance is not None
    assert distance.low is not None


def test_a_judge_that_was_the_reward_or_reads_openings_is_said(tmp_path: Path) -> None:
    plain = config("contrast")
    judge = plain.judge.model_copy(update={"opening_tokens": 3})
    rewarded = plain.model_copy(update={"judge": judge, "ppo": type(plain.ppo).model_validate({"reward": "judge"})})
    for settings, said in ((plain, []), (rewarded, ["first 3 tokens", "was its reward"])):
        evaluate.run(context_in(tmp_path / str(len(said)), [], settings=settings))
        notes = [note for note in summary_in(tmp_path / str(len(said)))["notes"] if note.startswith("win rates")]
        assert len(notes) == len(said)
        assert all(words in note for words, note in zip(said, notes, strict=True))


def test_without_sft_there_is_nothing_to_differ_from(tmp_path: Path) -> None:
    evaluate.run(context_in(tmp_path, [], adapters=()))
    summary = summary_in(tmp_path)
    assert summary["models"] == ["base"]
    assert summary["win_rates"] == []
    assert all(cell["difference"] is None for cell in summary["cells"])
