"""`rlaif impact` as a user meets it: the terminal, the JSON object, the page, and what text cannot do to them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rlaif.analysis.impact.answer import answer
from rlaif.core.files import RunFolder
from rlaif.core.records import Comparison, Contrast, Message, Prompt
from rlaif.view.answer import page, rendered
from tests.analysis.impact.runs import ask, edited, make_run, responses, write_constitution
from tests.output import Page, rlaif

HOSTILE = ("<script>alert(1)</script>", "[bold red]press[/bold red] \x1b[31m{{ 7 * 7 }}", "left \u202eright")
OTHER = Contrast("You are <b>gentle</b>.", "You are harsh.")
REWORDED = edited(kind={"contrast": OTHER}, safe={"weight": 9.0})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two prompts, whose texts try to be more than text."""
    prompts = [Prompt((Message("user", f"<i>{n}</i> [red]why[/red]"),), slice="hard", tags=("<tag>",)) for n in "ab"]
    pairs = [
        Comparison(prompt, a, b)
        for prompt in prompts
        for first, second, third in [responses(prompt, HOSTILE)]
        for a, b in ((first, second), (second, third))
    ]
    return make_run(tmp_path_factory.mktemp("made") / "run", pairs=pairs)


def test_text_stays_text_on_page_and_terminal(run: RunFolder) -> None:
    found, _ = ask(run, REWORDED, examples=9)
    assert len(found.examples) == 4
    html = page(answer(found))
    parsed = Page(html)
    assert parsed.open == []
    assert not {"script", "i", "img", "link", "iframe"} & set(parsed.tags)
    assert all(target.startswith("#") and target[1:] in parsed.ids for target in parsed.targets)
    assert parsed.handlers == []
    assert "default-src 'none'" in html
    for text in ("<script>alert(1)</script>", "{{ 7 * 7 }}", "[bold red]", "\u27e6U+202E\u27e7", "\u27e6U+001B\u27e7"):
        assert text in parsed.words
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=False)
    for part in rendered(answer(found)):
        console.print(part)
    assert all(text in out.getvalue() for text in ("[red]why[/red]", "<script>", "[bold red]", "\u27e6U+001B\u27e7"))
    assert "\x1b" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_page_and_terminal_say_what_the_edit_did_and_cost(run: RunFolder) -> None:
    found, _ = ask(run, edited(safe={"contrast": Contrast("You are fair.", "You are not."), "weight": 9.0}))
    out = io.StringIO()
    for part in rendered(answer(found)):
        Console(file=out, width=80).print(part)
    for words in (" ".join(out.getvalue().split()), " ".join(Page(page(answer(found))).words.split())):
        for text in ("reworded (contrast)", "reweighted 2.5 -> 9", "mine 1"):
            assert text in words
        assert "n average 50.0 % of a prompt's labels flip (9.5 % to 90.5 %); 2 of 4 pairs" in words
        assert "16 verdicts needed, 12 reused, 4 judged (25.0 %): 12 calls, 0 answers from the cache" in words
        assert "too few prompts for a line of their own" in words.lower()
        assert "slice hard (2)" in words


def test_an_edit_that_the_judge_does_not_read_is_said_to_change_nothing(run: RunFolder) -> None:
    found, _ = ask(run, edited(kind={"statement": "Never be kind."}))
    out = io.StringIO()
    for part in rendered(answer(found)):
        Console(file=out, width=80).print(part)
    for words in (" ".join(out.getvalue().split()), " ".join(Page(page(answer(found))).words.split())):
        assert "judge.method contrast reads the contrast pair, never the statement. Edit what it reads" in words
        assert "choose a method that reads the edit: pairwise, cot, rating, decision." in words
        assert "flip" not in words, "0.0 % would look like something that was measured"


def test_the_verb_prints_writes_and_leaves_the_run_alone(run: RunFolder, tmp_path: Path) -> None:
    to = write_constitution(tmp_path / "new.yaml", REWORDED)
    out, html = tmp_path / "impact.json", tmp_path / "impact.html"
    labels = run.file("label", "labels.jsonl").read_bytes()
    result = rlaif("impact", "--run", run.root, "--to", to, "--json", "--out", out, "--html", html, "--examples", "1")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads(out.read_text()) == found
    assert "<!DOCTYPE html>" in html.read_text()
    assert found["before"]["name"] == found["after"]["name"] == "mine"
    assert found["cost"]["needed"] == found["cost"]["reused"] + found["cost"]["judged"] == 16
    assert found["principles"][0]["edit"] == "reworded (contrast)"
    assert found["groups"][0]["compared"] == 4
    assert len(found["examples"]) == 1
    assert run.file("label", "labels.jsonl").read_bytes() == labels
    shown = rlaif("impact", "--run", run.root, "--to", to, "--examples", "0")
    assert shown.exit_code == 0, shown.output
    assert "label flips" in shown.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--run", "nowhere", "--to", "example"], 5, "not a run of rlaif"),
        (["--run", "RUN", "--to", "exampel"], 3, "did you mean 'example'"),
        (["--run", "RUN", "--to", "none.yaml"], 3, "no such file"),
        (["--run", "RUN", "--to", "example", "--html", "a.yaml"], 2, "does not end in .html"),
        (["--run", "RUN", "--to", "example", "--html", "RUN/report.html"], 2, "is the report of the run"),
        (["--run", "RUN", "--to", "example", "--out", "RUN/label/stage.json"], 2, "belongs to a stage of the run"),
    ],
)
def test_wrong_words_are_answered(run: RunFolder, words: list[str], code: int, message: str) -> None:
    result = rlaif("impact", *(word.replace("RUN", str(run.root)) for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_page_names_every_tag_with_too_few_prompts(run: RunFolder) -> None:
    found, _ = ask(run, REWORDED)
    many = replace(found, left_out=tuple(f"tag number-{n} (1)" for n in range(40)))
    assert "tag number-39 (1)" in Page(page(answer(many))).words
    out = io.StringIO()
    for part in rendered(answer(many)):
        Console(file=out, width=200).print(part)
    assert "tag number-39 (1)" not in out.getvalue()
    assert " more" in out.getvalue()
