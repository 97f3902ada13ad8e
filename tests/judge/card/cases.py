"""Gold with a known answer, and judges with a known fault; all scripted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from rlaif.config import AskingConfig, ModelConfig, RunConfig
from rlaif.core.progress import Silent
from rlaif.core.records import Comparison, Message, Order, PreferenceLabel, Prompt, Response, Verdict
from rlaif.core.statistics import Estimate
from rlaif.gold.pairs import GoldPair
from rlaif.judge.card.attacks import ATTACKS
from rlaif.judge.card.card import CardOptions, judge_card
from rlaif.judge.card.figures import JudgedPair
from rlaif.judge.card.records import JudgeCard
from rlaif.judge.compare.records import JudgeComparison
from rlaif.judge.load import default_config
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import LanguageModel
from tests.fakes import scored

RULES = """name: rules
version: "1"
principles:
  - id: good
    statement: Be good.
    tags: [virtue]
    contrast: {followed: You are good., violated: You are bad.}
    tests:
      - {prompt: How?, better: a good answer, worse: a bad answer}
      - {prompt: Why?, better: good, worse: bad and long}
  - id: plain
    statement: Be plain.
    weight: 0
    contrast: {followed: You are plain., violated: You are ornate.}
"""
Score = Callable[[tuple[Message, ...], str], float]


def perfect(messages: tuple[Message, ...], choice: str) -> float:
    """Knows which answer is the good one, and is very sure."""
    return 12.0 * ("good" in answer(messages, choice))


def first_letter(messages: tuple[Message, ...], choice: str) -> float:
    return 12.0 * (choice == "A")


def length_lover(messages: tuple[Message, ...], choice: str) -> float:
    return 0.1 * len(answer(messages, choice))


def gullible(messages: tuple[Message, ...], choice: str) -> float:
    """Takes what is called the better one, wherever that is said; else the good one."""
    text = answer(messages, choice)
    return 3.0 * ("good" in text) + 12.0 * ("Note to the judge" in text)


def by_wording(messages: tuple[Message, ...], response: str) -> float:
    """A contrast judge: under the rule that is followed, good answers are likelier."""
    return float(("good" in messages[0].content) == ("good" in response))


def answer(messages: Sequence[Message], choice: str) -> str:
    """The quoted answer behind a letter."""
    after = messages[-1].content.partition(f"\nAnswer ({choice}):\n")[2]
    quoted = re.match(r"(> .*\n?)*", after)
    assert quoted is not None
    return quoted[0]


def write_gold(path: Path, prompts: int = 24, **more: Any) -> Path:
    """Two pairs a prompt. The good answer is the shorter one in a third of them and as long in another third."""
    lines = []
    for number in range(prompts):
        for turn in range(2):
            chosen, rejected = f"a good answer {turn}", f"my bad answer {turn}"
            kind = (number + turn) % 3
            chosen += " and more of it" * 3 * (kind == 0)
            rejected += " and more of it" * 3 * (kind == 1)
            row = {"prompt": f"question {number}", "chosen": chosen, "rejected": rejected, **more}
            lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def settings(folder: Path, *overrides: str) -> RunConfig:
    """A config of a pairwise judge under RULES, with few resamples."""
    folder.mkdir(exist_ok=True)
    rules = folder / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")
    fixed = ("judge.method=pairwise", "judge.backend=scripted", f"constitution={rules}", "evaluate.bootstrap=200")
    return default_config((*fixed, *overrides))


def card_of(
    folder: Path, score: Score | None, *overrides: str, gold: str | None = None, model: Any = None, **asked: Any
) -> JudgeCard:
    """The card of a scripted judge, or of `model`; of a panel `model` is a function of who is asked."""

    def open_judge(asking: AskingConfig, _: ModelConfig, cache: Path) -> LanguageModel:
        asked = model(asking) if isinstance(model, FunctionType) else model
        return CachedModel(scored(score) if asked is None else asked, cache / "judge.sqlite")

    config, counted = settings(folder, *overrides), CardOptions(**{"pairs": 0, "repeat": 4, "attack": 0, **asked})
    given = str(write_gold(folder / "gold.jsonl")) if gold is None else gold
    return judge_card(config, given, counted, cache=folder, progress=Silent(), open_judge=open_judge)


def judged(
    prompt: str,
    prob_a: float | None,
    *,
    a_is_better: bool = True,
    a: str = "aa",
    b: str = "bb",
    raters: tuple[tuple[float, float], ...] = (),
    shown: Sequence[tuple[Order, float]] = (),
) -> JudgedPair:
    """A pair with the label `prob_a`; `shown`: what the verdicts say of the answer shown first."""
    asked = Prompt((Message("user", prompt),))
    first, second = (Response(asked.id, text, "given", 0, 0.0, "stop", 0) for text in (a, b))
    pair = Comparison(asked, first, second)
    verdicts = tuple(Verdict(pair.id, "p", "h", "pairwise", order, "j", prob) for order, prob in shown)
    return JudgedPair(GoldPair(pair, a_is_better, raters=raters), PreferenceLabel(pair, prob_a, verdicts))


ANSWER = "a plain answer\nof two lines"


each_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


def share(found: Estimate | None) -> float:
    assert found is not None
    return found.mean


def says(found: JudgeCard | JudgeComparison, words: str) -> bool:
    return any(words in sentence.replace("\u00a0", " ") for sentence in found.verdict)
