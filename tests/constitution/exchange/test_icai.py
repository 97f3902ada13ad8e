"""What a run of Inverse CAI leaves: principles and their votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlaif.constitution.exchange.formats import import_file
from tests.constitution.exchange.samples import ICAI, imported, write


@pytest.mark.parametrize("content", [ICAI, ICAI.replace("1. ", "").replace("2. ", "").split("\n"), None])
def test_any_file_of_an_inverse_cai_run(tmp_path: Path, content: Any) -> None:
    texts = {"0": "Select the response that is kinder", "1": "Select the response that is exact"}
    write(tmp_path / "041_votes_per_cluster.json", {"0": {"for": 3, "against": 1}, "1": {"for": 0, "against": 4}})
    write(tmp_path / "030_distilled_principles_per_cluster.json", texts)
    source = tmp_path / "030_distilled_principles_per_cluster.json"
    if content is not None:
        source = write(tmp_path / "060.json", json.dumps(content))
    found = import_file(source, tmp_path / "out.yaml")
    assert (found.format, [p.statement for p in found.constitution.principles]) == ("icai", list(texts.values()))
    assert found.constitution.principles[0].rationale == "Votes in Inverse CAI: 3 for, 1 against."
    assert "1 principles have more votes against than for: their opposite explains the data" in found.notes


def test_annotated_pairs_are_counted_as_votes(tmp_path: Path) -> None:
    def comparison(default: str, kind: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": "p", "annotations": {"d": {"pref": default}, "k": kind}}

    pairs = {
        "metadata": {"default_annotator": "d"},
        "annotators": {
            "d": {"type": "unknown", "description": "people"},
            "k": {"type": "principle", "description": "Select the kinder response"},
            "q": {"type": "non_preference_principle", "description": "asks a question"},
        },
        "comparisons": [
            comparison("a", {"pref": "a"}), comparison("b", {"pref": "b"}), comparison("b", {"pref": "a"}),
            comparison("a", {"pref": None, "no_pref_reason": "not_applicable"}), {"annotations": None},
        ],
    }  # fmt: skip
    found = imported(tmp_path, "ap.json", pairs)
    (kind,) = found.constitution.principles
    assert kind.rationale == "Votes in Inverse CAI: 2 for, 1 against, 1 not_applicable, 1 missing."
    assert found.left_out == {
        "annotator that is no principle about answers": 2,
        "comparison, of which only the votes are kept": 5,
    }
