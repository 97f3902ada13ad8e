"""A judge whose verdicts are known, labels that known principles made, and labels from a coin."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rlaif.analysis.recover.recover import Recovery, RecoveryOptions, recover
from rlaif.config import RunConfig
from rlaif.core.progress import Progress, Silent
from rlaif.core.records import Comparison, Contrast, Message, Principle, Prompt, Response, content_id, to_json
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import default_config
from rlaif.lm.protocol import LanguageModel
from tests.fakes import scored

TRAITS = tuple(f"trait-{n}" for n in range(12))
STATEMENTS = (
    "Greet the reader by name.", "Cite every source you used.", "Prefer short words over long ones.",
    "Warn about real dangers first.", "Offer one concrete next step.", "Admit what nobody knows yet.",
    "Keep numbers exact and rounded sensibly.", "Use an example from daily life.", "Thank people for their patience.",
    "Leave politics out of recipes.", "Spell out abbreviations at first use.", "Ask back when a wish is unclear.",
)  # fmt: skip
POOL = tuple(
    Principle(name, text, contrast=Contrast(f"You show {name}.", f"You lack {name}."))
    for name, text in zip(TRAITS, STATEMENTS, strict=True)
)


def strength(trait: str, text: str) -> float:
    """How much of a trait an answer has, -2 to 2, the same on every machine."""
    return int(content_id(trait, text)[:8], 16) / 0xFFFFFFFF * 4 - 2


def score(messages: tuple[Message, ...], text: str) -> float:
    """Under "You show x" an answer is as likely as it has x, under "You lack x" as it has not: log(s(v) / s(-v)) = v,
    so that at scale 1 the verdict is sigmoid(v(A) - v(B)). Other system prompts prefer nothing."""
    words = messages[0].content.rstrip(".").split()
    if words[:2] == ["You", "show"]:
        return strength(words[2], text)
    return -strength(words[2], text) if words[:2] == ["You", "lack"] else 0.0


def coin(pair: Comparison) -> float:
    """P(A is better) for no reason."""
    return int(content_id("coin", pair.id)[:8], 16) / 0xFFFFFFFF


def comparisons(prompts: int = 40, pairs: int = 2) -> list[Comparison]:
    found = []
    for n in range(prompts):
        prompt = Prompt((Message("user", f"Question {n}?"),))
        for k in range(pairs):
            a, b = (Response(prompt.id, f"{side} {n} {k}", "m", 0, 1.0, "stop", 3) for side in ("one", "two"))
            found.append(Comparison(prompt, a, b))
    return found


def labels(path: Path, prob_a: Callable[[Comparison], float | None], pairs: Sequence[Comparison] | None = None) -> Path:
    """A file of labels of ours, without verdicts."""
    rows: list[dict[str, object]] = [
        {"comparison": to_json(pair), "prob_a": prob_a(pair), "verdicts": []} for pair in pairs or comparisons()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def constitution(path: Path, principles: Sequence[Principle] = POOL, name: str = "pool") -> str:
    """A file with these principles."""
    entries = []
    for p in principles:
        pair = (
            {}
            if p.contrast is None
            else {"contrast": {"followed": p.contrast.followed, "violated": p.contrast.violated}}
        )
        entries.append({"id": p.id, "statement": p.statement, **pair})
    path.write_text(dump_yaml({"name": name, "version": "1", "principles": entries}), encoding="utf-8")
    return str(path)


def settings(*overrides: str) -> RunConfig:
    return default_config(("judge.backend=scripted", "judge.scale=1.0", "evaluate.bootstrap=200", *overrides))


class Said(Silent):
    """Keeps the lines that were said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def recovered(
    path: Path,
    asked: RecoveryOptions,
    *overrides: str,
    model: LanguageModel | None = None,
    progress: Progress | None = None,
) -> Recovery:
    """What the command finds, with the judge of known verdicts."""
    judge, shown = model or scored(score), progress or Silent()
    return recover(path, asked, settings(*overrides), cache=path.parent, progress=shown, open_judge=lambda *_: judge)
