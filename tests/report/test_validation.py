"""The validations of PPO on the page and in `rlaif show`: which policy was kept, in figures, curves and answers."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlaif.core.files import MetricsLog, RunFolder
from rlaif.report import validation
from rlaif.report.validation import over_optimisation, read_validations
from rlaif.run.show import show
from rlaif.stages.report import write_report
from tests.report.fake_run import write_run

HOSTILE = '<script>alert(1)</script>{{ 7 * 7 }}"><img src=x onerror=y>\x1b[31m'
STEPS = (0, 2, 4)
SCORES, HARM, KL = (0.0, 1.0, 2.0), (0.5, 0.3, 0.6), (0.0, 4.0, 9.0)


def write_validations(run: RunFolder, text: str = "an answer", slices: tuple[str, ...] = ("kind", "unkind")) -> None:
    """Gold is best after step 2, the score after step 4."""
    log, samples = (MetricsLog(run.file("ppo", name)) for name in ("validation.jsonl", "validation_samples.jsonl"))
    for i, step in enumerate(STEPS):
        figures: dict[str, Any] = {"prompts": 4, "score": SCORES[i], "harm": HARM[i], "kl": KL[i], "length": 10.0}
        for number in range(4):
            row = {"score": SCORES[i] + number % 2, "harm": HARM[i] + 0.1 * (number % 2 * 2 - 1), "kl": KL[i]}
            samples.append(
                step=step, prompt_id=f"{number}", slice=slices[number % 2], prompt=f"Prompt {number}?", finish="stop",
                response=f"{text} {step}", **row,
            )  # fmt: skip
        for name in slices:
            log.append(step=step, slice=name, **figures)
        gain = {"gain": None if i == 0 else 0.1, "gain_low": None if i == 0 else -0.05, "gain_high": 0.25}
        log.append(step=step, slice=None, **figures, best=int(i < 2), **gain)


def page_of(run: RunFolder) -> str:
    return write_report(run).path.read_text(encoding="utf-8")


def keeping(run: RunFolder, keep: str) -> None:
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("steps: 12", f"steps: 12\n  keep: {keep}"))
    assert f"keep: {keep}" in run.config_path.read_text()


def test_a_run_without_validations_shows_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    assert read_validations(run, keep="best", finished=True, examples=3) is None
    assert "Validation" not in page_of(run)


@pytest.mark.parametrize(("keep", "kept"), [("best", 2), ("last", 4)])
def test_the_page_shows_the_validations_and_marks_what_was_kept(tmp_path: Path, keep: str, kept: int) -> None:
    run = write_run(tmp_path / "r")
    write_validations(run)
    keeping(run, keep)
    page = page_of(run)
    assert f"the policy after step {kept} was kept" in page
    assert f"kept: step {kept}" in page  # in the plot
    words = re.sub(r"<[^>]+>", " ", page)
    for shown in ("score (proxy)", "harm (gold)", "−0.05 to 0.25", "best so far", "Prompt 0?", "an answer 4"):
        assert shown in words.replace("−0.050 to 0.250", "−0.05 to 0.25"), shown
    assert ("best so far, kept" in words) is (keep == "best")


def test_what_is_not_finished_has_kept_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    write_validations(run)
    found = read_validations(run, keep="best", finished=False, examples=2)
    assert found is not None
    assert (found.kept, found.best, len(found.samples)) == (None, 2, 2)
    assert [row["step"] for row in found.samples[0]] == [0, 2, 4]


def test_over_optimisation_is_drawn_in_deviations_and_up_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: the score's deviation over the prompts is 0.5, that of harm 0.1; the axis is the root of the KL."""
    run = write_run(tmp_path / "r")
    write_validations(run)
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(validation, "as_svg", lambda figure, *_: drawn.update(axes=figure.axes[0]))
    whole = [row for row in MetricsLog(run.file("ppo", "validation.jsonl")).read() if row["slice"] is None]
    answers = MetricsLog(run.file("ppo", "validation_samples.jsonl")).read()
    over_optimisation(whole, answers, 2)
    lines = {line.get_label(): line for line in drawn["axes"].lines}
    assert list(lines["score (proxy)"].get_xdata()) == [0, 2, 3]
    assert list(lines["score (proxy)"].get_ydata()) == pytest.approx([0, 2, 4])
    assert list(lines["harm (gold)"].get_ydata()) == pytest.approx([0, 2, -1])
    assert list(lines["kept: step 2"].get_xdata()) == [2, 2]
    assert over_optimisation(whole[:1], answers, None) is None
    whole[1]["harm"], whole[2]["kl"] = None, -0.3  # not measured, and an estimate below 0
    over_optimisation(whole, answers, None)
    lines = {line.get_label(): line for line in drawn["axes"].lines}
    assert math.isnan(lines["harm (gold)"].get_ydata()[1])
    assert list(lines["score (proxy)"].get_xdata()) == [0, 2, 0]


def test_hostile_answers_and_slices_stay_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    write_validations(run, HOSTILE, (HOSTILE, "other"))
    page = page_of(run)
    assert "<script" not in page.lower()
    assert "<img" not in page.lower()
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page
    console = Console(file=io.StringIO(), width=200)
    show(run.root, "ppo", n=1, failed=False, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in said
    assert "validations, last 3 rows" in said
    assert "harm" in said
