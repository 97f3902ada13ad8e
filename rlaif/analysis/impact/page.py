"""The impact of an edit as one self-contained HTML page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rlaif.analysis.impact.impact import Impact
from rlaif.analysis.impact.measure import MIN_PROMPTS
from rlaif.analysis.impact.wording import (
    agreement_line,
    cost_line,
    flips_line,
    labels_line,
    measure_cells,
    policy_rows,
    revision_rows,
    reward_rows,
)
from rlaif.view.render import render

MOST_PROMPTS = 30
"""Prompts in the page's table; the JSON object has all."""


def page(impact: Impact) -> str:
    """The page, in the dress of the run's report."""
    return render(
        "impact.html.jinja",
        {
            "title": f"{Path(impact.source).resolve().name} under {impact.after.name} {impact.after.version}",
            "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "impact": impact,
            "flips": flips_line(impact.groups[0]),
            "labels": labels_line(impact.groups[0]),
            "agreement": None if impact.agreement is None else agreement_line(impact.agreement),
            "cost": cost_line(impact.cost),
            "revisions": [] if impact.revisions is None else revision_rows(impact.revisions),
            "reward": [] if impact.reward is None else reward_rows(impact.reward),
            "policy": [] if impact.policy is None else policy_rows(impact.policy),
            "measures": [] if impact.policy is None else [measure_cells(m) for m in impact.policy.measures],
            "most_prompts": MOST_PROMPTS,
            "min_prompts": MIN_PROMPTS,
        },
    )
