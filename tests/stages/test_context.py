"""What a stage is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlaif.core.records import Prompt
from rlaif.stages.context import limited
from rlaif.training.trackers import Trackers
from tests.training.contexts import stage_context


def test_a_limit_counts_each_slice_by_itself() -> None:
    prompts = [Prompt.of_text(f"{number}", slice=name) for number in range(3) for name in ("a", "b")]
    assert [(prompt.slice, prompt.text) for prompt in limited(prompts, 2)] == [
        ("a", "0"),
        ("b", "0"),
        ("a", "1"),
        ("b", "1"),
    ]
    assert limited(prompts, None) == prompts


def test_a_tracked_log_is_a_file_whose_rows_are_sent_too(tmp_path: Path, tiny_model: Path) -> None:
    class Listening(Trackers):
        def send(self, row: Any, prefix: str = "") -> None:
            heard.append((row, prefix))

    heard: list[tuple[dict[str, Any], str]] = []
    context = stage_context(tmp_path, tiny_model, "ppo")
    context.metrics.append(step=0, score=1.0)
    assert heard == []
    context.trackers = Listening([], tmp_path, "ppo", settings={}, say=print)
    context.metrics.append(step=1, score=2.0)
    context.tracked("validation.jsonl", lambda row: f"{row['slice']}/").append(step=1, slice="a")
    assert heard == [({"step": 1, "score": 2.0}, ""), ({"step": 1, "slice": "a"}, "a/")]
    assert [row["score"] for row in context.metrics.read()] == [1.0, 2.0]
    assert (context.folder / "validation.jsonl").read_text() == '{"step": 1, "slice": "a"}\n'
