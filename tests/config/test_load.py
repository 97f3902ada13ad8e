"""The run config: every mistake is named with its line and the nearest right name; what is written can be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.errors import ConfigError
from rlaif.core.plugins import load_own
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load
from tests.config.files import MINIMAL, fails


def test_a_minimal_file_takes_defaults_and_writes_back(file: Path) -> None:
    config = load(file)
    assert config.prompts["mine"].train == 4
    assert config.ppo.kl_coef == 0.05
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    assert load(file) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ppo:\n  kl_coeff: 0.1\n", "line 6: ppo.kl_coeff: unknown key, did you mean 'kl_coef'?"),
        ("evaluat:\n  samples: 2\n", "line 5: evaluat: unknown key, did you mean 'evaluate'?"),
        ("label:\n  samples: many\n", "line 6: label.samples: a whole number belongs here"),
        ("label:\n  samples: 1\n", "line 6: label.samples: must be 2 or more (given: 1)"),
        ("evaluate:\n  gold: harm\n", "line 6: evaluate.gold: a list belongs here, such as [harm] (given: 'harm')"),
        (
            "report_to: [wndb]\n",
            "write one of tensorboard, trackio, wandb, mlflow, did you mean 'wandb'? (given: 'wndb')",
        ),
        ("constitution: mine: yours\n", "put a text with a colon and a space in it into quotes"),
        ("judge:\n  method: pairwize\n", "line 6: judge.method"),
        ("seed: 1\nseed: 2\n", "the key 'seed' stands twice"),
        ("ppo: [1\n", "run.yaml:"),
        ("judge:\n  backend: openai\n  method: pairwise\n", "needs judge.source"),
        ("judge:\n  backend: openai\n  source: m\n", "contrast needs the log-probs"),
        ("judge:\n  backend: openai\n  source: m\n", "use method: pairwise, cot or rating"),
        ("judge:\n  clamp: [0.3, 0.6]\n", "[0.3, 0.6] is not alike on both sides of 0.5"),
        ("judge:\n  clamp: [0.6, 0.4]\n", "is not alike"),
        ("judge:\n  clamp: [-0.1, 1.1]\n", "is not alike"),
        ("judge:\n  clamp: 0.4\n", "line 6: judge.clamp"),
        ("judge:\n  rating_scale: 0\n", "line 6: judge.rating_scale"),
        ("judge:\n  method: cot\n  abstain_below: 0.1\n", "judge.abstain_below 0.1 is out of reach"),
        ("judge:\n  method: cot\n  tier_margin: 0.2\n", "judge.tier_margin 0.2 is out of reach"),
        ("judge:\n  method: cot\nrevise:\n  gate: 0.6\n", "no revision can pass revise.gate 0.6"),
        ("? [a, b]\n: 2\n", "run.yaml:5: a key must be"),
        ("seed: 4294967296\n", "line 5: seed"),
        ("ppo:\n  kl_coef: .nan\n", "line 6: ppo.kl_coef: a finite number belongs here"),
        ("judge:\n  scale: .inf\n", "line 6: judge.scale: a finite number belongs here"),
    ],
)
def test_mistakes_are_named_with_their_place(file: Path, text: str, expected: str) -> None:
    assert expected in fails(file, MINIMAL + text)


def test_a_wrong_key_of_a_slice_is_named(file: Path) -> None:
    message = fails(file, "prompts:\n  mine:\n    source: everyday\n    trian: 4\n")
    assert "line 4: prompts.mine.trian: unknown key, did you mean 'train'?" in message


def test_all_mistakes_are_named_at_once(file: Path) -> None:
    message = fails(file, "seeed: 1\nppo:\n  steps: 0\n")
    assert all(part in message for part in ("seeed", "ppo.steps", "prompts: this field is required"))


def test_files_that_are_no_config(tmp_path: Path, file: Path) -> None:
    assert "a run config is a mapping" in fails(file, "- a list\n")
    assert "a run config is a mapping" in fails(file, "")
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"(?s)is a folder, not a config.*name the file in it: run\.yaml"):
        load(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"(?s)is the folder of a run, not a config.*goes on with --run .* --resume"):
        load(tmp_path)


def test_another_file_than_a_config_is_told_from_one(tmp_path: Path, file: Path) -> None:
    assert "is a constitution, not a run config" in fails(file, "name: x\nversion: 1\nprinciples: []\n")
    assert "constitution: run.yaml" in fails(file, "principles: []\n")
    (tmp_path / "my.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(ConfigError, match=r"(?s)my\.jsonl: is no run config.*prompts: \{mine: \{source: my\.jsonl"):
        load(tmp_path / "my.jsonl")
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "none.jsonl")


def test_missing_prompts_are_answered_with_an_example(file: Path) -> None:
    assert "prompts: this field is required, such as prompts: {mine: {source: " in fails(file, "seed: 1\n")


def test_a_value_where_a_table_belongs_is_answered_with_an_example(file: Path) -> None:
    assert "prompts: {mine: {source: my.jsonl, train: 100, held_out: 20}}" in fails(file, "prompts: my.jsonl\n")
    assert "line 2: prompts.mine: a table of fields belongs here, such as mine: {source: my.jsonl}" in fails(
        file, "prompts:\n  mine: my.jsonl\n"
    )
    assert "such as model: {source: some/model}" in fails(file, MINIMAL + "model: some/model\n")
    assert "a table of fields belongs here, such as ppo: {" in fails(file, MINIMAL + "ppo: 3\n")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("ppo.kl_coef=0.2", 0.2),
        ("ppo.kl_coef = 3e-1", 0.3),
        ("ppo.steps=7", 7),
        ("ppo.kl_target=null", None),
        ("ppo.whiten_rewards=true", True),
        ("evaluate.gold=[toxicity]", ["toxicity"]),
        ("prompts.mine.train=2", 2),
    ],
)
def test_overrides_are_yaml_values(file: Path, override: str, expected: Any) -> None:
    value: Any = load(file, [override])
    for key in override.partition("=")[0].strip().split("."):
        value = value[key] if isinstance(value, dict) else getattr(value, key)
    assert value == expected


@pytest.mark.parametrize("override", ["ppo.kl_coef", "=1", "ppo..x=1", "seed.deep=1", "ppo.nothing=1"])
def test_overrides_that_name_nothing_are_errors(file: Path, override: str) -> None:
    assert override.partition("=")[0].split(".")[0] in fails(file, MINIMAL + "seed: 1\n", override)


def test_files_beside_the_config_are_found_from_anywhere(tmp_path: Path, file: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}\n')
    (tmp_path / "everyday").mkdir()  # a bare name is a shipped set, whatever lies about
    file.write_text("prompts:\n  a: {source: prompts.jsonl}\n  b: {source: everyday}\n  c: {source: none.txt}\n")
    sources = {name: part.source for name, part in load(file).prompts.items()}
    assert sources == {"a": str(tmp_path / "prompts.jsonl"), "b": "everyday", "c": "none.txt"}


def test_a_model_is_named_for_good_wherever_it_lies(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("beside", "elsewhere/started"):
        (tmp_path / folder / "my model").mkdir(parents=True)
        (tmp_path / folder / "my model" / "config.json").write_text("{}")
    started = tmp_path / "elsewhere" / "started"
    monkeypatch.chdir(started)
    config = tmp_path / "beside" / "x.yaml"
    for source, found in {
        "my model": tmp_path / "beside" / "my model",
        "./my model": tmp_path / "beside" / "my model",
        "../started/my model": started / "../started/my model",
    }.items():
        config.write_text(f"{MINIMAL}model: {{source: {source}}}\njudge: {{source: {source}}}\n")
        assert (load(config).model.source, load(config).judge.source) == (str(found), str(found))
    config.write_text(f"{MINIMAL}model: {{source: no model}}\n")
    assert load(config).model.source == "no model"


def test_a_module_beside_the_config_is_found_from_anywhere(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_the_config.py").write_text("def f(prompts, completions): return [1.0]\n")
    load(file)
    assert load_own("beside_the_config:f", what="function", where="ppo.reward", remedy="")([], []) == [1.0]


@pytest.mark.parametrize("value", ["2024-13-45", "!!int z", "&a [*a]", "*a", "[" * 2000, "{[1]: 2}"])
def test_overrides_that_are_no_plain_yaml_are_errors_of_their_field(file: Path, value: str) -> None:
    assert "seed" in fails(file, MINIMAL, f"seed={value}")


def test_the_rules_of_a_scripted_judge_are_found_beside_the_config(tmp_path: Path, file: Path) -> None:
    (tmp_path / "rules.jsonl").write_text('{"match": "a", "reply": "b"}\n')
    file.write_text(MINIMAL + "judge: {backend: scripted, source: rules.jsonl}\n")
    assert load(file).judge.source == str(tmp_path / "rules.jsonl")
