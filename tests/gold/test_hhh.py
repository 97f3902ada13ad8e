"""The HHH pairs: every place that they are read from, what they become, and what is said where they are not there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rlaif.config.load import load
from rlaif.core.errors import DataError
from rlaif.core.records import Message
from rlaif.gold import hhh
from rlaif.gold.hhh import CATEGORIES, read_hhh
from rlaif.gold.packages import GoldMissing, Package
from rlaif.gold.pairs import read_gold_set

ASKED = "Which bread keeps longest?\n\nAssistant: Rye.\n\nHuman: And why?"


def write_tasks(folder: Path) -> Path:
    """The four categories as BIG-bench has them, with two pairs each, of one conversation with two turns."""
    for category in CATEGORIES:
        scores = [{f"{category} {n} good": 1, f"{category} {n} bad": 0} for n in range(2)]
        scores[1] = dict(reversed(scores[1].items()))
        task = {"name": "x", "examples": [{"input": ASKED, "target_scores": s} for s in scores]}
        (folder / category).mkdir(parents=True)
        (folder / category / "task.json").write_text(json.dumps(task), encoding="utf-8")
    return folder


def write_tables(folder: Path) -> Path:
    """The same as the hub has it."""
    for category in CATEGORIES:
        marked = [([f"{category} {n} good", f"{category} {n} bad"], [1, 0]) for n in range(2)]
        marked[1] = (marked[1][0][::-1], [0, 1])
        rows = [{"input": ASKED, "targets": {"choices": c, "labels": labels}} for c, labels in marked]
        file = folder / category / "test" / "0000.parquet"
        file.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return folder


@pytest.mark.parametrize("write", [write_tasks, write_tables])
def test_the_pairs_of_a_folder(write: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "given")
    found = read_hhh(folder)
    assert [pair.category for pair in found] == [c for c in CATEGORIES for _ in range(2)]
    assert [(p.better, p.worse) for p in found[:2]] == [
        ("harmless 0 good", "harmless 0 bad"),
        ("harmless 1 good", "harmless 1 bad"),
    ]
    turns = (Message("user", "Which bread keeps longest?"), Message("assistant", "Rye."), Message("user", "And why?"))
    assert {pair.messages for pair in found} == {turns}

    gold = read_gold_set(f"hhh:{folder}")
    assert [pair.tags for pair in gold.pairs] == [(c,) for c in CATEGORIES for _ in range(2)]
    assert {(p.better.text, p.worse.text) for p in gold.pairs} == {(p.better, p.worse) for p in found}
    assert (gold.name, gold.constitution) == ("hhh", None)


def test_the_installed_package_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "bigbench"
    write_tasks(package / "benchmark_tasks" / "hhh_alignment")
    (package / "__init__.py").write_text("raise RuntimeError('found, not imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "bigbench", raising=False)
    assert len(read_gold_set("hhh").pairs) == 8


def test_the_hub_s_cache_will_do_without_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit, root = "0123456789" * 4, tmp_path / "datasets--HuggingFaceH4--hhh_alignment"
    write_tables(root / "snapshots" / commit)
    (root / "refs" / "refs" / "convert").mkdir(parents=True)
    (root / "refs" / "refs" / "convert" / "parquet").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hhh, "BIGBENCH", _absent())
    assert len(read_hhh()) == 8


def _absent() -> Package:
    return Package("no_such_package_here", "bigbench", "hhh", "pip install --no-deps bigbench==1.0.0")


def test_where_nothing_leads_to_them_the_three_ways_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hhh, "BIGBENCH", _absent())
    ways = r"HuggingFaceH4/hhh_alignment; pip install --no-deps bigbench==1.0.0 \(358 MB\); or --gold hhh:FOLDER"
    with pytest.raises(GoldMissing, match=f"(?s)^--gold hhh: .*not on this machine.*{ways}"):
        read_gold_set("hhh")
    with pytest.raises(GoldMissing, match=r"harmless/task.json, helpful/task.json, honest/task.json, other/task.json"):
        read_gold_set(f"hhh:{tmp_path}")


@pytest.mark.parametrize(
    ("example", "what"),
    [
        ({"input": "Hi", "target_scores": {"a": 1, "b": 1}}, "one of two answers"),
        ({"input": "Hi", "target_scores": {"a": 1, "b": 0, "c": 0}}, "one of two answers"),
        ({"input": "Hi"}, "one of two answers"),
        ({"input": 3, "target_scores": {"a": 1, "b": 0}}, "input: must be text"),
        ({"input": "Hi", "target_scores": {"a": 1, " ": 0}}, "answer: is blank"),
        ({"input": "Hi\n\nAssistant: Yes?", "target_scores": {"a": 1, "b": 0}}, "input: does not end with the person"),
        ("no object", "is no object"),
    ],
)
def test_a_wrong_file_is_answered_with_its_place(example: object, what: str, tmp_path: Path) -> None:
    write_tasks(tmp_path)
    file = tmp_path / "honest" / "task.json"
    file.write_text(json.dumps({"examples": [example]}))
    with pytest.raises(DataError, match=f"honest/task.json: record 1.*{what}"):
        read_hhh(tmp_path)
    file.write_text("[]")
    with pytest.raises(DataError, match=r"honest/task.json: is no task of BIG-bench"):
        read_hhh(tmp_path)


def test_a_config_finds_the_folder_beside_itself(tmp_path: Path) -> None:
    write_tasks(tmp_path / "own" / "hhh")
    (tmp_path / "rlaif.yaml").write_text(
        "prompts: {everyday: {source: everyday, train: 4, held_out: 2}}\ncard: {gold: 'hhh:own/hhh'}\n"
    )
    assert load(tmp_path / "rlaif.yaml").card.gold == f"hhh:{tmp_path / 'own' / 'hhh'}"
