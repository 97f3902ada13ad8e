"""The impact of an edit on a file of comparisons: nothing but the pairs is taken from it, and labels of people help."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from rlaif.analysis.impact.impact import Impact, impact
from rlaif.analysis.impact.subject import of_file
from rlaif.config import AskingConfig, ModelConfig, RunConfig
from rlaif.core.errors import ConstitutionError, DataError
from rlaif.core.progress import Silent
from rlaif.core.records import Constitution
from rlaif.judge.judge import Judge
from rlaif.lm.cache import CachedModel
from rlaif.lm.protocol import LanguageModel
from rlaif.lm.scripted import ScriptedModel
from tests.analysis.impact.runs import CONSTITUTION, FILE_PROMPTS, REWORDED, settings, write_constitution, write_pairs
from tests.fakes import Listener


def ask(folder: Path, to: Constitution, config: RunConfig | None = None) -> tuple[Impact, Listener]:
    model = Listener()

    def open_judge(asking: AskingConfig, _: ModelConfig, cache: Path) -> LanguageModel:
        return CachedModel(model, cache / "judge.sqlite")

    old, new = (write_constitution(folder / f"{c.hash}.yaml", c) for c in (CONSTITUTION, to))
    settled = settings(folder) if config is None else config
    pairs = write_pairs(folder / "pairs.jsonl")
    with closing(
        of_file(pairs, str(old), settled, cache=folder / "cache", progress=Silent(), open_judge=open_judge)
    ) as subject:
        return impact(subject, str(new), examples=3, progress=Silent()), model


def test_the_edit_is_paid_for_apart_from_the_old_labels(tmp_path: Path) -> None:
    found, model = ask(tmp_path, REWORDED)
    cost, n = found.cost, FILE_PROMPTS
    assert (cost.needed, cost.reused, cost.judged) == (4 * n, 3 * n, n)
    assert found.cost.calls == 2 * 2 * FILE_PROMPTS  # two answers a prompt, each read in two contexts, one principle
    assert len(model.asked) == 5 * found.cost.calls  # four principles for the old labels
    again, model = ask(tmp_path, REWORDED)
    assert (model.asked, again.cost.calls, again.cost.cached) == ([], 0, found.cost.calls)
    assert again.groups == found.groups


def test_the_labels_are_those_of_the_judge_under_each_constitution(tmp_path: Path) -> None:
    found, _ = ask(tmp_path, REWORDED)
    config = settings(tmp_path)
    for change in found.examples:
        for constitution, prob in ((CONSTITUTION, change.prob_before), (REWORDED, change.prob_after)):
            judge = Judge(config.judge, constitution, models=[ScriptedModel()], seed=config.seed)
            assert judge.label([change.comparison])[0].prob_a == pytest.approx(prob, abs=1e-12)


def test_a_wrong_file_or_constitution_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    good = write_constitution(tmp_path / "good.yaml", CONSTITUTION)
    bare = tmp_path / "bare.yaml"
    bare.write_text('name: bare\nversion: "1"\nprinciples: [{id: kind, statement: Be kind.}]\n', encoding="utf-8")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a", "chosen": "b"}\n', encoding="utf-8")

    def refuse(config: RunConfig, cache: Path) -> LanguageModel:
        raise AssertionError("no judge is needed")

    for pairs, constitution, error in (
        (broken, good, DataError),
        (tmp_path / "none.jsonl", good, DataError),
        (write_pairs(tmp_path / "pairs.jsonl"), bare, ConstitutionError),
    ):
        with pytest.raises(error):
            of_file(pairs, str(constitution), settings(tmp_path), cache=tmp_path, progress=Silent(), open_judge=refuse)
