"""The summary of an evaluation: its numbers are those of the files, and its notes say what they mean."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaif.core.evaluation import LengthControlled, ScoreRow, Summary, read_summary
from rlaif.core.records import Failure, Message, Prompt
from rlaif.gold.scorers import Entry, GoldScorer
from rlaif.stages import evaluate
from rlaif.stages.summary import ANSWER_MEASURES, LogprobRow, Measurements, summarise
from tests.stages.evaluation_run import config, context_in, summary_in

OTHERS = [name for name in ANSWER_MEASURES if name != "words"]


class Mood:
    """A gold scorer that is not asked: its scores are given."""

    def __init__(self) -> None:
        self.about, self.quality = "", dict[str, float | None]()

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float | None]:
        raise AssertionError


def test_summary_has_the_numbers_of_the_files(tmp_path: Path) -> None:
    evaluate.run(context_in(tmp_path, []))
    summary = summary_in(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "evaluate/scores.jsonl").read_text().splitlines()]
    assert (summary["models"], summary["slices"]) == (["base", "sft", "ppo"], ["harmful", "harmless"])
    beside = ["words", "finished", "distinct_2", "repetition", "base_logprob", "refusal"]
    assert list(summary["measures"]) == ["toxicity", *beside]
    assert len(summary["cells"]) == 3 * 2 * 7

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


def test_gold_measures_stand_in_the_order_of_the_config(tmp_path: Path) -> None:
    for names in (["sentiment", "toxicity"], ["toxicity", "sentiment"]):
        context = context_in(tmp_path / names[0], [], settings=config(gold=names))
        evaluate.run(context)
        found = read_summary(context.run)
        assert found is not None
        assert list(found.golds()) == names


def scored(model: str, values: dict[str, tuple[float, int]]) -> list[ScoreRow]:
    """Rows of one slice: prompt id -> (gold, words)."""
    return [
        ScoreRow(f"{model} {prompt}", prompt, "kind", model, {"mood": gold, "words": words, **dict.fromkeys(OTHERS)})
        for prompt, (gold, words) in values.items()
    ]


def summary_of(rows: list[ScoreRow], *, share: bool = False) -> Summary:
    """The summary of these scores of SFT and PPO; `share`: the mood is declared to be 0 or 1."""
    prompts = [Prompt((Message("user", row.prompt_id),), slice="kind") for row in rows if row.model == "sft"]
    mood = GoldScorer("mood", Entry("mood (higher is better)", "higher", lambda _: Mood(), share=share), Mood())
    outcome = Measurements(prompts, 1, ["sft", "ppo"], [], rows, [], [], [mood], [])
    summary, _ = summarise(outcome, 0, 200)
    return summary


def of_scores(rows: list[ScoreRow], *, share: bool = False) -> LengthControlled:
    """What PPO's difference in mood comes to."""
    summary = summary_of(rows, share=share)
    found = summary.at_equal_length("ppo", "kind", "mood")
    assert found is not None
    assert len(summary.length_controlled) == 1
    return found


def test_gold_that_is_length_leaves_nothing_at_equal_length() -> None:
    """Mood is 0.1 for each doubling of the words; PPO doubles them once, twice, three times and not at all."""
    sft = {"a": (0.2, 4), "b": (0.3, 8), "c": (0.4, 16), "d": (0.3, 8)}
    ppo = {"a": (0.3, 8), "b": (0.5, 32), "c": (0.7, 128), "d": (0.3, 8)}
    found = of_scores(scored("sft", sft) + scored("ppo", ppo))
    assert found.n == 4
    assert found.difference == pytest.approx(0)
    # the whole difference is (0.1 + 0.2 + 0.3 + 0) / 4; SFT's 0.2, 0.3, 0.4, 0.3 have the variance (0.01 + 0.01) / 4
    assert found.sd == pytest.approx(math.sqrt(0.005))
    assert found.effect == pytest.approx(0.15 / math.sqrt(0.005))
    assert found.effect_low is not None
    assert found.effect_low > 0


def test_a_cell_counts_its_answers_and_the_prompts_of_its_difference() -> None:
    sft = {"a": (0.2, 4), "b": (0.3, 8), "c": (0.4, 16)}
    rows = scored("sft", sft) * 2 + scored("ppo", {"a": (0.3, 8), "b": (0.5, 32)}) * 2
    found = summary_of(rows)
    counts = {model: found.cell(model, "kind", "mood") for model in ("sft", "ppo")}
    assert {model: (c.n, c.prompts) for model, c in counts.items() if c is not None} == {"sft": (6, 3), "ppo": (4, 2)}


def test_gold_beside_length_is_left() -> None:
    """The same, and 0.25 on top of every answer of PPO's."""
    sft = {"a": (0.2, 4), "b": (0.3, 8), "c": (0.4, 16), "d": (0.3, 8)}
    ppo = {"a": (0.55, 8), "b": (0.75, 32), "c": (0.95, 128), "d": (0.55, 8)}
    found = of_scores(scored("sft", sft) + scored("ppo", ppo))
    assert [found.difference, found.difference_low, found.difference_high] == pytest.approx([0.25] * 3)


def test_without_spread_there_is_no_size_and_blank_answers_count_as_one_word() -> None:
    sft = {"a": (0.5, 0), "b": (0.5, 1), "c": (0.5, 1)}
    found = of_scores(scored("sft", sft) + scored("ppo", {"a": (0.7, 1), "b": (0.7, 1), "c": (0.7, 0)}))
    assert found.difference == pytest.approx(0.2)
    assert (found.sd, found.effect) == (None, None)


def test_none_of_sixteen_has_an_interval_of_the_share() -> None:
    """Wilson's share of 0 of 16 ends at 0.194; the mood is declared to be 0 or 1 as well, and words are counted."""
    values = {"refusal": False, "finished": True, "mood": 0.0, "words": 5}
    rows = [
        ScoreRow(f"{model} {n}", str(n), "kind", model, dict.fromkeys(OTHERS) | values)
        for model in ("sft", "ppo")
        for n in range(16)
    ]
    summary = summary_of(rows, share=True)
    assert summary.measures["mood"].share
    cells = {(cell.model, cell.measure): cell for cell in summary.cells}
    most = pytest.approx(0.1936, abs=1e-4)
    for name in ("refusal", "mood"):
        cell = cells["ppo", name]
        assert (cell.mean, cell.low, cell.high) == (0.0, 0.0, most)
        assert (cell.difference, cell.difference_low, cell.difference_high) == (
            0.0,
            pytest.approx(-0.1936, abs=1e-4),
            most,
        )
    assert (cells["sft", "finished"].low, cells["sft", "finished"].high) == (pytest.approx(0.8064, abs=1e-4), 1.0)
    assert (cells["ppo", "words"].low, cells["ppo", "words"].difference_high) == (5.0, 0.0)
    left = of_scores(rows, share=True)
    assert (left.difference, left.difference_low, left.difference_high) == (0.0, pytest.approx(-0.1936, abs=1e-4), most)


def test_a_graded_measure_that_is_0_everywhere_is_no_share() -> None:
    """As a mood from -1 to 1 is where no answer has one: its mean has no width, and no bound of a share of 16. Where
    both 0 and 1 are seen, and nothing else, it is one."""
    rows = scored("sft", {str(n): (0.0, 5) for n in range(16)}) + scored("ppo", {str(n): (0.0, 5) for n in range(16)})
    found = {cell.measure: cell for cell in summary_of(rows).cells if cell.model == "ppo"}
    cell = found["mood"]
    assert (cell.mean, cell.low, cell.high) == (0.0, 0.0, 0.0)
    assert (cell.difference, cell.difference_low, cell.difference_high) == (0.0, 0.0, 0.0)
    seen = rows + scored("sft", {"more": (1.0, 5)})
    cell = next(c for c in summary_of(seen).cells if (c.model, c.measure) == ("ppo", "mood"))
    assert (cell.mean, cell.low, cell.high) == (0.0, 0.0, pytest.approx(0.1936, abs=1e-4))


def test_a_token_is_worth_its_share_of_the_log_probability() -> None:
    assert LogprobRow("r", "p", "base", -6.0, 3).per_token == -2.0
    assert LogprobRow("r", "p", "base", 0.0, 0).per_token is None
    assert LogprobRow("r", "p", "base", None, 0, Failure("context_overflow", "too long")).per_token is None


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
