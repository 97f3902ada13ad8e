"""What `datasets` makes of our files when it is told the types of a record's fields."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from datasets import Features, load_dataset
from datasets.exceptions import DatasetGenerationError

from rlaif.core.features import features_of
from rlaif.core.files import JsonlFile
from rlaif.core.records import (
    Comparison,
    FailedAnswer,
    Failure,
    PreferenceLabel,
    Prompt,
    Response,
    RevisionTrace,
    SftExample,
    StageRecord,
    Verdict,
)

RECORDS = (Prompt, Response, FailedAnswer, RevisionTrace, SftExample, PreferenceLabel)


def test_a_field_that_is_null_for_ten_megabytes_has_its_type(tmp_path: Path) -> None:
    pair = Comparison.of_texts("x" * 2000, "a", "b")
    verdict = Verdict(pair.id, "kind", "h", "pairwise", "ab", "judge", None, failure=Failure("parse", "no letter"))
    early = [PreferenceLabel(pair, 0.5, (), id=str(number)) for number in range(4500)]
    late = PreferenceLabel(pair, None, (verdict,), 0.5, Failure("parse", "no letter"))
    file = JsonlFile(tmp_path / "labels.jsonl", PreferenceLabel)
    file.append([*early, late])
    assert file.path.stat().st_size > 11e6
    found = {"path": "json", "data_files": str(file.path), "split": "train", "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(DatasetGenerationError):
        load_dataset(**found)  # if this loads one day, nobody needs the types any more
    labels = load_dataset(**found, features=Features.from_dict(features_of(PreferenceLabel)))
    assert labels.num_rows == 4501
    assert (labels[0]["failure"], labels[0]["consistency"]) == (None, None)
    assert labels[4500]["failure"] == {"kind": "parse", "reason": "no letter"}
    assert labels[4500]["verdicts"][0]["failure"]["kind"] == "parse"
    assert labels[4500]["consistency"] == 0.5


def test_every_record_of_a_jsonl_file_has_types() -> None:
    for kind in RECORDS:
        assert set(Features.from_dict(features_of(kind))) == {field.name for field in fields(kind)}
    with pytest.raises(TypeError, match="of no fixed type"):
        features_of(StageRecord)


def test_no_records_are_no_file(tmp_path: Path) -> None:
    file = JsonlFile(tmp_path / "failures.jsonl", FailedAnswer)
    file.append([])
    assert not file.path.exists()
