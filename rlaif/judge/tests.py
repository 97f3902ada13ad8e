"""Runs the unit tests of principles: under its principle, does the judge prefer `better` to `worse`?

A test passes if P(better wins) is above 0.5; one half is no pass. A test that the judge gave no verdict on has neither
passed nor failed: it is counted apart, with its reason. What length alone would get on the same tests stands beside
every pass rate: a judge that always takes the shorter answer passes whatever tests happen to have it so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.constitution.load import refuse_missing_contrast
from rlaif.core.errors import ConstitutionError, near
from rlaif.core.progress import Progress
from rlaif.core.records import Comparison, Constitution, Failure, Message, Principle, PrincipleTest, Prompt, Response
from rlaif.core.statistics import wilson
from rlaif.judge.judge import Judge, opened_models
from rlaif.judge.methods.table import in_use, statement_unread
from rlaif.view.answer import Answer, Line, Section, Table
from rlaif.view.text import number, percent, percents

ASKED_TOGETHER = 16
"""Tests in one question to the model: enough to fill its batches, few enough to show progress and keep it."""


@dataclass(frozen=True, slots=True)
class PrincipleTestResult:
    """What the judge said of one test. `number` counts from 1 within the principle.

    `prob_better` is P(better wins), or None with a `failure`; `consistency` is None for methods without an order.
    """

    principle_id: str
    number: int
    test: PrincipleTest
    prob_better: float | None
    consistency: float | None = None
    failure: Failure | None = None

    @property
    def passed(self) -> bool | None:
        """None where the judge gave no verdict."""
        return None if self.prob_better is None else self.prob_better > 0.5


@dataclass(frozen=True, slots=True)
class Tally:
    """Some tests counted. Every figure but `failures` is over the `judged` ones, and None where there is none.

    `low`, `high`: 95 % Wilson interval of `rate`, as if tests were drawn at random. `margin`: mean of
    P(better wins) - 0.5. `consistency`: mean of 1 - |p(ab) - p(ba)| over the tests shown in both orders.
    `shorter_wins`, `longer_wins`: the pass rate of a judge that sees only the number of characters; what is missing
    to 1 are tests with texts of the same length.
    """

    judged: int
    passed: int
    failures: dict[str, int]
    rate: float | None
    low: float | None
    high: float | None
    margin: float | None
    consistency: float | None
    shorter_wins: float | None
    longer_wins: float | None

    @property
    def tests(self) -> int:
        return self.judged + sum(self.failures.values())

    @property
    def pass_share(self) -> float:
        """Passed tests as a share of all tests, for a gate: one without a verdict is no pass. 0 without any test."""
        return self.passed / self.tests if self.tests else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The tests of a constitution under one judge; `principles` has untested ones too, without a result.

    `calls` were made to the judge's model, and `cached` answers were known from earlier runs. `unread` says what the
    judge reads in place of the statements; "" where it reads them.
    """

    constitution: Constitution
    method: str
    judge: str
    principles: dict[str, tuple[PrincipleTestResult, ...]]
    calls: int
    cached: int
    unread: str = ""

    @property
    def results(self) -> list[PrincipleTestResult]:
        return [result for results in self.principles.values() for result in results]

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data: overall, per principle, and each test with its probability."""
        return {
            "constitution": {
                "name": self.constitution.name,
                "version": self.constitution.version,
                "hash": self.constitution.hash,
            },
            "judge": {"model": self.judge, "method": self.method, "calls": self.calls, "cached": self.cached},
            "unread": self.unread,
            "overall": asdict(tally(self.results)),
            "principles": [
                {"id": name, **asdict(tally(results)), "tests": [_as_json(result) for result in results]}
                for name, results in self.principles.items()
            ],
        }


def run(
    constitution: Constitution,
    config: RunConfig,
    *,
    cache: Path,
    only: Sequence[str] = (),
    where: str = "",
    progress: Progress,
) -> Report:
    """The report of all tests of the principles (of those in `only`, if any is named) by the judge of `config`.

    Verdicts are kept in the folder `cache`: after an edit only what it touches is asked again. The templates are the
    shipped ones. Raises ConstitutionError, pointing at `where`, for an unknown id, where there is no test at all, and
    where a tested principle lacks the text that the method needs.
    """
    chosen = replace(constitution, principles=_chosen(constitution, only, where))
    tested = replace(chosen, principles=tuple(p for p in chosen.principles if p.tests))
    if not tested.principles:
        raise ConstitutionError(
            "there is no test to run",
            where=where,
            remedy="give a principle `tests`: a list of prompt, better, worse; the shipped `example` shows how",
        )
    refuse_missing_contrast(tested, methods=in_use(config.judge), where=where)
    with opened_models(config, cache) as models:
        # A test is of the wording: a principle that has no weight in the label is tested like every other.
        equal = replace(tested, principles=tuple(replace(p, weight=1.0) for p in tested.principles))
        # Whether a label is too undecided to learn from is another question: a test asks which of the two wins.
        settings = config.judge.model_copy(update={"abstain_below": 0.0})
        judge = Judge(settings, equal, models=models, seed=config.seed)
        found, usage, shown = judged(judge, progress), judge.usage, judge.shown
    results = {p.id: tuple(r for r in found if r.principle_id == p.id) for p in chosen.principles}
    unread = statement_unread(config.judge, shown)
    return Report(constitution, config.judge.method, judge.name, results, usage.calls, usage.cached, unread)


def judged(judge: Judge, progress: Progress) -> list[PrincipleTestResult]:
    """One result per test of the judge's constitution, in order, asked ASKED_TOGETHER at a time."""
    cases = [(p, n, test) for p in judge.constitution.principles for n, test in enumerate(p.tests, start=1)]
    comparisons = [_comparison(test) for _, _, test in cases]
    with progress.task("judging tests", len(cases), "tests") as task:
        labels = judge.label_in_parts(comparisons, [(p,) for p, _, _ in cases], size=ASKED_TOGETHER, task=task)
    return [
        PrincipleTestResult(p.id, n, test, label.prob_a, label.consistency, label.failure)
        for (p, n, test), label in zip(cases, labels, strict=True)
    ]


def tally(results: Sequence[PrincipleTestResult]) -> Tally:
    """The results counted; see `Tally`."""
    known = [r for r in results if r.prob_better is not None]
    passed = sum(r.passed is True for r in known)
    low, high = wilson(passed, len(known))
    return Tally(
        judged=len(known),
        passed=passed,
        failures=dict(Counter(r.failure.kind for r in results if r.failure is not None)),
        rate=_mean([float(r.passed is True) for r in known]),
        low=low,
        high=high,
        margin=_mean([r.prob_better - 0.5 for r in known if r.prob_better is not None]),
        consistency=_mean([r.consistency for r in known if r.consistency is not None]),
        shorter_wins=_mean([float(len(r.test.better) < len(r.test.worse)) for r in known]),
        longer_wins=_mean([float(len(r.test.better) > len(r.test.worse)) for r in known]),
    )


def _chosen(constitution: Constitution, only: Sequence[str], where: str) -> tuple[Principle, ...]:
    known = [p.id for p in constitution.principles]
    for name in only:
        if name not in known:
            raise ConstitutionError(
                f"there is no principle {name!r}{near(name, known)}",
                where=where,
                remedy=f"there are: {', '.join(known)}",
            )
    return tuple(p for p in constitution.principles if not only or p.id in only)


def _comparison(test: PrincipleTest) -> Comparison:
    """`better` as A; every method either shows both orders or one response at a time, so the place gives no help."""
    prompt = Prompt((Message("user", test.prompt),))
    a, b = (Response(prompt.id, text, "test", 0, 0.0, "stop", 0) for text in (test.better, test.worse))
    return Comparison(prompt, a, b)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _as_json(result: PrincipleTestResult) -> dict[str, Any]:
    return {
        **asdict(result.test),
        "prob_better": result.prob_better,
        "passed": result.passed,
        "consistency": result.consistency,
        "failure": None if result.failure is None else asdict(result.failure),
    }


# ---- the answer -----------------------------------------------------------------------------------------------------


def answer(report: Report) -> Answer:
    """A line per principle, then all, then what got no verdict and why."""
    overall, constitution = tally(report.results), report.constitution
    who = "at random" if report.method == "random" else f"by {report.judge} ({report.method})"
    subject = " ".join(f"{constitution.name} {constitution.version}".split())  # one line, whatever it holds
    cost = f"The judge was asked {report.calls:,} times; {report.cached:,} answers were known from before."
    unread = [f"{report.unread}: the tests say nothing about the statements."] * bool(report.unread)
    lines = [*_sentences(overall), *_unjudged(report.results), *unread, *[cost] * (report.method != "random")]
    return Answer(
        verb="rlaif constitution test",
        title=f"The tests of {subject}",
        about=f"unit tests of principles, judged {who}.",
        heading=f"{subject}, judged {who}",
        verdict=[],
        sections=[Section("Tests", [_table(report, overall), *map(Line, lines)])],
    )


def _table(report: Report, overall: Tally) -> Table:
    ordered, unjudged = overall.consistency is not None, overall.judged < overall.tests
    head = ["passed", "margin", *["orders agree"] * ordered, "shorter wins", "longer wins", *["no verdict"] * unjudged]
    rows = []
    for name, results in report.principles.items():
        cells = _cells(tally(results), ordered, unjudged) if results else ["no tests"]
        failed = ", ".join(str(result.number) for result in results if result.passed is False)
        rows.append([name, *cells, *[""] * (len(head) - len(cells)), failed])
    rows.append(["all", *_cells(overall, ordered, unjudged), str(overall.judged - overall.passed)])
    return Table(["principle", *head, "failed"], rows, texts=(0, len(head) + 1), strong=(len(rows) - 1,))


def _cells(found: Tally, ordered: bool, unjudged: bool) -> list[str]:
    """The numbers of one line; "-" where no test was judged."""
    if found.judged == 0:
        cells = ["-"] * (4 + ordered)
    else:
        cells = [f"{found.passed} of {found.judged}", number(found.margin, 3)]
        cells += [number(found.consistency, 2)] if ordered else []
        cells += [f"{share:.0%}" for share in (found.shorter_wins, found.longer_wins) if share is not None]
    return [*cells, str(found.tests - found.judged)] if unjudged else cells


def _sentences(found: Tally) -> list[str]:
    if found.judged == 0:
        return ["The judge gave no verdict on any test."]
    return [
        f"Passed {percent(found.rate)} of the tests with a verdict (95 % interval {percents(found.low, found.high)}).",
        f"By length alone: shorter wins {percent(found.shorter_wins)}, longer wins {percent(found.longer_wins)}.",
    ]


def _unjudged(results: Sequence[PrincipleTestResult]) -> list[str]:
    """For each kind of failure the tests that it cost a verdict, and the first one's reason (JSON has them all)."""
    places: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for result in results:
        if result.failure is not None:
            places.setdefault(result.failure.kind, []).append(f"{result.principle_id} {result.number}")
            reasons.setdefault(result.failure.kind, result.failure.reason)
    return [f"No verdict ({kind}): {', '.join(tests)}. The first: {reasons[kind]}" for kind, tests in places.items()]
