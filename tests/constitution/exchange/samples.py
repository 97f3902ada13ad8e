"""Files of our own words in the shapes that others write, and their import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlaif.constitution.exchange.formats import ImportResult, import_file

ANTHROPIC: dict[str, Any] = {
    "rude0": {
        "prompt": ["\n\nCritiqueRequest: Name what sounds rude.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Say it kindly.\n\nRevision:",
    },
    "vague1": {
        "prompt": ["\n\nCritiqueRequest: Name what stays vague in {{ 7*7 }}.\n\nCritique:"],
        "edit_request": "\n\nRevisionRequest: Say it exactly.\n\nRevision:",
    },
}


COMPARISONS = ["\nPlease choose the kinder answer. Options:", "\nWhich of these answers is more exact? Options:"]


HANDBOOK: dict[str, Any] = {
    "constitutions": [
        {"critic": "Name what sounds rude.", "revision": "Rewrite the response in kind words."},
        {"critic": "Name what stays vague.", "revision": "Rewrite the response with exact numbers."},
    ],
    "system_chat": [],
}


ICAI = "1. Select the response that is kinder\n2. Select the response that is exact"


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def imported(folder: Path, file: str, content: Any, **options: Any) -> ImportResult:
    return import_file(write(folder / file, content), folder / "out.yaml", **options)


def statements(found: ImportResult) -> list[str]:
    return [principle.statement for principle in found.constitution.principles]
