"""The impact of an edit as one self-contained HTML page, and where such a file may be written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rlaif.errors import ConfigError
from rlaif.impact.impact import Impact
from rlaif.impact.measure import MIN_PROMPTS
from rlaif.impact.wording import (
    agreement_line,
    cost_line,
    flips_line,
    labels_line,
    measure_cells,
    policy_rows,
    revision_rows,
    reward_rows,
)
from rlaif.report.build import render
from rlaif.store import RunFolder


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
            "min_prompts": MIN_PROMPTS,
        },
    )


def refuse_place(path: Path, suffix: str, option: str, run: Path | None) -> None:
    """Raises ConfigError unless the file ends in `suffix`, lies in none of the run's folders and is not the run's
    report: what a stage or `rlaif report` wrote is never overwritten."""
    if path.suffix.lower() != suffix:
        raise ConfigError(f"{option} {path} does not end in {suffix}", remedy=f"for example {option} impact{suffix}")
    if run is None:
        return
    if path.resolve() == RunFolder(run).report_path.resolve():
        raise ConfigError(
            f"{option} {path} is the report of the run",
            remedy=f"for example {option} {run / f'impact{suffix}'}",
        )
    if run.resolve() in path.resolve().parent.parents:
        raise ConfigError(
            f"{option} {path} lies in a folder that belongs to a stage of the run",
            remedy=f"for example {option} {run / f'impact{suffix}'}",
        )
