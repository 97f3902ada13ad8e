"""Principles of a run: what stored verdicts tell, what a drawn sample adds, and whether a judge sees a turned rule."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.analysis.principles.pairs import spread
from rlaif.core.errors import ConfigError, RunFolderError, StageError
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.records import PreferenceLabel
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load
from tests.analysis.principles.runs import ask, words_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return words_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(made.root, tmp_path / "run"))


def labels_of(run: RunFolder) -> list[PreferenceLabel]:
    return JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).read()


def test_stored_verdicts_ask_nothing_and_say_what_is_missing(run: RunFolder) -> None:
    found, opened = ask(run)
    assert opened == []
    assert (found.overview.pairs, found.overview.several, found.sampled) == (72, 0, False)
    assert sum(row.pairs for row in found.principles) == 72
    assert all(row.flip_rate is None and row.others is None for row in found.principles)
    assert sum(row.alone for row in found.principles) == 72
    assert any("--pairs 150" in note for note in found.notes)


def test_a_sample_is_judged_under_all_and_kept(run: RunFolder) -> None:
    before = run.file("label", "labels.jsonl").read_bytes()
    found, opened = ask(run, pairs=30)
    assert (found.overview.pairs, found.overview.prompts, found.asked.stored) == (30, 12, 2 * 30)
    assert (found.asked.judged, opened) == (2 * 3 * 30, [True])
    assert any("those of judge.principles: all" in note for note in found.notes)
    again, _ = ask(run, pairs=30)
    assert (again.asked.calls, again.asked.judged) == (0, 180)
    assert again.principles == found.principles
    assert run.file("label", "labels.jsonl").read_bytes() == before


def test_it_finds_the_copy_the_opposite_and_the_one_that_never_decides(run: RunFolder) -> None:
    found, _ = ask(run, pairs=999)
    rows = {row.id: row for row in found.principles}
    assert [set(group.ids) for group in found.clusters] == [{"yes", "yes-again"}]
    conflict = {frozenset((row.first, row.second)): row.conflict for row in found.opposed}
    # of the six pairs of a prompt: "well" against two with a no; "yes of course" against "no never at all"
    assert conflict == {
        frozenset({"faint", "no"}): pytest.approx(2 / 6),
        frozenset({"faint", "yes"}): pytest.approx(2 / 6),
        frozenset({"faint", "yes-again"}): pytest.approx(2 / 6),
        frozenset({"no", "yes"}): pytest.approx(1 / 6),
        frozenset({"no", "yes-again"}): pytest.approx(1 / 6),
    }
    assert [name for name, row in rows.items() if row.never_decides] == ["faint"]
    assert rows["yes"].decided == rows["yes-again"].decided, "copies share what they decide"
    assert "there are only 72 pairs" in found.notes


def test_a_run_under_all_principles_has_everything_at_hand(tmp_path: Path) -> None:
    run = words_run(tmp_path / "run", principles="all")
    stored, opened = ask(run)
    drawn, also_opened = ask(run, pairs=72)
    assert (opened, also_opened, drawn.asked.judged) == ([], [], 0)
    assert {row.id: row.flips for row in stored.principles} == {row.id: row.flips for row in drawn.principles}
    assert not any("those of judge.principles: all" in note for note in stored.notes + drawn.notes)


def test_labels_of_the_sample_are_those_of_a_run_under_all(tmp_path: Path) -> None:
    """What leave-one-out compares with is the very label that judge.principles: all would have written."""
    everything = words_run(tmp_path / "all", principles="all", tier_margin=0.05, abstain_below=0.02)
    some = words_run(tmp_path / "one", tier_margin=0.05, abstain_below=0.02)
    one, other = ask(some, pairs=72)[0], ask(everything)[0]
    assert one.principles == other.principles


def test_a_draw_is_spread_over_the_prompts_and_a_larger_one_contains_it(run: RunFolder) -> None:
    labels = labels_of(run)
    order = spread(labels, 5)
    assert set(Counter(label.comparison.prompt.id for label in order[:12]).values()) == {1}
    assert set(Counter(label.comparison.prompt.id for label in order[:36]).values()) == {3}
    assert spread(labels[::-1], 5) == order != spread(labels, 6)
    swapped = [replace(label, comparison=label.comparison.swap(), id="") for label in labels]
    places = {frozenset((x.comparison.a.id, x.comparison.b.id)): n for n, x in enumerate(order)}
    turned = [places[frozenset((x.comparison.a.id, x.comparison.b.id))] for x in spread(swapped, 5)]
    assert turned == list(range(72))


def test_what_it_refuses(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="not a run"):
        ask(RunFolder(tmp_path / "nothing"))
    coin = words_run(tmp_path / "coin", method="random")
    assert "the judge is random: these are the numbers of a coin" in ask(coin)[0].notes
    with pytest.raises(ConfigError, match="reads no principle"):
        ask(coin, negate=5)
    config = load(run.config_path).model_dump(mode="json", exclude_defaults=True)
    config["judge"]["abstain_below"] = 0.4
    run.config_path.write_text(dump_yaml(config), encoding="utf-8")
    with pytest.raises(RunFolderError, match="abstain_below"):
        ask(run)
    run.file("label", "stage.json").unlink()
    with pytest.raises(StageError, match="principles needs the label stage"):
        ask(run)
