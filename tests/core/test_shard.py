"""A shard: which part of a list it takes, and what a run of which a stage lies in shards is not used for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.core.errors import ConfigError, RunFolderError
from rlaif.core.files import RunFolder
from rlaif.core.shard import (
    Shard,
    folder_of_shard,
    refuse_no_whole_run,
    refuse_shard_folder,
    refuse_unmerged,
    shards_of,
    unmerged,
)


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "a/4", "1/4/2", "-1/4", "1 /4", "²/4"])
def test_what_names_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="write 1/4 for the first of four"):
        Shard.parse(text)


def test_a_shard_is_read_as_it_is_written() -> None:
    assert str(Shard.parse("2/16")) == "2/16"
    assert Shard.parse("2/16").folder(RunFolder(Path("run"))).root == Path("run/shards/2-of-16")


def test_a_shard_is_known_by_its_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "my")
    assert folder_of_shard(Shard(16, 2).folder(run).root) == (run.root, Shard(16, 2))
    assert folder_of_shard(run.root) is None
    assert folder_of_shard(run.root / "2-of-16") is None


@pytest.mark.parametrize("of", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [1, 3, 32])
@pytest.mark.parametrize("items", [0, 1, 31, 100])
def test_every_item_lies_in_one_shard_and_batches_stay_whole(of: int, size: int, items: int) -> None:
    batches = [list(range(items))[start : start + size] for start in range(0, items, size)]
    parts = [Shard(of, number).part(range(items), size) for number in range(1, of + 1)]
    assert sorted(item for part in parts for item in part) == list(range(items))
    for number, part in enumerate(parts):
        cut = [part[start : start + size] for start in range(0, len(part), size)]
        assert cut == batches[number::of], "cut into batches again, a shard has those that one process has"


def begun(run: RunFolder, shard: Shard, stage: str, *, work: bool = True) -> Path:
    folder = shard.folder(run).stage(stage)
    (folder / "begun.json").write_text("{}")
    if work:
        (folder / "labels.jsonl").write_text("{}\n")
    return folder


def test_a_run_with_a_stage_in_shards_is_no_whole_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "my")
    run.stage("label")
    run.config_path.write_text("{}")
    refuse_no_whole_run(run.root)
    begun(run, Shard(2, 2), "label", work=False)
    assert unmerged(run) is None, "a shard that was begun and left nothing stands in nobody's way"
    (Shard(2, 2).folder(run).stage("label") / ".begun.json.7.tmp").write_text("{")
    assert unmerged(run) is None, "nor does what a kill left of its note"
    folder = begun(run, Shard(2, 1), "label")
    assert list(shards_of(run, "label")) == [Shard(2, 1), Shard(2, 2)]
    assert shards_of(run, "revise") == {}
    for refuse in (lambda: refuse_no_whole_run(run.root), lambda: refuse_unmerged(run)):
        with pytest.raises(RunFolderError, match=r"the label stage lies here in shards \(0 of 2 fin.*\n.*rlaif merge"):
            refuse()
    with pytest.raises(RunFolderError, match=rf"is a shard of a run.*\n.*rlaif merge {run.root}, and give {run.root}"):
        refuse_shard_folder(folder.parent)
    run.file("label", "stage.json").write_text("{}")
    refuse_unmerged(run)
