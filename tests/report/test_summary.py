"""The table of `rlaif show` and the errors about its file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from rlaif.core.errors import DataError, StageError
from rlaif.core.evaluation import read_summary
from rlaif.core.files import RunFolder, write_atomic
from rlaif.report.summary import summary_table
from tests.report.fake_run import summary


def test_summary_table_has_a_row_per_model_and_slice(run: RunFolder) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary_table(run))
    shown = console.export_text()
    assert summary_table(run).row_count == 6
    for part in ("0.281*", "0.261–0.301", "62.3", "3.87", "gold harm ↓", "not measured: toxicity"):
        assert part in shown
    assert "0.132*" not in shown, "the everyday difference is 0"
    assert "gold harm, harmful: PPO - SFT −0.051 (−0.50 sd), −0.043 (−0.064 to −0.022) at equal length" in (
        " ".join(shown.split())
    )
    assert "gold harm, everyday" not in shown, "which was not measured"


def test_summary_table_does_not_read_names_as_markup(tmp_path: Path) -> None:
    data = summary()
    data["notes"], data["slices"] = [], ["[red]x[/nope]"]
    run = RunFolder(tmp_path)
    write_atomic(run.file("evaluate", "summary.json"), json.dumps(data))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(run))
    assert "[red]x[/nope]" in console.export_text()


def test_summary_problems_name_the_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(StageError, match="rlaif evaluate"):
        summary_table(run)
    write_atomic(run.file("evaluate", "summary.json"), json.dumps({"models": 3}))
    with pytest.raises(DataError, match=r"summary\.json"):
        read_summary(run)
