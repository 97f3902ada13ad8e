"""Runs that stand as controls in another run's report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlaif.core.errors import ConfigError, DataError, RunFolderError
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import Prompt
from rlaif.report.controls import FILE, add_controls, named, read_controls
from rlaif.stages.report import write_report
from tests.output import Page
from tests.report.fake_run import summary, write_run


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two runs on the same prompts; the second one's PPO is 0.1 better."""
    ours, theirs = (write_run(tmp_path / name) for name in ("ours", "random"))
    theirs.file("evaluate", "summary.json").write_text(json.dumps(summary(-0.15)))
    return ours, theirs


def test_control_is_read_where_it_lies_and_again_after_both_moved(
    pair: tuple[RunFolder, RunFolder], tmp_path: Path
) -> None:
    ours, theirs = pair
    assert read_controls(ours) == []
    add_controls(ours, {"random judge": theirs.root})
    assert json.loads((ours.root / FILE).read_text()) == {"random judge": "../random"}
    shutil.move(tmp_path, moved := tmp_path.with_name(f"{tmp_path.name}-moved"))
    (control,) = read_controls(RunFolder(moved / "ours"))
    assert control.name == "random judge"
    cell = control.summary.cell("ppo", "harmful", "harm")
    assert cell is not None
    assert cell.difference == -0.15


def test_control_of_a_known_name_takes_its_place(pair: tuple[RunFolder, RunFolder]) -> None:
    ours, theirs = pair
    add_controls(ours, {"a": theirs.root, "b": theirs.root})
    add_controls(ours, {"a": ours.root})
    assert list(json.loads((ours.root / FILE).read_text()).items()) == [("a", "."), ("b", "../random")]


def test_other_prompts_are_refused_with_how_many_differ(pair: tuple[RunFolder, RunFolder]) -> None:
    ours, theirs = pair
    path = theirs.file("prompts", "held_out.jsonl")
    kept = JsonlFile(path, Prompt).read()[2:]
    path.unlink()
    JsonlFile(path, Prompt).append([*kept, Prompt.of_text("Another one?", "everyday")])
    with pytest.raises(RunFolderError, match="of this run's 10 held-out prompts it lacks 2, and it has 1 that this"):
        add_controls(ours, {"random judge": theirs.root})
    assert not (ours.root / FILE).exists()


def test_limit_counts_as_other_prompts(pair: tuple[RunFolder, RunFolder]) -> None:
    ours, theirs = pair
    record = theirs.file("evaluate", "stage.json")
    row = json.loads(record.read_text())
    record.write_text(json.dumps(row | {"config": row["config"] | {"limit": 3}}))
    with pytest.raises(RunFolderError, match="of this run's 10 held-out prompts it lacks 4, and it has 0"):
        add_controls(ours, {"random judge": theirs.root})


def test_run_without_evaluated_ppo_is_no_control(pair: tuple[RunFolder, RunFolder]) -> None:
    ours, theirs = pair
    path = theirs.file("evaluate", "summary.json")
    path.write_text(json.dumps(summary() | {"models": ["base", "sft"]}))
    with pytest.raises(RunFolderError, match="has no PPO in its evaluation"):
        add_controls(ours, {"random judge": theirs.root})
    path.unlink()
    with pytest.raises(RunFolderError, match="is not evaluated"):
        add_controls(ours, {"random judge": theirs.root})


def test_control_is_a_row_of_the_result_and_stays_when_the_page_is_written_again(
    pair: tuple[RunFolder, RunFolder],
) -> None:
    ours, theirs = pair
    assert "(control)" not in write_report(ours).path.read_text()
    add_controls(ours, {"<b>random</b> judge": theirs.root})
    for _ in range(2):
        words = " ".join(Page(write_report(ours).path.read_text()).words.split())
    # 0.3321 - 0.15, with its interval, then the difference from its SFT
    assert "<b>random</b> judge (control) 0.1820.162 to 0.202 ▼ −0.150 v SFT, better" in words
    assert words.count("(control)") == 2, "one row in each slice"


def test_names_of_controls_are_given_before_an_equals_sign() -> None:
    assert named(["random judge=runs/a", "b=c=d"]) == {"random judge": Path("runs/a"), "b": Path("c=d")}
    for text in ("runs/a", "=runs/a", "a="):
        with pytest.raises(ConfigError, match="is no NAME=RUN"):
            named([text])


def test_gone_run_and_broken_file_are_said(pair: tuple[RunFolder, RunFolder]) -> None:
    ours, theirs = pair
    add_controls(ours, {"random judge": theirs.root})
    shutil.rmtree(theirs.root)
    with pytest.raises(RunFolderError, match="is not a run of rlaif"):
        read_controls(ours)
    (ours.root / FILE).write_text('["../random"]')
    with pytest.raises(DataError, match="does not name runs"):
        read_controls(ours)
