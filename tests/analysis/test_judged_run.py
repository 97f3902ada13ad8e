"""Which runs can be asked about their judge's labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlaif.analysis.judged_run import read_judged_run, refuse_given
from rlaif.core.errors import RunFolderError, StageError
from rlaif.core.files import RunFolder
from rlaif.core.yaml import dump_yaml
from rlaif.judge.load import load


def test_given_labels_are_of_no_judge(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(RunFolderError, match="is not a run"):
        read_judged_run(run, "impact")
    slices = {"mine": {"source": "everyday", "train": 2}}
    run.config_path.write_text(dump_yaml({"prompts": slices, "label": {"source": "/data/pairs.jsonl"}}))
    with pytest.raises(StageError, match=r"labels of this run are given.*\n.*impact --comparisons /data/pairs\.jsonl"):
        refuse_given(run, load(run.config_path))
    run.config_path.write_text(dump_yaml({"prompts": slices}))
    with pytest.raises(StageError, match="impact needs the label stage, which is not finished"):
        read_judged_run(run, "impact")
