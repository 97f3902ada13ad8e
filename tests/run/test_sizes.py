"""The settings for models of a size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rlaif.core.errors import ConfigError
from rlaif.core.yaml import parse_yaml
from rlaif.judge.load import default_config, load
from rlaif.run.init import AIMS, STARTS
from rlaif.run.sizes import SIZES, Size, choose_size
from tests.output import rlaif

ROOT = Path(__file__).parents[2]
each_size = pytest.mark.parametrize("size", SIZES)


def demo() -> dict[str, Any]:
    path = ROOT / "scripts" / "demo.yaml"
    data, _ = parse_yaml(path.read_text(encoding="utf-8"), str(path), ConfigError)
    return data


def test_the_smallest_has_the_figures_of_the_demo_which_were_measured() -> None:
    measured = demo()
    for table, fields in SIZES["0.1B"].items():
        assert {name: measured[table].get(name) for name in fields} == fields, table


@each_size
@pytest.mark.parametrize("aim", AIMS)
def test_a_sized_config_loads_and_says_what_the_size_says(tmp_path: Path, size: Size, aim: str) -> None:
    told = rlaif("init", tmp_path / "kitchen", "--for", aim, "--size", size)
    assert told.exit_code == 0, told.output
    path = tmp_path / "kitchen" / "kitchen.yaml"
    config, plain, sized = load(path).model_dump(), default_config().model_dump(), STARTS[aim].sized  # type: ignore[index]
    for table, fields in SIZES[size].items():
        for name, value in fields.items():
            assert config[table][name] == (value if table in sized else plain[table][name]), f"{table}.{name}"
    text = path.read_text(encoding="utf-8")
    assert f"# Settings for a model of about {size} parameters" in text
    for number, line in enumerate(text.splitlines()):
        if re.match(r"  \w+: \S", line):
            assert text.splitlines()[number - 1].lstrip().startswith("# "), line


def test_the_smallest_passes_check_as_it_is_written(tmp_path: Path) -> None:
    rlaif("init", tmp_path / "kitchen", "--size", "0.1B")
    result = rlaif("check", tmp_path / "kitchen" / "kitchen.yaml")
    assert result.exit_code == 0, result.output
    assert "failed" not in result.stdout


@each_size
def test_docs_name_every_learning_rate(size: Size) -> None:
    section = (ROOT / "docs" / "train.md").read_text(encoding="utf-8").split("## By size")[1].split("\n## ")[0]
    for table in ("sft", "reward", "ppo"):
        rate = f"{SIZES[size][table]['learning_rate']:.0e}".replace("e-0", "e-")
        assert rate in section, f"{table}: {rate}"


def test_a_size_is_known_in_any_spelling_and_another_is_refused() -> None:
    assert [choose_size(text) for text in ("0.1b", "1", "8B")] == ["0.1B", "1B", "8B"]
    with pytest.raises(ConfigError, match=r"no settings for a model of '3B'.*\n.*nearest of 0.1B, 1B, 8B"):
        choose_size("3B")
