"""The id of a card, and what of the settings stands in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rlaif.core.records import from_json
from rlaif.judge.card.records import Errors, JudgeCard
from tests.judge.card.cases import card_of, length_lover, perfect


def test_the_id_is_of_the_content(tmp_path: Path) -> None:
    card = card_of(tmp_path, perfect)
    again = card_of(tmp_path, perfect)
    assert again.cached > 0, "the first card has paid for it"
    assert again.id == card.id
    assert card_of(tmp_path, length_lover).id != card.id
    assert card_of(tmp_path, perfect, pairs=20).id != card.id
    assert replace(card, subject=replace(card.subject, fingerprint="other"), id="").id != card.id
    assert replace(card, errors=Errors(9, []), id="").id == card.id, "texts are not in it"
    old = card.as_json()
    del old["errors"]
    assert from_json(JudgeCard, {k: v for k, v in old.items() if k not in ("format",)}).errors == Errors(0, [])
    written = json.loads(json.dumps(card.as_json()))
    assert (written.pop("format"), written.pop("id")) == (2, card.id)
    assert from_json(JudgeCard, written) == card


def test_settings_that_cannot_change_a_verdict_are_not_in_the_card(tmp_path: Path) -> None:
    card = card_of(tmp_path, perfect, "judge.timeout=5", pairs=4)
    assert "timeout" not in card.subject.settings
    assert card.subject.settings["abstain_below"] == 0.0
    assert card.id == card_of(tmp_path, perfect, pairs=4).id
