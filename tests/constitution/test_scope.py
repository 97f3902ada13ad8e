"""Slices of prompts name the principles that apply to them."""

import pytest

from rlaif.config import JudgeConfig, PromptSlice
from rlaif.constitution.scope import by_slice
from rlaif.core.errors import ConfigError
from rlaif.core.records import Comparison, Constitution, Message, Principle, Prompt, Response
from rlaif.judge.judge import Judge

HARM = Principle("no-harm", "Do no harm.", tags=("harm", "law"))
TONE = Principle("tone", "Be kind.", tags=("style",), weight=3.0)
HELP = Principle("help", "Help.", tags=("helpful",))
SILENT = Principle("silent", "Nothing.", tags=("quiet",), weight=0.0)
RULES = Constitution("rules", "1", "", (HARM, TONE, HELP, SILENT))


def part(*names: str) -> PromptSlice:
    return PromptSlice.model_validate({"source": "everyday", "train": 1, "principles": list(names)})


def test_ids_and_tags_choose_and_an_empty_list_means_all() -> None:
    found = by_slice(RULES, {"all": part(), "red": part("law", "tone"), "plain": part("helpful")})
    ids = {name: [p.id for p in scope.principles] for name, scope in found.items()}
    assert ids == {"all": ["no-harm", "tone", "help", "silent"], "red": ["no-harm", "tone"], "plain": ["help"]}


def test_an_unknown_name_and_a_slice_without_weight_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"prompts\.red\.principles.*did you mean 'helpful'"):
        by_slice(RULES, {"red": part("helpfull")})
    with pytest.raises(ConfigError, match="no principle with a weight"):
        by_slice(RULES, {"red": part("quiet")})


@pytest.mark.parametrize("mode", ["all", "one"])
def test_the_judge_uses_the_principles_of_the_slice(mode: str) -> None:
    slices = {"red": part("harm", "style"), "plain": part("helpful")}
    config = JudgeConfig.model_validate({"method": "random", "principles": mode})
    judge = Judge(config, RULES, models=[], seed=0, prompts=slices)
    asked: dict[str, set[str]] = {"red": set(), "plain": set()}
    for number in range(40):
        for name, principles in asked.items():
            prompt = Prompt((Message("user", f"{name} {number}"),), slice=name)
            a, b = (Response(prompt.id, text, "m", 0, 1.0, "stop", 1) for text in ("yes", "no"))
            (label,) = judge.label([Comparison(prompt, a, b)])
            principles.update(verdict.principle_id for verdict in label.verdicts)
    assert asked == {"red": {"no-harm", "tone"}, "plain": {"help"}}
