"""Which principles apply to which slice of the prompts.

Constitutional AI judges answers to red-team prompts for harmlessness and answers to ordinary requests for
helpfulness (arXiv 2212.08073, section 4.1). A slice of the config names ids or tags; an empty list means all.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace

from rlaif.config import PromptSlice
from rlaif.core.errors import ConfigError
from rlaif.core.records import Constitution


def by_slice(constitution: Constitution, prompts: Mapping[str, PromptSlice]) -> dict[str, Constitution]:
    """Name of the slice -> the part of the constitution that applies to it. Raises ConfigError for a name that is
    neither an id nor a tag, and for a slice that no principle with a weight applies to."""
    known = sorted({name for p in constitution.principles for name in (p.id, *p.tags)})
    parts = {}
    for name, part in prompts.items():
        where = f"prompts.{name}.principles"
        for wanted in part.principles:
            if wanted not in known:
                near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
                hint = f", did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"{wanted!r} is no id or tag of a principle of {constitution.name!r}{hint}",
                    where=where,
                    remedy=f"there are: {', '.join(known)}",
                )
        wanted_names = set(part.principles)
        kept = tuple(p for p in constitution.principles if not wanted_names or wanted_names & {p.id, *p.tags})
        if not any(p.weight > 0 for p in kept):
            raise ConfigError("no principle with a weight above 0 applies to this slice", where=where)
        parts[name] = replace(constitution, principles=kept)
    return parts
