"""The sentences at the top of a report: what the intervals let them claim."""

from __future__ import annotations

import pytest

from rlaif.core.evaluation import HeldOut, Summary
from rlaif.core.records import from_json
from rlaif.report import verdict
from rlaif.report.controls import Control
from rlaif.report.overview import main_slice
from tests.report.fake_run import cell, summary


def said(difference: float | None, *, better: str = "lower", width: float = 0.02) -> str:
    data = summary()
    data["measures"] = {"harm": {"label": "gold harm (lower is better)", "better": better, "quality": {}}}
    ppo = cell("ppo", "harmful", "harm", 0.3 + (difference or 0.0), width, difference)
    data["cells"], data["length_controlled"] = [cell("sft", "harmful", "harm", 0.3, width), ppo], []
    return verdict.headline(from_json(Summary, data))


def test_headline_claims_a_difference_only_if_its_interval_excludes_zero() -> None:
    assert said(-0.05) == (
        "PPO answers score 0.250 on gold harm (lower is better) where SFT answers score 0.300: "
        "−0.050 [−0.070, −0.030], on 60 harmful prompts."
    )
    assert said(0.05).startswith("PPO answers are worse than SFT answers: they score 0.350 on gold harm")
    assert said(0.05, better="higher").startswith(
        "PPO answers score 0.350 on gold harm where SFT answers score 0.300: +"
    )
    assert said(0.05, better="none").startswith("PPO answers score 0.350")
    assert said(-0.015) == (
        "No difference is shown between PPO and SFT on gold harm (lower is better): 0.285 v 0.300, "
        "−0.015 [−0.035, 0.005], on 60 harmful prompts."
    )
    assert said(0.25, width=0.25).startswith("No difference is shown"), "an interval that ends at 0 contains it"
    assert (
        said(None) == "Whether PPO differs from SFT on gold harm (lower is better) (harmful prompts) was not measured."
    )
    assert said(float("nan")) == said(None)


def with_dpo(*models: str) -> Summary:
    """PPO's figures as DPO's, beside it or in its place."""
    data = summary()
    data["models"] = list(models)
    for table in ("cells", "win_rates", "length_controlled", "kl"):
        copied = [
            row | {"model": "dpo"} for row in data[table] if row["model"] == "ppo" and row.get("against") != "base"
        ]
        data[table] = [row for row in data[table] if row["model"] in models] + copied
    return from_json(Summary, data)


def test_dpo_is_what_a_result_is_about_where_there_is_no_ppo() -> None:
    alone, usual = with_dpo("base", "sft", "dpo"), from_json(Summary, summary())
    assert verdict.compared(alone) == "dpo"
    assert verdict.headline(alone) == verdict.headline(usual).replace("PPO", "DPO")
    assert verdict.further(alone) == [line.replace("PPO", "DPO") for line in verdict.further(usual)]
    assert verdict.explanations(alone) == verdict.explanations(usual)


def test_dpo_beside_ppo_has_sentences_of_its_own_and_is_no_control() -> None:
    both, usual = with_dpo("base", "sft", "ppo", "dpo"), from_json(Summary, summary())
    assert verdict.headline(both) == verdict.headline(usual)
    lines = verdict.further(both)
    assert set(verdict.further(usual)) <= set(lines)
    own = [line for line in lines if line not in verdict.further(usual)]
    assert [line.split(" answers score")[0].split(" (DPO wins")[0] for line in own] == [
        "DPO",
        "The judge prefers DPO to SFT on harmful prompts",
    ]
    assert not any("ontrol" in line for line in lines)


def test_few_prompts_show_nothing_whatever_their_interval() -> None:
    data = summary()
    for row in data["cells"]:
        row |= {"n": 36, "prompts": 9}
    data["win_rates"] = [row | {"prompts": 9} for row in data["win_rates"]]
    whole = from_json(Summary, data)
    assert verdict.headline(whole) == (
        "9 harmful prompts are too few to tell PPO from SFT on gold harm (lower is better) (10 are the least): "
        "0.281 v 0.332, −0.051 [−0.071, −0.031]."
    )
    lines = verdict.further(whole)
    assert not any(word in line for line in lines for word in ("better than", "worse", "The judge prefers"))
    assert any(line.startswith("9 prompts are too few to say whether the judge prefers PPO or SFT") for line in lines)
    words = {row.word for rows in verdict.explanations(whole).values() for row in rows}
    assert words == {verdict.FEW}
    assert not any(found.differs for found in whole.cells)


def test_the_prompts_are_counted_and_not_their_answers() -> None:
    data = summary()
    for row in data["cells"]:
        row |= {"n": 240, "prompts": 60}
    assert "on 60 harmful prompts" in verdict.headline(from_json(Summary, data))
    for row in data["cells"]:
        del row["prompts"]  # in a file of before nobody knows
    assert "[−0.071, −0.031], 0.50 standard deviations, on harmful prompts" in verdict.headline(
        from_json(Summary, data)
    )


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
    assert verdict.headline(two).startswith(
        "SFT answers score 0.332 on gold harm (lower is better) where base answers score 0.362: −0.030"
    )
    assert verdict.headline(from_json(Summary, data | {"measures": {}})) == "No result: evaluate measured nothing."
    assert verdict.headline(whole).startswith("PPO answers score 0.281 on gold harm")


def test_headline_is_about_the_gold_that_the_config_names_first() -> None:
    """The order of evaluate.gold is that of the measures; what is no gold has no quality and does not count."""
    data = summary()
    mood = {"label": "sentiment (higher is better)", "better": "higher", "quality": {}}
    data["measures"] = {"words": {"label": "words"}, "sentiment": mood, **data["measures"]}
    sft = cell("sft", "harmful", "sentiment", 0.2, 0.1)
    data["cells"] = [*data["cells"], sft, cell("ppo", "harmful", "sentiment", 0.5, 0.1, 0.3)]
    whole = from_json(Summary, data)
    assert list(whole.golds()) == ["sentiment", "harm", "toxicity"]
    assert verdict.headline(whole).startswith(
        "PPO answers score 0.50 on sentiment where SFT answers score 0.20: +0.30 ["
    )


def test_without_gold_the_judge_is_heard_and_the_lack_is_said() -> None:
    data = summary()
    data["measures"] = {"words": {"label": "words"}, "finished": {"label": "finished", "better": "higher"}}
    whole = from_json(Summary, data)
    assert verdict.headline(whole).startswith("No gold score was measured. The judge prefers PPO to SFT on harmful")
    assert not any("harmful prompts (PPO wins" in line for line in verdict.further(whole)), "said once"


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


def with_length(left: float | None, width: float = 0.02) -> str:
    """The headline of a difference of -0.0512 in harm of which `left` is left at equal length."""
    data = summary()
    row = {"model": "ppo", "slice": "harmful", "measure": "harm", "n": 60, "difference": left, "sd": 0.25}
    row |= {"effect": -0.2048, "effect_low": -0.3, "effect_high": -0.1}
    row |= {} if left is None else {"difference_low": left - width, "difference_high": left + width}
    return verdict.headline(from_json(Summary, data | {"length_controlled": [row]}))


def test_headline_says_what_length_explains_and_how_large_the_difference_is() -> None:
    assert "−0.051 [−0.071, −0.031], 0.20 standard deviations, on 60" in with_length(-0.0512)
    assert "; length explains none of it;" in with_length(-0.0512)
    assert "; length explains none of it;" in with_length(-0.07), "more is left than there was"
    assert "; length explains 50 % of it;" in with_length(-0.0256)
    assert "; at equal length no difference is shown (−0.010 [−0.030, 0.010]);" in with_length(-0.01)
    assert "; at equal length it is the other way round (+0.030 [0.010, 0.050]);" in with_length(0.03)
    assert "length" not in with_length(None)


def test_shorter_answers_are_pointed_out_where_the_difference_at_equal_length_is_not_known() -> None:
    data = summary()
    data["cells"], data["length_controlled"] = [c for c in data["cells"] if c["measure"] == "harm"], []
    data["cells"] += [cell("sft", "harmful", "words", 50.0, 1.0), cell("ppo", "harmful", "words", 35.0, 1.0, -15.0)]
    assert "; at 70.0\u00a0% of the words of the other;" in verdict.headline(from_json(Summary, data))


def test_headline_names_what_is_worse_and_where() -> None:
    data = summary()
    assert verdict.headline(from_json(Summary, data)).endswith("; nothing else is shown to be worse on any slice.")
    rest = [c for c in data["cells"] if (c["model"], c["measure"]) != ("ppo", "finished")]
    cut = [cell("ppo", part, "finished", 0.41, 0.05, -0.2) for part in data["slices"]]
    harm = [cell("ppo", "everyday", "harm", 0.2, 0.02, 0.07)]
    worse = [c for c in rest if (c["model"], c["slice"], c["measure"]) != ("ppo", "everyday", "harm")] + cut + harm
    whole = from_json(Summary, data | {"cells": worse})
    assert verdict.headline(whole).endswith(
        "; worse: ended by itself (harmful, everyday prompts) and gold harm (everyday prompts)."
    )
    lost = [c for c in worse if (c["model"], c["slice"], c["measure"]) != ("ppo", "harmful", "harm")]
    lost.append(cell("ppo", "harmful", "harm", 0.4, 0.02, 0.07))
    assert "; also worse: ended by itself (" in verdict.headline(from_json(Summary, data | {"cells": lost}))
    assert verdict.further(whole)[0].startswith("PPO answers are worse than SFT answers: they score 0.200 on gold harm")


def test_controls_count_as_less_only_if_their_interval_lies_below_that_of_ppo() -> None:
    whole = from_json(Summary, summary())  # harm -0.0512 [-0.0712, -0.0312]

    def control(name: str, difference: float) -> Control:
        return Control(name, from_json(Summary, summary(difference)))

    def line(*controls: Control) -> str:
        return next(line for line in verdict.further(whole, None, controls) if "gain" in line)

    assert line(control("coin", 0.0)) == "Every control gains less over its own SFT: coin 0.000 [−0.020, 0.020]."
    assert line(control("coin", 0.0), control("other", -0.03)) == (
        "Not shown to gain less over its own SFT: other −0.030 [−0.050, −0.010]. "
        "Controls that gain less: coin 0.000 [−0.020, 0.020]."
    )
    bare = from_json(Summary, summary() | {"cells": []})
    assert line(Control("gone", bare)) == "Not shown to gain less over its own SFT: gone (not measured)."
    assert not any("gain" in text for text in verdict.further(whole))


def test_what_else_explains_it_has_a_word_for_every_interval() -> None:
    whole = from_json(Summary, summary())
    found = verdict.explanations(whole, "everyday")
    assert list(found) == ["everyday", "harmful"]
    harmful = [(row.name, row.word, row.figures, row.means) for row in found["harmful"]]
    assert harmful == [
        ("gold harm", "better", "−0.051 [−0.071, −0.031]", "0.332 → 0.281"),
        ("gold harm, at equal length", "better", "−0.043 [−0.064, −0.022]", ""),
        ("gold harm, in standard deviations", "better", "−0.50 [−0.69, −0.30]", ""),
        ("words", "fewer", "−3.00 [−5.50, −0.50]", "52.25 → 49.25 (× 0.94)"),
        ("ended by itself", "none shown", "0.000 [−0.050, 0.050]", "0.610 → 0.610"),
        ("distinct-2", "none shown", "+0.002 [−0.008, 0.012]", "0.873 → 0.873"),
    ], "toxicity was not measured"
    assert [row.name for row in found["everyday"]] == ["gold harm", "words", "ended by itself", "distinct-2"]
    assert verdict.explanations(from_json(Summary, summary() | {"models": ["base", "sft"]})) == {}


def test_reward_model_stands_beside_the_shorter_one_wins() -> None:
    assert verdict.reward_sentence(None) == verdict.reward_sentence(HeldOut()) == ""
    assert verdict.reward_sentence(HeldOut(accuracy=0.844, pairs=96, length_accuracy=0.46)) == (
        "The reward model is right on 84.4\u00a0% of 96 held-out pairs; “the shorter one wins” on 46.0\u00a0%."
    )
    own = "The reward model is right on 84% of 96 held-out labels; length alone on 90%."
    assert verdict.reward_sentence(HeldOut(accuracy=0.844, length_accuracy=0.46, verdict=own)) == own
