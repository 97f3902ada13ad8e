"""Small stages for tests of the pipeline: they read and write real files of a run folder and load no model.

Each writes one record per training prompt, skips those it finds, and then what later stages read: a digest of
everything it was given. So a run that was killed and resumed must end with the very files of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType

from rlaif.config import STAGES, StageName
from rlaif.core.files import JsonlFile, path_hash, write_atomic, write_folder
from rlaif.core.records import Message, Prompt
from rlaif.stages import table as stages
from rlaif.stages.context import StageContext
from tests.fakes import judge_card

OUTPUT: dict[StageName, str] = {
    "card": "card.json",
    "revise": "traces.jsonl",
    "sft": "adapter/adapter.bin",
    "label": "labels.jsonl",
    "reward": "adapter/adapter.bin",
    "ppo": "adapter/adapter.bin",
    "dpo": "adapter/adapter.bin",
    "evaluate": "scores.jsonl",
}
WHOLE = tuple(name for name in STAGES if name != "dpo")
"""The stages of a run by the defaults."""
ACCURACY = 0.75
"""Of the judge, as the card says."""
LABELLED = 40
"""Of forty pairs."""
RAN: list[str] = []
"""Stages in the order in which they were started in this process."""


def run(context: StageContext) -> dict[str, float]:
    """Records written: one for each training prompt, `STUB_PAUSE` seconds apart."""
    RAN.append(context.stage)
    if context.stage == "report":
        finished = [name for name in stages.TABLE if context.run.record(name) is not None]
        write_atomic(context.run.report_path, "<p>" + ", ".join(finished))
        return {}
    stage: StageName = context.stage  # type: ignore[assignment]
    records = JsonlFile(context.folder / "records.jsonl", Prompt)
    done = {record.source for record in records.read()}
    made = 0
    for prompt in context.train_prompts():
        if prompt.id in done:
            continue
        time.sleep(float(os.environ.get("STUB_PAUSE", "0")))
        text = f"{context.stage} {context.config.seed} {prompt.text} " + "x" * 1000
        records.append([Prompt((Message("user", text),), source=prompt.id)])
        made += 1
    digest = hashlib.sha256((context.folder / "records.jsonl").read_bytes())
    for name in stages.TABLE[stage].reads:
        digest.update(path_hash(context.run.root / name).encode())
    said: object = digest.hexdigest()
    if stage == "card":
        said = judge_card(ACCURACY, labelled=LABELLED, id=digest.hexdigest()).as_json()
    folder, _, name = OUTPUT[stage].rpartition("/")
    text = json.dumps(said) + "\n"
    if folder:
        write_folder(context.folder / folder, lambda into: (into / name).write_text(text))
    else:
        write_atomic(context.folder / name, text)
    return {"written": float(made)}


def install(
    run_stage: Callable[[StageContext], dict[str, float]] = run,
    set_module: Callable[[str, ModuleType], None] = sys.modules.__setitem__,
) -> None:
    """Puts the stub in the place of every stage's module."""
    for name in stages.TABLE:
        module = ModuleType(name)
        module.run = run_stage  # type: ignore[attr-defined]
        set_module(f"rlaif.stages.{name}", module)
