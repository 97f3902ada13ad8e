"""The run config: every mistake is named with its line and the nearest right name; what is written can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlaif.config import STAGES, PpoConfig, RunConfig
from rlaif.core.errors import ConfigError
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load, parse

MINIMAL = "prompts:\n  mine:\n    source: everyday\n    train: 4\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def fails(file: Path, text: str, *overrides: str) -> str:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


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
        ("label:\n  samples: many\n", "line 6: label.samples: Input should be a valid integer"),
        ("label:\n  samples: 1\n", "(given: 1)"),
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
        ("ppo:\n  kl_coef: .nan\n", "line 6: ppo.kl_coef: Input should be a finite number"),
        ("judge:\n  scale: .inf\n", "line 6: judge.scale: Input should be a finite number"),
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


PANEL = f"{MINIMAL}judge: {{panel: [{{name: big, method: rating}}, {{name: a.b}}, {{name: '0'}}]}}\n"


@pytest.mark.parametrize(
    ("member", "place"), [("big", 0), ("a.b", 1), ("1", 1), ("2", 2), pytest.param("0", 2, id="a name before a place")]
)
def test_overrides_reach_a_member_of_a_panel_by_name_or_place(file: Path, member: str, place: int) -> None:
    file.write_text(PANEL)
    limits = [found.max_calls for found in load(file, [f"judge.panel.{member}.max_calls=7"]).judge.panel]
    assert limits == [7 if number == place else None for number in range(3)]


@pytest.mark.parametrize("keys", ["none.max_calls", "3.max_calls", "-1.max_calls", "big", "0"])
def test_overrides_of_a_member_that_is_not_there_are_errors(file: Path, keys: str) -> None:
    assert f"panel is a list, and {keys} is no field" in fails(file, PANEL, f"judge.panel.{keys}=7")


def test_files_beside_the_config_are_found_from_anywhere(tmp_path: Path, file: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}\n')
    (tmp_path / "everyday").mkdir()  # a bare name is a shipped set, whatever lies about
    file.write_text("prompts:\n  a: {source: prompts.jsonl}\n  b: {source: everyday}\n  c: {source: none.txt}\n")
    sources = {name: part.source for name, part in load(file).prompts.items()}
    assert sources == {"a": str(tmp_path / "prompts.jsonl"), "b": "everyday", "c": "none.txt"}


@pytest.mark.parametrize("value", ["2024-13-45", "!!int z", "&a [*a]", "*a", "[" * 2000, "{[1]: 2}"])
def test_overrides_that_are_no_plain_yaml_are_errors_of_their_field(file: Path, value: str) -> None:
    assert "seed" in fails(file, MINIMAL, f"seed={value}")


def test_a_server_that_completes_may_judge_by_contrast(file: Path) -> None:
    table = "judge: {backend: openai, source: m, api: completions, method: contrast}\n"
    file.write_text(MINIMAL + table)
    assert load(file).judge.method == "contrast"


@pytest.mark.parametrize("more", ["method: rating", "method: cot, clamp: null", "method: cot, clamp: [0.1, 0.9]"])
def test_without_a_narrow_clamp_a_label_may_be_far_from_one_half(file: Path, more: str) -> None:
    file.write_text(MINIMAL + f"judge: {{abstain_below: 0.2, {more}}}\nrevise: {{gate: 0.7}}\n")
    config = load(file)
    file.write_text(dump_yaml(config.model_dump(mode="json")))
    assert load(file) == config


def test_the_rules_of_a_scripted_judge_are_found_beside_the_config(tmp_path: Path, file: Path) -> None:
    (tmp_path / "rules.jsonl").write_text('{"match": "a", "reply": "b"}\n')
    file.write_text(MINIMAL + "judge: {backend: scripted, source: rules.jsonl}\n")
    assert load(file).judge.source == str(tmp_path / "rules.jsonl")


def test_every_stage_has_a_table() -> None:
    config = parse({"prompts": {"mine": {"source": "everyday"}}}, where="test")
    for stage in STAGES:
        assert config.table(stage) is getattr(config, stage)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert RunConfig.model_fields.keys() >= set(STAGES)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("mine:shorter", "mine:shorter"),
        ("[judge]", "judge"),
        ('[model, {source: "mine:shorter", weight: 0.5}]', ["model", {"source": "mine:shorter", "weight": 0.5}]),
        ('{source: "mine:shorter", name: brief}', [{"source": "mine:shorter", "weight": 1.0, "name": "brief"}]),
    ],
)
def test_the_reward_is_one_source_or_a_list_and_is_written_back_as_it_was(file: Path, given: str, kept: Any) -> None:
    ppo = load(file, [f"ppo.reward={given}"]).ppo
    assert ppo.model_dump(mode="json")["reward"] == kept
    assert PpoConfig.model_validate(ppo.model_dump()) == ppo
    assert ppo.scored_by("model") == (given.startswith("[model"))


def test_a_weight_can_be_set_by_the_place_of_its_source(file: Path) -> None:
    found = load(file, ["ppo.reward=[model, {source: judge}]", "ppo.reward.1.weight=0.5"]).ppo.reward
    assert [(part.called, part.weight) for part in found] == [("model", 1.0), ("judge", 0.5)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("shorter", 'ppo.reward.0: \'shorter\' is neither "model" nor "judge" nor "module:function"'),
        ("[]", "no source has a weight"),
        ("[{source: model, weight: 0}]", "no source has a weight"),
        ("[model, model]", "model stands there twice"),
        ('["a:f", "b:f"]', "two figures would be logged as score_f"),
        ('["a:std"]', "two figures would be logged as score_std"),
        ('["a:f", "b:f_std"]', "two figures would be logged as score_f_std"),
        ("[model, {source: judge, wieght: 1}]", "ppo.reward.1.wieght: unknown key, did you mean 'weight'?"),
        ("[{source: judge, name: a b}]", "ppo.reward.0.name"),
    ],
)
def test_a_reward_that_cannot_be_is_told(file: Path, given: str, message: str) -> None:
    assert message in fails(file, MINIMAL, f"ppo.reward={given}")
