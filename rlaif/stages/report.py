"""The stage `report`: writes report.html from what the other stages left in the run folder."""

from __future__ import annotations

from rlaif.config import STAGES, StageName
from rlaif.core.files import RunFolder
from rlaif.report import overview
from rlaif.report.build import Written, build_report
from rlaif.stages.context import StageContext
from rlaif.stages.table import abouts


def run(context: StageContext) -> dict[str, float]:
    """Bytes, sections and examples of the page that was written."""
    written = write_report(context.run, context.config.report.examples)
    return {name: float(getattr(written, name)) for name in ("bytes", "sections", "examples")}


def write_report(run: RunFolder, examples: int = 12) -> Written:
    """Writes the page, whole or not at all, with at most `examples` texts to read of each kind."""
    return build_report(run, examples, abouts_of(run))


def abouts_of(run: RunFolder) -> dict[StageName, str]:
    """Stage -> what it does, of the stages of the run, which may be one whose config names what is not there."""
    config = overview.read_config(run)[0]
    there = [stage for stage in STAGES if (run.root / stage).is_dir()]
    given = overview.lookup(config, "label.source") is not None
    return abouts(given=given, align_by=overview.lookup(config, "align_by", ["ppo"]), there=there)
