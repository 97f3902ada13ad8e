"""Anthropic's files of 2022 (arXiv 2212.08073): requests for critique and revision, and questions for comparison.

`{"harmful0": {"prompt": ["\\n\\nCritiqueRequest: ...\\n\\nCritique:"], "edit_request": "\\n\\nRevisionRequest: ...
\\n\\nRevision:"}, ...}` and `["\\n... Options:", ...]`. The frames around the wordings are taken off and put on.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from rlaif.constitution.exchange.draft import Draft, Format, is_texts, topic, wordings
from rlaif.constitution.exchange.source import SourceFile, refuse, shown
from rlaif.core.records import Constitution

_CRITIQUES = '{"id": {"prompt": ["... a request for critique"], "edit_request": "... for revision"}, ...}'
_COMPARISONS = '["Choose the response that ... Options:", ...]'
_FRAMES = {
    "critique": (re.compile(r"Critique ?Request:", re.IGNORECASE), "Critique:"),
    "revision": (re.compile(r"Revision ?Request:", re.IGNORECASE), "Revision:"),
    "comparison": (re.compile(""), "Options:"),
}


def _has_critiques(data: Any) -> bool:
    entries = list(data.values()) if isinstance(data, dict) else []
    return bool(entries) and all(isinstance(entry, dict) and "edit_request" in entry for entry in entries)


def _has_comparisons(data: Any) -> bool:
    """Sure only where "Options:" ends the texts: other programs write lists of texts too."""
    return is_texts(data) and all(text.rstrip().endswith("Options:") for text in data)


def read(source: SourceFile, draft: Draft) -> None:
    """Either of the two kinds of file, told apart by its shape."""
    data = source.json()
    if isinstance(data, list):
        _read_comparisons(source, data, draft)
    else:
        _read_critiques(source, data, draft)


def _read_critiques(source: SourceFile, data: Any, draft: Draft) -> None:
    problems = [] if isinstance(data, dict) and data else ["is no object with entries"]
    more = 0
    for key, entry in data.items() if isinstance(data, dict) else ():
        given = entry if isinstance(entry, dict) else {}
        requests = given.get("prompt")
        requests = [requests] if isinstance(requests, str) else requests if isinstance(requests, list) else []
        critiques = [_bare("critique", text) for text in requests]
        revision = _bare("revision", given.get("edit_request"))
        if not critiques or None in critiques or revision is None:
            problems.append(f"{shown(key)!r} lacks a text in prompt or edit_request")
            continue
        more += len(critiques) - 1
        draft.left_out.update(f"{shown(name)} of an entry" for name in given.keys() - {"prompt", "edit_request"})
        for critique in critiques:
            draft.add(key, statement=revision, critique=critique, revision=revision)
    refuse(source, problems, _CRITIQUES)
    if more:
        draft.notes.append(f"{more} entries had another request for critique; each became a principle of its own")
    draft.notes.append("the file has no rules: each statement is a copy of the request for revision")


def _read_comparisons(source: SourceFile, data: list[Any], draft: Draft) -> None:
    problems = [] if data else ["the list is empty"]
    for number, text in enumerate(data):
        comparison = _bare("comparison", text)
        if comparison is None:
            problems.append(f"number {number + 1} of the list is no text")
        else:
            draft.add(topic(comparison), statement=comparison, comparison=comparison)
    refuse(source, problems, _COMPARISONS)
    draft.notes.append("the file has no rules: each statement is a copy of the question for comparison")
    draft.notes.append("the file has no ids: they are made of the words")


def _bare(kind: str, text: Any) -> str | None:
    """The wording without the frame around it, each part of the frame once; None if there is none."""
    if not isinstance(text, str):
        return None
    start, end = _FRAMES[kind]
    text = text.removeprefix("\n\nHuman:").strip().removesuffix("\n\nAssistant:").rstrip()
    match = start.match(text)
    inner = text[match.end() :] if match else text
    bare = inner.removesuffix(end)
    return (bare if bare == "" or bare[-1:].isspace() or bare == inner else inner).strip() or None


def _write_critiques(constitution: Constitution, lost: Counter[str]) -> str:
    """The JSON with a critique and a revision for each principle."""
    entries = {
        principle.id: {
            "prompt": [f"\n\nCritiqueRequest: {critique}\n\nCritique:"],
            "edit_request": f"\n\nRevisionRequest: {revision}\n\nRevision:",
        }
        for principle, (critique, revision) in zip(constitution.principles, wordings(constitution, lost), strict=True)
    }
    return json.dumps(entries, indent=2, ensure_ascii=False) + "\n"


def _write_comparisons(constitution: Constitution, lost: Counter[str]) -> str:
    """The JSON list of the questions, each with its frame."""
    questions = []
    for p in constitution.principles:
        question = p.comparison
        if question is None:
            question = f"Choose the answer that follows this rule better: {p.statement}"
            lost["own comparison, for which general words with the statement stand"] += 1
        elif p.statement != question:
            lost["statement"] += 1
        questions.append(f"\n{question} Options:")
    return json.dumps(questions, indent=2, ensure_ascii=False) + "\n"


CRITIQUES = Format("anthropic", _has_critiques, read, _write_critiques, frozenset({"id", "critique", "revision"}))
COMPARISONS = Format(
    "anthropic-comparisons",
    _has_comparisons,
    read,
    _write_comparisons,
    frozenset({"comparison"}),
    may_be=is_texts,
)
