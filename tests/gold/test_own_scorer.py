"""A gold scorer that stands outside the package: evaluate, report, principles and check use it as one of ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.core.errors import ConfigError, StageError
from rlaif.core.evaluation import read_summary
from rlaif.core.files import JsonlFile, MetricsLog
from rlaif.core.plugins import check_name
from rlaif.core.records import PreferenceLabel, Prompt
from rlaif.core.statistics import MIN_PROMPTS
from rlaif.core.yaml import dump_yaml
from rlaif.gold.scorers import direction, entry_of, load, refuse_missing_columns
from rlaif.report.validation import gold_measures, read_validations
from rlaif.report.verdict import headline
from rlaif.stages import evaluate
from rlaif.stages.report import write_report
from tests.analysis.impact.runs import make_run
from tests.analysis.principles.runs import comparisons
from tests.output import rlaif
from tests.projects import write_project
from tests.stages.evaluation_run import config, context_in

SOURCE = '''
class Long:
    """Answers should be short."""
    better = "lower"
    def score(self, prompts, responses):
        assert all(prompts)
        return [float(len(text.split())) for text in responses]

class Loud:
    better = "higher"
    label = "loudness (higher is better)"
    about = "share of capitals"
    quality = {"cases": 3.0}
    def score(self, prompts, responses):
        return [sum(c.isupper() for c in text) / max(1, len(text)) for text in responses]

class Absent(Loud):
    def __init__(self):
        from rlaif.gold.packages import GoldMissing
        raise GoldMissing("its model is not there", remedy="get-model")

class Broken(Loud):
    def score(self, prompts, responses):
        return [float("nan")] * len(responses)

class Raising(Loud):
    def score(self, prompts, responses):
        return responses.nothing

class Unborn(Loud):
    def __init__(self):
        self.model = open("/nowhere/model")

class Right(Loud):
    def score(self, prompts, responses, reference, id=None, other="absent"):
        assert (other, len(prompts)) == ("absent", len(reference))
        return [float(one in text) for one, text in zip(reference, responses)]

class Aimless:
    def score(self, prompts, responses):
        return []
'''


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "toy_gold.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)


def test_it_is_measured_and_reported_with_its_direction(tmp_path: Path) -> None:
    names = ["toy_gold:Long", "toy_gold:Loud", "toy_gold:Absent"]
    prompts = [Prompt.of_text(f"harmful question {n}", slice="harmful") for n in range(MIN_PROMPTS)]
    context = context_in(tmp_path / "run", [], prompts=prompts, settings=config(gold=names))
    counts = evaluate.run(context)
    assert counts["Long_ppo_minus_sft_harmful"] > 0, "PPO's answers have twice as many words"
    summary = read_summary(context.run)
    assert summary is not None
    long, loud = summary.measures["Long"], summary.measures["Loud"]
    assert (long.label, long.better, long.about) == ("Long (lower is better)", "lower", "toy_gold:Long")
    assert (loud.label, loud.about, loud.quality) == (
        "loudness (higher is better)",
        "share of capitals",
        {"cases": 3.0},
    )
    assert summary.notes[0] == "Absent not measured: its model is not there; install it with: get-model"
    said = headline(summary)
    assert said.startswith("PPO answers are worse than SFT answers: they score ")
    assert " on Long (lower is better) where SFT answers score " in said
    page = write_report(context.run).path.read_text(encoding="utf-8")
    assert "Long (lower is better)" in page
    assert "loudness (higher is better)" in page


def test_a_report_does_without_the_class(tmp_path: Path) -> None:
    context = context_in(tmp_path / "run", [], settings=config(gold=["toy_gold:Loud"]))
    evaluate.run(context)
    data = context.config.model_dump(mode="json", exclude_defaults=True) | {"evaluate": {"gold": ["gone:Loud"]}}
    context.run.config_path.write_text(dump_yaml(data), encoding="utf-8")
    assert rlaif("report", tmp_path / "run").exit_code == 0
    assert "loudness (higher is better)" in context.run.report_path.read_text(encoding="utf-8")
    wrong = rlaif("ppo", "--run", tmp_path / "run")
    assert wrong.exit_code == 2
    assert "cannot import the gold scorer 'gone:Loud'" in wrong.output


def test_the_validations_of_ppo_take_its_direction_from_what_evaluate_wrote(tmp_path: Path) -> None:
    context = context_in(tmp_path / "run", [], settings=config(gold=["toy_gold:Long"]))
    evaluate.run(context)
    for step in range(2):
        MetricsLog(context.run.file("ppo", "validation.jsonl")).append(
            step=step, slice=None, score=1.0, Long=2.0 + step, kl=float(step), best=1
        )
    found = gold_measures(["toy_gold:Long", "toy_gold:Loud"], read_summary(context.run))
    assert (found["Long"].better, found["Loud"].better, found["harm"].better) == ("lower", None, "lower")
    seen = read_validations(context.run, keep="last", finished=True, examples=1, gold=found)
    assert seen is not None
    assert "Long" in seen.table.head
    assert any("Long (lower is better)" in plot for plot in seen.plots)
    assert direction("Long", ["harm", "toy_gold:Long"]) == "lower"


def test_principles_are_compared_with_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", pairs=comparisons())
    found = {}
    for name in ("Long", "Loud"):
        result = rlaif("principles", "--run", run.root, "--gold", f"toy_gold:{name}", "--json")
        assert result.exit_code == 0, result.output
        found[name] = json.loads(result.stdout)
        assert found[name]["gold"]["name"] == name
    pairs = {
        label.comparison.id: label.comparison for label in JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    }
    alike = sum(len(c.a.text.split()) == len(c.b.text.split()) for c in pairs.values())
    assert found["Long"]["gold"]["silent"] == alike
    assert found["Loud"]["gold"]["silent"] == len(pairs), "nobody shouts"
    assert "no gold scorer 'harmm', did you mean" not in rlaif("principles", "--run", run.root, "--gold", "x").output


def test_check_finds_it_or_says_what_is_wrong(tmp_path: Path, tiny_model: Path) -> None:
    words = ["check", write_project(tmp_path), "--set", f"model.source={tiny_model}", "--set"]
    good = rlaif(*words, "evaluate.gold=['toy_gold:Long']")
    assert good.exit_code == 0, good.output
    assert "ok      gold Long     the class toy_gold:Long" in good.stdout
    for name, told in (
        ("toy_gold:Aimless", "'toy_gold:Aimless' is not a gold scorer"),
        ("toy_gold:Lang", "cannot import the gold scorer 'toy_gold:Lang'"),
        ("toxicty", "no gold scorer 'toxicty', did you mean 'toxicity'?"),
    ):
        bad = rlaif(*words, f"evaluate.gold=['{name}']")
        assert bad.exit_code == 2, bad.output
        assert told in bad.stdout


def test_a_wrong_name_is_an_error_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.gold: there is no gold scorer 'hram', did you mean 'harm'"):
        config(gold=["hram"])
    with pytest.raises(ConfigError, match="two figures would be called Long"):
        config(gold=["toy_gold:Long", "other:Long"])
    with pytest.raises(ConfigError, match="two figures would be called words"):
        config(gold=["toy_gold:words"])
    with pytest.raises(ConfigError, match="one of one, two"):
        check_name("zzz", ["one", "two"], what="thing", where="here")


def test_what_it_raises_names_it_and_the_line() -> None:
    (scorer,), _ = load(["toy_gold:Raising"])
    with pytest.raises(StageError, match="gold scorer toy_gold:Raising raised AttributeError") as caught:
        scorer.score([Prompt.of_text("a")], ["b"])
    assert (caught.value.where or "").partition("toy_gold.py:")[2].isdigit()
    with pytest.raises(StageError, match="toy_gold:Unborn raised FileNotFoundError"):
        load(["toy_gold:Unborn"])


def test_it_is_given_the_columns_that_it_asks_for() -> None:
    (scorer,), _ = load(["toy_gold:Right"])
    asked = [replace(Prompt.of_text("2 + 2"), columns='{"reference": "4", "id": 7}'), Prompt.of_text("Hi")]
    assert scorer.score(asked, ["It is 4.", "Hi"]) == [1.0, None], "a prompt without a reference is not scored"
    assert scorer.score(asked[1:], ["Hi"]) == [None]
    refuse_missing_columns(["toy_gold:Right", "toy_gold:Long"], asked, "evaluate.gold")
    with pytest.raises(ConfigError, match="toy_gold:Right asks for reference, which is no column of the prompts"):
        refuse_missing_columns(["toy_gold:Right"], asked[1:], "evaluate.gold")


def test_a_score_that_is_no_number_is_an_error() -> None:
    (scorer,), _ = load(["toy_gold:Broken"])
    with pytest.raises(StageError, match="the gold scorer Broken returned nan"):
        scorer.score([Prompt.of_text("a")], ["b"])
    assert entry_of("toy_gold:Loud").better == "higher"


def test_a_scorer_says_whether_its_scores_are_0_or_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "    better = 'higher'\n    def score(self, prompts, responses): return [0.0 for _ in responses]\n"
    (tmp_path / "shares.py").write_text(f"class Graded:\n{body}class Either:\n{body}    share = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert entry_of("shares:Either").share
    assert not entry_of("shares:Graded").share
    assert entry_of("relevance").share
    assert not entry_of("sentiment").share
