"""What an edit costs, that the new labels are those of judging everything anew, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlaif.analysis.impact.relabel import relabel
from rlaif.constitution.diff import diff
from rlaif.core.errors import ConfigError, ConstitutionError, DataError, RlaifError, RunFolderError, StageError
from rlaif.core.files import JsonlFile, RunFolder
from rlaif.core.progress import Silent
from rlaif.core.records import Constitution, Contrast, Failure, PreferenceLabel, Principle, content_id
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load
from rlaif.judge.methods.table import METHODS
from rlaif.lm.protocol import Request, ScoreRequest
from rlaif.lm.scripted import ScriptedModel
from tests.analysis.impact.runs import (
    CONSTITUTION,
    NAMES,
    PROMPTS,
    RULES,
    ask,
    comparisons,
    edited,
    judge_for,
    make_run,
    settings,
    write_constitution,
)

PAIRS = 48
NEW = Principle("polite", "Be polite.", contrast=Contrast("You are polite.", "You are gruff."))
OTHER = Contrast("You are gentle.", "You are harsh.")
ADDED = replace(CONSTITUTION, principles=(NEW, *RULES))
DROPPED = replace(CONSTITUTION, principles=RULES[1:])
REVERSED = replace(CONSTITUTION, principles=RULES[::-1])
REWORDED = edited(kind={"contrast": OTHER})
RENAMED = edited(kind={"id": "gentle"})
CRITIQUED = edited(kind={"critique": "Name it."})
STATED = edited(kind={"statement": "Never be kind."})
WEIGHTED = edited(kind={"weight": 9.0}, safe={"weight": 0.0})


def labels_of(run: RunFolder) -> list[PreferenceLabel]:
    return JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel).read()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("made") / "run")


@pytest.fixture
def run(made: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy, to be changed at will."""
    return RunFolder(shutil.copytree(made.root, tmp_path / "run"))


@pytest.mark.parametrize("to", [CONSTITUTION, REVERSED], ids=["identical", "reordered"])
def test_nothing_moves_where_nothing_was_edited(run: RunFolder, to: Constitution) -> None:
    found, model = ask(run, to)
    whole = found.groups[0]
    assert (found.cost.needed, found.cost.reused, found.cost.judged, found.cost.calls) == (4 * PAIRS, 4 * PAIRS, 0, 0)
    assert not model.opened
    assert (whole.pairs, whole.compared, whole.flips) == (PAIRS, PAIRS, 0)
    assert whole.flip_rate is not None
    assert whole.moved is not None
    assert (whole.flip_rate.mean, whole.moved.mean, whole.moved.high) == (0, 0, 0), "to the last bit"
    assert found.examples == []


@pytest.mark.parametrize("to", [WEIGHTED, DROPPED, RENAMED], ids=["weights", "dropped", "renamed"])
def test_an_edit_without_new_words_asks_nothing(run: RunFolder, to: Constitution) -> None:
    found, model = ask(run, to)
    assert (found.cost.judged, found.cost.calls, model.opened) == (0, 0, False)
    assert found.cost.needed == found.cost.reused == (4 if to is RENAMED else 3) * PAIRS
    assert bool(found.examples) is (to is not RENAMED)


@pytest.mark.parametrize(("to", "needed"), [(REWORDED, 4 * PAIRS), (ADDED, 5 * PAIRS)], ids=["reworded", "added"])
def test_one_reworded_or_added_principle_is_judged_alone(run: RunFolder, to: Constitution, needed: int) -> None:
    found, model = ask(run, to)
    assert (found.cost.needed, found.cost.reused, found.cost.judged) == (needed, needed - PAIRS, PAIRS)
    # 16 prompts with three answers, each read in two contexts; everything together took four times that
    assert len(model.asked) == found.cost.calls == 16 * 3 * 2
    changed = OTHER if to is REWORDED else NEW.contrast
    assert changed is not None
    assert {request.messages[0].content for request in model.asked} == {changed.followed, changed.violated}
    assert {row.id: (row.reused, row.judged) for row in found.principles}[to.principles[0].id] == (0, PAIRS)


def test_a_pairwise_judge_is_asked_twice_a_pair(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(tmp_path / "run", method="pairwise"))
    found, model = ask(run, edited(kind={"statement": "Be very kind."}))
    assert (found.cost.needed, found.cost.judged, len(model.asked)) == (8 * PAIRS, 2 * PAIRS, 2 * PAIRS)
    assert all("Be very kind." in request.messages[-1].content for request in model.asked)


@pytest.mark.parametrize(
    "table", [{}, *({"method": m} for m in ("pairwise", "cot", "rating", "random")), {"principles": "one"}], ids=str
)
@pytest.mark.parametrize(
    "to", [WEIGHTED, DROPPED, REWORDED, ADDED, RENAMED, CRITIQUED, STATED, REVERSED], ids=lambda to: content_id(to)[:4]
)
def test_the_labels_are_those_of_judging_everything_anew(table: dict[str, Any], to: Constitution) -> None:
    config = settings(Path(), **{"abstain_below": 0.02, **table})
    labels = judge_for(config, CONSTITUTION, ScriptedModel()).label(comparisons(PROMPTS[8:14]))
    judge = judge_for(config, to, ScriptedModel())
    anew = judge.label(comparisons(PROMPTS[8:14]))
    if not diff(CONSTITUTION, to, METHODS.values()).reaches(judge.shown):
        assert [label.prob_a for label in anew] == [label.prob_a for label in labels], "nothing can change"
    with Silent().task("", 0) as task:
        pairs, tallies = relabel(labels, CONSTITUTION, judge_for(config, to, ScriptedModel()), batch=5, task=task)
    assert [pair.before for pair in pairs] == labels
    for pair, label in zip(pairs, anew, strict=True):
        assert pair.after.comparison == label.comparison
        assert pair.after.prob_a == pytest.approx(label.prob_a, abs=1e-12)
        assert pair.after.consistency == pytest.approx(label.consistency, abs=1e-12)
        assert pair.after.failure == label.failure
        assert {(v.id, v.principle_id) for v in pair.after.verdicts} == {(v.id, v.principle_id) for v in label.verdicts}
    assert sum(tally.needed for tally in tallies.values()) == sum(len(label.verdicts) for label in anew)


def test_a_second_asking_is_free_and_the_run_is_as_it_was(run: RunFolder) -> None:
    before = {path: path.read_bytes() for path in (run.root / "label").iterdir()}
    first, _ = ask(run, REWORDED)
    again, model = ask(run, REWORDED)
    assert {path: path.read_bytes() for path in (run.root / "label").iterdir()} == before
    assert (again.cost.calls, again.cost.cached, model.asked) == (0, 96, [])
    assert again.groups == first.groups
    assert any("cache" in note for note in again.notes)


UNSEEN: dict[str, dict[str, Any]] = {
    "contrast": {"statement": "Be ever so kind.", "comparison": "Which is kinder?", "critique": "C", "revision": "R"},
    "pairwise": {"contrast": OTHER, "critique": "C", "revision": "R", "rationale": "Why"},
    "cot": {"contrast": OTHER, "critique": "C", "revision": "R", "rationale": "Why"},
    "rating": {"contrast": OTHER, "comparison": "Which is kinder?", "critique": "C"},
    "random": {"statement": "Be ever so kind.", "contrast": OTHER},
}


@pytest.mark.parametrize("method", UNSEEN)
def test_words_that_the_method_does_not_show_need_no_verdict(tmp_path: Path, method: str) -> None:
    run = make_run(tmp_path / "run", settings(tmp_path / "run", method=method))
    found, model = ask(run, edited(kind=UNSEEN[method]))
    assert (found.cost.needed, found.cost.judged) == (found.cost.reused, 0)
    assert (model.opened, found.groups[0].flips, found.examples) == (False, 0, [])
    assert found.principles[0].edit.startswith("reworded (")
    assert found.unreached.startswith("No label can change: the edit changes the ")
    assert ("reads nothing" if method == "random" else f"judge.method {method} reads ") in found.unreached


def test_a_template_of_the_run_s_own_may_show_every_text(tmp_path: Path) -> None:
    run, config = RunFolder(tmp_path / "run"), settings(tmp_path / "run", method="pairwise")
    run.templates_path.mkdir(parents=True)
    own = '{% message "user" %}{{ principle.critique }} {{ response_a }} {{ response_b }}{% endmessage %}'
    (run.templates_path / "pairwise.jinja").write_text(own)
    make_run(run.root, config)
    reworded = ask(run, edited(kind={"critique": "Name it."}))[0]
    assert (reworded.cost.judged, reworded.unreached) == (2 * PAIRS, "")
    explained = ask(run, edited(kind={"rationale": "Why"}))[0]
    assert explained.cost.judged == 0
    assert explained.unreached == "No label can change: the edit changes the rationale alone, which no judge reads."


def test_one_principle_per_prompt_is_drawn_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", settings(tmp_path / "run", principles="one"))
    found, _ = ask(run, CONSTITUTION)
    assert (found.cost.needed, found.cost.judged) == (PAIRS, 0)
    heavy, _ = ask(run, edited(kind={"weight": 1e6}))
    assert {row.id: row.needed for row in heavy.principles} == {"kind": PAIRS, "brief": 0, "honest": 0, "safe": 0}
    assert 0 < heavy.cost.judged < PAIRS
    assert any("draws by weight" in note for note in heavy.notes)


def test_a_tag_decides_where_a_principle_applies(tmp_path: Path) -> None:
    tagged = edited(kind={"tags": ("harm",)}, safe={"tags": ("harm",)})
    config = settings(tmp_path / "run")
    easy = config.prompts["easy"].model_copy(update={"principles": ["harm"]})
    config = config.model_copy(update={"prompts": {**config.prompts, "easy": easy}})
    run = make_run(tmp_path / "run", config, constitution=tagged)
    further = replace(
        tagged, principles=tuple(replace(p, tags=("harm",) * (p.id != "safe")) for p in tagged.principles)
    )
    found, _ = ask(run, further)
    # of 36 + 12 pairs the easy ones leave safe and get brief and honest
    assert {row.id: (row.reused, row.judged) for row in found.principles} == {
        "kind": (48, 0), "brief": (36, 12), "honest": (36, 12), "safe": (36, 0)
    }  # fmt: skip
    with pytest.raises(ConfigError, match="'harm' is no id or tag of a principle"):
        ask(run, CONSTITUTION)


def choking(request: Request) -> Failure | None:
    """Cannot read one answer, and answers else as the scripted model does."""
    unread = isinstance(request, ScoreRequest) and request.response == "no never"
    return Failure("context_overflow", "too long") if unread else None


def test_a_failed_verdict_stays_and_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", scripted=ScriptedModel(choking, fingerprint=ScriptedModel().fingerprint))
    found, model = ask(run, CONSTITUTION)
    whole = found.groups[0]
    assert (whole.compared, whole.unlabelled, model.asked) == (16, 32, [])
    unseen, model = ask(run, edited(kind={"statement": "Be ever so kind."}))
    assert (unseen.cost.judged, model.asked) == (0, [])
    added, _ = ask(run, ADDED)
    assert added.groups[0].appeared == {"abstained": 0, "failed": 32}
    assert any("failures" in note for note in found.notes)


def refuse(run: RunFolder, to: Constitution = CONSTITUTION) -> RlaifError:
    with pytest.raises(RlaifError) as caught:
        ask(run, to)
    return caught.value


def test_without_finished_labels_there_is_nothing_to_compare(run: RunFolder) -> None:
    run.file("label", "stage.json").unlink()
    error = refuse(run)
    assert isinstance(error, StageError)
    assert "rlaif label --run" in str(error)


@pytest.mark.parametrize(("field", "value"), [("method", "pairwise"), ("scale", 0.5), ("abstain_below", 0.1)])
def test_labels_made_in_another_way_are_refused(run: RunFolder, field: str, value: object) -> None:
    data = load(run.config_path).model_dump(mode="json", exclude_defaults=True)
    data["judge"][field] = value
    run.config_path.write_text(dump_yaml(data))
    error = refuse(run)
    assert isinstance(error, RunFolderError)
    assert f"judge.{field}" in str(error)


def test_verdicts_of_another_method_are_refused(run: RunFolder) -> None:
    file = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    labels = [replace(x, verdicts=tuple(replace(v, method="pairwise") for v in x.verdicts)) for x in labels_of(run)]
    file.path.unlink()
    file.append(labels)
    error = refuse(run)
    assert isinstance(error, DataError)
    assert "verdicts of the method pairwise, and the run judges by contrast" in str(error)
    file.path.write_text("")
    assert "holds no label" in str(refuse(run))


def test_pairs_by_contrast_are_left_out(run: RunFolder) -> None:
    file, labels = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel), labels_of(run)
    file.path.unlink()
    file.append([*(replace(x, answers="contrast", principle_id="kind") for x in labels[:4]), *labels[4:]])
    assert ask(run, REWORDED)[0].groups[0].pairs == len(labels) - 4
    file.replace([replace(x, answers="contrast", principle_id="kind") for x in labels])
    assert "holds pairs by contrast alone" in str(refuse(run))


def test_a_constitution_without_contrast_pairs_is_refused(run: RunFolder) -> None:
    error = refuse(run, edited(kind={"contrast": None}))
    assert isinstance(error, ConstitutionError)
    assert "lack: kind" in str(error)
    assert ".yaml" in str(error)


def test_an_edited_copy_in_the_run_is_no_longer_what_was_judged(run: RunFolder) -> None:
    write_constitution(run.constitution_path, WEIGHTED)
    assert "the constitution" in str(refuse(run))


def test_another_judge_may_not_fill_the_gaps(tmp_path: Path) -> None:
    rules = tmp_path / "rules.jsonl"
    rules.write_text('{"match": "a", "reply": "b"}\n')
    run = make_run(tmp_path / "run", settings(tmp_path / "run", source=str(rules)))
    rules.write_text('{"match": "a", "reply": "c"}\n')
    assert ask(run, WEIGHTED)[0].cost.calls == 0, "no judge is needed"
    assert "the judge model" in str(refuse(run, REWORDED))


def test_every_principle_is_listed_with_its_edit(run: RunFolder) -> None:
    to = replace(WEIGHTED, principles=(replace(RULES[0], weight=2.0), replace(RULES[1], contrast=OTHER), NEW, RULES[3]))
    found, _ = ask(run, to)
    assert [(row.id, row.edit, row.needed) for row in found.principles] == [
        ("kind", "reweighted 1 -> 2", PAIRS),
        ("brief", "reworded (contrast)", PAIRS),
        ("polite", "added", PAIRS),
        ("safe", "unchanged", PAIRS),
        ("honest", "dropped", 0),
    ]
    assert NAMES == ("kind", "brief", "honest", "safe")
