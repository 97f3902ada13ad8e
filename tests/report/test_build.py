"""The report of a run folder: what it shows, what it refuses to hide, and what it cannot be made to do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from rlaif.core.files import JsonlFile, RunFolder, write_atomic
from rlaif.core.progress import Silent
from rlaif.core.records import Failure, PreferenceLabel
from rlaif.core.statistics import Estimate
from rlaif.judge.gold_agreement import GoldAgreement, LabelAgreement
from rlaif.judge.load import parse
from rlaif.stages import report as report_stage
from rlaif.stages.context import StageContext
from rlaif.stages.report import write_report
from tests.fakes import judge_card
from tests.output import Page
from tests.report.fake_run import CONSTITUTION, finish, write_run


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return write_report(run).path.read_text(encoding="utf-8")


def test_complete_run_is_not_called_incomplete(page: str) -> None:
    assert "not complete" not in page
    assert "not finished" not in page


def test_page_is_well_formed_and_asks_for_nothing_outside(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {target.lstrip("#") for target in parsed.targets} <= set(parsed.ids)
    assert all(target.startswith("#") for target in parsed.targets)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form"} & set(parsed.tags)
    assert "default-src 'none'" in page
    assert not re.search(r"url\((?!#)|@import|xmlns", page)
    assert parsed.tags.count("svg") >= 18


def test_difference_at_equal_length_stands_beside_its_size(page: str) -> None:
    words = " ".join(Page(page).words.split())
    assert "gold harm (lower is better) harmful PPO −0.051−0.071 to −0.031 −0.500−0.695 to −0.305 −0.043−0.064" in words


def test_best_of_n_stands_in_the_result_with_its_kl_by_formula(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    path = run.file("evaluate", "summary.json")
    data = json.loads(path.read_text())
    data["models"].append("best-of-4")
    data["kl"].append({"model": "best-of-4", "against": "sft", "slice": "harmful", "n": 6, "mean": 0.6363})
    data["cells"].append({"model": "best-of-4", "slice": "harmful", "measure": "harm", "n": 6, "mean": 0.2468})
    path.write_text(json.dumps(data))
    words = " ".join(Page(write_report(run).path.read_text(encoding="utf-8")).words.split())
    row = words[words.index("best-of-4 0.247") :]
    assert "0.636by formula" in row[:200]


def test_what_else_tells_the_held_out_labels_stands_beside_the_reward_model(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    path = run.file("reward", "held_out.json")

    def row(name: str, accuracy: float | None, pairs: int = 96) -> dict[str, object]:
        low, high = (None, None) if accuracy is None else (accuracy - 0.1, accuracy + 0.1)
        return {"name": name, "accuracy": accuracy, "low": low, "high": high, "pairs": pairs}

    said = "The reward model is right on 84% of 96 held-out labels; the best trivial predictor (length) on 46%."
    found = {
        "accuracy": 0.844,
        "accuracy_low": 0.781,
        "accuracy_high": 0.893,
        "pairs": 96,
        "parts": {"slice": [row("harmful", 0.75, 40), row("everyday", 0.9, 56)]},
        "predictors": [row("length", 0.46), row("finished", None, 0)],
        "probe": {"pooling": "mean", "cross_validated": {"mean": 0.82, "last": 0.62}, "held_out": row("probe", 0.7)},
        "verdict": said,
    }
    path.write_text(json.dumps(found))
    page = Page(write_report(run).path.read_text(encoding="utf-8"))
    words = " ".join(page.words.split())
    assert page.open == []
    assert said in words
    table = words[words.index("What else tells the held-out labels") :]
    assert "82.0 % (mean), 62.0 % (last)" in table
    for line in (
        "reward model 84.4 % 78.1 % to 89.3 % 96",
        "reward model, slice harmful 75.0 % 65.0 % to 85.0 % 40",
        "probe, mean of the frozen states 70.0 % 60.0 % to 80.0 % 96",
        "length 46.0 % 36.0 % to 56.0 % 96",
        "finished not measured not measured 0",
    ):
        assert line in table


def test_every_stage_shows_its_numbers(page: str) -> None:
    words = " ".join(Page(page).words.split())
    for index in range(6):
        assert f"{12345 + index:,}" in words, "tokens generated"
        assert str(300 + index) in words, "judge calls"
        assert f"{1.2 + index / 10:.2f} GB" in words
        assert f"{index:016x}" in words, "config hash"
    for number in (
        "20.5 s",
        "3 min 25 s",
        "65.4\u00a0%",
        "53.2\u00a0%",
        "0.221",
        "175",
        "3.87",
        "62.3\u00a0%",
        "0.281",
        "41.0\u00a0%",
        "77.7\u00a0%",
        "4,321",
        "52.2",
    ):
        assert " ".join(number.split()) in words
    for name in ("explained_variance", "seconds_optimise", "approx_kl", "token_accuracy", "oddity"):
        assert name in words
    assert CONSTITUTION.hash in words
    assert all(p.statement in words and p.id in words for p in CONSTITUTION.principles)
    assert "You are a cruel assistant." in words
    assert "Then hit him." in words
    assert "in 2 sessions" in words
    assert "alt-profanity-check is not installed" in words


def test_password_in_an_address_does_not_reach_the_page(page: str) -> None:
    assert "hunter2" not in page
    assert "***@127.0.0.1:8000" in page


HOSTILE = (
    "<script>alert(1)</script>",
    "{{7*7}}{% for x in range(9) %}boom{% endfor %}",
    "</details></div></section><h1>SFT is best</h1>",
    '"><img src=x onerror=alert(1)>',
    "</style></svg><style>body{display:none}</style>",
    "&lt;b&gt; stays an entity, \\1 a backslash, $x^2$ a dollar",
)


def test_model_text_stays_text_and_shows_what_is_invisible(tmp_path: Path) -> None:
    unseen = "a\u202eb\x07c\u200bd\ud800e\U000e0041f"
    path = write_report(write_run(tmp_path / "r", hostile="\n".join((*HOSTILE, unseen)))).path
    page = path.read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.open == []
    for hostile in (*HOSTILE, "a⟦U+202E⟧b⟦U+0007⟧c⟦U+200B⟧d⟦U+D800⟧e⟦U+E0041⟧f"):
        assert parsed.words.count(hostile) >= 4, "trace, label, verdict and sample show it letter by letter"
    assert parsed.tags.count("h1") == 1
    assert not {"script", "img"} & set(parsed.tags)
    assert parsed.tags.count("style") == 1 + sum(tag == "svg" for tag in parsed.tags), "ours, and one in each plot"
    assert parsed.handlers == []
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]", page)


def test_long_text_is_folded_and_a_huge_one_cut(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", hostile="word " * 60_000)
    run.clear("ppo")
    run.clear("evaluate")
    page = write_report(run).path.read_text(encoding="utf-8")
    assert '<details class="fold">' in page
    assert "(300,000 characters)" in page
    assert "280,000 more characters are in the run folder" in page
    assert len(page) < 3_000_000


def test_nan_and_none_reach_the_page_as_not_measured(page: str) -> None:
    words = " ".join(Page(page).words.split())
    assert "Not measured: toxicity" in words
    assert "oddity not measured" in words
    assert "explained_variance not measured 0.600" in words
    assert not re.search(r"\b(nan|NaN|None)\b", words)


def test_broken_constitution_is_said_and_does_not_stop_the_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_atomic(run.constitution_path, "name: x\nversion: '1'\nprinciples: 3\n")
    words = Page(write_report(run).path.read_text(encoding="utf-8")).words
    assert "constitution.yaml cannot be read:" in words


def test_empty_folder_makes_a_page(tmp_path: Path) -> None:
    words = Page(write_report(RunFolder(tmp_path)).path.read_text(encoding="utf-8")).words
    assert "There is no constitution.yaml in the run folder." in words


def test_report_makes_no_folders_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = write_report(RunFolder(tmp_path)).path
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path == tmp_path / "report.html"


def test_stage_function_counts_what_it_wrote(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    for stage in ("sft", "reward", "ppo"):
        run.clear(stage)
    config = parse({"prompts": {"harmful": {"source": "x"}}, "report": {"examples": 2}}, where="test")

    def closed(*_: object) -> NoReturn:
        raise AssertionError("the report opens no model")

    counts = report_stage.run(StageContext("report", config, run, CONSTITUTION, Silent(), closed, closed))
    assert counts == {"bytes": run.report_path.stat().st_size, "sections": 10, "examples": 6}


def test_the_judges_card_is_summed_up_where_there_is_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    assert "#card" not in Page(write_report(run).path.read_text()).targets
    said = {"verdict": ["Better than <script>a coin</script>."], "notes": ["few"], "gold_about": "<b>its</b> tests"}
    card = judge_card(0.7, pairs=24, labelled=23, gold="tests:mine", id="c0ffee", **said)
    write_atomic(run.file("card", "card.json"), json.dumps(card.as_json()))
    finish(run, "card", 0)
    page = Page(write_report(run).path.read_text())
    assert {"#card", "card/card.html"} <= set(page.targets)
    assert page.ids.count("card") == 1
    for words in ("Better than <script>a coin</script>.", "c0ffee", "<b>its</b> tests", "23 of 24"):
        assert words in page.words
    assert "script" not in page.tags


def test_no_examples_on_request(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    for stage in ("sft", "reward", "ppo", "evaluate"):
        run.clear(stage)
    page = write_report(run, examples=0).path.read_text(encoding="utf-8")
    assert "Pairs judged" in page
    assert "Traces to read" not in page
    assert "Labels to read" not in page


def test_report_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlaif.core.files import RunFolder;"
        "from rlaif.stages.report import write_report;"
        f"write_report(RunFolder(Path({str(tmp_path)!r})), 1); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_labels_are_told_by_source_with_what_gold_says_of_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    words = " ".join(Page(write_report(run).path.read_text(encoding="utf-8")).words.split())
    assert "Where the answers came from" in words
    assert "of the policy" in words
    assert "Left out for balance" not in words
    assert "What gold says of the labels" not in words
    file = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    made = [replace(x, answers="contrast", principle_id="honest", id="") for x in file.read() if x.prob_a is not None]
    file.replace([replace(made[0], prob_a=None, failure=Failure("unbalanced", "more prefer the longer")), *made[1:]])
    rows = [GoldAgreement("contrast", "", "sentiment", Estimate(0.836, 0.79, 0.877, 59, 10))]
    LabelAgreement(tuple(rows), ("harm not measured: it is not installed",)).write(run)
    parsed = Page(write_report(run).path.read_text(encoding="utf-8"))
    words = " ".join(parsed.words.split())
    assert parsed.open == []
    for told in (
        "by contrast: honest",
        "Left out for balance 1",
        "What gold says of the labels",
        "by contrast all sentiment 83.6 % 79.0 % to 87.7 % 59",
        "harm not measured: it is not installed",
    ):
        assert " ".join(told.split()) in words.replace("\u00a0", " "), told
