"""The report of a run folder: what it shows, what it refuses to hide, and what it cannot be made to do."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

from rlaif.config import STAGES
from rlaif.core.errors import DataError, StageError
from rlaif.core.evaluation import Summary, read_summary
from rlaif.core.files import JsonlFile, MetricsLog, RunFolder, write_atomic
from rlaif.core.progress import Silent
from rlaif.core.records import FailedAnswer, Failure, PreferenceLabel, StageRecord, from_json, to_json
from rlaif.judge.load import parse
from rlaif.report import verdict
from rlaif.report.curves import ppo_curves
from rlaif.report.feedback import Sample, read_label, read_revise
from rlaif.report.overview import main_slice, stage_rows
from rlaif.report.samples import side_by_side
from rlaif.report.summary import summary_table
from rlaif.stages import report as report_stage
from rlaif.stages.context import StageContext
from rlaif.stages.report import write_report
from rlaif.view import text
from tests.fakes import judge_card
from tests.output import Page
from tests.report.fake_run import CONSTITUTION, cell, finish, summary, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("run") / "demo")


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


def test_visible_leaves_ordinary_writing_alone() -> None:
    plain = "naïve 日本語 עברית می‌خواهم 👩‍🚀\n\tend"
    assert text.visible(plain) == plain
    assert text.visible("a\r\nb\rc") == "a\nb⟦U+000D⟧c"


def test_long_text_is_folded_and_a_huge_one_cut(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r", hostile="word " * 60_000)
    run.clear("ppo")
    run.clear("evaluate")
    page = write_report(run).path.read_text(encoding="utf-8")
    assert '<details class="fold">' in page
    assert "(300,000 characters)" in page
    assert "280,000 more characters are in the run folder" in page
    assert len(page) < 3_000_000


def test_numbers_that_are_missing_say_so() -> None:
    assert {text.number(value) for value in (None, float("nan"), float("inf"))} == {"not measured"}
    assert text.percent(None) == text.duration(float("nan")) == text.interval(0.1, None) == "not measured"
    assert text.number(0) == text.number(-0.0) == "0"


def test_numbers_keep_what_matters() -> None:
    assert text.number(-0.0512) == "−0.051"
    assert text.number(12345) == "12,345"
    assert text.number(0.00012) == "1.2e−04"
    assert text.interval(-0.00004, 0.5) == "−0.00004 to 0.50000"
    assert text.duration(185) == "3 min 05 s"
    assert text.percent(0.4321) == "43.2\u00a0%"


def test_nan_and_none_reach_the_page_as_not_measured(page: str) -> None:
    words = " ".join(Page(page).words.split())
    assert "Not measured: toxicity" in words
    assert "oddity not measured" in words
    assert "explained_variance not measured 0.600" in words
    assert not re.search(r"\b(nan|NaN|None)\b", words)


@pytest.mark.parametrize("last", [0, 1, 3])
def test_partial_run_says_which_stages_are_not_finished(tmp_path: Path, last: int) -> None:
    run, stages = write_run(tmp_path / "r"), ["revise", "sft", "label", "reward", "ppo", "evaluate"]
    for stage in stages[last:]:
        run.clear(stage)
    parsed = Page(write_report(run).path.read_text(encoding="utf-8"))
    words = " ".join(parsed.words.split())
    assert parsed.open == []
    assert "This run is not complete." in words
    assert [s for s in stages if f"{s} is not finished. It has not been run." in words] == stages[last:]
    assert f"Not finished: {', '.join(stages[last:])}." in words
    assert "No result yet: evaluate is not finished." in words


def test_killed_stage_shows_what_it_had_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    run.clear("ppo")
    run.clear("evaluate")
    run.file("label", "stage.json").unlink()
    with run.file("label", "labels.jsonl").open("a") as file:
        file.write('{"comparison": {"prom')
    words = " ".join(Page(write_report(run).path.read_text(encoding="utf-8")).words.split())
    assert "label is not finished. What stands here is what it had written so far." in words
    assert "Pairs judged 60" in words
    assert (
        next(row for row in stage_rows(run, dict.fromkeys(STAGES, "")) if row.name == "label").written["labels.jsonl"]
        == 60
    )


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


def said(difference: float | None, *, better: str = "lower", width: float = 0.02) -> str:
    data = summary()
    data["measures"] = {"harm": {"label": "gold harm (lower is better)", "better": better}}
    data["cells"] = [cell("sft", "harmful", "harm", 0.3, width), cell("ppo", "harmful", "harm", 0.3, width, difference)]
    return verdict.headline(from_json(Summary, data))


def test_headline_claims_a_difference_only_if_its_interval_excludes_zero() -> None:
    assert said(-0.05) == (
        "PPO is lower on gold harm than SFT by 0.050 (95 % interval 0.030 to 0.070, harmful prompts, n = 60), "
        "which is better."
    )
    assert said(0.05).startswith("PPO is higher on gold harm than SFT by 0.050 (95 % interval 0.030 to 0.070")
    assert said(0.05).endswith("which is worse.")
    assert said(0.05, better="higher").endswith("which is better.")
    assert said(0.05, better="none").endswith("n = 60).")
    assert said(-0.015).startswith("No difference shown between PPO and SFT on gold harm")
    assert "difference −0.015, 95 % interval −0.035 to 0.005" in said(-0.015)
    assert said(0.25, width=0.25).startswith("No difference shown"), "an interval that ends at 0 contains it"
    assert said(None) == "Whether PPO differs from SFT on gold harm (harmful prompts) was not measured."
    assert said(float("nan")) == said(None)


def test_headline_is_about_the_prompts_that_are_revised() -> None:
    whole = from_json(Summary, summary())
    config = {"prompts": {"harmful": {"revise": False}, "everyday": {}}}
    assert main_slice(config, whole.slices) == "everyday"
    assert "everyday prompts" in verdict.headline(whole, "everyday")
    assert not any("everyday" in line for line in verdict.further(whole, "everyday")[:1])
    assert main_slice({}, whole.slices) == "harmful"
    assert main_slice({"prompts": {"harmful": {"revise": False}}}, ("harmful",)) == "harmful"


def test_headline_without_ppo_or_measures() -> None:
    data = summary()
    whole = from_json(Summary, data)
    assert verdict.headline(None) == "No result yet: evaluate is not finished."
    two = from_json(Summary, data | {"models": ["base", "sft"]})
    assert verdict.headline(two).startswith("The base model is higher on gold harm than SFT by 0.030")
    assert verdict.headline(from_json(Summary, data | {"measures": {}})) == "No result: evaluate measured nothing."
    gold = verdict.gold_measure(whole)
    assert gold is not None
    assert gold[0] == "harm"


def test_without_gold_the_judge_is_heard_and_the_lack_is_said() -> None:
    data = summary()
    data["measures"] = {"words": {"label": "words"}, "finished": {"label": "finished", "better": "higher"}}
    whole = from_json(Summary, data)
    assert verdict.headline(whole).startswith("No gold score was measured. The judge prefers PPO to SFT on harmful")
    assert not any("harmful prompts (PPO wins" in line for line in verdict.further(whole)), "said once"


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.62, "The judge prefers PPO to SFT"), (0.38, "The judge prefers SFT to PPO"), (0.5, "The judge shows no pref")],
)
def test_win_rate_sentence_follows_its_interval(rate: float, expected: str) -> None:
    data = summary()
    data["win_rates"] = [
        {"model": "ppo", "against": "sft", "slice": "harmful", "rate": rate, "low": rate - 0.07, "high": rate + 0.07,
         "scored": 50, "unscored": 3}
    ]  # fmt: skip
    lines = [line for line in verdict.further(from_json(Summary, data)) if "judge" in line]
    assert len(lines) == 1
    assert lines[0].startswith(expected)
    assert "50 scored, 3 unscored" in lines[0]


def test_win_rate_against_sft_can_be_read_from_either_side() -> None:
    base = from_json(Summary, summary()).win_rate("base", "harmful")
    assert base is not None
    assert base.rate is not None
    assert round(base.rate, 6) == 0.41
    assert base.low is not None
    assert base.high is not None
    assert base.low < base.rate < base.high


def test_shorter_answers_are_pointed_out() -> None:
    data = summary()
    data["cells"] = [cell("sft", "harmful", "words", 50.0, 1.0), cell("ppo", "harmful", "words", 35.0, 1.0, -15.0)]
    lines = [line for line in verdict.further(from_json(Summary, data)) if "words" in line]
    assert lines == [
        "PPO's answers have 70.0\u00a0% of the words of SFT's on harmful prompts. Part of any difference may be length."
    ]


def test_stage_function_counts_what_it_wrote(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    for stage in ("sft", "reward", "ppo"):
        run.clear(stage)
    config = parse({"prompts": {"harmful": {"source": "x"}}, "report": {"examples": 2}}, where="test")

    def closed(*_: object) -> NoReturn:
        raise AssertionError("the report opens no model")

    counts = report_stage.run(StageContext("report", config, run, CONSTITUTION, Silent(), closed, closed))
    assert counts == {"bytes": run.report_path.stat().st_size, "sections": 11, "examples": 6}


def test_summary_table_has_a_row_per_model_and_slice(run: RunFolder) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary_table(run))
    shown = console.export_text()
    assert summary_table(run).row_count == 6
    for part in ("0.281*", "0.261–0.301", "62.3", "3.87", "gold harm ↓", "not measured: toxicity"):
        assert part in shown
    assert "0.132*" not in shown, "the everyday difference is 0"


def test_summary_table_does_not_read_names_as_markup(tmp_path: Path) -> None:
    data = summary()
    data["notes"], data["slices"] = [], ["[red]x[/nope]"]
    run = RunFolder(tmp_path)
    write_atomic(run.file("evaluate", "summary.json"), json.dumps(data))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table(run))
    assert "[red]x[/nope]" in console.export_text()


def test_summary_problems_name_the_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(StageError, match="rlaif evaluate"):
        summary_table(run)
    write_atomic(run.file("evaluate", "summary.json"), json.dumps({"models": 3}))
    with pytest.raises(DataError, match=r"summary\.json"):
        read_summary(run)


def test_facts_agree_with_the_records(run: RunFolder) -> None:
    revise, label = read_revise(run, 3), read_label(run, CONSTITUTION, 3)
    assert (revise.traces, revise.kept, len(revise.examples)) == (10, 4, 3)
    assert revise.rounds == sum(tally.drawn for tally in revise.principles.values()) == 6
    assert label.settled + label.abstained + label.failed == label.labels == 60
    assert sum(label.bins) == label.settled
    assert label.failures["verdict: context_overflow"] == 3 * label.failures["label: context_overflow"] > 0
    assert sum(voice.strongest for voice in label.voices.values()) == label.settled
    assert label.consistency is None


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


def test_members_of_a_panel_speak_for_a_principle_by_weight(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    label = next(label for label in JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel) if label.verdicts)
    own = replace(label.verdicts[0], prob_first=0.9, order="none", failure=None)
    other = replace(own, member="other", prob_first=0.2)
    silent = replace(own, member="silent", prob_first=None, failure=Failure("backend", "down"))
    run.clear("label")
    JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).append(
        [replace(label, prob_a=0.7, failure=None, verdicts=(own, other, silent))]
    )
    for weight, agreed in ((1.0, 1), (9.0, 0)):
        voice = read_label(run, CONSTITUTION, 1, {"": 1.0, "other": weight, "silent": 1.0}).voices[own.principle_id]
        assert (voice.verdicts, voice.failed, voice.votes, voice.agreed) == (3, 1, 1, agreed)


def test_answers_that_were_never_given_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    before = read_revise(run, 0).failures, read_label(run, CONSTITUTION, 0).failures
    lost = [FailedAnswer("p", "sft", seed, Failure("context_overflow", "too long")) for seed in range(3)]
    for stage in ("revise", "label"):
        JsonlFile(run.file(stage, "failures.jsonl"), FailedAnswer).append(lost)
    after = read_revise(run, 0).failures, read_label(run, CONSTITUTION, 0).failures
    assert [a - b for a, b in zip(after, before, strict=True)] == [{"answer: context_overflow": 3}] * 2


def test_examples_do_not_depend_on_order_or_result(run: RunFolder) -> None:
    sample, backwards = Sample[int](3), Sample[int](3)
    for index in range(200):
        sample.add(f"{index * 7919 % 1000:03d}", index)
        backwards.add(f"{(199 - index) * 7919 % 1000:03d}", 199 - index)
    assert sample.taken() == backwards.taken()
    shown = side_by_side(run, read_summary(run), 4)
    assert [s.prompt.slice for s in shown] == ["everyday", "harmful", "everyday", "harmful"]
    assert all([a.model for a in s.answers] == ["base", "sft", "ppo"] for s in shown)
    assert all("harm" in a.scores and "words" in a.scores for s in shown for a in s.answers)


def test_no_examples_on_request(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    for stage in ("sft", "reward", "ppo", "evaluate"):
        run.clear(stage)
    page = write_report(run, examples=0).path.read_text(encoding="utf-8")
    assert "Pairs judged" in page
    assert "Traces to read" not in page
    assert "Labels to read" not in page


def test_stages_run_with_other_versions_are_pointed_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    record = run.record("revise")
    assert record is not None
    run.finish(from_json(StageRecord, to_json(record) | {"versions": {"torch": "9.9"}, "git": "fffffff"}))
    for stage in ("label", "reward", "ppo", "evaluate"):
        run.clear(stage)
    words = " ".join(Page(write_report(run).path.read_text(encoding="utf-8")).words.split())
    assert "The stages were not all run alike: git, torch changed between them." in words


def test_report_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlaif.core.files import RunFolder;"
        "from rlaif.stages.report import write_report;"
        f"write_report(RunFolder(Path({str(tmp_path)!r})), 1); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sources_of_the_score_and_disagreement_have_curves_where_there_are_several(tmp_path: Path) -> None:
    def titles(name: str, **parts: float) -> str:
        run = RunFolder(tmp_path / name)
        for step in range(2):
            MetricsLog(run.stage("ppo") / "metrics.jsonl").append(step=step, score=1.0, score_std=1.0, **parts)
        return "".join(map(str, ppo_curves(run, None).plots))

    alone = titles("one", score_model=1.0, score_model_std=1.0)
    assert "Score by source" not in alone
    assert "Disagreement" not in alone
    both = titles("two", score_model=1.0, score_model_std=1.0, score_e=2.0, score_e_std=0.5, disagreement=0.1)
    assert "Score by source" in both
    assert "score_e" in both
    assert "Disagreement" in both
