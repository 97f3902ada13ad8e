"""Shards of a stage, joined: the very files of one process, whatever was killed; and what is never joined."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import RunConfig, StageName
from rlaif.core.errors import ConfigError, DataError, RunFolderError, StageError
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import StageRecord
from rlaif.core.shard import Shard
from rlaif.lm import open as open_model
from rlaif.lm.cache import CachedModel
from rlaif.lm.scripted import ScriptedModel
from rlaif.run import pipeline
from rlaif.run.merge import merge
from tests import stub_stages
from tests.conftest import FEW_TOKENS
from tests.output import done, rlaif
from tests.power_cut import calls_of, cut_at
from tests.projects import tiny_project

N = 4


def records(run: Path, stage: str) -> dict[str, bytes]:
    """Every file of the stage but its markers, which hold times."""
    return {path.name: path.read_bytes() for path in (run / stage).glob("*.jsonl")}


def record(run: Path, stage: str) -> StageRecord:
    found = RunFolder(run).record(stage)
    assert found is not None
    return found


def counts(run: Path, stage: str) -> dict[str, float]:
    """Those of the stage's record, without the answers that its last session knew."""
    return {name: value for name, value in record(run, stage).counts.items() if not name.endswith("_cached")}


def answers(run: Path, name: str) -> dict[str, str]:
    with closing(sqlite3.connect(run / "cache" / f"{name}.sqlite")) as file:
        return dict(file.execute("SELECT key, answer FROM answers"))


# --- a real model, real processes, real kills -------------------------------------------------------------------------


def start_shard(config: RunConfig, run: Path, stage: StageName, shard: Shard, kill: tuple[int, float] | None) -> int:
    """The id of a process that does the shard. `kill`: after so many writes and seconds it is killed, before it
    writes again."""
    child = os.fork()
    if child:
        return child
    append, written = JsonlFile.append, 0

    def counted(file: JsonlFile[Any], rows: Any) -> None:
        nonlocal written
        while kill is not None and written == kill[0]:
            signal.pause()
        append(file, rows)
        written += 1
        if kill is not None and written == kill[0]:
            threading.Timer(kill[1], lambda: os.kill(os.getpid(), signal.SIGKILL)).start()

    JsonlFile.append = counted  # type: ignore[method-assign]
    try:
        pipeline.run_shard(config, run, stage, shard, mode="resume", limit=None, progress=Silent())
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def in_shards(config: RunConfig, run: Path, stage: StageName, writes: Sequence[int], moments: random.Random) -> None:
    """Does the stage in four processes at a time; each of them is killed after so many writes, and started again."""
    shards = [Shard(N, number) for number in range(1, N + 1)]
    for kills in ([(after, moments.uniform(0, 0.3)) for after in writes], [None] * N):
        children = [start_shard(config, run, stage, *part) for part in zip(shards, kills, strict=True)]
        for child, kill in zip(children, kills, strict=True):
            _, status = os.waitpid(child, 0)
            assert status == (0 if kill is None else signal.SIGKILL)
        finished = [shard.folder(RunFolder(run)).record(stage) is not None for shard in shards]
        assert finished == [kills[0] is None] * N
    assert merge(run, progress=Silent()).stage == stage
    assert not (run / "shards").exists()


def test_four_processes_each_killed_and_joined_write_the_very_files_of_one(tmp_path: Path) -> None:
    more = ("label.answers=both", "label.pairs=2", "label.samples=3", "label.balance=true", "judge.max_calls=100000")
    config = tiny_project(tmp_path, (*FEW_TOKENS, *more, "revise.batch_size=2", "label.batch_size=2"))
    one, many, moments = tmp_path / "one", tmp_path / "many", random.Random(0)
    for stage in ("revise", "sft", "label"):
        pipeline.run_stages(config, one, [stage], mode="resume", limit=None, progress=Silent())  # type: ignore[list-item]
    in_shards(config, many, "revise", (1, 1, 1, 1), moments)
    assert records(many, "revise") == records(one, "revise")
    shutil.copytree(one / "sft", many / "sft")  # which was made from these very files, or is refused
    in_shards(config, many, "label", (1, 2, 3, 4), moments)  # of answers, and of labels
    assert records(many, "label") == records(one, "label")
    assert {"responses.jsonl", "labels.jsonl"} <= records(many, "label").keys()
    kinds = {row["answers"] for row in map(json.loads, (many / "label" / "labels.jsonl").open())}
    assert kinds == {"policy", "contrast"}
    for stage in ("revise", "label"):
        assert counts(many, stage) == counts(one, stage)
        found, whole = record(many, stage), record(one, stage)
        assert (found.config, found.inputs) == (whole.config, whole.inputs)
        assert found.sessions == 2 * N
    for name in ("policy", "judge"):
        assert answers(many, name) == answers(one, name)
    kept = pipeline.run_stages(config, many, ["revise", "sft", "label"], mode="resume", limit=None, progress=Silent())
    assert set(kept.values()) == {"kept"}


# --- what is refused --------------------------------------------------------------------------------------------------

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """make(name) -> a run folder that is finished up to `sft`, with eight prompts in four batches for `label`, whose
    policy is scripted and whose judge draws."""
    real = {name: importlib.import_module(f"rlaif.stages.{name}") for name in ("label", "report")}
    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    for stage, module in real.items():
        monkeypatch.setitem(sys.modules, f"rlaif.stages.{stage}", module)
    policy: Callable[..., CachedModel] = lambda model, adapters, cache: CachedModel(  # noqa: E731
        ScriptedModel(), cache / "policy.sqlite"
    )
    monkeypatch.setattr(open_model, "open_policy", policy)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(9)))

    def run(name: str) -> Path:
        config = tmp_path / f"{name}.yaml"
        tables = {
            "model": {"source": str(tiny_model)},
            "judge": {"method": "random"},
            "card": {"required": False},
            "prompts": {"mine": {"source": str(prompts), "train": 8, "held_out": 1}},
            "label": {"samples": 3, "pairs": 3, "batch_size": 2},
        }
        config.write_text(json.dumps(tables))
        folder = tmp_path / name
        for stage in ("revise", "sft"):
            assert rlaif(stage, config, "--out", folder).exit_code == 0
        return folder

    return run


def shard(run: Path, which: str, *more: str) -> Any:
    return rlaif("label", "--run", run, "--shard", which, *more)


def shards(run: Path, of: int = 2) -> Path:
    for number in range(1, of + 1):
        assert shard(run, f"{number}/{of}").exit_code == 0
    return run


def test_shards_by_the_command_line(make: Make) -> None:
    one, many = make("one"), make("many")
    done("label", "--run", one)
    said = shard(many, "1/2").output
    assert "label 1/2: done in" in said
    assert f"when all shards are finished: rlaif merge {many}" in said
    assert "in shards, 1 of 2 finished" in rlaif("show", many).output
    assert shard(many, "1/2").exit_code == 5, "what is finished is not done again unasked"
    assert "label 1/2: finished, kept" in shard(many, "1/2", "--resume").output
    found = done("label", "--run", many, "--shard", "2/2")["stages"]["label"]
    assert (found["outcome"], found["counts"]["prompts"]) == ("done", 4)
    assert done("merge", many)["counts"]["prompts"] == 8
    assert records(many, "label") == records(one, "label")
    assert counts(many, "label") == counts(one, "label")
    assert "label: finished, kept" in shard(many, "2/2", "--resume").output, "a job that is queued again does nothing"
    assert "no stage lies here in shards" in rlaif("merge", many).output


def test_what_is_missing_is_said_in_one_message_and_nothing_is_written(make: Make) -> None:
    run = make("run")
    for which in ("2/4", "3/4"):
        assert shard(run, which).exit_code == 0
    (run / "shards" / "3-of-4" / "label" / "stage.json").unlink()
    said = rlaif("merge", run)
    assert said.exit_code == 5
    assert (
        "of the 4 shards of label 3 are missing: 1/4 is not begun, 3/4 is not finished, 4/4 is not begun" in said.output
    )
    assert f"rlaif label --run {run} --shard 1/4 --resume, and the same with 3/4, 4/4" in said.output
    assert not (run / "label").exists()
    with pytest.raises(RunFolderError, match="no stage lies here in shards"):
        merge(make("other"), progress=Silent())


def test_a_run_in_shards_is_used_for_nothing_that_needs_it_whole(make: Make, tmp_path: Path) -> None:
    run = shards(make("run"))
    shutil.copy(run / "constitution.yaml", tmp_path)
    for command in (
        ("reward", "--run", run),
        ("label", "--run", run, "--resume"),
        ("run", "--run", run, "--resume"),
        ("report", run),
        ("serve", run),
        ("chat", run, "Hello?"),
        ("judge", "serve", run),
        ("export", "data", "--run", run, "--out", tmp_path / "data"),
        ("principles", "--run", run),
        ("impact", "--run", run, "--to", tmp_path / "constitution.yaml"),
    ):
        said = rlaif(*command)
        assert said.exit_code == 5, (command, said.output)
        assert "the label stage lies here in shards (2 of 2 finished)" in said.output
        assert f"rlaif merge {run}" in said.output
    said = rlaif("sft", "--run", run / "shards" / "1-of-2")
    assert said.exit_code == 5
    assert "is a shard of a run, and no run by itself" in said.output
    assert rlaif("label", "--run", run, "--force").exit_code == 0, "anew, without shards"
    assert not list((run / "shards").glob("*/label"))


@pytest.mark.parametrize(
    ("which", "more", "said"),
    [
        ("2/2", ("--set", "label.temperature=0.5"), "label.temperature (was 1.0, now 0.5)"),
        ("2/2", ("--set", "label.batch_size=1"), "label.batch_size (was 2, now 1)"),
        ("2/2", ("--limit", "6"), "limit (was None, now 6)"),
        ("2/2", ("--set", "card.required=true"), "the judge has no card yet"),
        ("2/3", (), "the label stage was begun here in 2 shards, and 2/3 is one of 3"),
        ("2/2", ("--set", "label.batch_size=8"), "8 prompts in batches of 8 are fewer batches than 2 shards"),
        ("3/2", (), "there is no shard '3/2'"),
        ("2/2", ("--compare",), "--compare looks at a run that is there"),
    ],
)
def test_a_shard_that_would_not_fit_is_refused_before_it_begins(
    make: Make, which: str, more: tuple[str, ...], said: str
) -> None:
    run = make("run")
    assert shard(run, "1/2").exit_code == 0
    before = (run / "config.yaml").read_bytes()
    found = shard(run, which, *more)
    assert found.exit_code in (2, 5, 6), found.output
    assert said in found.output
    assert (run / "config.yaml").read_bytes() == before
    assert [path.name for path in (run / "shards").iterdir()] == ["1-of-2"]


def test_given_labels_and_a_stage_that_was_begun_whole_are_not_shared_out(make: Make, tmp_path: Path) -> None:
    run = make("run")
    given = tmp_path / "given.jsonl"
    given.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    said = shard(run, "1/2", "--set", f"label.source={given}")
    assert (said.exit_code, "there is nothing to share out" in said.output) == (2, True)
    assert rlaif("label", "--run", run).exit_code == 0
    (run / "label" / "stage.json").unlink()
    said = shard(run, "1/2", "--resume")
    assert (said.exit_code, "the label stage was begun here without shards" in said.output) == (5, True)
    assert shard(run, "1/2", "--force").exit_code == 0, "anew, in shards"


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def as_written(run: Path, number: int, of: int = 2) -> None:
    """Has the shard's record say that it wrote the files that are there now."""
    folder = Shard(of, number).folder(RunFolder(run))
    rewrite(
        folder.file("label", "stage.json"),
        lambda row: row | {"inputs": row["inputs"] | pipeline.wrote(folder, "label")},
    )


def lines(run: Path, number: int, of: int = 2) -> tuple[Path, list[str]]:
    path = Shard(of, number).folder(RunFolder(run)).file("label", "labels.jsonl")
    return path, path.read_text().splitlines(keepends=True)


def test_shards_that_are_not_what_they_say_are_not_joined(make: Make) -> None:
    def refused(run: Path, kind: type[Exception], said: str) -> None:
        with pytest.raises(kind, match=said):
            merge(run, progress=Silent())
        assert not (run / "label").exists()
        assert not list(run.glob("*.tmp"))
        assert all((run / "shards" / f"{number}-of-2" / "label" / "stage.json").exists() for number in (1, 2))

    first = shards(make("first"))

    def copy(name: str) -> Path:
        return Path(shutil.copytree(first, first.parent / name))

    twice = copy("twice")
    shutil.rmtree(twice / "shards" / "2-of-2")
    shutil.copytree(twice / "shards" / "1-of-2", twice / "shards" / "2-of-2")
    refused(twice, RunFolderError, "this is shard 1/2, which is there twice")

    edited = copy("edited")
    path, rows = lines(edited, 2)
    path.write_text("".join(rows[:-1]))
    refused(edited, DataError, r"label/labels\.jsonl is not as shard 2/2 wrote it")

    double = copy("double")
    path, rows = lines(double, 2)
    path.write_text("".join([*rows, rows[-1].replace('"prob_a": 0.', '"prob_a": 0.9', 1)]))
    as_written(double, 2)
    refused(double, DataError, "holds two records of one thing")

    foreign = copy("foreign")
    path, rows = lines(foreign, 2)
    path.write_text("".join([*lines(foreign, 1)[1][:1], *rows]))
    as_written(foreign, 2)
    refused(foreign, DataError, "holds a record of a prompt of shard 1/2")

    version = copy("version")
    rewrite(
        version / "shards" / "2-of-2" / "label" / "stage.json",
        lambda row: row | {"versions": row["versions"] | {"torch": "1.0"}},
    )
    refused(version, RunFolderError, r"were made differently: torch \(was .*, now 1\.0\)")

    changed = copy("changed")
    (changed / "sft" / "adapter" / "adapter.bin").write_text("other")
    refused(changed, RunFolderError, "the run has changed since its label shards were made: the sft/adapter")

    short = copy("short")
    path = short / "shards" / "2-of-2" / "label" / "responses.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    as_written(short, 2)
    refused(short, RunFolderError, "the shards lack a record, and a merge asks no model")


def test_shards_are_made_again_by_force(make: Make) -> None:
    run = shards(make("run"))
    before = (run / "shards" / "2-of-2" / "label" / "labels.jsonl").read_bytes()
    assert shard(run, "1/2", "--force").exit_code == 0, "this one alone"
    assert (run / "shards" / "2-of-2" / "label" / "labels.jsonl").read_bytes() == before
    done("merge", run)
    assert rlaif("reward", "--run", run).exit_code == 0
    assert shard(run, "1/2").exit_code == 5, "the stage is finished"
    assert shard(run, "1/2", "--force").exit_code == 0
    assert not (run / "label").exists()
    assert not (run / "reward").exists(), "what stood on the stage goes with it"
    found = done("label", "--run", run, "--shard", "2/2", "--force")["stages"]["label"]["counts"]
    assert found["policy_calls"] == 0, "what the run's cache knows is not asked again"
    done("merge", run)


def test_a_shard_that_is_refused_removes_nothing(make: Make) -> None:
    run = shards(make("run"))
    done("merge", run)
    assert rlaif("reward", "--run", run).exit_code == 0
    for which, more, said in (
        ("1/50", (), "8 prompts in batches of 2 are fewer batches than 50 shards"),
        ("1/2", ("--set", "card.required=true"), "the judge has no card yet"),
        ("1/2", ("--set", "sft.epochs=9"), "the sft stage was finished with other settings"),
    ):
        found = shard(run, which, "--force", *more)
        assert (found.exit_code != 0, said in found.output) == (True, True), found.output
        assert all((run / stage / "stage.json").exists() for stage in ("label", "reward"))
    assert not (run / "shards").exists()


def spent(run: Path) -> int:
    """The requests that the run's cache says were sent to the policy."""
    with closing(sqlite3.connect(run / "cache" / "policy.sqlite")) as file:
        return int(file.execute("SELECT sum(calls) FROM spent").fetchone()[0])


def test_what_shards_asked_is_neither_asked_nor_counted_again(make: Make) -> None:
    one, run = make("one"), shards(make("run"))
    done("label", "--run", one)
    found = done("label", "--run", run, "--force")["stages"]["label"]["counts"]
    assert found["policy_calls"] == 0, "what shards asked is known, without shards, too"
    assert spent(run) == spent(one)

    again = shards(make("again"))
    path = again / "shards" / "2-of-2" / "label" / "responses.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    as_written(again, 2)
    assert rlaif("merge", again).exit_code != 0, "refused, when the answers were taken in"
    found = done("label", "--run", again, "--shard", "2/2", "--force")["stages"]["label"]["counts"]
    assert found["policy_calls"] == 0
    done("merge", again)
    assert spent(again) == spent(one)
    assert records(again, "label") == records(one, "label")


def test_other_shards_begin_where_the_message_leads_and_pay_for_nothing_twice(make: Make) -> None:
    one, run = make("one"), shards(make("run"))
    done("label", "--run", one)
    found = shard(run, "1/4")
    assert f"or remove {run}/shards/*/label and begin anew" in found.output.replace("\n", "")
    other = shard(run, "1/2", "--force", "--set", "label.temperature=0.5")
    assert f"or remove {run}/shards/*/label and begin anew" in other.output.replace("\n", "")
    for folder in (run / "shards").glob("*/label"):
        shutil.rmtree(folder)
    assert shard(run, "1/4").exit_code == 0
    (run / "shards" / "1-of-4" / "label" / "begun.json").write_text("{")
    (run / "shards" / "1-of-4" / "label" / "stage.json").unlink()
    found = shard(run, "1/4", "--resume")
    assert f"rlaif label --run {run} --shard 1/4 --force" in found.output
    assert shard(run, "1/4", "--force").exit_code == 0
    for number in (2, 3, 4):
        assert shard(run, f"{number}/4").exit_code == 0
    done("merge", run)
    assert records(run, "label") == records(one, "label")
    assert answers(run, "policy") == answers(one, "policy")
    assert not (run / "shards").exists()


def test_what_the_stage_says_of_all_shards_is_said_of_them(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("run")
    same: Callable[..., CachedModel] = lambda model, adapters, cache: CachedModel(  # noqa: E731
        ScriptedModel(lambda request: "Always this."), cache / "policy.sqlite"
    )
    monkeypatch.setattr(open_model, "open_policy", same)
    shards(run)
    with pytest.raises(StageError, match="no prompt has two different answers") as caught:
        merge(run, progress=Silent())
    assert caught.value.where == str(run / "shards")
    assert caught.value.remedy is not None
    assert "raise label.samples or label.temperature" in caught.value.remedy
    assert f"remove {run / 'shards'}/*/label" in caught.value.remedy


def test_a_note_that_a_kill_left_half_written_is_nothing_to_merge(make: Make) -> None:
    run = make("run")
    folder = Shard(2, 1).folder(RunFolder(run)).stage("label")
    shutil.copy(run / "sft" / "begun.json", folder)
    (folder / ".begun.json.7.tmp").write_text("{")
    found = rlaif("merge", run)
    assert (found.exit_code, "no stage lies here in shards" in found.output) == (5, True), found.exception


def test_shards_and_whole_commands_exclude_each_other(make: Make) -> None:
    run = shards(make("run"))
    busy = "another rlaif process works in this run folder"
    with RunFolder(run).shared_lock():
        assert busy in rlaif("merge", run).output
        assert shard(run, "1/2", "--force").exit_code == 0, "beside another shard"
        with Shard(2, 2).folder(RunFolder(run)).lock():
            assert busy in shard(run, "2/2", "--resume").output
    with RunFolder(run).lock():
        assert busy in shard(run, "1/2", "--resume").output


def test_shards_that_failed_before_any_work_are_in_nobodys_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("run")

    def down(*_: object) -> CachedModel:
        raise ConfigError("no such model")

    with monkeypatch.context() as patch:
        patch.setattr(open_model, "open_policy", down)
        for which in ("1/2", "2/2"):
            assert shard(run, which, "--set", "label.temperature=0.5").exit_code == 2
    for which in ("1/2", "2/2"):
        assert shard(run, which, "--resume").exit_code == 0
    assert done("merge", run)["stage"] == "label"


def test_a_merge_that_is_killed_anywhere_is_done_again_to_the_same_files(make: Make) -> None:
    run, whole = shards(make("run")), make("whole")
    done("label", "--run", whole)
    shutil.copytree(run, run.parent / "once")
    calls = calls_of(lambda: merge(run.parent / "once", progress=Silent()))
    assert calls >= 6
    seen = set()
    for call in range(1, calls + 1):
        out = Path(shutil.copytree(run, run.parent / f"cut-{call}"))
        assert cut_at(call, lambda out=out: merge(out, progress=Silent()))  # type: ignore[misc]
        seen.add(RunFolder(out).record("label") is not None)
        assert merge(out, progress=Silent()).stage == "label"
        assert records(out, "label") == records(whole, "label")
        assert counts(out, "label") == counts(whole, "label")
        assert answers(out, "policy") == answers(whole, "policy")
        assert not (out / "shards").exists()
        shutil.rmtree(out)
    assert seen == {False, True}
