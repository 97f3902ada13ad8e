"""Which answers stand side by side."""

from __future__ import annotations

from rlaif.core.evaluation import read_summary
from rlaif.core.files import RunFolder
from rlaif.report.feedback import Sample
from rlaif.report.samples import side_by_side


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
