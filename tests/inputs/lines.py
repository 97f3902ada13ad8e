"""Lines of a file of comparisons, and the pair that one becomes."""

from __future__ import annotations

import json
from pathlib import Path

from rlaif.core.records import Comparison, Failure, Message, PreferenceLabel, Prompt, Response, Verdict
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


def our_label(prob_a: float | None = 0.8) -> PreferenceLabel:
    prompt = Prompt((Message("user", "Hello"),), slice="plain", tags=("t",), source="everyday")
    a, b = (Response(prompt.id, t, "sft", seed, 0.7, "stop", 2) for seed, t in enumerate(("Welcome!", "What?")))
    comparison = Comparison(prompt, a, b)
    verdict = Verdict(comparison.id, "kind", "hash", "contrast", "none", "judge", prob_a)
    failure = None if prob_a is not None else Failure("abstained", "too near")
    return PreferenceLabel(comparison, prob_a, (verdict,), failure=failure, constitution_hash="c0ffee")
