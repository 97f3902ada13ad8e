"""What the terminal says of tests that got no verdict."""

from __future__ import annotations

import io

from rich.console import Console

from rlaif.core.records import Constitution, Failure, Principle, PrincipleTest
from rlaif.judge.tests import Report, Result
from rlaif.report.principle_tests import as_table

TEST = PrincipleTest("Hm?", "yes", "no")
RULES = Constitution("mine", "1\nforged", "", (Principle("kind", "Be kind.", tests=(TEST, TEST)),))


def shown(*results: Result) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(as_table(Report(RULES, "pairwise", "a judge", {"kind": results}, 4, 0)))
    return " ".join(out.getvalue().split())


def test_tests_without_a_verdict_are_listed_with_the_first_reason() -> None:
    lost = [Result("kind", n, TEST, None, failure=Failure("backend", f"gone {n}")) for n in (1, 2)]
    text = shown(*lost)
    assert "mine 1 forged, judged by a judge (pairwise)" in text
    assert "gave no verdict on any test" in text
    assert "No verdict (backend): kind 1, kind 2. The first: gone 1" in text
    text = shown(Result("kind", 1, TEST, 0.9), lost[1])
    assert "Passed 100.0 % of the tests with a verdict" in text
    assert "No verdict (backend): kind 2. The first: gone 2" in text
