"""`rlaif export`: what it prints and writes, and wrong words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlaif.core.files import RunFolder
from rlaif.export import push
from rlaif.export.card import constitution_of
from tests.export.runs import add_records, make_config, make_run
from tests.output import rlaif


def test_a_policy_and_a_reward(tiny_model: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "my", tiny_model).root
    for verb, words in (("policy", ["--form", "adapter"]), ("sft", ["--form", "adapter"]), ("reward", [])):
        out = tmp_path / verb
        done = rlaif("export", verb, "--run", run, "--out", out, *words, "--json")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert (found["wrote"], found["export"]) == (str(out), verb)
        assert (out / "README.md").is_file()
    again = rlaif("export", "policy", "--run", run, "--out", tmp_path / "policy", "--form", "adapter")
    assert again.exit_code == 5
    assert "--force replaces an earlier export" in again.output
    done = rlaif("export", "policy", "--run", run, "--out", tmp_path / "policy", "--force")
    assert f"wrote {tmp_path / 'policy'}" in done.stdout


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = make_config(tmp_path / "my", Path("no-model"))
    add_records(run, constitution_of(run).hash)
    return run


def test_data(run: RunFolder, tmp_path: Path) -> None:
    words = ["--shape", "kto", "--format", "jsonl", "--min-confidence", "0.7", "--slice", "hard"]
    done = rlaif("export", "data", "--run", run.root, "--out", tmp_path / "out", *words)
    assert done.exit_code == 0, done.output
    assert "4 rows; left out: 1 another slice" in done.stdout.replace("1 below --min-confidence; left out: ", "")
    assert len((tmp_path / "out" / "data" / "train.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["policy", "--form", "adaptor"], 2, "no such form: 'adaptor', did you mean 'adapter'?"),
        (["policy"], 6, "the sft stage is not finished"),
        (["reward"], 6, "the reward stage is not finished"),
        (["data", "--shape", "dpo"], 2, "write one of preference, implicit, kto, prompt-only, sft"),
        (["data", "--format", "csv"], 2, "write one of parquet, jsonl"),
        (["data", "--min-confidence", "0.2"], 2, "--min-confidence"),
        (["data", "--slice", "hart"], 2, "did you mean 'hard'?"),
    ],
)
def test_what_is_refused(run: RunFolder, tmp_path: Path, words: list[str], code: int, message: str) -> None:
    done = rlaif("export", *words, "--run", run.root, "--out", tmp_path / "out")
    assert done.exit_code == code, done.output
    assert message in done.output
    assert not (tmp_path / "out").exists()


def test_the_hub_is_looked_at_first_and_given_the_folder_last(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("export", "data", "--run", run.root, "--out", tmp_path / "out", "--push-to-hub", "somebody/mine")
    refused = rlaif(*words)
    assert (refused.exit_code, "HF_HUB_OFFLINE" in refused.output) == (4, True)
    assert not (tmp_path / "out").exists()
    given: list[tuple[Path, str, str]] = []
    monkeypatch.setattr(push, "refuse_hub", lambda name: None)
    monkeypatch.setattr(push, "push", lambda *asked: given.append(asked) or "https://hub/datasets/somebody/mine")
    done = rlaif(*words, "--json")
    assert json.loads(done.stdout)["hub"] == "https://hub/datasets/somebody/mine"
    assert given == [(tmp_path / "out", "somebody/mine", "dataset")]


def test_what_is_no_run(tmp_path: Path) -> None:
    done = rlaif("export", "data", "--run", tmp_path, "--out", tmp_path / "out")
    assert (done.exit_code, "is not a run of rlaif" in done.output) == (5, True)
