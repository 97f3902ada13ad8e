"""The table of backends, and one that stands outside the package: the example of docs/extending.md."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from rlaif.config import AskingConfig, ModelConfig
from rlaif.core.errors import ConfigError, StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import Message, PreferenceLabel
from rlaif.lm import open as open_model
from rlaif.lm.backends import find
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import ChoiceRequest
from rlaif.lm.scripted import ScriptedModel
from tests import stub_stages
from tests.output import rlaif

DOCS = Path(__file__).parent.parent.parent / "docs" / "extending.md"
OTHERS = """
def bare(judge):
    return object()

class Wrong:
    name, fingerprint, usage, close = "wrong", "wrong", None, print
    def __init__(self, judge):
        pass
    def ask(self, requests):
        text = requests[0].messages[0].content
        return {"raise": lambda: text.nothing, "few": lambda: [], "strange": lambda: ["yes"]}[text]()

def broken(judge):
    return 1 / 0

number = 3
"""


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's module and one with mistakes, where Python finds them."""
    section = DOCS.read_text(encoding="utf-8").partition("## Your own backend")[2]
    example = re.search(r"```python\n(# (\w+\.py).*?)```", section, re.DOTALL)
    assert example is not None
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / example[2]).write_text(example[1])
    (folder / "toy_backends.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(folder)


def config_file(folder: Path, tiny_model: Path, **judge: Any) -> Path:
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(9)))
    tables = {
        "model": {"source": str(tiny_model)},
        "judge": {"method": "pairwise", "principles": "one", **judge},
        "card": {"required": False},
        "prompts": {"mine": {"source": str(prompts), "train": 8, "held_out": 1}},
        "label": {"samples": 3, "pairs": 3, "batch_size": 3},
    }
    file = folder / "rlaif.yaml"
    file.write_text(json.dumps(tables))
    return file


def test_the_documented_backend_labels(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlaif.stages import label

    config = config_file(tmp_path, tiny_model, backend="longer:Longer")
    checked = rlaif("check", config)
    assert re.search(r"ok +judge +pairwise by the longer:Longer judge", checked.output), checked.output

    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    monkeypatch.setitem(sys.modules, "rlaif.stages.label", label)
    monkeypatch.setattr(
        open_model, "open_policy", lambda model, adapters, cache: CachedModel(ScriptedModel(), cache / "policy.sqlite")
    )
    for stage in ("revise", "sft"):
        assert rlaif(stage, config, "--out", tmp_path / "run").exit_code == 0
    done = rlaif("label", "--run", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    labels = JsonlFile(tmp_path / "run" / "label" / "labels.jsonl", PreferenceLabel).read()
    assert json.loads(done.stdout)["stages"]["label"]["counts"]["judge_calls"] == 2 * len(labels) > 0
    for row in labels:
        a, b = len(row.comparison.a.text), len(row.comparison.b.text)
        assert row.prob_a is not None
        assert (row.prob_a > 0.5, row.prob_a < 0.5) == (a > b, a < b)
        assert {verdict.judge for verdict in row.verdicts} == {"longer"}


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("locl", "there is no backend 'locl', did you mean 'local'?"),
        ("nowhere:Longer", "No module named 'nowhere'"),
        ("longer:Shorter", "Shorter"),
        ("toy_backends:number", "neither a class nor a function"),
    ],
)
@pytest.mark.parametrize("command", ["check", "run", "label"])
def test_a_wrong_name_is_refused_by_every_command(
    tmp_path: Path, tiny_model: Path, backend: str, said: str, command: str
) -> None:
    file = config_file(tmp_path, tiny_model, backend=backend)
    found = rlaif(command, file, *(() if command == "check" else ("--out", tmp_path / "run")))
    assert found.exit_code == 2
    assert said in " ".join(found.output.split())
    assert "judge.backend" in found.output
    assert not (tmp_path / "run").exists()


def test_a_panels_backend_is_checked_too(tmp_path: Path, tiny_model: Path) -> None:
    file = config_file(tmp_path, tiny_model, panel=[{"name": "second", "backend": "opnai", "method": "pairwise"}])
    found = rlaif("check", file)
    assert found.exit_code == 2
    assert "did you mean 'openai'?" in " ".join(found.output.split())
    assert "panel" in found.output


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("toy_backends:bare", "without name, fingerprint, usage, ask, close"),
        ("toy_backends:broken", "division by zero"),
    ],
)
def test_what_is_no_model_is_said_when_it_is_opened(backend: str, said: str) -> None:
    asking = AskingConfig.model_validate({"backend": backend})
    with pytest.raises(ConfigError, match=said):
        find(backend).open(asking, ModelConfig.model_validate({}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise", r"the backend toy_backends:Wrong raised AttributeError: .*\n"),
        ("few", "toy_backends:Wrong gave 0 answers to 1 requests"),
        ("strange", "gave 'yes' to a ChoiceRequest, not a ChoiceLogprobs"),
    ],
)
def test_what_it_does_wrong_names_it(text: str, said: str) -> None:
    model = find("toy_backends:Wrong").open(AskingConfig.model_validate({}), ModelConfig.model_validate({}))
    with pytest.raises(StageError, match=said):
        model.ask([ChoiceRequest((Message("user", text),), ("yes", "no"))])


def test_what_answers_is_known_before_it_is_opened(tmp_path: Path) -> None:
    run = ModelConfig.model_validate({"source": "embedded"})

    def identity(**fields: Any) -> str:
        asking = AskingConfig.model_validate({"method": "pairwise", **fields})
        return find(asking.backend).identity(asking, run)

    rules = tmp_path / "rules.jsonl"
    rules.write_text('{"match": "", "reply": "Yes."}\n')
    first = identity(backend="scripted", source=str(rules))
    rules.write_text('{"match": "", "reply": "No."}\n')
    assert len({first, identity(backend="scripted", source=str(rules)), identity(backend="scripted")}) == 3
    assert identity(backend="openai", source="m") == "openai"
    assert identity(backend="longer:Longer") == "longer:Longer"
