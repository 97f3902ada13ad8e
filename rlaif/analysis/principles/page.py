"""What the principles do as one self-contained HTML page, with the matrix as a picture."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rlaif.analysis.principles.attribution import Attribution
from rlaif.analysis.principles.matrix import CLEAR, MIN_PAIRS, REDUNDANT
from rlaif.analysis.principles.terminal import bounds, facts_of, findings
from rlaif.view.matrix import heat_map
from rlaif.view.render import render


def page(found: Attribution) -> str:
    """The page, in the dress of the run's report."""
    table = found.matrix
    pictures = [
        heat_map("agreement", "Agreement: share of pairs", table.ids, table.agreement, middle=True),
        heat_map("conflict", "Conflict: both clear, and opposed", table.ids, table.conflict, middle=False),
    ]
    mind = dict(facts_of(found))["all of one mind"]
    return render(
        "principles.html.jinja",
        {
            "title": f"The principles of {Path(found.run).resolve().name}",
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "found": found,
            "bounds": bounds,
            "headline": f"all of one mind {mind}" if found.overview.several else mind,
            "facts": facts_of(found),
            "findings": findings(found),
            "pictures": [picture for picture in pictures if picture is not None],
            "clear": CLEAR,
            "redundant": REDUNDANT,
            "min_pairs": MIN_PAIRS,
        },
    )
