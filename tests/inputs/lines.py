"""Lines of a file of comparisons, and the pair that one becomes."""

from __future__ import annotations

import json
from pathlib import Path

from rlaif.inputs.comparisons import GivenPair, read_comparisons

HELLO = [{"role": "user", "content": "Hello"}]
WARM, COLD = ([{"role": "assistant", "content": text}] for text in ("Welcome!", "What?"))
HUMAN, BOT = "\n\nHuman:", "\n\nAssistant:"
KIND = [{"role": "system", "content": "Be kind."}]


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(tmp_path: Path, row: object) -> GivenPair:
    (pair,) = read_comparisons(written(tmp_path / "p.jsonl", row)).pairs
    return pair


def better(pair: GivenPair) -> str:
    """The text that the label prefers."""
    assert pair.prob_a in (0.0, 1.0)
    return (pair.comparison.a if pair.prob_a == 1.0 else pair.comparison.b).text
