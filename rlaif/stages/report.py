"""The stage `report`: writes report.html from what the other stages left in the run folder."""

from __future__ import annotations

from rlaif.core.files import RunFolder
from rlaif.report.build import Written, build_report
from rlaif.stages.context import StageContext
from rlaif.stages.table import abouts_of


def run(context: StageContext) -> dict[str, float]:
    """Bytes, sections and examples of the page that was written."""
    written = write_report(context.run, context.config.report.examples)
    return {name: float(getattr(written, name)) for name in ("bytes", "sections", "examples")}


def write_report(run: RunFolder, examples: int = 12) -> Written:
    """Writes the page, whole or not at all, with at most `examples` texts to read of each kind."""
    return build_report(run, examples, abouts_of(run))
