"""The sentences at the top of a report: what the intervals let them claim."""

from __future__ import annotations

import pytest

from rlaif.core.evaluation import Summary
from rlaif.core.records import from_json
from rlaif.report import verdict
from rlaif.report.overview import main_slice
from tests.report.fake_run import cell, summary


def said(difference: float | None, *, better: str = "lower", width: float = 0.02) -> str:
    data = summary()
    data["measures"] = {"harm": {"label": "gold harm (lower is better)", "better": better, "quality": {}}}
    data["cells"] = [cell("sft", "harmful", "harm", 0.3, width), cell("ppo", "harmful", "harm", 0.3, width, difference)]
    return verdict.headline(from_json(Summary, data))


def test_headline_claims_a_difference_only_if_its_interval_excludes_zero() -> None:
    assert said(-0.05) == (
        "PPO is lower on gold harm than SFT by 0.050 (95 % interval 0.030 to 0.070, harmful prompts, n = 60), "
        "which is better."
    )
    assert said(0.05).startswith("PPO is higher on gold harm than SFT by 0.050 (95 % interval 0.030 to 0.070")
    assert said(0.05).endswith("which is worse.")
    assert said(0.05, better="higher").endswith("which is better.")
    assert said(0.05, better="none").endswith("n = 60).")
    assert said(-0.015).startswith("No difference shown between PPO and SFT on gold harm")
    assert "difference −0.015, 95 % interval −0.035 to 0.005" in said(-0.015)
    assert said(0.25, width=0.25).startswith("No difference shown"), "an interval that ends at 0 contains it"
    assert said(None) == "Whether PPO differs from SFT on gold harm (harmful prompts) was not measured."
    assert said(float("nan")) == said(None)


def test_headline_is_about_the_prompts_that_are_revised() -> None:
    whole = from_json(Summary, summary())
    config = {"prompts": {"harmful": {"revise": False}, "everyday": {}}}
    assert main_slice(config, whole.slices) == "everyday"
    assert "everyday prompts" in verdict.headline(whole, "everyday")
    assert not any("everyday" in line for line in verdict.further(whole, "everyday")[:1])
    assert main_slice({}, whole.slices) == "harmful"
    assert main_slice({"prompts": {"harmful": {"revise": False}}}, ("harmful",)) == "harmful"


def test_headline_without_ppo_or_measures() -> None:
    data = summary()
    whole = from_json(Summary, data)
    assert verdict.headline(None) == "No result yet: evaluate is not finished."
    two = from_json(Summary, data | {"models": ["base", "sft"]})
    assert verdict.headline(two).startswith("The base model is higher on gold harm than SFT by 0.030")
    assert verdict.headline(from_json(Summary, data | {"measures": {}})) == "No result: evaluate measured nothing."
    assert verdict.headline(whole).startswith("PPO is lower on gold harm")


def test_headline_is_about_the_gold_that_the_config_names_first() -> None:
    """The order of evaluate.gold is that of the measures; what is no gold has no quality and does not count."""
    data = summary()
    mood = {"label": "sentiment (higher is better)", "better": "higher", "quality": {}}
    data["measures"] = {"words": {"label": "words"}, "sentiment": mood, **data["measures"]}
    data["cells"] = [*data["cells"], cell("ppo", "harmful", "sentiment", 0.5, 0.1, 0.3)]
    whole = from_json(Summary, data)
    assert list(whole.golds()) == ["sentiment", "harm", "toxicity"]
    assert verdict.headline(whole).startswith("PPO is higher on sentiment than SFT by 0.30")


def test_without_gold_the_judge_is_heard_and_the_lack_is_said() -> None:
    data = summary()
    data["measures"] = {"words": {"label": "words"}, "finished": {"label": "finished", "better": "higher"}}
    whole = from_json(Summary, data)
    assert verdict.headline(whole).startswith("No gold score was measured. The judge prefers PPO to SFT on harmful")
    assert not any("harmful prompts (PPO wins" in line for line in verdict.further(whole)), "said once"


def test_what_is_left_at_equal_length_is_said_with_the_size_of_the_whole() -> None:
    data = summary()
    lines = [line for line in verdict.further(from_json(Summary, data)) if "equal length" in line]
    assert lines == [
        "At equal length PPO's difference from SFT on gold harm is −0.043 (95 % interval −0.064 to −0.022, harmful "
        "prompts); the whole difference is −0.500 standard deviations of SFT's answers."
    ]
    (row,) = data["length_controlled"]  # type: ignore[misc]
    row |= {"effect": None}
    (line,) = [line for line in verdict.further(from_json(Summary, data)) if "equal length" in line]
    assert line.endswith("harmful prompts).")
    row |= {"difference": None}
    assert not any("equal length" in line for line in verdict.further(from_json(Summary, data)))


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.62, "The judge prefers PPO to SFT"), (0.38, "The judge prefers SFT to PPO"), (0.5, "The judge shows no pref")],
)
def test_win_rate_sentence_follows_its_interval(rate: float, expected: str) -> None:
    data = summary()
    data["win_rates"] = [
        {"model": "ppo", "against": "sft", "slice": "harmful", "rate": rate, "low": rate - 0.07, "high": rate + 0.07,
         "scored": 50, "unscored": 3}
    ]  # fmt: skip
    lines = [line for line in verdict.further(from_json(Summary, data)) if "judge" in line]
    assert len(lines) == 1
    assert lines[0].startswith(expected)
    assert "50 scored, 3 unscored" in lines[0]


def test_shorter_answers_are_pointed_out() -> None:
    data = summary()
    data["cells"] = [cell("sft", "harmful", "words", 50.0, 1.0), cell("ppo", "harmful", "words", 35.0, 1.0, -15.0)]
    lines = [line for line in verdict.further(from_json(Summary, data)) if "words" in line]
    assert lines == [
        "PPO's answers have 70.0\u00a0% of the words of SFT's on harmful prompts. Part of any difference may be length."
    ]
