"""What `rlaif init` writes and `rlaif fields` prints."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import PromptSlice, RunConfig
from rlaif.constitution.load import load_constitution
from rlaif.constitution.starter import write_starter
from rlaif.core.errors import ConfigError
from rlaif.core.yaml import parse_yaml
from rlaif.judge.load import default_config, load, parse
from rlaif.run.init import AIMS, EXAMPLE_PROMPTS, STARTS
from tests.output import rlaif

each_aim = pytest.mark.parametrize("aim", AIMS)


def written(text: str) -> dict[str, Any]:
    data, _ = parse_yaml(text, "the config", ConfigError)
    assert isinstance(data, dict)
    return data


@each_aim
def test_init_writes_a_short_config_of_defaults_with_a_comment_each(tmp_path: Path, aim: str) -> None:
    told = rlaif("init", tmp_path / "kitchen", "--for", aim)
    assert told.exit_code == 0, told.output
    config = tmp_path / "kitchen" / "kitchen.yaml"
    text = config.read_text()
    assert len(text.splitlines()) < 80
    assert max(map(len, text.splitlines())) < 120
    meant = load(config).model_dump()
    plain = default_config().model_dump()
    for name in ("constitution", "prompts"):
        meant.pop(name), plain.pop(name)
    assert meant == plain
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"  +\w+: \S", line) or line.startswith("constitution:"):
            assert lines[number - 1].lstrip().startswith("# "), line


@each_aim
def test_what_init_writes_passes_check(tmp_path: Path, tiny_model: Path, aim: str) -> None:
    rlaif("init", tmp_path / "kitchen", "--for", aim)
    result = rlaif("check", tmp_path / "kitchen" / "kitchen.yaml", "--set", f"model.source={tiny_model}")
    assert result.exit_code == 0, result.output
    assert "failed" not in result.stdout
    assert "6 to train on, 2 held out" in result.stdout
    assert "judge.method contrast reads the contrast pair, never the statement" in result.stdout


@each_aim
def test_the_commands_to_go_on_with_are_commands(tmp_path: Path, aim: str) -> None:
    told = rlaif("init", tmp_path / "kitchen", "--for", aim).stdout
    commands = [line.partition(": ")[2].split() for line in told.splitlines() if re.match("next|then", line)]
    assert len(commands) == len(STARTS[aim].steps)  # type: ignore[index]
    for program, *words in commands:
        if program == "cp":
            shutil.copy(*words)
            continue
        assert program == "rlaif"
        named = [word for word in words if "kitchen/" in word]
        assert all(Path(word).exists() for word in named), words
        verbs = [word for word in words if re.fullmatch("[a-z]+", word)][: 2 if words[0] == "constitution" else 1]
        assert rlaif(*verbs, "--help").exit_code == 0, words


def test_another_constitution_takes_the_place_of_the_one_that_was_written(tmp_path: Path, tiny_model: Path) -> None:
    rlaif("init", tmp_path)
    (tmp_path / "constitution.yaml").unlink()
    write_starter(tmp_path / "constitution.yaml")
    text = (tmp_path / "constitution.yaml").read_text().replace("tags: [style]", "tags: [other]")
    (tmp_path / "constitution.yaml").write_text(text)
    (config,) = set(tmp_path.glob("*.yaml")) - {tmp_path / "constitution.yaml"}
    for words in ([], ["--set", "constitution=warm-and-useful"]):
        result = rlaif("check", config, "--set", f"model.source={tiny_model}", *words)
        assert result.exit_code == 0, result.output


def test_projects_have_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, config in (("One", "one"), ("two words", "two-words"), ("constitution", "my"), ("!", "my")):
        told = rlaif("init", tmp_path / name)
        assert (tmp_path / name / f"{config}.yaml").exists(), told.output
        assert load_constitution(tmp_path / name / "constitution.yaml").name == config
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "wrote here.yaml" in rlaif("init").stdout


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    rlaif("init", tmp_path / "mine")
    before = {path: path.read_text() for path in (tmp_path / "mine").iterdir()}
    result = rlaif("init", tmp_path / "mine", "--for", "data")
    assert result.exit_code == 5
    assert "exists and is not overwritten" in result.stderr
    assert {path: path.read_text() for path in (tmp_path / "mine").iterdir()} == before


def test_init_asks_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("")
    result = rlaif("init", tmp_path / "my.yaml")
    assert result.exit_code == 5
    assert "my.yaml: is a file" in result.stderr


def test_an_unknown_aim_is_answered_with_the_near_one(tmp_path: Path) -> None:
    result = rlaif("init", tmp_path / "mine", "--for", "trian")
    assert result.exit_code == 2
    assert "there is no aim 'trian', did you mean 'train'?" in result.stderr
    assert not (tmp_path / "mine").exists()


def test_init_where_nothing_can_be_written_speaks_of_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = rlaif("init", tmp_path / "file" / "below")
    assert ended.exit_code == 7
    assert "check the path and the disk" in ended.stderr
    assert "--resume" not in ended.stderr


def test_the_example_prompts_are_as_many_as_the_config_takes() -> None:
    for start in STARTS.values():
        part = start.fields["prompts"]["mine"]
        assert part["train"] + part["held_out"] == len(EXAMPLE_PROMPTS)


# --- rlaif fields -----------------------------------------------------------------------------------------------------


def test_fields_prints_every_field_with_its_default() -> None:
    text = rlaif("fields").stdout
    data = written(text)
    assert set(data) == set(RunConfig.model_fields)
    assert set(data["prompts"]["mine"]) == set(PromptSlice.model_fields)
    found, plain = parse(data, where="test").model_dump(), default_config().model_dump()
    found.pop("prompts"), plain.pop("prompts")
    assert found == plain
    assert "  # contrast | pairwise | cot | rating | decision | random\n" in text
    assert "clamp: [0.4, 0.6]" in text
    assert "kl_target: null" in text


def test_fields_of_some_tables() -> None:
    assert set(written(rlaif("fields", "ppo", "seed").stdout)) == {"ppo", "seed"}
    wrong = rlaif("fields", "pppo")
    assert wrong.exit_code == 2
    assert "there is no table or field 'pppo', did you mean 'ppo'?" in wrong.stderr
    assert "rlaif fields ppo prints the whole table" in rlaif("fields", "ppo.steps").stderr
