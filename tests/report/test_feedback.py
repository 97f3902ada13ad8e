"""What the page counts in the revisions and the labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import FailedAnswer, Failure, PreferenceLabel
from rlaif.report.feedback import read_label, read_revise
from tests.report.fake_run import CONSTITUTION, write_run


def test_facts_agree_with_the_records(run: RunFolder) -> None:
    revise, label = read_revise(run, 3), read_label(run, CONSTITUTION, 3)
    assert (revise.traces, revise.kept, len(revise.examples)) == (10, 4, 3)
    assert revise.rounds == sum(tally.drawn for tally in revise.principles.values()) == 6
    assert label.settled + label.abstained + label.failed == label.labels == 60
    assert sum(label.bins) == label.settled
    assert label.failures["verdict: context_overflow"] == 3 * label.failures["label: context_overflow"] > 0
    assert sum(voice.strongest for voice in label.voices.values()) == label.settled
    assert label.consistency is None


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


def by_contrast(run: RunFolder) -> list[PreferenceLabel]:
    """Four labels by contrast beside those of the run: two confirmed, one disagreed, one without a judge."""
    given = [x for x in JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel) if x.prob_a is not None]
    found = [replace(x, answers="contrast", principle_id="honest", id="", failure=None, prob_a=0.9) for x in given[:4]]
    found[2] = replace(found[2], prob_a=None, failure=Failure("disagreed", "the judge sees it otherwise"))
    found[3] = replace(found[3], verdicts=())
    return found


def test_labels_are_counted_by_how_their_answers_came_about(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    before = read_label(run, CONSTITUTION, 0)
    JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).append(by_contrast(run))
    facts = read_label(run, CONSTITUTION, 0)
    policy, contrast = facts.sources["policy"], facts.sources["contrast"]
    assert (policy.labels, policy.settled, policy.confirmed) == (before.labels, before.settled, None)
    assert (contrast.labels, contrast.settled, contrast.confounds.pairs) == (4, 3, 3)
    assert contrast.confirmed == 2 / 3  # of the three that the judge was asked about
    assert facts.left_out["disagreed"] == 1
    assert (facts.failed, facts.failures, facts.abstained) == (before.failed, before.failures, before.abstained)
