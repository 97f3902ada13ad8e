"""What a run of Inverse Constitutional AI leaves (arXiv 2406.06560), by any of its files that hold principles.

`060_constitution.json`: one text, "1. ...\\n2. ...". `050_filtered_principles.json`: a list. `030_distilled_...json`:
number -> principle. The annotated pairs (`070_...`): annotators of the type "principle", and how they voted on each
comparison. Votes, here or in `041_votes_per_cluster.json` beside the file, become the rationale.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from rlaif.constitution.exchange.draft import Draft, Format, is_texts, on_one_line, topic
from rlaif.constitution.exchange.source import SourceFile, read_source, refuse
from rlaif.core.errors import ConstitutionError
from rlaif.core.records import Constitution

EXPECTED = '"1. Select the response that ...\\n2. ...", a list of such texts, {"0": "...", ...}, or annotated pairs'
SUMMARIES, VOTES = "030_distilled_principles_per_cluster.json", "041_votes_per_cluster.json"
Votes = dict[str, dict[str, int]]
"""Principle -> kind of vote ("for", "against", "abstain" ...) -> how many."""


def _is_icai(data: Any) -> bool:
    """Sure for annotated pairs, a numbered text, numbers as keys, and a list in its words."""
    if isinstance(data, str):
        return re.match(r"1\. ", data) is not None
    if isinstance(data, list):
        return is_texts(data) and all(re.match(r"select the ", text, re.I) for text in data)
    if _is_pairs(data):
        return True
    return isinstance(data, dict) and bool(data) and all(_is_numbered(*item) for item in data.items())


def read(source: SourceFile, draft: Draft) -> None:
    """The principles of the file, with their votes where it or its neighbours have some."""
    data = source.json()
    votes: Votes = {}
    if _is_pairs(data):
        texts, votes = _pairs(data, draft)
    else:
        parts = _numbered(data) if isinstance(data, str) else list(data.values()) if isinstance(data, dict) else data
        parts = parts if isinstance(parts, list) else [parts]
        texts = [text.strip() if isinstance(text, str) else "" for text in parts]
        refuse(source, [f"number {n + 1} is no text" for n, text in enumerate(texts) if not text], EXPECTED)
        votes = _neighbours(source.path, draft)
    refuse(source, [] if texts else ["has no principles"], EXPECTED)
    for text in texts:
        draft.add(topic(text), statement=text, rationale=_told(votes.get(text)))
    draft.notes.append("the file has no ids: they are made of the words")
    against = sum(_more_against(votes.get(text, {})) for text in texts)
    if against:
        draft.notes.append(f"{against} principles have more votes against than for: their opposite explains the data")


def _is_pairs(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("annotators"), dict) and "comparisons" in data


def _is_numbered(key: str, text: Any) -> bool:
    return key.isdecimal() and isinstance(text, str)


def _numbered(text: str) -> list[str]:
    """The principles of "1. ...\\n2. ..."; a line without the next number goes on with the one before."""
    found: list[str] = []
    for line in filter(None, map(str.strip, text.split("\n"))):
        start = f"{len(found) + 1}. "
        if line.startswith(start) or not found:
            found.append(line.removeprefix(start))
        else:
            found[-1] += f" {line}"
    return found


def _pairs(data: dict[str, Any], draft: Draft) -> tuple[list[str], Votes]:
    """The principles among the annotators, and how often each prefers what the default annotator does."""
    annotators = {id: part for id, part in data["annotators"].items() if isinstance(part, dict)}
    principles = {
        id: part["description"].strip()
        for id, part in annotators.items()
        if part.get("type") == "principle" and isinstance(part.get("description"), str) and part["description"].strip()
    }
    other = len(data["annotators"]) - len(principles)
    draft.left_out.update({"annotator that is no principle about answers": other} if other else {})
    comparisons = data["comparisons"] if isinstance(data["comparisons"], list) else []
    draft.left_out.update({"comparison, of which only the votes are kept": len(comparisons)} if comparisons else {})
    metadata = data.get("metadata")
    default = metadata.get("default_annotator") if isinstance(metadata, dict) else None
    counts = {text: Counter({"for": 0, "against": 0}) for text in principles.values()}
    for comparison in comparisons:
        votes = comparison.get("annotations") if isinstance(comparison, dict) else None
        preferred = _vote(votes, default)[0]
        for id, text in principles.items():
            vote, reason = _vote(votes, id)
            if vote is None or preferred is None:
                counts[text][reason] += 1
            else:
                counts[text]["for" if vote == preferred else "against"] += 1
    return list(principles.values()), {text: dict(count) for text, count in counts.items()}


def _vote(votes: Any, annotator: Any) -> tuple[str | None, str]:
    """("a" or "b", or None; why there is none)."""
    vote = votes.get(annotator) if isinstance(votes, dict) and isinstance(annotator, str) else None
    if not isinstance(vote, dict):
        return None, "missing"
    reason = vote.get("no_pref_reason")
    preferred = vote.get("pref")
    return (preferred if preferred in ("a", "b") else None), reason if isinstance(reason, str) else "missing"


def _neighbours(path: Path, draft: Draft) -> Votes:
    """The votes out of the files of the same run that lie beside the one imported; none if they do not."""
    if not (path.with_name(SUMMARIES).is_file() and path.with_name(VOTES).is_file()):
        return {}
    try:
        texts, votes = (read_source(path.with_name(name)).json() for name in (SUMMARIES, VOTES))
    except ConstitutionError as error:
        draft.notes.append(f"no votes: {Path(error.where or VOTES).name} {error.what}")
        return {}
    if not (isinstance(texts, dict) and isinstance(votes, dict)):
        return {}
    draft.notes.append(f"the votes are those of {VOTES} beside it")
    numbers = {key: part for key, part in votes.items() if isinstance(part, dict)}
    return {
        text.strip(): {kind: count for kind, count in numbers[key].items() if isinstance(count, int)}
        for key, text in texts.items()
        if isinstance(text, str) and key in numbers
    }


def _told(votes: dict[str, int] | None) -> str:
    if not votes:
        return ""
    return f"Votes in Inverse CAI: {', '.join(f'{count} {kind}' for kind, count in votes.items())}."


def _more_against(votes: dict[str, int]) -> bool:
    return votes.get("against", 0) > votes.get("for", 0)


def _write(constitution: Constitution, lost: Counter[str]) -> str:
    """The statements as the one numbered text of `060_constitution.json`."""
    statements = on_one_line((p.statement for p in constitution.principles), lost)
    return json.dumps("\n".join(f"{n}. {text}" for n, text in enumerate(statements, 1))) + "\n"


ICAI = Format("icai", _is_icai, read, _write, frozenset(), may_be=is_texts)
