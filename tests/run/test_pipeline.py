"""The pipeline on small stages that write real files: kept, refused, forced, killed, interrupted, disk full."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import RunConfig
from rlaif.core.errors import ConfigError, DataError, DiskError, RunFolderError, StageError
from rlaif.core.files import RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import StageRecord
from rlaif.judge.load import parse
from rlaif.run import pipeline
from rlaif.stages import table as stages
from tests import stub_stages
from tests.power_cut import calls_of, cut_at
from tests.stub_stages import WHOLE

MARKERS = {"stage.json", "begun.json", ".lock"}


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Eight training prompts, two held out, and the stub in the place of every stage."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(10)))
    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    stub_stages.RAN.clear()
    return make(prompts, tiny_model)


def make(prompts: Path, model: Path, **tables: Any) -> RunConfig:
    data: dict[str, Any] = {
        "model": {"source": str(model)},
        "prompts": {"mine": {"source": str(prompts), "train": 8, "held_out": 2}},
    }
    return parse({**data, **tables}, where="test")


def changed(config: RunConfig, table: str, **values: Any) -> RunConfig:
    part = getattr(config, table)
    return config.model_copy(update={table: part.model_validate({**part.model_dump(), **values})})


def go(config: RunConfig, out: Path, *names: str, mode: str = "new", limit: int | None = None) -> dict[str, str]:
    picked: Any = names or WHOLE
    outcome: Any = pipeline.run_stages(config, out, picked, mode=mode, limit=limit, progress=Silent())  # type: ignore[arg-type]
    return dict(outcome)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of the run that holds work, without the markers (which hold times)."""
    files = [item for item in out.rglob("*") if item.is_file() and item.name not in MARKERS]
    return {str(item.relative_to(out)): item.read_bytes() for item in files}


def written(out: Path) -> int:
    """Bytes of records so far, in all stages."""
    return sum(item.stat().st_size for item in out.rglob("records.jsonl"))


def record(out: Path, stage: str) -> StageRecord:
    found = RunFolder(out).record(stage)
    assert found is not None
    return found


def record_there(out: Path, stage: str) -> bool:
    return RunFolder(out).record(stage) is not None


def test_a_run_finishes_every_stage_and_explains_itself(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert go(config, out) == dict.fromkeys(WHOLE, "done")
    assert list(WHOLE) == stub_stages.RAN
    label = record(out, "label")
    assert label.counts == {"written": 8.0}
    assert label.config["label.samples"] == 4
    assert label.config["judge.method"] == "contrast"
    assert "ppo.steps" not in label.config
    expected = {
        "prompts/train.jsonl",
        "sft/adapter",
        "model",
        "judge model",
        "constitution",
        "templates",
    }
    assert set(label.inputs) == expected
    assert label.seconds >= 0
    assert label.sessions == 1
    assert label.versions["rlaif"]
    assert (out / "constitution.yaml").read_text().startswith("#")
    assert (out / "templates" / "contrast.jinja").exists()
    from rlaif.judge.load import load

    assert load(out / "config.yaml") == config


def test_given_labels_are_an_input_that_may_be_gone_when_they_are_read(config: RunConfig, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{n}", "chosen": "good", "rejected": "bad"} for n in range(4)]
    file, out = tmp_path / "pairs.json", tmp_path / "run"
    file.write_text(json.dumps(rows))
    given = changed(config, "label", source=str(file))
    names = stages.of_run(given)
    assert go(given, out, *names) == dict.fromkeys(names, "done")
    assert stub_stages.RAN == ["label", "reward", "ppo", "evaluate", "report"]
    assert set(record(out, "label").inputs) == {"labels"}
    assert set(record(out, "reward").inputs) == {"model", "label/labels.jsonl"}
    with pytest.raises(ConfigError, match="has no stage sft"):
        go(given, out, "sft", mode="resume")
    # The same labels in another folder are the same; another one is not.
    (tmp_path / "other").mkdir()
    shutil.copy(file, tmp_path / "other" / "pairs.json")
    moved = changed(given, "label", source=str(tmp_path / "other" / "pairs.json"))
    assert set(go(moved, out, *names[:-1], mode="resume").values()) == {"kept"}
    file.write_text(json.dumps([{**rows[0], "chosen": "better"}, *rows[1:]]))
    with pytest.raises(RunFolderError, match="changed since: the labels"):
        go(given, out, *names, mode="resume")
    with pytest.raises(RunFolderError, match=r"label\.source \(was pairs\.json, now None\)"):
        go(config, out, mode="resume")
    file.unlink()
    (tmp_path / "other" / "pairs.json").unlink()
    kept = pipeline.gather_kept(moved, RunFolder(out))
    assert kept.labels == record(out, "label").inputs["labels"]
    with pytest.raises(DataError, match=r"pairs\.json"):
        go(given, out, *names, mode="resume")


def test_existing_work_is_never_overwritten_unasked(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, "revise")
    before = contents(out)
    with pytest.raises(RunFolderError, match=r"revise stage is already finished.*\n.*--resume.*--force"):
        go(config, out)
    assert contents(out) == before


def test_a_folder_that_is_no_run_is_left_alone_even_by_force(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    (out / "label").mkdir(parents=True)
    (out / "label" / "thesis.txt").write_text("ten years of work")
    for mode in ("new", "resume", "force"):
        with pytest.raises(RunFolderError, match="not a run of rlaif"):
            go(config, out, mode=mode)
    assert (out / "label" / "thesis.txt").read_text() == "ten years of work"


def test_resume_keeps_what_is_finished_and_runs_the_rest(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, "revise", "sft")
    stub_stages.RAN.clear()
    outcome = go(config, out, mode="resume")
    assert outcome == {**dict.fromkeys(WHOLE, "done"), "revise": "kept", "sft": "kept"}
    assert stub_stages.RAN == ["card", "label", "reward", "ppo", "evaluate", "report"]
    assert "evaluate" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("table", "values", "named"),
    [
        ("label", {"samples": 3}, r"label stage was finished.*label\.samples \(was 4, now 3\)"),
        ("judge", {"scale": 0.2}, r"card stage was finished.*judge\.scale \(was 0\.1, now 0\.2\)"),
        ("model", {"dtype": "float32"}, r"card stage .*model\.dtype"),
    ],
)
def test_resume_names_what_changed_and_changes_nothing(
    config: RunConfig, tmp_path: Path, table: str, values: dict[str, Any], named: str
) -> None:
    out = tmp_path / "run"
    go(config, out, "card", "revise", "sft", "label")
    before = contents(out)
    with pytest.raises(RunFolderError, match=named):
        go(changed(config, table, **values), out, mode="resume")
    assert contents(out) == before


@pytest.mark.parametrize(("table", "values"), [("label", {"batch_size": 1}), ("model", {"batch_size": 1})])
def test_fields_that_decide_only_speed_may_change(
    config: RunConfig, tmp_path: Path, table: str, values: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    go(config, out, "card", "revise", "sft", "label")
    outcome = go(changed(config, table, **values), out, mode="resume")
    assert outcome["label"] == "kept"


def test_a_changed_seed_changes_everything(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out)
    with pytest.raises(RunFolderError, match=r"card stage .* seed \(was 0, now 1\)"):
        go(config.model_copy(update={"seed": 1}), out, mode="resume")
    (out / "card" / "stage.json").unlink()
    (out / "card" / "begun.json").unlink()
    (out / "card" / "card.json").unlink()
    (out / "card" / "records.jsonl").unlink()
    with pytest.raises(RunFolderError, match=r"seed \(was 0, now 1\), the prompts/train\.jsonl"):
        go(config.model_copy(update={"seed": 1}), out, mode="resume")


def test_edited_rules_of_a_scripted_judge_are_noticed(config: RunConfig, tmp_path: Path) -> None:
    rules = tmp_path / "rules.jsonl"
    rules.write_text('{"match": "a", "reply": "b"}\n')
    config = changed(config, "judge", backend="scripted", source=str(rules))
    go(config, tmp_path / "run", "revise")
    rules.write_text('{"match": "a", "reply": "c"}\n')
    with pytest.raises(RunFolderError, match="judge model"):
        go(config, tmp_path / "run", "revise", mode="resume")


def test_an_edited_constitution_is_noticed(config: RunConfig, tmp_path: Path) -> None:
    from rlaif.constitution.load import constitution_text

    mine = tmp_path / "mine.yaml"
    mine.write_text(constitution_text(config.constitution))
    config = config.model_copy(update={"constitution": str(mine)})
    out = tmp_path / "run"
    go(config, out, "revise")
    mine.write_text(mine.read_text() + "\n# a comment changes nothing\n")
    assert go(config, out, "revise", mode="resume") == {"revise": "kept"}
    mine.write_text(constitution_text("example"))
    with pytest.raises(RunFolderError, match="the constitution"):
        go(config, out, "revise", mode="resume")
    # The run has its own copy and goes on from that.
    kept = pipeline.gather_kept(config, RunFolder(out))
    pipeline.run_stages(config, out, ["sft"], mode="new", limit=None, progress=Silent(), materials=kept)
    assert record(out, "sft").counts == {"written": 8.0}


def test_templates_may_be_edited_in_the_run_and_that_is_noticed(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, "revise")
    template = out / "templates" / "contrast.jinja"
    edited = template.read_text() + "{# mine #}"
    template.write_text(edited)
    with pytest.raises(RunFolderError, match=r"revise stage was finished.*the templates"):
        go(config, out, mode="resume")
    go(config, out, mode="force")
    assert template.read_text() == edited


def test_a_limit_is_part_of_what_a_stage_was_made_from(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, limit=3)
    assert record(out, "revise").counts == {"written": 3.0}
    with pytest.raises(RunFolderError, match=r"limit \(was 3, now None\)"):
        go(config, out, mode="resume")


def test_an_edited_file_of_an_earlier_stage_is_noticed(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out)
    (out / "revise" / "traces.jsonl").write_text("edited\n")
    with pytest.raises(RunFolderError, match=r"sft stage was finished.*the revise/traces\.jsonl"):
        go(config, out, mode="resume")


def test_force_redoes_the_stage_and_removes_all_after_it(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out)
    stub_stages.RAN.clear()
    assert go(changed(config, "label", samples=3), out, "label", mode="force") == {"label": "done"}
    assert stub_stages.RAN == ["label"]
    assert record(out, "label").config["label.samples"] == 3
    assert record(out, "sft")
    for later in ("reward", "ppo", "evaluate"):
        assert not (out / later).exists()


def test_force_removes_nothing_when_an_earlier_stage_does_not_fit(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out)
    before = contents(out)
    with pytest.raises(RunFolderError, match="revise stage was finished"):
        go(changed(config, "revise", rounds=2), out, "label", mode="force")
    assert contents(out) == before


def test_a_stage_without_its_inputs_names_the_verb_to_run(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"reward needs the sft stage.*\n.*rlaif sft"):
        go(config, tmp_path / "run", "reward")


def test_labels_are_not_made_by_a_judge_without_a_card(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, "revise", "sft")
    with pytest.raises(StageError, match=r"the judge has no card yet.*\n.*rlaif card --run .*--accept-uncarded-judge"):
        go(config, out, "label")
    assert not (out / "label").exists()
    assert go(changed(config, "card", required=False), out, "label") == {"label": "done"}
    assert "card/card.json" not in record(out, "label").inputs


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        ({"min_accuracy": 0.8}, r"accuracy 75\.0% on stub, card\.min_accuracy is 80%"),
        ({"min_length_matched": 0.76}, r"length-matched accuracy 75\.0%"),
    ],
)
def test_a_judge_below_a_threshold_stops_the_run_before_anything_is_spent_on_it(
    config: RunConfig, tmp_path: Path, threshold: dict[str, float], said: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(StageError, match=said):
        go(changed(config, "card", **threshold), out)
    assert stub_stages.RAN == ["card"]
    outcome = go(config, out, mode="resume")  # a threshold is no reason to measure again
    assert outcome == {**dict.fromkeys(WHOLE, "done"), "card": "kept"}


def test_a_judge_that_may_be_a_coin_stops_the_run(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub_stages, "ACCURACY", 0.65)  # 26 of 40: Wilson's interval begins at 49.5 %
    said = r"accuracy 65\.0% on 40 prompts of stub may be that of a coin \(95 % interval 49\.5.% to 77\.9.%\)"
    with pytest.raises(StageError, match=said):
        go(config, tmp_path / "run")
    assert go(changed(config, "card", min_accuracy=0.5), tmp_path / "run", mode="resume")["label"] == "done"


def test_too_many_failures_are_below_a_threshold(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub_stages, "LABELLED", 32)
    with pytest.raises(StageError, match=r"20\.0% of the pairs have no label, card\.max_failed is 10%"):
        go(config, tmp_path / "run")


@pytest.mark.parametrize(("calibration", "kept"), [("none", list(WHOLE[:-1])), ("temperature", ["card", "sft"])])
def test_the_card_made_again_removes_what_is_calibrated_by_it_alone(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibration: str, kept: list[str]
) -> None:
    monkeypatch.setattr(pipeline, "calibration_of", lambda *_: None)
    setup = changed(config, "judge", calibration=calibration)
    out = tmp_path / "run"
    go(setup, out)
    go(changed(setup, "card", pairs=50), out, "card", mode="force")
    assert [name for name in WHOLE if RunFolder(out).record(name) is not None and name != "sft"] == [
        name for name in kept if name != "sft"
    ]
    if calibration == "none":  # and what was there stays valid
        assert go(changed(setup, "card", pairs=50), out, mode="resume")["label"] == "kept"


def test_a_judge_that_may_not_label_costs_no_label_that_is_there(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out)
    before = contents(out)
    with pytest.raises(StageError, match="below what the config asks for"):
        go(changed(config, "card", min_accuracy=0.9), out, "label", mode="force")
    assert contents(out) == before
    assert go(changed(config, "card", min_accuracy=0.9), out, mode="resume")["label"] == "kept"


def test_a_card_is_of_the_gold_that_is_there_now(config: RunConfig, tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text("one")
    setup = changed(config, "card", gold=str(gold))
    go(setup, tmp_path / "run", "card")
    gold.write_text("two")
    with pytest.raises(
        RunFolderError, match="card stage was finished with other settings or inputs; changed since: the gold"
    ):
        go(setup, tmp_path / "run", "card", mode="resume")


def test_a_card_that_nothing_asks_for_may_be_of_another_judge(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, "card")
    accepted = changed(changed(config, "judge", scale=0.2), "card", required=False)
    names = stages.of_run(accepted)
    assert go(accepted, out, *names, mode="resume") == dict.fromkeys(names, "done")


def test_a_field_that_was_not_there_yet_had_its_default(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out)
    path = out / "label" / "stage.json"
    kept = json.loads(path.read_text())
    for name in ("judge.panel", "judge.few_shots", "judge.calibration"):
        del kept["config"][name]
    path.write_text(json.dumps(kept))
    assert go(config, out, mode="resume")["label"] == "kept"
    with pytest.raises(RunFolderError, match=r"judge\.few_shots \(was 0, now 2\)"):
        go(changed(config, "judge", few_shots=2), out, mode="resume")


def test_a_calibrated_judge_needs_its_card_in_every_stage(config: RunConfig, tmp_path: Path) -> None:
    calibrated = changed(config, "judge", calibration="temperature")
    accepted = changed(calibrated, "card", required=False)
    assert stages.of_run(accepted)[0] == "card"
    with pytest.raises(StageError, match="revise needs the card stage"):
        go(accepted, tmp_path / "run", "revise")
    assert "card" not in stages.of_run(changed(config, "card", required=False))


def test_a_reward_function_needs_no_reward_model(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(changed(config, "ppo", reward="rlaif.gold.text:length_reward"), out, "revise", "sft", "ppo")
    assert "reward/adapter" not in record(out, "ppo").inputs


def test_two_processes_cannot_work_in_one_run(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, "revise")
    with RunFolder(out).lock(), pytest.raises(RunFolderError, match="another rlaif process"):
        go(config, out, mode="resume")
    assert go(config, out, "sft") == {"sft": "done"}  # the lock ended with its block


def test_a_stage_that_fails_is_begun_and_goes_on(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"

    def fails(context: Any) -> dict[str, float]:
        stub_stages.run(context)
        raise RuntimeError("no luck")

    monkeypatch.setattr(sys.modules["rlaif.stages.revise"], "run", fails)
    with pytest.raises(RuntimeError, match="no luck"):
        go(config, out, "revise")
    assert RunFolder(out).record("revise") is None
    with pytest.raises(RunFolderError, match="revise stage is already begun"):
        go(config, out, "revise")
    with pytest.raises(RunFolderError, match=r"begun with other settings.*revise\.rounds"):
        go(changed(config, "revise", rounds=2), out, "revise", mode="resume")
    monkeypatch.setattr(sys.modules["rlaif.stages.revise"], "run", stub_stages.run)
    go(config, out, "revise", mode="resume")
    assert record(out, "revise").counts == {"written": 0.0}
    assert record(out, "revise").sessions == 2


def test_files_of_unknown_origin_are_not_mixed_in(config: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    go(config, out, "revise")
    for marker in ("stage.json", "begun.json"):  # what a --force that was killed half-way leaves
        (out / "revise" / marker).unlink()
    with pytest.raises(RunFolderError, match="no record of what they were made from"):
        go(config, out, mode="resume")
    go(config, out, mode="force")


def test_killed_at_any_moment_and_resumed_ends_with_the_same_files(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    go(config, whole)
    monkeypatch.setenv("STUB_PAUSE", "0.02")
    moments = random.Random(0)
    kills = 0
    for _ in range(40):
        child = os.fork()  # libraries are loaded, so that the moments fall into the work and not into imports
        if child == 0:
            try:
                go(config, broken, mode="resume")
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
        before = written(broken)
        while written(broken) == before and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
    assert kills >= 3
    go(config, broken, mode="resume")
    left = {name: data for name, data in contents(broken).items() if not name.endswith(".tmp")}
    assert left == contents(whole)
    assert sum(record(broken, name).sessions - 1 for name in WHOLE[:-1]) >= 1


def test_a_power_cut_around_the_adapter_or_the_record_changes_nothing(config: RunConfig, tmp_path: Path) -> None:
    """Before and after each flush and rename at the end of a stage: those of the adapter, then of its record."""
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    go(config, begun, "revise")
    shutil.copytree(begun, whole)
    calls = calls_of(lambda: go(config, whole, "sft", mode="resume"))
    found = set()
    for call in range(calls - 6, calls + 1):
        out = tmp_path / f"cut-{call}"
        shutil.copytree(begun, out)
        assert cut_at(call, lambda out=out: go(config, out, "sft", mode="resume"))  # type: ignore[misc]
        found.add(((out / "sft" / "adapter").exists(), RunFolder(out).record("sft") is not None))
        go(config, out, "sft", mode="resume")
        left = {name: data for name, data in contents(out).items() if not name.endswith(".tmp")}
        assert left == contents(whole)
        shutil.rmtree(out)
    assert found == {(False, False), (True, False), (True, True)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 kB, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_run_by_dpo_has_neither_reward_model_nor_ppo_and_one_by_both_has_all(
    config: RunConfig, tmp_path: Path
) -> None:
    out, alone = tmp_path / "run", config.model_copy(update={"align_by": ["dpo"]})
    names = stages.of_run(alone)
    assert names == ("card", "revise", "sft", "label", "dpo", "evaluate", "report")
    assert go(alone, out, *names) == dict.fromkeys(names, "done")
    assert set(record(out, "dpo").inputs) == {"sft/adapter", "label/labels.jsonl", "model"}
    assert "dpo/adapter" in record(out, "evaluate").inputs
    with pytest.raises(ConfigError, match=r"no stage ppo: it is aligned by dpo[\s\S]*--set align_by=ppo"):
        go(alone, out, "ppo")
    go(alone, out, "reward")  # what is asked for by name is done: a user may want to look at it
    # PPO beside it: the evaluation of before knows nothing of it, and all else stays.
    both = config.model_copy(update={"align_by": ["ppo", "dpo"]})
    with pytest.raises(RunFolderError, match=r"the evaluate stage was finished[\s\S]*the ppo/adapter"):
        go(both, out, *stages.of_run(both), mode="resume")
    assert go(both, out, "evaluate", "report", mode="force") == {"evaluate": "done", "report": "done"}
    outcome = go(both, out, *stages.of_run(both), mode="resume")
    assert {name for name, what in outcome.items() if what == "done"} == {"report"}
    # Another label, another DPO: with all that stands on it, it goes.
    go(both, out, "label", mode="force")
    assert [name for name in ("reward", "ppo", "dpo", "evaluate") if record_there(out, name)] == []


def test_a_full_disk_is_said_and_what_was_written_stays(config: RunConfig, small_disk: Path, tmp_path: Path) -> None:
    out = small_disk / "run"
    with pytest.raises(DiskError, match=r"No space left.*\n.*--resume") as caught:
        go(config, out)
    assert caught.value.exit_code == 7
    finished = [name for name in WHOLE if RunFolder(out).record(name) is not None]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    outcome = go(config, out, mode="resume")
    assert [name for name in WHOLE if outcome[name] == "kept"] == finished
    go(config, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_ctrl_c_keeps_the_work_and_says_how_to_go_on(config: RunConfig, tmp_path: Path) -> None:
    from rlaif.core.yaml import dump_yaml

    file, out = tmp_path / "my run.yaml", tmp_path / "run"
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    # A suite that was started in the background ignores Ctrl-C, and so would its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from tests import stub_stages; "
    code += "stub_stages.install(); from rlaif.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(file), "--out", str(out)],
        env={**os.environ, "STUB_PAUSE": "0.2"},
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    first = out / "sft" / "records.jsonl"
    while not first.exists() or not first.read_bytes().endswith(b"\n"):  # so the resumed session has one less to write
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"continue with: rlaif run '{file}' --out {out} --resume" in errors
    assert "Traceback" not in errors
    outcome = go(config, out, mode="resume")
    assert (outcome["revise"], outcome["sft"]) == ("kept", "done")
    assert record(out, "sft").sessions == 2
    assert record(out, "sft").counts["written"] < 8


def test_cost_line_adds_tokens_and_shows_failures(config: RunConfig, tmp_path: Path) -> None:
    go(config, tmp_path / "run", "revise")
    from dataclasses import replace

    counts = {"policy_generated_tokens": 1000.0, "judge_generated_tokens": 200.0, "failed_parse": 3.0, "failed": 0.0}
    line = pipeline.cost(replace(record(tmp_path / "run", "revise"), counts=counts, seconds=125.0))
    assert "2 min 5 s" in line
    assert "1,200 tokens sampled" in line
    assert "failed parse 3" in line
