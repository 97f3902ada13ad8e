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
