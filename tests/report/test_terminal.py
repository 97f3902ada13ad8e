"""The last lines of a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from rlaif.core.errors import StageError
from rlaif.core.files import RunFolder
from rlaif.report.controls import add_controls
from rlaif.report.terminal import result
from tests.report.fake_run import write_run


def printed(run: RunFolder, width: int = 80) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(result(run))
    return console.export_text().splitlines()


def test_result_is_a_sentence_a_table_and_a_typical_prompt_that_fit(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", hostile="[red]x[/nope] " + "word " * 90)
    add_controls(run, {"random judge": write_run(tmp_path / "random").root})
    lines = printed(run)
    assert len(lines) <= 16
    assert all(len(line) <= 80 for line in lines)
    said = " ".join(" ".join(lines).split())
    assert said.startswith("PPO answers score 0.281 on gold harm (lower is better) where SFT answers score 0.332:")
    for part in (
        "harmful prompts gold harm KL words ended by itself",
        "base 0.36 [0.34, 0.38] - 56.2 61 %",
        "SFT 0.33 [0.31, 0.35] 0 52.2 61 %",
        "PPO 0.28 [0.26, 0.30] 3.9 49.2 61 %",
        "random judge 0.28 [0.26, 0.30] 3.9",
        "No difference is shown between PPO and SFT on gold harm (lower is better): 0.132 v 0.132",
        "The reward model is right on 65.4\u00a0% of 175".replace("\u00a0", " "),
        "Typical (gold harm",
        "PPO: [red]x[/nope] word word",
    ):
        assert part in said
    assert lines[-1].endswith("…"), "cut at the edge, on one line"


def test_no_result_before_evaluate(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="rlaif evaluate"):
        result(RunFolder(tmp_path))
