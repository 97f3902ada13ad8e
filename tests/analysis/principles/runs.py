"""A run whose judge reads the rule, and judges that do not; all scripted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from rlaif.analysis.principles.attribution import Attribution, attribution
from rlaif.config import AskingConfig, ModelConfig
from rlaif.core.files import RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import Comparison, Constitution, Contrast, ContrastExample, Message, Principle, Prompt
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import LanguageModel
from tests.analysis.impact.runs import make_run, responses, settings
from tests.fakes import scored

ANSWERS = ("yes of course", "no never at all", "yes and no", "well")


def _principle(name: str, rule: str, word: str, other: str, weight: float = 1.0) -> Principle:
    pair = Contrast(f"You say {word}.", f"You say {other}.", (ContrastExample("Really?", word, other),))
    return Principle(name, rule, weight=weight, comparison="Which one does it better?", contrast=pair)


CONSTITUTION = Constitution(
    "words",
    "1",
    "",
    (
        _principle("yes", "Say yes.", "yes", "no", 2.0),
        _principle("no", "Say no.", "no", "yes", 1.5),
        _principle("yes-again", "Always say yes.", "yes", "no", 2.0),
        _principle("faint", "Say well.", "well", "never", 0.1),
    ),
)
PROMPTS = tuple(Prompt((Message("user", f"question {n}"),), slice="hard") for n in range(12))


def reader(messages: tuple[Message, ...], choice: str) -> float:
    """Chooses the answer with the word of the rule, and the other one where the rule says opposite."""
    return _wanted(messages, choice) * 2.0


def letter_lover(messages: tuple[Message, ...], choice: str) -> float:
    """Likes (A), and a little the answer with the word that the rule names, whatever the rule says of it."""
    return 3.0 * (choice == "A") + 0.2 * abs(_wanted(messages, choice))


def letter_only(messages: tuple[Message, ...], choice: str) -> float:
    return 3.0 * (choice == "A")


def _wanted(messages: tuple[Message, ...], choice: str) -> int:
    text = messages[-1].content
    rule = text.partition("Rule: ")[2].partition("\n")[0]
    word = re.search(r"say (\w+)", rule, re.IGNORECASE)
    answers = dict(re.findall(r"Answer \(([AB])\):\n> (.*)", text))
    assert word is not None
    return (word[1] in answers[choice].split()) * (-1 if "opposite" in rule else 1)


def by_words(messages: tuple[Message, ...], response: str) -> float:
    """A contrast judge that goes by the system prompt."""
    return float(messages[0].content.removeprefix("You say ").removesuffix(".") in response.split())


def by_examples(messages: tuple[Message, ...], response: str) -> float:
    """A contrast judge that goes by the demonstrated answers."""
    return float(any(m.content in response.split() for m in messages if m.role == "assistant"))


def comparisons(answers: Sequence[str] = ANSWERS) -> list[Comparison]:
    return [
        Comparison(prompt, a, b) for prompt in PROMPTS for a, b in combinations(responses(prompt, answers), 2)
    ]  # fmt: skip


def words_run(root: Path, score: Any = reader, constitution: Constitution = CONSTITUTION, **judge: Any) -> RunFolder:
    """12 prompts with 6 pairs each, judged under one principle or as `judge` says."""
    config = settings(root, **{"method": "pairwise", "principles": "one", **judge})
    return make_run(root, config, comparisons(), constitution, scored(score))


def ask(run: RunFolder, score: Any = reader, **options: Any) -> tuple[Attribution, list[bool]]:
    """The answer, and a list that is not empty if the judge was opened."""
    opened: list[bool] = []

    def open_judge(asking: AskingConfig, _: ModelConfig, cache: Path) -> LanguageModel:
        opened.append(True)
        return CachedModel(scored(score), cache / "judge.sqlite")

    return attribution(run, progress=Silent(), open_judge=open_judge, **options), opened
