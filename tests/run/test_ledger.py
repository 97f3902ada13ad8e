"""How long killed sessions worked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rlaif.core.errors import DataError, RlaifError, RunFolderError
from rlaif.core.files import RunFolder
from rlaif.core.records import Message
from rlaif.core.shard import Shard
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import GenerateRequest
from rlaif.lm.scripted import ScriptedModel
from rlaif.run import ledger
from rlaif.run.models import CACHES


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


@pytest.mark.parametrize("shard", [None, Shard(4, 2)])
@pytest.mark.parametrize(
    ("name", "text", "kind"), [("begun.json", "{", DataError), ("labels.jsonl", "{}\n", RunFolderError)]
)
def test_what_cannot_be_gone_on_with_names_the_command_that_does_it_again(
    tmp_path: Path, shard: Shard | None, name: str, text: str, kind: type[RlaifError]
) -> None:
    run = RunFolder(tmp_path / "my")
    folder = run if shard is None else shard.folder(run)
    (folder.stage("label") / "labels.jsonl").write_text("{}\n")
    (folder.stage("label") / name).write_text(text)
    with pytest.raises(kind) as caught:
        ledger.refuse_changed(folder, "label", {}, {})
    part = "" if shard is None else " --shard 2/4"
    assert f"rlaif label --run {run.root}{part} --force" in str(caught.value)


@pytest.mark.parametrize("removed", [False, True])
def test_what_shards_asked_is_known_once_their_stage_is_cleared(tmp_path: Path, removed: bool) -> None:
    run, name = RunFolder(tmp_path / "my"), CACHES["judge"]
    request = GenerateRequest((Message("user", "a"),), 20, 1.0, 1)
    for number in (1, 2):
        shard = Shard(2, number).folder(run)
        ledger.begin(shard, "label", {}, {})
        model = CachedModel(ScriptedModel(), shard.cache_path / name)
        model.count_for(f"shard {number}")
        model.ask([request if number == 1 else GenerateRequest((Message("user", "b"),), 20, 1.0, 1)])
        model.close()
    if removed:  # by hand, as the message says where the shards do not fit
        Shard(2, 1).folder(run).clear("label")
    ledger.clear(run, ["label"])
    assert not list((run.root / "shards").glob("*/cache/*"))
    model = CachedModel(ScriptedModel(), run.cache_path / name)
    assert model.spent().calls == 2
    model.ask([request])
    assert (model.usage.calls, model.usage.cached) == (0, 1)
    model.close()
