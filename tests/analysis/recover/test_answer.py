"""`rlaif constitution recover` as a user meets it: tables, JSON, the file that it writes, and its errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rlaif.analysis.recover.candidates import equal_constitution, of_statements, ready
from rlaif.analysis.recover.split import split_labels
from rlaif.cli import app
from rlaif.constitution.load import load_constitution
from rlaif.core.records import Contrast, Principle
from rlaif.inputs.comparisons import read_comparisons
from rlaif.judge.judge import Judge
from rlaif.lm.scripted import ScriptedModel
from tests.analysis.recover.cases import POOL, coin, comparisons, constitution, labels, settings

BOLD = Principle("bold", "Be [bold]bold[/bold] \x1b[31mand loud.", contrast=Contrast("You are bold.", "You are shy."))
SCRIPTED = ("--set", "judge.backend=scripted", "--set", "judge.scale=1.0", "--set", "evaluate.bootstrap=200")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with labels that the scripted judge made under the principle bold, and a pool that has it."""
    monkeypatch.setenv("RLAIF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "120")
    judge = Judge(settings().judge, equal_constitution([BOLD]), models=[ScriptedModel()], seed=0)
    pairs = comparisons(24, 2)
    said = {label.comparison.id: label.prob_a for label in judge.label(pairs)}
    labels(tmp_path / "labels.jsonl", lambda pair: said[pair.id], pairs)
    constitution(tmp_path / "pool.yaml", [*POOL[:3], BOLD])
    return tmp_path


def rlaif(folder: Path, *words: str | Path) -> Result:
    command = ["constitution", "recover", "--labels", str(folder / "labels.jsonl"), *SCRIPTED]
    return CliRunner().invoke(
        app, [*command, "--candidates", str(folder / "pool.yaml"), *(str(word) for word in words)]
    )


def data(folder: Path, *words: str | Path) -> Any:
    result = rlaif(folder, *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_table_and_the_json_tell_the_same_and_the_second_time_is_free(folder: Path) -> None:
    found = data(folder, "--against", folder / "pool.yaml")
    assert [kept["candidate"]["principle"]["id"] for kept in found["kept"]] == ["bold"]
    assert found["calls"] > 0
    assert [match["id"] for match in found["against"]["uncovered"]] == [p.id for p in POOL[:3]]
    shown = rlaif(folder, "--against", folder / "pool.yaml").stdout
    rows = [re.split(r" {2,}", line.strip()) for line in shown.splitlines()]
    assert ["recovered principles", "100.0\u00a0%", "100.0\u00a0%", "75.8\u00a0% to 100.0\u00a0%"] in rows
    single = next(row for row in found["rows"] if row["name"] == "shorter wins")
    share = f"{single['held_out']['mean']:.1%}".replace("%", "\u00a0%")
    assert next(row for row in rows if row[0] == "shorter wins")[2] == share
    assert (
        "24 pairs of 12 prompts to choose on, 24 pairs of 12 prompts held out; judged by scripted (contrast)"
        in " ".join(shown.split())
    )
    assert "0 calls of the judge's model" in shown


def test_texts_are_shown_as_they_are(folder: Path) -> None:
    shown = rlaif(folder).stdout
    assert "[bold]bold[/bold]" in " ".join(shown.split())
    assert "\x1b" not in shown
    assert "U+001B" in shown


def test_what_the_model_proposed_can_be_read(folder: Path) -> None:
    (folder / "rules.jsonl").write_text('{"match": "Preferred", "reply": "is [red]brief[/red] and kind.\\n2. Ok"}\n')
    result = rlaif(folder, "--propose", "3", "--set", f"judge.source={folder / 'rules.jsonl'}")
    assert "proposed: 1 statement from 1 question; unusable lines: 1 parse, the first because" in result.stdout
    assert "  + A good answer is [red]brief[/red] and kind.\n" in result.stdout


def test_proposals_that_were_left_out_are_counted(folder: Path) -> None:
    reply = "is brief and kind.\n2. Is kind.\n3. A good answer is brief and kind\n4. Ask back when it is unclear"
    (folder / "rules.jsonl").write_text(json.dumps({"match": "Preferred", "reply": reply}) + "\n")
    words = ("--propose", "1", "--set", f"judge.source={folder / 'rules.jsonl'}")
    shown = " ".join(rlaif(folder, *words).stdout.split())
    assert "proposed: 1 statement from 1 question; left out: 1 nearly the same, 1 beyond --propose; unusable" in shown


def test_chance_that_was_kept_is_called_chance(folder: Path) -> None:
    """The training labels are those of trait-0, the held-out ones their opposite."""
    pairs = comparisons(24, 2)
    judge = Judge(settings().judge, equal_constitution(POOL[:1]), models=[ScriptedModel()], seed=0)
    said = {label.comparison.id: label.prob_a for label in judge.label(pairs)}
    labels(folder / "labels.jsonl", lambda pair: said[pair.id], pairs)
    training = {p.comparison.id for p in split_labels(read_comparisons(folder / "labels.jsonl"), 99).training}
    labels(folder / "labels.jsonl", lambda p: said[p.id] if p.id in training else 1 - (said[p.id] or 0.0), pairs)
    shown = " ".join(rlaif(folder).stdout.split())
    assert "recovered principles 100.0" in shown
    assert "the recovered principles are not shown to be better than a coin" in shown


def test_the_file_that_is_written_loads_and_says_how_each_principle_fared(folder: Path) -> None:
    out = folder / "mine.yaml"
    result = rlaif(folder, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"wrote {out}" in result.stdout
    (principle,) = load_constitution(out).principles
    assert (principle.id, principle.statement, principle.contrast) == (BOLD.id, BOLD.statement, BOLD.contrast)
    text = out.read_text(encoding="utf-8")
    assert "# From pool. Alone it agrees with the labels on 100.0 % (75.8 % to 100.0 %) of the held-out pairs" in text
    assert "\x1b" not in text
    again = rlaif(folder, "--out", out)
    assert again.exit_code == 5
    assert out.read_text(encoding="utf-8") == text
    assert rlaif(folder, "--out", folder / "mine.txt").exit_code == 3


def test_nothing_kept_writes_nothing(folder: Path) -> None:
    labels(folder / "labels.jsonl", coin, comparisons(24, 2))
    result = rlaif(folder, "--out", folder / "mine.yaml")
    assert result.exit_code == 0, result.output
    assert "No candidate explains the labels better than chance" in result.stdout
    assert "nothing was kept" in result.stdout
    assert not (folder / "mine.yaml").exists()


def test_a_made_contrast_pair_is_written_with_a_warning(folder: Path) -> None:
    """The labels are those of the judge under the pair that is made of the bare statement."""
    bare = Principle("bare", "Speak plainly to strangers.")
    (candidate,) = ready(of_statements([bare.statement]), pairs=True)
    judge = Judge(settings().judge, equal_constitution([candidate.principle]), models=[ScriptedModel()], seed=0)
    said = {label.comparison.id: label.prob_a for label in judge.label(comparisons(24, 2))}
    labels(folder / "labels.jsonl", lambda pair: said[pair.id], comparisons(24, 2))
    constitution(folder / "pool.yaml", [*POOL[:3], bare])
    result = rlaif(folder, "--out", folder / "mine.yaml")
    assert "(contrast pair made)" in result.stdout
    assert "# The contrast pair was made from the statement" in (folder / "mine.yaml").read_text(encoding="utf-8")
    assert load_constitution(folder / "mine.yaml").principles[0].contrast == candidate.principle.contrast


def test_labels_of_a_run_offer_its_constitution_and_config(folder: Path) -> None:
    run = folder / "run"
    (run / "label").mkdir(parents=True)
    (folder / "labels.jsonl").rename(run / "label" / "labels.jsonl")
    config = "prompts: {all: {source: everyday}}\njudge: {backend: scripted, scale: 1.0}\n"
    (run / "config.yaml").write_text(config, encoding="utf-8")
    command = ["constitution", "recover", "--labels", str(run / "label" / "labels.jsonl"), "--json"]
    command += ["--candidates", str(folder / "pool.yaml")]
    other = CliRunner().invoke(app, [*command, *SCRIPTED, "--set", "judge.opening_tokens=2"])
    assert json.loads(other.stdout)["notes"] == [
        f"to compare with what made the labels: --against {run / 'constitution.yaml'}",
        f"to judge as the run did: --config {run / 'config.yaml'}",
    ]
    constitution(run / "constitution.yaml", [BOLD])
    same = [*command, "--config", str(run / "config.yaml"), "--against", str(run / "constitution.yaml")]
    assert json.loads(CliRunner().invoke(app, same).stdout)["notes"] == []


def test_one_pair_of_each_half_is_too_few(folder: Path) -> None:
    assert rlaif(folder, "--pairs", "1").exit_code == 2  # a wrong option; 3 would be a file of too few
    assert rlaif(folder, "--pairs", "2").exit_code == 0


def test_ids_stay_distinct_and_fit() -> None:
    twice = [*of_statements(["Be kind to all people."] * 3), *of_statements(["!!! ???", "Ä ö ü"])]
    names = [candidate.principle.id for candidate in ready(twice, pairs=False)]
    assert names == ["be-kind-all-people", "be-kind-all-people-2", "be-kind-all-people-3", "proposed", "proposed-2"]
    long = [candidate.principle.id for candidate in ready(of_statements(["x" * 99] * 12), pairs=False)]
    assert len(set(long)) == 12
    assert max(map(len, long)) <= 64
