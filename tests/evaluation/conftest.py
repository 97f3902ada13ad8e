"""Stand-in for the judge until rlaif.judge.judge is there."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Sequence

import pytest

from rlaif.records import Comparison, PreferenceLabel, content_id


class RandomJudge:
    def __init__(self, config: object, constitution: object, *, model: object, seed: int) -> None:
        self.seed = seed

    def label(self, comparisons: Sequence[Comparison]) -> list[PreferenceLabel]:
        return [PreferenceLabel(c, int(content_id(self.seed, c.id), 16) / 16**16, ()) for c in comparisons]


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("rlaif.judge.judge") is None:
        module = types.ModuleType("rlaif.judge.judge")
        module.Judge = RandomJudge  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "rlaif.judge.judge", module)
