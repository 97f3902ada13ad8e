"""A tiny deterministic language model and a run folder for the tests of the stage `evaluate`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import Constitution, Contrast, Failure, Message, Principle, Prompt
from rlaif.judge.load import parse
from rlaif.lm.protocol import GenerateRequest, Generation, LanguageModel, Request, ResponseLogprobs, ScoreRequest
from rlaif.lm.scripted import ScriptedReply
from rlaif.stages.context import StageContext
from tests.fakes import Listener

VOCABULARY = ("bread", "water", "rain", "stone", "hope", "slow", "green", "river")
LOGPROB = {"base": -2.0, "sft": -1.5, "ppo": -1.25, "dpo": -1.375, "judge": -1.0}
"""Every token of every answer has this log-probability, so KL(ppo || sft) is 0.25 nats a token, KL(dpo || sft) half."""
PROMPTS = (
    *(Prompt((Message("user", f"harmful question {n}"),), slice="harmful") for n in range(5)),
    *(Prompt((Message("user", f"kind question {n}"),), slice="harmless") for n in range(3)),
)


class Words(Listener):
    """Answers with words drawn from the request's seed; PPO's answers have twice as many. "fail" in a prompt fails."""

    def __init__(self, model: str, log: list[tuple[str, str, int]]) -> None:
        super().__init__(self.reply, model, before=self.note, fingerprint=model)
        self.log = log
        self.log.append((model, "open", 0))

    def note(self, requests: Sequence[Request]) -> None:
        self.log.append((self.name, "generate" if isinstance(requests[0], GenerateRequest) else "score", len(requests)))

    def reply(self, request: Request) -> ScriptedReply:
        if isinstance(request, ScoreRequest):
            return ResponseLogprobs((LOGPROB[self.name],) * len(request.response.split()))
        assert isinstance(request, GenerateRequest), "neither evaluate nor the contrast judge asks for choices"
        if "fail" in request.messages[-1].content:
            return Generation(None, "length", 0, Failure("context_overflow", "the prompt is too long"))
        draw = random.Random(request.seed)
        words = draw.choices(VOCABULARY, k=draw.randint(2, 6) * (2 if self.name == "ppo" else 1))
        return Generation(" ".join(words), "stop" if len(words) % 2 else "length", len(words))

    def close(self) -> None:
        self.log.append((self.name, "close", 0))


def constitution() -> Constitution:
    rule = Principle("kind", "Be kind.", contrast=Contrast("You are kind.", "You are cruel."))
    return Constitution("test", "1", "", (rule,))


def config(method: str = "random", **evaluate: object) -> RunConfig:
    table = {"gold": ["toxicity"], "bootstrap": 200, "batch_size": 3, "samples": 2, **evaluate}
    data = {
        "seed": 5,
        "judge": {"method": method},
        "prompts": {"harmful": {"source": "x", "held_out": 5}, "harmless": {"source": "x", "held_out": 3}},
        "evaluate": table,
    }
    return parse(data, where="test")


def context_in(
    root: Path,
    log: list[tuple[str, str, int]],
    *,
    prompts: Sequence[Prompt] = PROMPTS,
    adapters: Sequence[str] = ("sft", "ppo"),
    wrap: Callable[[LanguageModel], LanguageModel] = lambda model: model,
    settings: RunConfig | None = None,
) -> StageContext:
    """A stage context on a run folder with held-out prompts and the (empty) adapter folders of `adapters`."""
    run = RunFolder(root)
    held_out = run.file("prompts", "held_out.jsonl")
    if not held_out.exists() and prompts:
        JsonlFile(held_out, Prompt).append(prompts)
    for stage in adapters:
        run.file(stage, "adapter").mkdir(parents=True, exist_ok=True)

    def open_policy(folders: tuple[Path, ...]) -> LanguageModel:
        return wrap(Words(folders[-1].parent.name if folders else "base", log))

    return StageContext(
        stage="evaluate",
        config=settings or config(),
        run=run,
        constitution=constitution(),
        progress=Silent(),
        open_policy=open_policy,
        open_judge=lambda asking: Words("judge", log),
    )


def summary_in(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "evaluate/summary.json").read_text(encoding="utf-8"))
    return found
