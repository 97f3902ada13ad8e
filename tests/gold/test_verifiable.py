"""Every answer that is said to be right is, and every other one is wrong, by checks that know only the prompt."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from rlaif.constitution.load import refuse_missing_contrast
from rlaif.gold.pairs import GoldPair, read_gold_set
from rlaif.gold.verifiable import FACTS, KINDS, NUMBERS, SIZE, UNITS, Made, made
from rlaif.judge.methods.table import METHODS

ALL = made()


def of(kind: str) -> list[Made]:
    return [pair for name, pair in ALL if name == kind]


def follows(kind: str, prompt: str, answer: str) -> bool:
    """Whether the answer does what the prompt asks."""
    quoted = re.findall(r'"(\w+)"', prompt)
    words = re.findall(r"\w+", answer.lower())
    match kind:
        case "arithmetic":
            a, sign, b = re.findall(r"(\d+) (\S+) (\d+)", prompt)[0]
            result = {"+": int(a) + int(b), "-": int(a) - int(b), "times": int(a) * int(b)}[sign]
            return int(words[-1]) == result
        case "counting":
            letter, word = quoted
            return NUMBERS.index(words[-2]) == sum(one == letter for one in word)
        case "sorting":
            given = sorted(prompt.partition(": ")[2].rstrip(".").split(", "))
            return answer.split(", ") == given
        case "units":
            small, number, large = re.findall(r"How many (\w+) are (\d+) (\w+)\?", prompt)[0]
            return int(re.findall(r"\d+", answer)[-1]) == int(number) * {u[:2]: u[2] for u in UNITS}[large, small]
        case "words":
            asked = re.findall(r"exactly (\w+) words", prompt)[0]
            return len(words) == NUMBERS.index(asked) and quoted[0] in words
        case "ending":
            return words[-1] == quoted[0]
        case "without":
            return quoted[0] not in words
        case "json":
            told = dict(re.findall(r"the (\w+) is (\w+)", prompt))
            try:
                return {key: str(value) for key, value in json.loads(answer).items()} == told
            except json.JSONDecodeError:
                return False
        case "asked":
            return dict(FACTS)[prompt] == answer
        case "whole":
            return answer.endswith(".")
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_right_is_right_and_wrong_is_wrong(kind: str) -> None:
    pairs = of(kind)
    assert len(pairs) == SIZE
    assert [p for p, right, _ in pairs if not follows(kind, p, right)] == []
    assert [p for p, _, wrong in pairs if follows(kind, p, wrong)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_length_says_nothing(kind: str) -> None:
    longer = Counter((len(right) > len(wrong)) - (len(right) < len(wrong)) for _, right, wrong in of(kind))
    assert longer[1] == longer[-1]


def test_the_seed_decides_and_prompts_differ() -> None:
    assert made() == ALL
    assert made(1) != ALL
    assert len({prompt for _, (prompt, _, _) in ALL}) == len(ALL) == SIZE * len(KINDS)


def test_as_gold() -> None:
    gold = read_gold_set("verifiable")
    assert len(gold.pairs) == 240
    assert all(pair.length_matched for pair in gold.pairs)
    assert {pair.tags for pair in gold.pairs} == {(kind,) for kind in KINDS}
    assert 95 < sum(pair.a_is_better for pair in gold.pairs) < 145
    assert gold.constitution is not None
    refuse_missing_contrast(gold.constitution, methods=[METHODS["contrast"]], where="")
    assert {pair.principle for pair in gold.pairs} == set(gold.constitution.principles)

    def key(pair: GoldPair) -> tuple[str, str, str]:
        return pair.comparison.prompt.text, pair.better.text, pair.worse.text

    assert {key(pair) for pair in gold.pairs} == {pair for _, pair in ALL}
