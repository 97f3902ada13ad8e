"""The judge as the reward: probabilities against reference answers, by hand."""

import math
from typing import Any

import pytest
import torch

from rlaif.config import JudgeConfig
from rlaif.core.errors import StageError
from rlaif.core.records import Constitution, Response
from rlaif.judge.judge import Judge
from rlaif.lm.protocol import Generation
from rlaif.training.rewards.by_judge import JudgeReward
from tests.judge.cases import KIND, Recorder, comparison

TABLE = {
    ("You are kind.", "yes my friend"): (-1.0, -1.0, -1.0),
    ("You are cruel.", "yes my friend"): (-1.5, -1.25, -1.0),  # 0.25 a token
    ("You are kind.", "no"): (-2.0,),
    ("You are cruel.", "no"): (-1.9,),  # -0.1
}
PROMPT = comparison().prompt


def reward(*references: str) -> JudgeReward:
    config = JudgeConfig.model_validate({"scale": 0.5})
    judge = Judge(config, Constitution("one", "1", "", (KIND,)), models=[Recorder(TABLE)], seed=0)
    answers = [Response(PROMPT.id, text, "sft", n, 1.0, "stop", 1) for n, text in enumerate(references)]
    return JudgeReward(judge, {PROMPT.id: answers})


def wins(margin: float) -> float:
    return 1 / (1 + math.exp(-margin / 0.5))


def test_the_score_is_the_mean_probability_of_beating_the_references() -> None:
    scores = reward("no", "yes my friend").preferred([PROMPT, PROMPT], ["yes my friend", "no"])
    expected = [(wins(0.35) + 0.5) / 2, (0.5 + wins(-0.35)) / 2]
    assert torch.allclose(scores, torch.tensor([(p - 0.5) / 0.25 for p in expected]))
    assert scores.dtype == torch.float32


RATINGS = [
    ("Answer:\n> yes my friend", tuple(math.log(p) for p in (*[1e-9] * 7, 0.5, 0.5))),  # 8.5
    ("Answer:\n> no", tuple(math.log(p) for p in (*[1e-9] * 6, 0.5, 0.5, 1e-9))),  # 7.5
]
LETTERS = [("Answer (A):\n> yes", (-0.1, -2.1)), ("Answer (A):\n> no", (-1.0, -1.3))]


@pytest.mark.parametrize(
    ("table", "model", "won"),
    [
        ({"method": "rating", "rating_scale": 0.5}, Recorder(letters=RATINGS), wins(1.0)),
        # yes: 0.88 of the first order, clamped, and 1 - 0.574 of the second
        ({"method": "cot"}, Recorder(letters=LETTERS, texts=[("", Generation("so", "stop", 1))]), (0.6 + 0.425557) / 2),
    ],
    ids=["rating", "cot"],
)
def test_every_method_may_be_the_reward(table: dict[str, Any], model: Recorder, won: float) -> None:
    source = reward("no")
    rules = Constitution("one", "1", "", (KIND,))
    source.judge = Judge(JudgeConfig.model_validate(table), rules, models=[model], seed=0)
    assert source.preferred([PROMPT], ["yes my friend"]).tolist() == pytest.approx([(won - 0.5) / 0.25], abs=1e-5)


def test_an_empty_response_loses_to_every_reference() -> None:
    assert reward("no").preferred([PROMPT], [""]).tolist() == [-2.0]


def test_a_judge_that_cannot_score_stops_the_stage_with_its_reason() -> None:
    config = JudgeConfig.model_validate({"scale": 0.5, "abstain_below": 0.49})
    source = reward("no")
    source.judge = Judge(config, Constitution("one", "1", "", (KIND,)), models=[Recorder(TABLE)], seed=0)
    with pytest.raises(StageError, match="abstained"):
        source.preferred([PROMPT], ["yes my friend"])
