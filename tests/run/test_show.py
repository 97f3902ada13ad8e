"""`rlaif show`: records are found, narrowed, and their text stays text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.core.files import JsonlFile, MetricsLog
from rlaif.core.records import (
    Comparison,
    Critique,
    FailedAnswer,
    Failure,
    Message,
    PreferenceLabel,
    Prompt,
    Response,
    Revision,
    RevisionRound,
    RevisionTrace,
    Verdict,
)
from rlaif.core.terminal import visible
from rlaif.run.show import _metrics
from tests.output import on_terminal, rlaif

NASTY = "[red]not red[/red] \x1b[31mnor this\x1b[0m [/]"


@pytest.fixture
def filled_run(project: Path, tmp_path: Path) -> Path:
    """A run folder with one good and one failed trace and label, of text that tries to be markup."""
    out = tmp_path / "out"
    assert rlaif("revise", project, "--out", out).exit_code == 0
    prompt = Prompt((Message("user", NASTY),), slice="mine")

    def answer(text: str) -> Response:
        return Response(prompt.id, text, "sft", 1, 1.0, "stop", 5)

    def trace(text: str, failure: Failure | None) -> RevisionTrace:
        revision = Revision(answer("revised " + text), 0.75, accepted=failure is None)
        turn = RevisionRound(1, "kind", Critique("harsh", no_change=False, seed=1, failure=failure), (revision,))
        return RevisionTrace(prompt, answer(text), (turn,), "h")

    def label(text: str, failure: Failure | None) -> PreferenceLabel:
        pair = Comparison(prompt, answer(text), answer("other"))
        prob = None if failure is not None else 0.625
        said = {"rationale": "A is [bold]warm[/bold]\x1b[31m", "raw": "it was cut"}
        seen = Verdict(pair.id, "kind", "h", "cot", "ab", "judge", prob, failure=failure, **said)
        return PreferenceLabel(pair, prob, (seen,), failure=failure)

    failure = Failure("parse", "no letter")
    (out / "revise" / "traces.jsonl").unlink()
    JsonlFile(out / "revise" / "traces.jsonl", RevisionTrace).append([trace("good", None), trace("bad", failure)])
    JsonlFile(out / "label" / "labels.jsonl", PreferenceLabel).append([label("good", None), label("bad", failure)])
    return out


def test_show_renders_text_literally(filled_run: Path) -> None:
    result = rlaif("show", filled_run, "revise")
    assert result.exit_code == 0, result.output
    assert "[red]not red[/red]" in result.stdout
    assert "\x1b[31m" not in result.stdout
    assert "revised good" in result.stdout


def test_show_has_what_the_judge_wrote(filled_run: Path) -> None:
    shown = rlaif("show", filled_run, "label").stdout
    assert "kind, ab: A is [bold]warm[/bold]" in shown
    assert "kind, ab: it was cut" in shown
    assert "\x1b[31m" not in shown


def test_show_can_be_narrowed(filled_run: Path) -> None:
    assert "revised bad" not in rlaif("show", filled_run, "revise", "-n", "1").stdout
    failed = rlaif("show", filled_run, "revise", "--failed").stdout
    assert "failed (parse): no letter" in failed
    assert "revised good" not in failed
    labels = rlaif("show", filled_run, "label", "--failed").stdout
    assert "P(A is better): not measured" in labels
    assert "0.625" not in labels


def test_show_has_the_answers_that_were_never_given(filled_run: Path) -> None:
    lost = FailedAnswer("prompt-1", "sft", 1, Failure("context_overflow", "the prompt is too long"))
    JsonlFile(filled_run / "label" / "failures.jsonl", FailedAnswer).append([lost])
    failed = rlaif("show", filled_run, "label", "--failed").stdout
    assert "no answer to prompt prompt-1" in failed
    assert "failed (context_overflow): the prompt is too long" in failed
    assert "no answer" not in rlaif("show", filled_run, "label").stdout


def test_show_finds_records_by_the_beginning_of_an_id(filled_run: Path) -> None:
    label = JsonlFile(filled_run / "label" / "labels.jsonl", PreferenceLabel).read()[0]
    shown = rlaif("show", filled_run, label.id[:8]).stdout
    assert "0.625" in shown
    assert "trace" not in shown
    by_prompt = rlaif("show", filled_run, label.comparison.prompt.id).stdout
    assert by_prompt.count("trace ") == 2
    missing = rlaif("show", filled_run, "ffffff")
    assert missing.exit_code == 3
    assert "no stage and no record" in missing.stderr
    assert "did you mean 'label'?" in rlaif("show", filled_run, "labels").stderr


def test_show_without_a_word_gives_the_overview(filled_run: Path) -> None:
    shown = rlaif("show", filled_run).stdout
    assert "finished" in shown
    assert "written 18" in shown
    assert "begun" in shown  # label has records and no stage.json
    assert rlaif("show", filled_run, "sft").exit_code == 6


@pytest.mark.parametrize("name", ["\x1b]8;;http://elsewhere\x07here\x1b]8;;\x07", "gnp\u202e", "half \ud83d", "[/]"])
def test_names_of_models_principles_and_metrics_do_nothing(filled_run: Path, name: str) -> None:
    file = JsonlFile(filled_run / "label" / "labels.jsonl", PreferenceLabel)
    given = file.read()[0]
    a, b = (replace(answer, model=name, id="") for answer in (given.comparison.a, given.comparison.b))
    verdict = replace(given.verdicts[0], principle_id=name, member=name)
    pair = replace(given.comparison, a=a, b=b, id="")
    file.replace([replace(given, comparison=pair, verdicts=(verdict,), answers="contrast", principle_id=name, id="")])
    MetricsLog(filled_run / "ppo" / "metrics.jsonl").append(step=1, **{name: 0.5})
    for what in ("label", "ppo"):
        shown = rlaif("show", filled_run, what)
        assert shown.exit_code == 0, shown.output
        assert visible(name)[:20] in shown.stdout
        assert not {"\x1b", "\x07", "\u202e", "\ud83d"} & set(shown.stdout)


def test_a_label_by_contrast_shows_its_principle_and_its_contexts(filled_run: Path) -> None:
    file = JsonlFile(filled_run / "label" / "labels.jsonl", PreferenceLabel)
    given = file.read()[0]
    pair = given.comparison
    a, b = replace(pair.a, model="sft violated", id=""), replace(pair.b, model="sft followed", id="")
    made = replace(given, comparison=Comparison(pair.prompt, a, b), answers="contrast", principle_id="kind", id="")
    assert "by contrast" not in rlaif("show", filled_run, "label").stdout
    file.append([made])
    shown = rlaif("show", filled_run, made.id).stdout
    assert "answers by contrast, principle: kind" in shown
    assert "A (sft violated)" in shown


def test_brackets_in_a_log_are_no_markup(tmp_path: Path) -> None:
    shown = on_terminal([_metrics([{"step": "[/]", "[/red]": "[bold]", "loss": 0.5}])])
    assert all(text in shown for text in ("[/]", "[/red]", "[bold]"))
