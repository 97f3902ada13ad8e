"""Ids of what is read, and statements that stand twice."""

from __future__ import annotations

from pathlib import Path

from rlaif.constitution.exchange.draft import Draft, topic
from rlaif.constitution.format import MAX_ID, slug
from tests.constitution.exchange.samples import HANDBOOK, imported


def test_ids_are_short_unique_and_never_empty() -> None:
    draft = Draft("markdown")
    for text in [
        "Be kind!",
        "be kind",
        "be-kind-2",
        "be kind",
        "x" * 100,
        "x" * 100,
        "\u4e0d",
        "\u4e0d",
        "caf\u00e9 d'or",
    ]:
        draft.add(text, statement="s")
    ids = [p["id"] for p in draft.principles]
    assert ids[:4] == ["be-kind", "be-kind-2", "be-kind-2-2", "be-kind-3"]
    assert ids[6:] == ["principle", "principle-2", "cafe-dor"]
    assert len(set(ids)) == len(ids)
    taken = Draft("markdown")
    for text in ["a-2", "a", "a"]:
        taken.add(text, statement="s")
    assert [p["id"] for p in taken.principles] == ["a-2", "a", "a-3"]
    assert max(map(len, ids)) == MAX_ID
    assert len(slug("word " * 40)) <= MAX_ID
    assert topic("Please choose the response that is more honest.") == "honest"


def test_duplicates_are_kept_and_told(tmp_path: Path) -> None:
    data = {"constitutions": HANDBOOK["constitutions"][:1] * 3}
    found = imported(tmp_path, "h.json", data)
    assert [p.id for p in found.constitution.principles] == ["kind-words", "kind-words-2", "kind-words-3"]
    assert "2 of the statements stand more than once; all are kept, with ids of their own" in found.notes
