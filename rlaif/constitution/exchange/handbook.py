"""The JSON of Hugging Face's alignment-handbook and llm-swarm: critic and revision, and chats that show them at work.

`{"constitutions": [{"critic": ..., "revision": ...}], "system_chat": [[request, answer, critic, critique, revision,
revised answer], ...]}`, the turns of a chat as `{"role": ..., "content": ...}`. A chat becomes a test of the principle
whose two wordings it uses: the revised answer should win against the first.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from rlaif.constitution.exchange.draft import Draft, Format, topic, wordings
from rlaif.constitution.exchange.source import SourceFile, refuse, shown
from rlaif.core.records import Constitution

EXPECTED = '{"constitutions": [{"critic": "...", "revision": "..."}], "system_chat": []}'


def _is_handbook(data: Any) -> bool:
    entries = data.get("constitutions") if isinstance(data, dict) else None
    return isinstance(entries, list) and all(isinstance(entry, dict) and "critic" in entry for entry in entries)


def read(source: SourceFile, draft: Draft) -> None:
    """Every pair of critic and revision, and the chats as tests as far as they belong to one."""
    data = source.json()
    entries = data.get("constitutions") if isinstance(data, dict) else None
    refuse(source, [] if isinstance(entries, list) and entries else ["has no list of constitutions"], EXPECTED)
    problems = []
    for number, entry in enumerate(entries or ()):
        critic, revision = (_text(entry, name) for name in ("critic", "revision"))
        if critic is None or revision is None:
            problems.append(f"constitutions.{number} lacks the text of critic or revision")
            continue
        draft.add(topic(revision), statement=revision, critique=critic, revision=revision)
        draft.left_out.update(f"{shown(name)} of an entry" for name in entry.keys() - {"critic", "revision"})
    refuse(source, problems, EXPECTED)
    draft.left_out.update(shown(name) for name in data.keys() - {"constitutions", "system_chat"})
    draft.notes.append("the file has no rules: each statement is a copy of the revision")
    draft.notes.append("the file has no ids: they are made of the words")
    _read_chats(data.get("system_chat"), draft)


def _read_chats(chats: Any, draft: Draft) -> None:
    tests = 0
    for chat in chats if isinstance(chats, list) else [] if chats is None else [chats]:
        turns = [_text(turn, "content") for turn in chat] if isinstance(chat, list) else []
        entry = None if len(turns) != 6 else _using(draft.principles, turns[2], turns[4])
        prompt, worse, _, critique, _, better = turns if entry is not None else (None,) * 6
        if entry is None or None in (prompt, worse, better) or better == worse:
            draft.left_out["chat of system_chat that uses no principle's wordings"] += 1
            continue
        entry.setdefault("tests", []).append({"prompt": prompt, "better": better, "worse": worse})
        tests += 1
        if critique is not None:
            draft.left_out["critique in a chat of system_chat"] += 1
    if tests:
        draft.notes.append(f"{tests} chats of system_chat became tests: the revised answer should win")


def _using(principles: list[dict[str, Any]], critic: str | None, revision: str | None) -> dict[str, Any] | None:
    return next((p for p in principles if (p["critique"], p["revision"]) == (critic, revision)), None)


def _text(entry: Any, name: str) -> str | None:
    text = entry.get(name) if isinstance(entry, dict) else None
    return (text.strip() or None) if isinstance(text, str) else None


def _write(constitution: Constitution, lost: Counter[str]) -> str:
    """The JSON of the critiques and revisions, without chats."""
    entries = [{"critic": critique, "revision": revision} for critique, revision in wordings(constitution, lost)]
    return json.dumps({"constitutions": entries, "system_chat": []}, indent=2, ensure_ascii=False) + "\n"


HANDBOOK = Format("handbook", _is_handbook, read, _write, frozenset({"critique", "revision"}))
