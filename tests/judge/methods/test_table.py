"""Every method of the table works wherever methods are asked for, and a user's own method does so from outside."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif.check.config import check_all
from rlaif.config import JudgeConfig
from rlaif.constitution.load import load_constitution
from rlaif.core.errors import ConfigError, RlaifError, StageError
from rlaif.core.records import Comparison, Prompt, Response
from rlaif.judge.judge import Judge
from rlaif.judge.load import parse
from rlaif.judge.methods.method import JUDGED, JudgingCost, JudgingWork
from rlaif.judge.methods.table import METHODS, cost_of, find, in_use, shown_fields, statement_unread, template_kinds
from rlaif.lm import open as open_model
from rlaif.lm.cache import CachedModel
from rlaif.lm.scripted import ScriptedModel
from rlaif.stages import label
from tests import stub_stages
from tests.output import done

DOCS = Path(__file__).parents[3] / "docs" / "extending.md"
MORE = """

def make():
    return METHOD


ANOTHER = Method("pairwise", ask, cost)
NUMBER = 7


def breaks(asks, asker):
    return asks[0].responses[2]


BREAKS = Method("breaks", breaks, None)
STRANGE = Method("strange", lambda asks, asker: [["A"] for _ in asks], None)
OUTSIDE = Method("outside", lambda asks, asker: [[verdict(one, "outside", "none", "j", 1.5)] for one in asks], None)
SILENT = Method("silent", lambda asks, asker: [[] for _ in asks], None)


def problems(config, settings):
    return [1 / 0]


PLAN = Method("plan", breaks, cost, problems=problems)
"""
RULES = """name: rules
version: "1"
principles:
  - id: good
    statement: Be good.
    tests:
      - {prompt: How?, better: a good answer, worse: a bad answer}
      - {prompt: Why?, better: good, worse: bad and long}
  - id: plain
    statement: Be plain.
"""
NAME = "yes_or_no:METHOD"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The method that the documents describe, as a module of a user that can be imported."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in _documented().items():
        (folder / name).write_text(text + MORE * name.endswith(".py"), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "yes_or_no", raising=False)  # of another test
    find.cache_clear()
    return NAME


def _documented() -> dict[str, str]:
    """The files of the documents' example, by name."""
    found = re.findall(
        r"^```\w*\n((?:# |\{# )(yes[\w-]+\.(?:py|jinja)).*?)^```", DOCS.read_text(), re.DOTALL | re.MULTILINE
    )
    return {name: text for text, name in found}


def rules(folder: Path, statement: str = "Be good.") -> Path:
    path = folder / f"rules-{len(statement)}.yaml"
    path.write_text(RULES.replace("Be good.", statement), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that is finished up to `label` by the user's own method; policy and judge are scripted."""
    stub_stages.install(set_module=lambda name, module: monkeypatch.setitem(sys.modules, name, module))
    monkeypatch.setitem(sys.modules, label.__name__, label)
    policy: Callable[..., CachedModel] = lambda model, adapters, cache: CachedModel(  # noqa: E731
        ScriptedModel(), cache / "policy.sqlite"
    )
    monkeypatch.setattr(open_model, "open_policy", policy)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(9)))
    config = tmp_path / "run.yaml"
    tables = {
        "model": {"source": str(tiny_model)},
        "judge": {"backend": "scripted", "method": own},
        "card": {"required": False},
        "constitution": str(rules(tmp_path)),
        "prompts": {"mine": {"source": "prompts.jsonl", "train": 8, "held_out": 1}},
        "label": {"samples": 3, "pairs": 3, "batch_size": 3},
        "evaluate": {"bootstrap": 100},
    }
    config.write_text(json.dumps(tables))
    for stage in ("revise", "sft", "label"):
        done(stage, config, "--out", tmp_path / "run")
    return tmp_path / "run"


def test_a_judge_reads_statements_where_one_who_votes_does() -> None:
    contrast = JudgeConfig(method="contrast")
    assert shown_fields(contrast) == ("contrast",)
    assert statement_unread(contrast, ("contrast",)).startswith("judge.method contrast reads the contrast pair, never")
    panel = JudgeConfig.model_validate({"method": "contrast", "panel": [{"name": "other", "method": "pairwise"}]})
    assert shown_fields(panel) == ("statement", "comparison", "contrast")
    assert statement_unread(panel, shown_fields(panel)) == ""
    assert shown_fields(JudgeConfig(method="rating", few_shots=2)) == ("statement", "contrast")


def test_a_template_of_one_s_own_may_show_the_whole_principle(tmp_path: Path) -> None:
    (tmp_path / "rating.jinja").write_text(
        '{% message "user" %}{{ principle.statement }} {{ response }}{% endmessage %}'
    )
    assert shown_fields(JudgeConfig(method="rating"), tmp_path) == JUDGED


def test_a_users_method_labels_a_run_and_every_question_about_it_is_answered(run: Path, tmp_path: Path) -> None:
    labels = run / "label" / "labels.jsonl"
    verdicts = [v for line in labels.read_text().splitlines() for v in json.loads(line)["verdicts"]]
    assert {(v["method"], v["order"], v["judge"]) for v in verdicts} == {("yes-or-no", "none", "scripted")}
    assert len(verdicts) == 8 * 3 * 2
    assert (run / "templates" / "yes-or-no.jinja").read_text() == _documented()["yes-or-no.jinja"]

    edited = done("impact", "--run", run, "--to", rules(tmp_path, "Be good and kind."))
    assert (edited["cost"]["judged"], edited["cost"]["reused"]) == (8 * 3, 8 * 3), (
        "only the principle that was reworded is judged again"
    )
    assert edited["method"] == NAME

    principles = done("principles", "--run", run, "--negate", "2")
    assert [row["id"] for row in principles["principles"]] == ["good", "plain"]
    recovered = done(
        "constitution", "recover", "--labels", labels, "--config", run / "config.yaml", "--candidates", rules(tmp_path)
    )
    assert recovered["calls"] + recovered["cached"] > 0


def test_a_users_method_is_planned_carded_and_checked(own: str, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    tables = {
        "judge": {"backend": "scripted", "method": own},
        "card": {"min_accuracy": 0.5},  # two tests are too few to ask for more
        "constitution": str(rules(tmp_path)),
        "prompts": {"mine": {"source": "everyday", "train": 8, "held_out": 4}},
    }
    config.write_text(json.dumps(tables))
    rows = {row["stage"]: row for row in done("run", config, "--dry-run")["stages"]}
    assert rows["label"]["judge_calls"] == 8 * 4 * 2, "each of 4 answers is read under 2 principles"
    card = done("judge", "card", "--config", config, "--gold", "tests")
    assert (card["subject"]["method"], card["failures"]["labelled"], card["order"]) == ("yes-or-no", 2, None)
    assert all(attack["structure_kept"] == attack["pairs"] for attack in card["attacks"])
    gold = tmp_path / "gold.jsonl"
    gold.write_text("".join(json.dumps({"prompt": f"Q{n}?", "chosen": "a", "rejected": "b"}) + "\n" for n in range(12)))
    words = ("--config", config, "--gold", gold, "--set", "evaluate.bootstrap=100", "--timed", "0")
    compared = done("judge", "compare", *words, "--methods", f"pairwise,{own}")
    assert [one["name"] for one in compared["candidates"]] == ["pairwise", "METHOD", "mean of all"]
    found = {finding.name: finding for finding in check_all(config)}
    assert found["judge"].text == f"{NAME} by the scripted judge"
    assert "yes-or-no" in found["templates"].text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pairwize", "did you mean 'pairwise'"),
        ("yes_or_no:NONE", "cannot import the judging method"),
        ("no_such_module:METHOD", "ModuleNotFoundError"),
        ("yes_or_no:NUMBER", "is no judging method but int"),
        ("yes_or_no:ANOTHER", "calls itself 'pairwise'"),
    ],
)
def test_a_name_that_no_method_goes_by_is_refused_when_the_config_is_read(own: str, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse({"judge": {"method": name}, "prompts": {"p": {"source": "everyday"}}}, where="test")


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("BREAKS", StageError, r"yes_or_no\.py:\d+: the judging method yes_or_no:BREAKS raised IndexError"),
        ("STRANGE", ConfigError, "the method strange gave 'A' where verdicts belong"),
        ("OUTSIDE", ConfigError, "the method outside gave the probability 1.5"),
        ("SILENT", ConfigError, "the method silent gave an empty list where verdicts belong"),
    ],
)
def test_what_a_users_method_does_wrong_names_it(
    own: str, tmp_path: Path, name: str, error: type[RlaifError], said: str
) -> None:
    judge = JudgeConfig.model_validate({"method": f"yes_or_no:{name}"})
    pair = Comparison(
        Prompt.of_text("How?"), *(Response("p", text, "m", 0, 1.0, "stop", 1) for text in ("good", "bad"))
    )
    with pytest.raises(error, match=said):
        Judge(judge, load_constitution(rules(tmp_path)), models=[], seed=0).label([pair])


def test_what_it_does_wrong_in_a_plan_names_it_too(own: str) -> None:
    with pytest.raises(StageError, match="yes_or_no:PLAN raised ZeroDivisionError"):
        parse({"judge": {"method": "yes_or_no:PLAN"}, "prompts": {"p": {"source": "everyday"}}}, where="test")


def test_a_function_that_makes_a_method_will_do(own: str) -> None:
    made = find("yes_or_no:make")
    assert (made, made.name) == (find(own), "yes-or-no")
    panel = JudgeConfig.model_validate({"panel": [{"name": "a", "method": own}, {"name": "b", "method": own}]})
    assert [method.name for method in in_use(panel)] == ["contrast", "yes-or-no"]
    assert [kind.name for kind in template_kinds(panel)][-1] == "yes-or-no"


def test_a_template_that_is_handed_the_principle_may_show_all_of_it() -> None:
    assert METHODS["pairwise"].fields(few_shots=1) == ("statement", "comparison", "contrast")
    assert METHODS["pairwise"].fields(shipped_template=False) == JUDGED
    assert METHODS["contrast"].fields(shipped_template=False) == ("contrast",)


def test_a_panel_costs_what_its_members_cost() -> None:
    panel = JudgeConfig.model_validate({"method": "pairwise", "panel": [{"name": "a", "method": "rating"}]})
    work = JudgingWork(reads=2, pairs=1, comparisons=1, response_tokens=10, prompt_tokens=5)
    assert cost_of(panel, work) == JudgingCost(2, 0, 2 * 25) + JudgingCost(2, 0, 2 * 15)
    assert cost_of(JudgeConfig.model_validate({"method": "random"}), work) == JudgingCost()


@pytest.mark.parametrize("method", METHODS)
def test_recovery_works_with_every_method_of_the_table(method: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    rows = [{"prompt": f"Question {n}?", "chosen": "a good answer", "rejected": "bad"} for n in range(8)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--set", f"judge.method={method}", "--set", "judge.backend=scripted", "--set", "evaluate.bootstrap=100")
    found = done("constitution", "recover", "--labels", file, "--candidates", rules(tmp_path), *words)
    assert found["method"] == method
