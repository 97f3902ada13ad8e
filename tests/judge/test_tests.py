"""Unit tests of principles: counted by hand, run by scripted judges, and once by a real model."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlaif.config import JudgeConfig, RunConfig
from rlaif.core.errors import ConstitutionError
from rlaif.core.progress import Silent, Task
from rlaif.core.records import Constitution, Contrast, Failure, Message, Principle, PrincipleTest
from rlaif.core.statistics import wilson
from rlaif.judge.judge import Judge
from rlaif.judge.load import default_config
from rlaif.judge.tests import ASKED_TOGETHER, PrincipleTestResult, Report, Tally, answer, judged, run, tally
from rlaif.lm.scripted import ScriptedModel
from rlaif.view.answer import Line, rendered
from tests.fakes import scored
from tests.judge.cases import Recorder

KIND = Principle(
    "kind",
    "Be kind.",
    contrast=Contrast("You are kind.", "You are cruel."),
    tests=(
        PrincipleTest("May I come in?", "yes my friend", "no"),
        PrincipleTest("Who are you?", "a friend", "none of your business"),
    ),
)
CALM = Principle(
    "calm",
    "Be calm.",
    weight=0.0,
    contrast=Contrast("You are calm.", "You shout."),
    tests=(PrincipleTest("Is it late?", "a little", "YES IT IS"),),
)
BARE = Principle("bare", "Say what is true.")
CONSTITUTION = Constitution("test", "1", "", (KIND, CALM, BARE))
BROKEN = Failure("backend", "the server hung up")


def result(prob: float | None, better: str = "aa", worse: str = "b", **fields: Any) -> PrincipleTestResult:
    return PrincipleTestResult("p", 1, PrincipleTest("Hm?", better, worse), prob, **fields)


def settings(*overrides: str) -> RunConfig:
    return default_config(overrides)


def judge(model: Any, *principles: Principle, **fields: Any) -> Judge:
    models = [] if model is None else [model]
    return Judge(JudgeConfig.model_validate(fields), Constitution("t", "1", "", principles), models=models, seed=0)


# --- counting ---------------------------------------------------------------------------------------------------------


def test_a_tally_by_hand() -> None:
    found = tally(
        [
            result(0.9, "a", "bb", consistency=0.8),
            result(0.7, "a", "bb", consistency=0.6),
            result(0.5, "aaa", "bb", consistency=0.1),  # one half is no pass
            result(0.2, "aa", "bb", consistency=0.5),  # of one length: neither baseline has it
            result(None, "a", "bb", failure=BROKEN),
        ]
    )
    assert (found.judged, found.passed, found.rate, found.failures) == (4, 2, 0.5, {"backend": 1})
    assert found.margin == pytest.approx((0.4 + 0.2 + 0.0 - 0.3) / 4)
    assert found.consistency == pytest.approx(0.5)
    assert (found.shorter_wins, found.longer_wins) == (0.5, 0.25)
    # z = 1.96: centre 0.5, half width 1.96 / 1.9604 * sqrt(0.0625 + 0.060023)
    assert found.low == pytest.approx(0.15004, abs=1e-5)
    assert found.high == pytest.approx(0.84996, abs=1e-5)


def test_a_failure_is_neither_passed_nor_failed_but_no_pass_for_a_gate() -> None:
    passed, lost = result(0.9), result(None, failure=BROKEN)
    assert (passed.passed, result(0.1).passed, lost.passed) == (True, False, None)
    found = tally([passed, lost, lost, result(None, failure=Failure("empty", "no words"))])
    assert (found.judged, found.rate, found.failures) == (1, 1.0, {"backend": 2, "empty": 1})
    assert (found.tests, found.pass_share) == (4, 0.25)


@pytest.mark.parametrize("results", [[], [result(None, failure=BROKEN)]])
def test_where_nothing_was_judged_nothing_is_known(results: Sequence[PrincipleTestResult]) -> None:
    found = tally(results)
    assert found == Tally(0, 0, found.failures, None, None, None, None, None, None, None)
    assert found.pass_share == 0.0


@pytest.mark.parametrize(("passed", "low", "high"), [(0, 0.0, 0.27753), (10, 0.72247, 1.0)])
def test_the_interval_has_a_width_where_all_tests_agree(passed: int, low: float, high: float) -> None:
    # z^2 / (n + z^2) = 3.8415 / 13.8415
    found = wilson(passed, 10)
    assert found[0] == pytest.approx(low, abs=1e-5)
    assert found[1] == pytest.approx(high, abs=1e-5)


# --- asking -----------------------------------------------------------------------------------------------------------


TABLE = {
    ("You are kind.", "yes my friend"): (-1.0, -1.0, -1.0),
    ("You are cruel.", "yes my friend"): (-1.5, -1.25, -1.0),  # 0.75 / 3 tokens = 0.25
    ("You are kind.", "no"): (-2.0,),
    ("You are cruel.", "no"): (-1.9,),  # -0.1
    ("You are kind.", "a friend"): (-1.0, -1.0),  # under "cruel" it is missing
    ("You are calm.", "a little"): (-2.0, -2.0),
    ("You shout.", "a little"): (-1.0, -1.5),  # -0.75
    ("You are calm.", "YES IT IS"): (-1.0,),
    ("You shout.", "YES IT IS"): (-1.0,),
}


def test_every_test_is_judged_under_its_own_principle_all_in_one_call() -> None:
    model = Recorder(TABLE)
    first, lost, calm = judged(judge(model, KIND, replace(CALM, weight=1.0), scale=0.5), Silent())
    assert (first.principle_id, first.number, first.test) == ("kind", 1, KIND.tests[0])
    assert first.prob_better == pytest.approx(1 / (1 + math.exp(-0.35 / 0.5)))
    assert (lost.number, lost.prob_better, lost.passed) == (2, None, None)
    assert lost.failure is not None
    assert lost.failure.kind == "context_overflow"
    assert (calm.principle_id, calm.number, calm.passed) == ("calm", 1, False)
    assert calm.prob_better == pytest.approx(1 / (1 + math.exp(0.75 / 0.5)))
    assert len(model.batches) == 1
    assert KIND.contrast is not None
    asked = [f"May I come in?\n\n{way}" for way in (KIND.contrast.followed, KIND.contrast.violated)]
    assert [request.messages[-1].content for request in model.scores[:2]] == asked


def test_a_judge_that_loves_the_first_slot_passes_nothing_and_is_seen_through() -> None:
    slots = Recorder(letters=[("", (-0.1, -2.1))])
    found = tally(judged(judge(slots, KIND, method="pairwise"), Silent()))
    p = 1 / (1 + math.exp(-2.0))
    assert found.margin == pytest.approx(0.0)
    assert found.consistency == pytest.approx(1 - (p - (1 - p)))


def likes_long_texts(messages: Sequence[Message], text: str) -> float:
    """A score in favour of long responses for the kind assistant, of short ones for the cruel one."""
    return len(text) / 10 if messages[0].content == "You are kind." else -len(text) / 10


def test_a_judge_of_length_passes_what_the_baseline_of_length_passes() -> None:
    found = tally(judged(judge(scored(likes_long_texts), KIND), Silent()))
    assert (found.passed, found.rate, found.longer_wins, found.shorter_wins) == (1, 0.5, 0.5, 0.5)


# --- a whole constitution ---------------------------------------------------------------------------------------------

SCRIPTED = ("judge.backend=scripted",)


def test_a_report_has_every_principle_even_without_weight_or_tests(tmp_path: Path) -> None:
    found = run(CONSTITUTION, settings(*SCRIPTED), cache=tmp_path, progress=Silent())
    assert {name: len(results) for name, results in found.principles.items()} == {"kind": 2, "calm": 1, "bare": 0}
    assert all(r.prob_better is not None for r in found.results)  # weight 0 is no reason to fail a test
    assert (found.judge, found.method) == ("scripted", "contrast")
    data = found.as_json()
    assert data["constitution"] == {"name": "test", "version": "1", "hash": CONSTITUTION.hash}
    assert data["overall"]["judged"] == 3
    kind = data["principles"][0]
    assert [test["prob_better"] for test in kind["tests"]] == [r.prob_better for r in found.principles["kind"]]
    assert kind["tests"][1]["better"] == "a friend"
    assert data["principles"][2]["rate"] is None


def test_a_report_says_where_the_statements_are_not_read(tmp_path: Path) -> None:
    said = "judge.method contrast reads the contrast pair, never the statement"
    found = run(CONSTITUTION, settings(*SCRIPTED), cache=tmp_path, progress=Silent())
    assert (found.unread, found.as_json()["unread"]) == (said, said)
    lines = [part.text for part in answer(found).sections[0].parts if isinstance(part, Line)]
    assert f"{said}: the tests say nothing about the statements." in lines
    for method in ("pairwise", "random"):
        other = run(CONSTITUTION, settings(*SCRIPTED, f"judge.method={method}"), cache=tmp_path, progress=Silent())
        assert other.unread == ""


def test_an_edit_asks_only_what_it_touches(tmp_path: Path) -> None:
    first = run(CONSTITUTION, settings(*SCRIPTED), cache=tmp_path, progress=Silent())
    assert (first.calls, first.cached) == (3 * 2 * 2, 0)  # tests x responses x followed, violated
    again = run(CONSTITUTION, settings(*SCRIPTED), cache=tmp_path, progress=Silent())
    assert (again.calls, again.cached, again.results) == (0, 12, first.results)
    edited = replace(CALM, contrast=Contrast("You are very calm.", "You shout."))
    after = run(Constitution("test", "2", "", (KIND, edited)), settings(*SCRIPTED), cache=tmp_path, progress=Silent())
    assert (after.calls, after.cached) == (2, 10)
    assert after.principles["kind"] == first.principles["kind"]
    assert after.principles["calm"] != first.principles["calm"]


def test_an_undecided_test_is_no_missing_one(tmp_path: Path) -> None:
    found = run(CONSTITUTION, settings(*SCRIPTED), cache=tmp_path, progress=Silent())
    careful = run(CONSTITUTION, settings(*SCRIPTED, "judge.abstain_below=0.49"), cache=tmp_path, progress=Silent())
    assert careful.results == found.results
    assert tally(careful.results).failures == {}


def test_a_random_judge_opens_no_model(tmp_path: Path) -> None:
    found = run(
        CONSTITUTION,
        settings("judge.method=random", "model.source=./nowhere"),
        cache=tmp_path / "none",
        progress=Silent(),
    )
    assert (found.judge, found.calls, len(found.results)) == ("random", 0, 3)
    assert not (tmp_path / "none").exists()
    other = run(CONSTITUTION, settings("judge.method=random", "seed=1"), cache=tmp_path, progress=Silent())
    assert [r.prob_better for r in found.results] != [r.prob_better for r in other.results]


def test_only_some_principles(tmp_path: Path) -> None:
    found = run(CONSTITUTION, settings(*SCRIPTED), cache=tmp_path, only=["calm"], progress=Silent())
    assert list(found.principles) == ["calm"]
    assert found.calls == 4


@pytest.mark.parametrize(
    ("only", "message"), [(["knid"], "did you mean 'kind'"), (["bare"], "no test to run"), (["plain"], "contrast pair")]
)
def test_what_cannot_be_tested_says_why(tmp_path: Path, only: list[str], message: str) -> None:
    plain = Principle("plain", "Be plain.", tests=KIND.tests)
    more = Constitution("test", "1", "", (*CONSTITUTION.principles, plain))
    with pytest.raises(ConstitutionError, match=message) as raised:
        run(more, settings(*SCRIPTED), cache=tmp_path, only=only, where="my.yaml", progress=Silent())
    assert raised.value.where == "my.yaml"
    assert raised.value.remedy


@pytest.mark.parametrize("method", ["contrast", "pairwise"])
def test_a_real_model_sees_no_place_of_the_better_answer(tmp_path: Path, tiny_model: Path, method: str) -> None:
    config = settings(f"model.source={tiny_model}", f"judge.method={method}")
    turned = replace(KIND, tests=tuple(PrincipleTest(t.prompt, t.worse, t.better) for t in KIND.tests))
    found, other = (
        run(Constitution("test", "1", "", (p,)), config, cache=tmp_path / place, progress=Silent()).results
        for place, p in (("one", KIND), ("other", turned))
    )
    for one, two in zip(found, other, strict=True):
        assert one.prob_better is not None
        assert two.prob_better is not None
        assert one.prob_better != 0.5
        assert one.prob_better + two.prob_better == pytest.approx(1, abs=1e-5)
        assert (one.consistency is None) == (method == "contrast")


class Counted(Silent):
    """Keeps the total of the bar and how far it went at each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.total = 0.0

    @contextmanager
    def task(self, title: str, total: float, unit: str = "") -> Iterator[Task]:
        self.total = total
        steps = self.steps

        class Kept:
            def advance(self, n: float = 1, note: str = "") -> None:
                steps.append(n)

        yield Kept()


def test_many_tests_are_asked_in_parts_that_show_progress() -> None:
    test = KIND.tests[0]
    many = replace(KIND, tests=tuple(replace(test, prompt=f"{test.prompt} {n}") for n in range(ASKED_TOGETHER + 3)))
    bar = Counted()
    found = judged(judge(ScriptedModel(), many), bar)
    assert [result.number for result in found] == list(range(1, ASKED_TOGETHER + 4))
    assert (bar.total, bar.steps) == (ASKED_TOGETHER + 3, [ASKED_TOGETHER, 3])


# What the terminal says of tests that got no verdict.

HM = PrincipleTest("Hm?", "yes", "no")
RULES = Constitution("mine", "1\nforged", "", (Principle("kind", "Be kind.", tests=(HM, HM)),))


def printed(*results: PrincipleTestResult) -> str:
    out = io.StringIO()
    for part in rendered(answer(Report(RULES, "pairwise", "a judge", {"kind": results}, 4, 0))):
        Console(file=out, width=100).print(part)
    return " ".join(out.getvalue().split())


def test_tests_without_a_verdict_are_listed_with_the_first_reason() -> None:
    lost = [PrincipleTestResult("kind", n, HM, None, failure=Failure("backend", f"gone {n}")) for n in (1, 2)]
    text = printed(*lost)
    assert "mine 1 forged, judged by a judge (pairwise)" in text
    assert "gave no verdict on any test" in text
    assert "No verdict (backend): kind 1, kind 2. The first: gone 1" in text
    text = printed(PrincipleTestResult("kind", 1, HM, 0.9), lost[1])
    assert "Passed 100.0 % of the tests with a verdict" in text
    assert "No verdict (backend): kind 2. The first: gone 2" in text
