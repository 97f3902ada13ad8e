"""Panels: who votes, with what weight, and what becomes of a member that cannot answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.config import JudgeConfig, RunConfig
from rlaif.core.errors import ConfigError
from rlaif.core.records import PreferenceLabel
from rlaif.judge.aggregate import Settling
from rlaif.judge.calibration import CalibrationMap
from rlaif.judge.judge import Judge, opened_models
from rlaif.lm.protocol import Usage
from tests.judge.cases import KIND, Recorder, comparison, logistic, only

TABLE = {  # the run's own judge, by contrast: a margin of 0.35
    ("You are kind.", "yes my friend"): (-1.0,),
    ("You are cruel.", "yes my friend"): (-1.25,),
    ("You are kind.", "no"): (-2.0,),
    ("You are cruel.", "no"): (-1.9,),
}
OWN = logistic(0.35)
LETTERS = [("yes my friend", (-2.0, -1.0))]  # always the letter B, whatever the order: one half
RATINGS = [("yes my", (0.0, *[-50.0] * 8)), ("no", (*[-50.0] * 8, 0.0))]
"""A 9 for "no" and a 1 for the other answer."""


def label(own: Recorder, beside: dict[str, Recorder], *panel: dict[str, Any], **fields: Any) -> PreferenceLabel:
    config = JudgeConfig.model_validate({"scale": 1.0, "panel": list(panel), **fields})
    (found,) = Judge(config, only(KIND), models=[own, *beside.values()], seed=0).label([comparison()])
    return found


def test_members_vote_on_each_principle_by_weight() -> None:
    found = label(
        Recorder(TABLE),
        {"letters": Recorder(letters=LETTERS), "points": Recorder(letters=RATINGS)},
        {"name": "letters", "method": "pairwise", "weight": 2},
        {"name": "points", "method": "rating", "weight": 1},
    )
    assert [(v.member, v.method, v.order) for v in found.verdicts] == [
        ("", "contrast", "none"),
        ("letters", "pairwise", "ab"),
        ("letters", "pairwise", "ba"),
        ("points", "rating", "none"),
    ]
    assert found.prob_a == pytest.approx((OWN + 2 * 0.5 + logistic(-8.0)) / 4, abs=1e-6)
    assert found.consistency == pytest.approx(1 - (logistic(1.0) - logistic(-1.0)))
    assert len({verdict.id for verdict in found.verdicts}) == 4


def test_a_member_is_asked_as_its_own_table_says() -> None:
    panel = ({"name": "sharp", "method": "contrast", "scale": 0.1},)
    found = label(Recorder(TABLE), {"sharp": Recorder(TABLE)}, *panel)
    assert found.prob_a == pytest.approx((OWN + logistic(3.5)) / 2)


def test_a_member_that_cannot_answer_leaves_the_others_to_vote() -> None:
    found = label(Recorder(TABLE), {"mute": Recorder()}, {"name": "mute", "method": "pairwise"})
    assert found.prob_a == pytest.approx(OWN)
    assert [v.failure is None for v in found.verdicts] == [True, False, False]


def test_a_label_is_a_failure_where_no_member_can_answer() -> None:
    found = label(Recorder(), {"mute": Recorder()}, {"name": "mute", "method": "pairwise"})
    assert found.prob_a is None
    assert found.failure is not None
    assert found.failure.kind == "context_overflow"


def test_a_member_without_a_weight_is_not_counted() -> None:
    found = label(Recorder(TABLE), {"points": Recorder(letters=RATINGS)}, {"name": "points", "method": "rating"})
    config = JudgeConfig.model_validate({"scale": 1.0})
    alone = Judge(config, only(KIND), models=[Recorder()], seed=0).settle(comparison(), found.verdicts)
    assert alone.prob_a == pytest.approx(OWN)


def test_a_calibration_maps_the_vote_of_all() -> None:
    found = label(Recorder(TABLE), {"sharp": Recorder(TABLE)}, {"name": "sharp", "scale": 0.1})
    config = JudgeConfig.model_validate({"panel": [{"name": "sharp"}], "calibration": "temperature"})
    half = CalibrationMap("temperature", temperature=2.0)
    judge = Judge(config, only(KIND), models=[Recorder()] * 2, seed=0, calibration=half)
    assert found.prob_a is not None
    settled = judge.settle(comparison(), found.verdicts)
    assert settled.prob_a == pytest.approx(half(found.prob_a))
    assert settled.prob_a is not None
    assert 0.5 < settled.prob_a < found.prob_a
    assert judge.settling == Settling({"": 1.0, "sharp": 1.0}, None, half, 0.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"panel": [{"name": "a"}, {"name": "a"}]}, "two members of judge.panel are called 'a'"),
        ({"panel": [{"name": "a", "method": "random"}]}, "a coin has no vote"),
        ({"panel": [{"name": "a"}], "method": "random"}, "votes alone"),
        ({"panel": [{"method": "rating"}]}, "name"),
        ({"panel": [{"name": "a", "backend": "openai"}]}, "needs judge.source"),
        ({"panel": [{"name": "a", "wieght": 2}]}, "did you mean 'weight'"),
        ({"panel": [{"name": "a", "weight": 0}]}, "greater than 0"),
        (
            {
                "panel": [
                    {"name": n, "backend": "openai", "source": "m", "method": "rating", "base_url": f"http://{n}/v1"}
                    for n in "ab"
                ]
            },
            "'m' stands at two addresses",
        ),
    ],
)
def test_a_panel_that_cannot_sit_is_refused(fields: dict[str, Any], said: str) -> None:
    from rlaif.judge.load import parse

    with pytest.raises(ConfigError, match=said):
        parse({"judge": fields, "prompts": {"mine": {"source": "everyday"}}}, where="test")


def test_the_models_of_a_panel_are_opened_counted_and_closed_together(tmp_path: Path) -> None:
    rules = tmp_path / "rules.jsonl"
    rules.write_text('{"match": "x", "reply": "y"}\n')
    config = JudgeConfig.model_validate(
        {"backend": "scripted", "panel": [{"name": "other", "backend": "scripted", "source": str(rules)}]}
    )
    run = RunConfig.model_validate({"judge": config, "prompts": {"p": {"source": "everyday"}}})
    with opened_models(run, tmp_path / "cache") as models:
        judge = Judge(config, only(KIND), models=models, seed=0)
        assert (judge.name, models[1].name) == ("scripted + rules", "rules")
        judge.label([comparison()])
        judge.label([comparison()])
        assert judge.usage == Usage(calls=8, cached=8, prompt_tokens=judge.usage.prompt_tokens, scored_tokens=16)
        assert judge.fingerprint not in [model.fingerprint for model in models]
        judge.close()
