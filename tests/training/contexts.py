"""A stage's context on the tiny model, and records to fill its run folder with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.core.files import RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import Constitution, Message, Principle, Prompt, Response
from rlaif.judge.load import parse
from rlaif.stages.context import StageContext

KIND = Constitution("kind", "1", "", (Principle("kind", "Be kind."),))


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def _refuse(*_: Any) -> Any:
    raise AssertionError("a trained stage asks no language model for text")


def stage_context(root: Path, source: Path, stage: str, **tables: dict[str, Any]) -> StageContext:
    """The context of `stage` in the run folder `root`; `tables` are config tables by name."""
    data = {
        "model": {"source": str(source), "dtype": "float32", "device": "cpu"},
        "prompts": {"all": {"source": "own"}},
    }
    return StageContext(
        stage=stage,
        config=parse({**data, **tables}, where="test"),
        run=RunFolder(root),
        constitution=KIND,
        progress=Silent(),
        open_policy=_refuse,
        open_judge=_refuse,
    )


def prompt(text: str) -> Prompt:
    return Prompt((Message("user", text),), slice="all")


def response(to: Prompt, text: str, *, finish: Any = "stop", seed: int = 0) -> Response:
    return Response(to.id, text, "test", seed, 1.0, finish, len(text.split()))
