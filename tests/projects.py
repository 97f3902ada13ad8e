"""A project that tests share: two slices that name tags of a copied constitution, all else by default; and the same on
a tiny model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlaif.config import RunConfig
from rlaif.constitution.load import constitution_text
from rlaif.run.init import EXAMPLE_PROMPTS
from tests import tiny

CONFIG = """\
model:
  source: embedded
constitution: constitution.yaml
prompts:
  mine: {source: prompts.jsonl, train: 6, held_out: 2, principles: [harm, honesty, safety, privacy]}
  everyday: {source: everyday, train: 12, held_out: 4, principles: [helpful], revise: false}
"""


def write_project(folder: Path) -> Path:
    """Writes the config, which is given back, the constitution harmless-and-kind and eight prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "constitution.yaml").write_text(constitution_text("harmless-and-kind"), encoding="utf-8")
    prompts = "".join(json.dumps({"prompt": text}) + "\n" for text in EXAMPLE_PROMPTS)
    (folder / "prompts.jsonl").write_text(prompts, encoding="utf-8")
    config = folder / "rlaif.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    return config


def tiny_project(folder: Path, overrides: Sequence[str]) -> RunConfig:
    """The project's config on a tiny model, in folder/model, that has room for a critique's few hundred tokens."""
    from rlaif.judge.load import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "CONTEXT", 4096)
        tiny.make_tiny_model(folder / "model")
    return load(write_project(folder), ["model.source=./model", *overrides])
