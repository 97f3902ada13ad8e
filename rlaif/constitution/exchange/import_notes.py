"""What an import did, as plain text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rlaif.constitution.exchange.formats import Imported
from rlaif.constitution.exchange.source import shown

MOST_RENAMED = 5


def imported_lines(found: Imported, methods: Sequence[str], width: int) -> Iterator[str]:
    """What was written, what was left out, what to know about it, what it works with (`methods` are the judging methods
    that take it) and what to do next."""
    count = len(found.constitution.principles)
    yield f"wrote {found.file}: {count} principle{'' if count == 1 else 's'} from {found.source} ({found.format})"
    lines = [f"left out: {number} x {what}" for what, number in found.left_out.items()]
    lines += [f"note: {note}" for note in found.notes]
    renamed = [f"{shown(old)!r} -> {new}" for old, new in found.renamed]
    if renamed:
        more = f" and {len(renamed) - MOST_RENAMED} more" if len(renamed) > MOST_RENAMED else ""
        lines.append(f"other ids: {', '.join(renamed[:MOST_RENAMED])}{more}")
    lacking = sum(principle.contrast is None for principle in found.constitution.principles)
    if lacking:
        lines.append(
            f"works with judge.method: {', '.join(methods[:-1])} and {methods[-1]}, and in revise; contrast, the "
            f"default, refuses it until each principle has a contrast pair ({lacking} have none)"
        )
    for line in lines:
        yield from textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)
    yield f"next: read the statements in {found.file}, then rlaif constitution check {found.file}"
