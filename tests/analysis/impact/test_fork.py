"""The impact beyond the labels, with all real stages on a tiny random model: revisions, reward model, policy."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from rlaif.analysis.impact.answer import answer
from rlaif.analysis.impact.fork import Edit, finished, retrained
from rlaif.analysis.impact.impact import DownstreamPart, Impact, impact
from rlaif.analysis.impact.subject import of_run
from rlaif.config import STAGES
from rlaif.constitution.load import load_constitution
from rlaif.core.errors import RlaifError, StageError
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import Constitution, Contrast, PreferenceLabel
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load
from rlaif.run import pipeline
from rlaif.view.answer import page
from tests.analysis.impact.runs import write_constitution
from tests.output import Page, rlaif
from tests.projects import tiny_project
from tests.stages.small_run import SMALL

ALL: tuple[DownstreamPart, ...] = ("revisions", "reward", "policy")
LIMIT = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A whole run; the reward model is PPO's reward, and DPO stands beside it, of which a fork does nothing again."""
    folder = tmp_path_factory.mktemp("beyond")
    config = tiny_project(folder, [*SMALL, "constitution=harmless-and-kind", "ppo.reward=model", "align_by=[ppo, dpo]"])
    pipeline.run_stages(config, folder / "run", STAGES, mode="new", limit=LIMIT, progress=Silent())
    return RunFolder(folder / "run")


def constitution() -> Constitution:
    return load_constitution("harmless-and-kind")


def turned() -> Constitution:
    """Every contrast pair turned round, and every label with it."""
    rules = [
        replace(p, contrast=Contrast(p.contrast.violated, p.contrast.followed, p.contrast.examples), tests=())
        for p in constitution().principles
        if p.contrast is not None
    ]
    turned_examples = [
        replace(p, contrast=replace(p.contrast, examples=tuple(
            replace(e, followed=e.violated, violated=e.followed) for e in p.contrast.examples
        )))
        for p in rules
        if p.contrast is not None
    ]  # fmt: skip
    return replace(constitution(), name="turned", principles=tuple(turned_examples))


def doubled() -> Constitution:
    """Each principle twice, so that half of the draws change."""
    rules = [replace(p, tests=()) for p in constitution().principles]
    return replace(constitution(), name="doubled", principles=(*rules, *(replace(p, id=f"{p.id}-too") for p in rules)))


def ask(run: RunFolder, to: Constitution, folder: Path, *beyond: DownstreamPart) -> Impact:
    path = write_constitution(folder / "to.yaml", to)
    with closing(of_run(run)) as subject:
        return impact(subject, str(path), examples=2, progress=Silent(), beyond=beyond)


def files(run: RunFolder) -> dict[str, bytes]:
    """Everything of the run but its cache and the forks."""
    return {
        str(path.relative_to(run.root)): path.read_bytes()
        for path in sorted(run.root.rglob("*"))
        if path.is_file() and path.relative_to(run.root).parts[0] not in ("cache", "impact", ".lock")
    }


def test_without_an_edit_everything_is_as_it_was_and_no_model_is_asked(run: RunFolder, tmp_path: Path) -> None:
    before = files(run)
    same = replace(
        constitution(), name="same", principles=tuple(replace(p, tests=()) for p in constitution().principles)
    )
    found = ask(run, same, tmp_path, *ALL)
    assert files(run) == before
    revisions, reward, policy = found.revisions, found.reward, found.policy
    assert revisions is not None
    assert reward is not None
    assert policy is not None
    assert revisions.changed is not None
    assert (revisions.prompts, revisions.redrawn, revisions.changed.mean) == (LIMIT, 0, 0)
    assert (revisions.work.calls, revisions.examples) == (0, ())
    assert revisions.work.cached > 0
    assert reward.flips is not None
    assert reward.moved is not None
    assert (reward.flips.mean, reward.moved.mean, reward.correlation) == (0, 0, pytest.approx(1)), "to the last bit"
    assert reward.accuracy_before == reward.accuracy_after
    assert {(wins.under, wins.rate.slice, wins.rate.rate) for wins in policy.wins} == {
        (under, part, 0.5) for under in ("new", "old") for part in ("", "everyday", "mine")
    }
    assert policy.measures
    assert all(change.difference.mean == 0 for change in policy.measures)


def test_an_edit_reaches_the_revisions(run: RunFolder, tmp_path: Path) -> None:
    found = ask(run, doubled(), tmp_path, "revisions").revisions
    assert found is not None
    assert 0 < found.redrawn <= found.prompts == LIMIT
    assert found.work.calls > 0
    assert found.changed is not None
    assert all(change.before != change.after for change in found.examples)
    assert all(set(change.principles_after) <= {p.id for p in doubled().principles} for change in found.examples)


def test_turned_labels_turn_the_reward_model(run: RunFolder, tmp_path: Path) -> None:
    found = ask(run, turned(), tmp_path, "reward")
    assert found.reward is not None
    assert (found.revisions, found.policy) == (None, None)
    assert found.groups[0].flips == found.groups[0].compared > 0
    assert found.reward.flips is not None
    assert found.reward.flips.mean > 0.3, "the reward model learnt from the turned labels"
    assert found.reward.correlation is not None
    assert found.reward.correlation < 0.5
    assert len(found.reward.examples) == 2
    fork = RunFolder(Path(found.reward.work.folder))
    assert load_constitution(fork.constitution_path).hash == turned().hash
    assert fork.root.is_relative_to(run.root / "impact")

    assert ask(run, turned(), tmp_path, "reward").reward == found.reward, "the fork is kept"
    words = " ".join(Page(page(answer(found))).words.split())
    for text in ("Reward model", "pairs ordered otherwise", fork.root.parent.name):
        assert text in words
    assert "Policy" not in words


def test_a_fork_is_a_run_to_look_at(run: RunFolder, tmp_path: Path) -> None:
    found = ask(run, doubled(), tmp_path, "revisions")
    assert found.revisions is not None
    shown = rlaif("show", found.revisions.work.folder, "revise", "-n", "1")
    assert shown.exit_code == 0, shown.output


def test_the_verb_does_what_its_flags_say(run: RunFolder, tmp_path: Path) -> None:
    to = write_constitution(tmp_path / "to.yaml", doubled())
    result = rlaif("impact", "--run", run.root, "--to", to, "--revisions", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["revisions"]["prompts"] == LIMIT
    assert (found["reward"], found["policy"]) == (None, None)
    text = rlaif("impact", "--run", run.root, "--to", to, "--revisions").output
    assert "answers that differ" in text


def test_what_is_missing_is_told_before_anything_is_judged(run: RunFolder, tmp_path: Path) -> None:
    (run.root / "reward" / "stage.json").rename(tmp_path / "kept")
    try:
        with pytest.raises(StageError, match="the run's reward stage is not finished"):
            ask(run, doubled(), tmp_path, "reward")
    finally:
        (tmp_path / "kept").rename(run.root / "reward" / "stage.json")


def test_nothing_done_in_a_fork_reaches_the_run(run: RunFolder, tmp_path: Path) -> None:
    found = ask(run, turned(), tmp_path, "reward").reward
    assert found is not None
    before = files(run)
    fork = RunFolder(Path(found.work.folder))
    assert not (fork.root / "sft").is_symlink()
    for stage in STAGES:
        fork.clear(stage)
    assert files(run) == before
    shutil.rmtree(fork.root)


def test_other_labels_make_another_fork(run: RunFolder) -> None:
    config = load(run.config_path)
    edit = Edit(run, config, turned(), dump_yaml({}))
    kept = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).read()
    lost = [replace(label, prob_a=None, id="") for label in kept]
    first, second, again = (retrained(edit, labels, (), Silent())[0] for labels in (kept, lost, kept))
    assert first.root == again.root != second.root
    labels = JsonlFile(second.file("label", "labels.jsonl"), PreferenceLabel).read()
    assert [label.prob_a for label in labels] == [None] * len(kept)
    record = second.record("label")
    assert record is not None
    assert (record.counts["labelled"], record.counts["pairs"]) == (0, len(kept))


@pytest.mark.parametrize(
    ("setting", "part", "told"),
    [
        ("reward.epochs=3", "reward", "reward.epochs"),
        ("revise.few_shots=1", "revisions", "revise.few_shots"),
        ("evaluate.samples=2", "policy", "evaluate.samples"),
        ("ppo.reward=rlaif.gold.text:length_reward", "policy", "which no constitution changes"),
    ],
)
def test_a_config_that_changed_since_is_no_effect_of_a_constitution(
    run: RunFolder, tmp_path: Path, setting: str, part: DownstreamPart, told: str
) -> None:
    copy = RunFolder(
        shutil.copytree(run.root, tmp_path / "run", ignore=shutil.ignore_patterns("impact"), symlinks=True)
    )
    config = load(run.config_path, [setting])
    copy.config_path.write_text(dump_yaml(config.model_dump(mode="json")), encoding="utf-8")
    with pytest.raises(RlaifError, match=told):
        ask(copy, doubled(), tmp_path, part)


def test_a_reward_model_on_a_part_of_the_labels_is_not_compared(run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(
        shutil.copytree(run.root, tmp_path / "run", ignore=shutil.ignore_patterns("impact"), symlinks=True)
    )
    config = load(run.config_path, ["label.answers=both"])
    copy.config_path.write_text(dump_yaml(config.model_dump(mode="json")), encoding="utf-8")
    record = finished(copy, "label")
    copy.finish(replace(record, config=record.config | {"label.answers": "both"}))
    with pytest.raises(RlaifError, match=r"label\.answers is both"):
        ask(copy, doubled(), tmp_path, "reward")
