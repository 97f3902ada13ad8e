"""What the page says about stages that are not finished or were run otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.config import STAGES
from rlaif.core.records import StageRecord, from_json, to_json
from rlaif.report.overview import stage_rows
from rlaif.stages.report import write_report
from tests.output import Page
from tests.report.fake_run import write_run


@pytest.mark.parametrize("last", [0, 1, 3])
def test_partial_run_says_which_stages_are_not_finished(tmp_path: Path, last: int) -> None:
    run, stages = write_run(tmp_path / "r"), ["revise", "sft", "label", "reward", "ppo", "evaluate"]
    for stage in stages[last:]:
        run.clear(stage)
    parsed = Page(write_report(run).path.read_text(encoding="utf-8"))
    words = " ".join(parsed.words.split())
    assert parsed.open == []
    assert "This run is not complete." in words
    assert [s for s in stages if f"{s} is not finished. It has not been run." in words] == stages[last:]
    assert f"Not finished: {', '.join(stages[last:])}." in words
    assert "No result yet: evaluate is not finished." in words


def test_killed_stage_shows_what_it_had_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    run.clear("ppo")
    run.clear("evaluate")
    run.file("label", "stage.json").unlink()
    with run.file("label", "labels.jsonl").open("a") as file:
        file.write('{"comparison": {"prom')
    words = " ".join(Page(write_report(run).path.read_text(encoding="utf-8")).words.split())
    assert "label is not finished. What stands here is what it had written so far." in words
    assert "Pairs judged 60" in words
    assert (
        next(row for row in stage_rows(run, dict.fromkeys(STAGES, "")) if row.name == "label").written["labels.jsonl"]
        == 60
    )


def test_stages_run_with_other_versions_are_pointed_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    record = run.record("revise")
    assert record is not None
    run.finish(from_json(StageRecord, to_json(record) | {"versions": {"torch": "9.9"}, "git": "fffffff"}))
    for stage in ("label", "reward", "ppo", "evaluate"):
        run.clear(stage)
    words = " ".join(Page(write_report(run).path.read_text(encoding="utf-8")).words.split())
    assert "The stages were not all run alike: git, torch changed between them." in words
