"""How long killed sessions worked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlaif.core.files import RunFolder
from rlaif.run import ledger


def test_time_of_killed_sessions_is_counted(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first = ledger.begin(run, "sft", {"seed": 0}, {})
    trace = run.stage("sft") / "metrics.jsonl"
    trace.write_text("{}\n")
    os.utime(trace, (first.session_start + 100, first.session_start + 100))  # the last thing the session wrote
    second = ledger.begin(run, "sft", {"seed": 0}, {})
    assert second.sessions == 2
    assert second.started == first.started
    assert second.seconds_before == pytest.approx(100, abs=1)
    assert ledger.work_of(run, "sft") == second.work == first.work


def test_a_session_that_left_no_file_counts_where_nothing_changed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert ledger.work_of(run, "card") is None
    first = ledger.begin(run, "card", {"seed": 0}, {})
    again = ledger.begin(run, "card", {"seed": 0}, {})
    assert (again.sessions, again.work) == (2, first.work)
    other = ledger.begin(run, "card", {"seed": 1}, {})
    assert other.sessions == 1
    assert other.work != first.work
