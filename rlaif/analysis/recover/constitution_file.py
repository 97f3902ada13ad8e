"""Recovered principles as a constitution file, with comments that say how each one fared."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlaif.analysis.recover.recover import Kept, Recovery
from rlaif.constitution.format import slug
from rlaif.constitution.starter import refuse_place
from rlaif.core.files import write_atomic
from rlaif.core.records import Principle
from rlaif.core.statistics import Estimate
from rlaif.core.terminal import visible
from rlaif.core.yaml import dump_styled
from rlaif.view.text import percent, percents


def write(path: Path, recovery: Recovery) -> None:
    """Writes the kept principles, which must be some, in the order of their choice."""
    refuse_place(path)
    write_atomic(path, constitution_file(recovery, slug(path.stem) or "recovered"))


def constitution_file(recovery: Recovery, name: str) -> str:
    """The text of the file."""
    training, held_out = recovery.pairs["training"], recovery.pairs["held_out"]
    together = recovery.rows[0]
    head = [
        f"Recovered from {recovery.labels} by rlaif constitution recover, judged by {recovery.judge} "
        f"({recovery.method}).",
        f"Together they prefer the same answer as the labels on {_share(together.held_out, held_out)} of the held-out",
        f"prompts' pairs ({_share(together.training, training)} of those that they were chosen on).",
        "They predict the labels; that does not show that they made them.",
    ]
    about = {
        "name": name,
        "version": "1",
        "description": f"Principles that explain the labels in {Path(recovery.labels).name}.",
    }
    parts = [_comments(head, ""), dump_styled(about), "principles:"]
    for kept in recovery.kept:
        entry = dump_styled([_entry(kept.candidate.principle)])
        parts.append(f"{_comments(_fate(kept, training, held_out), '  ')}{entry}")
    return "\n".join(parts)


def _fate(kept: Kept, training: int, held_out: int) -> list[str]:
    row, origin = kept.alone, kept.candidate.origin
    lines = [
        f"{'Written by the model' if origin == 'proposed' else f'From {origin}'}. Alone it agrees with the labels on "
        f"{_share(row.held_out, held_out)} of the held-out pairs",
        f"and {_share(row.training, training)} of the training pairs; it gained {kept.step.gain:.3f} nats a pair.",
    ]
    if kept.candidate.contrast_made:
        lines.append(
            "The contrast pair was made from the statement: name the behaviour, and give two to four examples."
        )
    return lines


def _share(found: Estimate | None, pairs: int) -> str:
    """The rate with its interval, and on how many pairs it is where not all have a verdict."""
    if found is None:
        return "an unknown share"
    heard = "" if found.n == pairs else f", {found.n:,} of {pairs:,} pairs have a verdict"
    return f"{percent(found.mean)} ({percents(found.low, found.high)}{heard})".replace("\u00a0", " ")


def _comments(lines: list[str], indent: str) -> str:
    return "".join(f"{indent}# {' '.join(visible(line).split())}\n" for line in lines)


def _entry(principle: Principle) -> dict[str, Any]:
    """The principle as it stands in a file: what it does not have is left out."""
    fields = asdict(principle)
    del fields["weight"], fields["priority"]
    return {name: _plain(value) for name, value in fields.items() if value}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items() if part}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
