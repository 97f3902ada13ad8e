"""A run folder, a policy and a judge that work by plain rules, and a count of everything they are asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import Constitution, Contrast, Failure, Message, Principle, Prompt
from rlaif.judge.load import parse
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import (
    ChoiceRequest,
    GenerateRequest,
    Generation,
    LanguageModel,
    Request,
    ResponseLogprobs,
    ScoreRequest,
)
from rlaif.lm.scripted import ScriptedReply
from rlaif.stages.context import StageContext
from tests.fakes import Listener

RULES = (
    Principle("kind", "Be kind.", contrast=Contrast("You follow.", "You violate.")),
    Principle("brief", "Be brief.", weight=2.0, contrast=Contrast("You follow.", "You violate.")),
)
CONSTITUTION = Constitution("test", "1", "", RULES)
TEMPLATES = {
    "critique": """{% message "user" %}Criticise by {{ principle.statement }}
{{ prompt | dialogue }}
{{ response | quote }}
{{ few_shots }}{% endmessage %}""",
    "revision": """{% message "user" %}Rewrite by {{ principle.statement }}
{{ prompt | dialogue }}
{{ response | quote }}
{{ critique }}{% endmessage %}""",
}
"""The run's own: the tests do not depend on how the shipped ones are worded."""

PROMPTS = (
    *(Prompt((Message("user", f"hard question {n}"),), slice="hard") for n in range(5)),
    *(Prompt((Message("user", f"easy question {n}"),), slice="easy") for n in range(2)),
)


def prompt(text: str, name: str = "hard") -> Prompt:
    return Prompt((Message("user", text),), slice=name)


def settings(seed: int = 3, judge: dict[str, Any] | None = None, **tables: Any) -> RunConfig:
    data = {
        "seed": seed,
        "judge": {"method": "contrast", "scale": 0.1, **(judge or {})},
        "card": {"required": False},
        "prompts": {"hard": {"source": "x", "train": 5}, "easy": {"source": "x", "train": 2, "revise": False}},
        **tables,
    }
    return parse(data, where="test")


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the product catches it."""


class Said(Silent):
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


class World:
    """What policy and judge do, and what they were asked for. `dies_after`: calls until the process is killed."""

    def __init__(self) -> None:
        self.asked: Counter[object] = Counter()
        self.opened: list[str] = []
        self.dies_after: int | None = None

    def ask(self, requests: Sequence[object]) -> None:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise Killed
        self.asked.update(requests)


def speaker(world: World, name: str) -> Listener:
    """Policy and judge. Prompts choose what happens: "fail" is not answered, "spotless" is not criticised, "mute" gets
    no critique, "stuck" no revision, and that of "parrot" repeats the answer. A text's quality is the number in it; the
    judge prefers the higher one, and cannot score a text with "odd" in it."""

    def reply(request: Request) -> ScriptedReply:
        assert not isinstance(request, ChoiceRequest), "the contrast judge asks for no choices"
        return _say(request) if isinstance(request, GenerateRequest) else _weigh(request)

    return Listener(reply, name, before=world.ask, fingerprint=name)


def _say(request: GenerateRequest) -> Generation:
    last, number = request.messages[-1].content, request.seed % 1000
    if last.startswith("Rewrite"):
        text = None if "stuck" in last else f"{'odd' if 'strange' in last else 'new'} {number}"
        if "parrot" in last:
            text = re.findall(r"answer \d+", last)[-1]
    elif last.startswith("Criticise"):
        text = None if "mute" in last else "No change needed." if "spotless" in last else f"It is rude {number}."
    else:
        text = None if "fail" in last else f"answer {number % 3 if 'same' in last else number}"
    if text is None:
        return Generation(None, "length", 0, Failure("empty", "nothing said"))
    return Generation(text, "stop" if number % 2 else "length", 2)


def _weigh(request: ScoreRequest) -> ResponseLogprobs:
    if "odd" in request.response:
        return ResponseLogprobs(None, Failure("context_overflow", "odd"))
    follows = request.messages[0].content.startswith("You follow.")
    return ResponseLogprobs((quality(request.response) / 1000 - 2.0 if follows else -2.0,))


def quality(text: str) -> int:
    found = re.search(r"\d+", text)
    assert found is not None
    return int(found[0])


def context_in(
    root: Path, stage: str, world: World, config: RunConfig, prompts: Sequence[Prompt] = PROMPTS
) -> StageContext:
    run = RunFolder(root)
    file = run.file("prompts", "train.jsonl")
    if not file.exists():
        JsonlFile(file, Prompt).append(prompts)
        run.templates_path.mkdir()
        for name, text in TEMPLATES.items():
            (run.templates_path / f"{name}.jinja").write_text(text, encoding="utf-8")

    def open_as(name: str, cache: str) -> LanguageModel:
        world.opened.append(name)
        return CachedModel(speaker(world, name), run.cache_path / cache)

    return StageContext(
        stage,
        config,
        run,
        CONSTITUTION,
        Silent(),
        open_policy=lambda adapters: open_as("+".join(["policy", *(a.parent.name for a in adapters)]), "policy.sqlite"),
        open_judge=lambda asking: open_as("judge", "judge.sqlite"),
    )


def content(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file of the folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed_and_resumed(root: Path, work: Callable[[Path, World], object]) -> Iterator[tuple[Path, World]]:
    """The folder and the world of a stage that was killed after its first call and resumed, then after its second,
    and so on; ends where the stage does not live to be killed."""
    for calls in range(100):
        world, folder = World(), root / f"killed after {calls}"
        world.dies_after = calls
        try:
            work(folder, world)
        except Killed:
            world.dies_after = None
            work(folder, world)
            yield folder, world
        else:
            return
