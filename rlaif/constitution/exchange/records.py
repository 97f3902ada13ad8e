"""Our own records in JSON, as `export --to json` and `show --json` write them."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rlaif.constitution.exchange.draft import OPTIONAL, Draft, Format, default
from rlaif.constitution.exchange.source import SourceFile, refuse, shown
from rlaif.core.records import Constitution, to_json


def _is_ours(data: Any) -> bool:
    return isinstance(data, dict) and "name" in data and isinstance(data.get("principles"), list)


def read(source: SourceFile, draft: Draft) -> None:
    """Every field of the principles; what the records have besides is left out."""
    data = source.json()
    expected = '{"name": "...", "version": "...", "principles": [{"id": "...", "statement": "..."}]}'
    refuse(source, [] if _is_ours(data) and data["principles"] else ["has no name or no principles"], expected)
    entries = data["principles"]
    texts = [isinstance(e, dict) and all(isinstance(e.get(name), str) for name in ("id", "statement")) for e in entries]
    refuse(source, [f"principles.{n} lacks id or statement" for n, good in enumerate(texts) if not good], expected)
    for field, value in data.items():
        if field in ("name", "description") and isinstance(value, str):
            setattr(draft, field, value)
        elif field == "version" and isinstance(value, str | int | float) and not isinstance(value, bool):
            draft.version = str(value)
        elif field != "principles":
            draft.left_out[shown(field)] += 1
    for entry in entries:
        known = {name: part for name, part in entry.items() if name in OPTIONAL and part != default(name)}
        draft.left_out.update(f"{shown(name)} of a principle" for name in entry.keys() - {"id", "statement", *OPTIONAL})
        draft.add(entry["id"], statement=entry["statement"], **known)


def _write(constitution: Constitution, lost: Counter[str]) -> str:
    return json.dumps(to_json(constitution), indent=2, ensure_ascii=False) + "\n"


RECORDS = Format("json", _is_ours, read, _write, frozenset({"name", "version", "description", "id", *OPTIONAL}))
