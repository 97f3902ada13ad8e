"""Files of a run: what a crash leaves is dropped, what is broken is named, what is written is whole."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlaif.core.errors import DataError, DiskError, RunFolderError
from rlaif.core.files import (
    JsonlFile,
    MetricsLog,
    RunFolder,
    disk_errors,
    file_hash,
    read_json_lines,
    refuse_existing_file,
    refuse_no_run,
    remove_folder,
    write_atomic,
    write_folder,
)
from rlaif.core.records import Comparison, Message, PreferenceLabel, Prompt, StageRecord, to_json
from tests.power_cut import cut_at


def prompt(text: str) -> Prompt:
    return Prompt((Message("user", text),))


def stage_record(**values: Any) -> StageRecord:
    fields: dict[str, Any] = {
        "stage": "sft",
        "config": {"seed": 0},
        "config_hash": "h",
        "inputs": {},
        "counts": {"written": 2.0},
        "seconds": 1.5,
        "peak_memory_gb": 0.1,
        "versions": {},
        "git": "",
        "seed": 0,
        "hardware": "",
        "started": "",
        "finished": "",
    }
    return StageRecord(**{**fields, **values})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=4), st.data())
def test_cut_anywhere_the_whole_lines_are_read_and_the_rest_is_replaced(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    file = JsonlFile(tmp_path_factory.mktemp("jsonl") / "a.jsonl", Prompt)
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    file.append([prompt(text) for text in texts])
    raw = file.path.read_bytes()
    cut = data.draw(st.integers(0, len(raw)))
    file.path.write_bytes(raw[:cut])
    whole = raw[:cut].count(b"\n")
    assert [record.text for record in file.read()] == texts[:whole]
    file.append([prompt("next")])
    assert [record.text for record in file.read()] == [*texts[:whole], "next"]


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("whole", [["first", "x" * 70_000], []])
def test_a_broken_last_line_of_any_length_is_cut_off(tmp_path: Path, whole: list[str], size: int) -> None:
    file = JsonlFile(tmp_path / "a.jsonl", Prompt)
    file.append([prompt(text) for text in whole])
    with file.path.open("a") as tail:
        tail.write("y" * size)
    file.append([prompt("next")])
    assert [record.text for record in file.read()] == [*whole, "next"]


def test_a_broken_line_in_the_middle_is_an_error_with_its_place(tmp_path: Path) -> None:
    file = JsonlFile(tmp_path / "a.jsonl", Prompt)
    file.append([prompt("one"), prompt("two")])
    lines = file.path.read_text().splitlines(keepends=True)
    for broken, message in (
        ('{"messages": [\n', "is not a line of JSON"),
        ("[1]\n", "is not a JSON object"),
        ('{"messages": [{"role": "robot", "content": "x"}]}\n', "is not a Prompt: messages"),
    ):
        file.path.write_text(lines[0] + broken + lines[1])
        with pytest.raises(DataError, match=message) as caught:
            file.read()
        assert caught.value.where == f"{file.path}:2"


def test_a_file_that_is_not_utf_8_is_to_be_saved_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "x"}\n', encoding="utf-16")
    with pytest.raises(DataError, match=r"not UTF-8 text\)\n.*save the file as UTF-8"):
        list(read_json_lines(path))


def test_a_number_out_of_range_is_an_error_that_says_where_and_what_to_write(tmp_path: Path) -> None:
    file = JsonlFile(tmp_path / "labels.jsonl", PreferenceLabel)
    file.append(PreferenceLabel(Comparison.of_texts("Why?", "a", "b"), prob, ()) for prob in (0.5, 7.0))
    with pytest.raises(DataError, match="prob_a must be a number from 0 to 1") as caught:
        file.read()
    assert caught.value.where == f"{file.path}:2"


def test_reading_a_file_that_is_not_there_gives_nothing(tmp_path: Path) -> None:
    assert JsonlFile(tmp_path / "none.jsonl", Prompt).read() == []
    assert MetricsLog(tmp_path / "none.jsonl").read() == []


def test_write_atomic_replaces_whole_files_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_atomic(path, "one")
    write_atomic(path, "two é")
    assert path.read_text(encoding="utf-8") == "two é"
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    path.chmod(mode)
    write_atomic(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", mode)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file = JsonlFile(tmp_path / "a.jsonl", Prompt)
    file.append([prompt("one")])
    write_atomic(tmp_path / "b.txt", "one")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left on device") as caught:
        file.append([prompt("two")])
    assert caught.value.where == str(file.path)
    with pytest.raises(DiskError):
        write_atomic(tmp_path / "b.txt", "two")
    assert [record.text for record in file.read()] == ["one"]
    assert (tmp_path / "b.txt").read_text() == "one"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.jsonl", "b.txt"]


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError), disk_errors(tmp_path):
        raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


@pytest.mark.parametrize("name", ["file/inside.txt", "folder", "x" * 300])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DiskError, match="check the path") as caught:
        write_atomic(tmp_path / name, "text")
    assert caught.value.where == str(tmp_path / name)


def test_metrics_after_a_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(4):
        log.append(step=step, loss=1.0 / (step + 1))
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.keep_before(2)
    assert log.read() == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]
    log.append(step=2, loss=None)
    assert log.read()[-1] == {"step": 2, "loss": None}


@pytest.mark.parametrize("step", ['"two"', "[1]", "null", "true"])
def test_a_step_that_is_no_number_is_an_error_that_says_where(tmp_path: Path, step: str) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(step=1, loss=0.5)
    with log.path.open("a") as file:
        file.write(f'{{"step": {step}, "loss": 1}}\n')
    for work in (log.read, lambda: log.keep_before(1)):
        with pytest.raises(DataError, match=r"metrics\.jsonl:2: has a step that is no number"):
            work()


def test_a_number_that_no_float_holds_is_infinite(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_text(f'{{"step": 1, "loss": {"1" * 401}, "tokens": -{"9" * 5000}, "seed": {2**63}}}\n')
    assert log.read() == [{"step": 1, "loss": math.inf, "tokens": -math.inf, "seed": 2**63}]


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '{"stage": ' + "9" * 5000 + "}", "null", ""])
def test_a_damaged_record_is_an_error_and_no_traceback(tmp_path: Path, text: str) -> None:
    run = RunFolder(tmp_path)
    (run.stage("reward") / "stage.json").write_text(text)
    with pytest.raises(DataError, match=r"stage\.json: is not a stage record"):
        run.record("reward")


def test_half_a_character_is_written_as_json_writes_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    record = replace(stage_record(), config={"model.source": "half \ud83d"})
    run.finish(record)
    assert run.record(record.stage) == record


def test_stage_json_exists_exactly_when_the_stage_is_finished(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.stage("sft")
    assert run.record("sft") is None
    run.finish(stage_record())
    assert run.record("sft") == stage_record()
    run.clear("sft")
    assert run.record("sft") is None
    assert not (tmp_path / "sft").exists()


def test_a_damaged_stage_record_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    data = to_json(stage_record())
    write_atomic(tmp_path / "sft" / "stage.json", json.dumps({**data, "seconds": "long"}))
    with pytest.raises(DataError, match=r"sft/stage\.json: is not a stage record"):
        run.record("sft")


def test_the_lock_holds_against_another_process_and_dies_with_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from rlaif.core.files import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).lock():\n    print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RunFolderError, match="another rlaif process"), RunFolder(tmp_path).lock():
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with RunFolder(tmp_path).lock():
        pass


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("file", "link"):
        with pytest.raises(RunFolderError, match="is not overwritten"):
            refuse_existing_file(tmp_path / name)
    refuse_existing_file(tmp_path / "nothing")


def test_a_run_is_a_folder_with_a_config(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run"):
        refuse_no_run(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    refuse_no_run(tmp_path)


def test_file_hash_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash(tmp_path / "a") == "ba7816bf8f01cfea"  # SHA-256 of "abc", FIPS 180-2


def test_clearing_a_stage_never_follows_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "other" / "sft"
    kept.mkdir(parents=True)
    (kept / "stage.json").write_text("{}")
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    (run.root / "sft").symlink_to(kept, target_is_directory=True)
    run.clear("sft")
    assert (kept / "stage.json").exists()
    assert not (run.root / "sft").exists()


# Folders, and the power cut


def filled(text: str) -> Callable[[Path], None]:
    """What writes a folder of three files, one of them in a folder of its own."""

    def write(folder: Path) -> None:
        (folder / "deep").mkdir()
        for name in ("a.txt", "b.txt", "deep/c.txt"):
            (folder / name).write_text(text)

    return write


def texts(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.rglob("*.txt")} if folder.exists() else set()


def test_a_folder_replaces_the_one_before_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    for text in ("one", "two"):
        write_folder(tmp_path / "runs" / "adapter", filled(text))
        assert texts(tmp_path / "runs" / "adapter") == {text}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["adapter"]
    remove_folder(tmp_path / "runs" / "adapter")
    assert not list((tmp_path / "runs").iterdir())


def test_a_folder_whose_writing_fails_is_not_there(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        filled("two")(folder)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_folder(tmp_path / "adapter", filled("one"))
    with pytest.raises(DiskError, match="No space left on device"):
        write_folder(tmp_path / "adapter", fails)
    assert texts(tmp_path / "adapter") == {"one"}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_another_process_that_was_faster_keeps_its_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", filled("first"))
    write_folder(tmp_path / "model", filled("second"), unless=lambda: True)
    assert texts(tmp_path / "model") == {"first"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_after_a_power_cut_at_any_place_a_whole_folder_is_there_and_can_be_written_again(tmp_path: Path) -> None:
    """On the disk before it has its name: every file is flushed before the first rename."""
    folder, cuts = tmp_path / "adapter", 0
    while True:
        remove_folder(folder)
        write_folder(folder, filled("one"))
        if not cut_at(cuts + 1, lambda: write_folder(folder, filled("two"))):
            break
        cuts += 1
        assert texts(folder) | texts(tmp_path / "adapter.old") in ({"one"}, {"one", "two"})
        assert all(texts(path) in ({"one"}, {"two"}) for path in (folder,) if path.exists())
        write_folder(folder, filled("three"))
        assert texts(folder) == {"three"}
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert cuts == 5 + 2 + 1  # three files and two folders; to the old name and to the new one; the folder around it


def test_after_a_power_cut_a_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path, cuts = tmp_path / "stage.json", 0
    write_atomic(path, "one")
    while cut_at(cuts + 1, lambda: write_atomic(path, "two")):
        cuts += 1
        assert path.read_text() == ("one" if cuts < 3 else "two")
    assert cuts == 3  # the file, its new name, the folder around it
    assert path.read_text() == "two"


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "kept.txt").write_text("kept")
    run = tmp_path / "run"
    run.mkdir()
    (run / "adapter.tmp").symlink_to(victim, target_is_directory=True)
    (run / f".a.txt.{os.getpid()}.tmp").symlink_to(victim / "kept.txt")
    write_folder(run / "adapter", filled("one"))
    write_atomic(run / "a.txt", "one")
    remove_folder(run / "adapter")
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"kept.txt": "kept"}
    assert [path.name for path in run.iterdir()] == ["a.txt"]
    assert not (run / "a.txt").is_symlink()


@pytest.mark.parametrize("name", ["prompts.jsonl", "metrics.jsonl", ".lock"])
def test_nothing_is_appended_through_a_link_or_to_a_pipe(tmp_path: Path, name: str) -> None:
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    victim, path = tmp_path / "victim", run.root / name
    victim.write_text("a last line without its end")

    def append() -> None:
        if name == ".lock":
            with run.lock():
                pass
        elif name == "metrics.jsonl":
            MetricsLog(path).append(step=1)
        else:
            JsonlFile(path, Prompt).append([prompt("new")])

    for target in (victim, tmp_path / "not there"):
        path.symlink_to(target)
        with pytest.raises(DiskError, match="is a link, which is not written through"):
            append()
        path.unlink()
    assert victim.read_text() == "a last line without its end"
    assert not (tmp_path / "not there").exists()
    os.mkfifo(path)
    with pytest.raises(DiskError, match="is no file"):
        append()
    path.unlink()
    append()
    assert path.is_file()


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (JsonlFile(tmp_path / "pipe", Prompt).read, MetricsLog(tmp_path / "pipe").read):
        with pytest.raises(DiskError, match="is no file"):
            read()
