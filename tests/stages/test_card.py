"""The judge's card as a stage: what it cost counts all sessions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.progress import Silent
from rlaif.judge.load import parse
from rlaif.lm.scripted import ScriptedModel
from rlaif.run import pipeline


@pytest.mark.parametrize("stopped", [None, 1, 3])
def test_a_card_that_was_stopped_and_resumed_has_the_calls_of_all_sessions(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, stopped: int | None
) -> None:
    """`stopped`: at which call of the model; the last ones are those of the repeat, past the cache."""
    asked: list[int] = []
    stops = [] if stopped is None else [stopped]
    answer = ScriptedModel.ask

    def ask(self: ScriptedModel, requests: Any) -> Any:
        if stops and len(asked) == stops[0]:
            stops.clear()
            raise KeyboardInterrupt
        asked.append(len(requests))
        return answer(self, requests)

    monkeypatch.setattr(ScriptedModel, "ask", ask)
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "run"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(10)))
    tables = {
        "model": {"source": str(tiny_model)},
        "prompts": {"mine": {"source": str(prompts), "train": 8, "held_out": 2}},
        "judge": {"backend": "scripted", "method": "pairwise"},
        "label": {"batch_size": 2, "pairs": 1},
        "card": {"pairs": 4, "repeat": 4, "attack": 0},
    }
    config = parse(tables, where="test")

    def go(mode: Any) -> None:
        pipeline.run_stages(config, out, ("card",), mode=mode, limit=None, progress=Silent())

    if stopped is not None:
        with pytest.raises(KeyboardInterrupt):
            go("new")
    go("resume")
    stage = json.loads((out / "card" / "stage.json").read_text())
    assert sum(asked) >= 2 * 2 * 4
    assert stage["counts"]["judge_calls"] == json.loads((out / "card" / "card.json").read_text())["calls"] == sum(asked)
    assert stage["sessions"] == (1 if stopped is None else 2)

    asked.clear()
    go("force")
    stage = json.loads((out / "card" / "stage.json").read_text())
    assert (stage["sessions"], stage["counts"]["judge_calls"]) == (1, sum(asked)), "work of its own"
