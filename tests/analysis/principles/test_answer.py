"""`rlaif principles` as a user meets it: terminal, JSON object and page, and what text cannot do to them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rlaif.analysis.principles.answer import answer
from rlaif.core.files import RunFolder
from rlaif.view.answer import page, rendered
from tests.analysis.principles.runs import CONSTITUTION, ask, words_run
from tests.output import Page, rlaif


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return words_run(tmp_path_factory.mktemp("made") / "run", principles="all")


def printed(found: object, width: int = 80) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    for part in rendered(answer(found)):  # type: ignore[arg-type]
        console.print(part)
    return out.getvalue()


def test_terminal_and_page_say_the_same(run: RunFolder) -> None:
    found, _ = ask(run, negate=72)
    text = printed(found)
    assert max(map(len, text.splitlines())) <= 80
    parsed = Page(page(answer(found)))
    for words in (" ".join(text.split()), " ".join(parsed.words.split())):
        assert "72 of 12 prompts, with the run's own verdicts; 72 have a label" in words
        assert "yes, yes-again (every two agree on 100.0 % or more of 72 pairs or more)" in words.replace("\u00a0", " ")
        assert "faint (on no pair do they weigh most; without them no label changes sides)" in words
        assert "turns: the judge notices" in words
        for principle in CONSTITUTION.principles:
            assert principle.id in words


def test_text_stays_text(run: RunFolder) -> None:
    found, _ = ask(run)
    evil = "<script>x</script> [bold red]y[/bold red] \x1b[31m\u202e"
    hostile = replace(
        found,
        run=f"runs/{evil}",
        constitution=evil,
        notes=[evil],
        principles=[replace(row, id=f"{row.id}{evil}") for row in found.principles],
        matrix=replace(found.matrix, ids=[f"{name}{evil}" for name in found.matrix.ids]),
        clusters=[replace(group, ids=[f"{name}{evil}" for name in group.ids]) for group in found.clusters],
    )
    parsed = Page(page(answer(hostile)))
    assert parsed.open == []
    assert not {"script", "img", "link", "iframe"} & set(parsed.tags)
    assert parsed.handlers == []
    assert all(target.startswith("#") and target[1:] in parsed.ids for target in parsed.targets)
    text = printed(hostile)
    for words in (text, parsed.words):
        assert "\x1b" not in words
        assert "\u202e" not in words
        assert "[bold red]" in words


def test_the_verb_prints_writes_and_leaves_the_run_alone(run: RunFolder, tmp_path: Path) -> None:
    labels = run.file("label", "labels.jsonl").read_bytes()
    out, html, gold = tmp_path / "p.json", tmp_path / "p.html", tmp_path / "gold.jsonl"
    first = json.loads(labels.splitlines()[0])["comparison"]["id"]
    gold.write_text(json.dumps({"id": first, "prob_a": 1.0}) + '\n{"id": "none", "prob_a": 0}\n')
    result = rlaif("principles", "--run", run.root, "--json", "--out", out, "--html", html, "--gold", gold)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert json.loads(out.read_text()) == found
    assert (found["gold"]["matched"], found["gold"]["unmatched"]) == (1, 1)
    assert [row["id"] for row in found["principles"]] == [p.id for p in CONSTITUTION.principles]
    assert sorted(found["matrix"]["ids"]) == sorted(p.id for p in CONSTITUTION.principles)
    assert found["limits"] == {"clear": 0.25, "redundant": 0.95, "min_pairs": 20}
    assert "<!DOCTYPE html>" in html.read_text()
    assert run.file("label", "labels.jsonl").read_bytes() == labels
    shown = rlaif("principles", "--run", run.root)
    assert shown.exit_code == 0, shown.output
    assert "repeat each other" in shown.stdout


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--run", "nowhere"], 5, "not a run of rlaif"),
        (["--run", "RUN", "--html", "a.yaml"], 2, "does not end in .html"),
        (["--run", "RUN", "--html", "RUN/report.html"], 2, "is the report of the run"),
        (["--run", "RUN", "--out", "RUN/label/stage.json"], 2, "belongs to a stage of the run"),
        (["--run", "RUN", "--gold", "none.jsonl"], 3, "cannot be read"),
    ],
)
def test_wrong_words_are_answered(run: RunFolder, words: list[str], code: int, message: str) -> None:
    result = rlaif("principles", *(word.replace("RUN", str(run.root)) for word in words))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
