"""Writes report.html: a run folder -> one self-contained page. Reads the run folder and nothing else.

Model text is untrusted: Jinja escapes every value, and every string passes `visible` first, so that nothing in a
page is hidden or turned around; the page's own policy forbids scripts and any address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlaif.core.files import RunFolder, write_atomic
from rlaif.gold.scorers import BETTER
from rlaif.judge.gate import card_of_run
from rlaif.report import curves, feedback, overview, samples, validation, verdict
from rlaif.report.summary import REFERENCE, Summary, name_of, read_summary
from rlaif.stages.context import StageContext
from rlaif.view import text
from rlaif.view.plots import histogram

SECTIONS = (
    ("result", "Result"),
    ("pipeline", "Pipeline"),
    ("constitution", "Constitution"),
    ("card", "Judge"),
    ("revise", "Revise"),
    ("sft", "SFT"),
    ("label", "Label"),
    ("reward", "Reward"),
    ("ppo", "PPO"),
    ("evaluate", "Evaluate"),
    ("provenance", "Config & provenance"),
)


def run(context: StageContext) -> dict[str, float]:
    """Bytes, sections and examples of the page that was written: the `report` stage."""
    page, counts = _page(context.run, context.config.report.examples)
    write_atomic(context.run.report_path, page)
    return counts


def build_report(run: RunFolder, examples: int = 12) -> Path:
    """The path of the page, written whole or not at all, with at most `examples` texts to read of each kind."""
    page, _ = _page(run, examples)
    write_atomic(run.report_path, page)
    return run.report_path


def _page(run: RunFolder, examples: int) -> tuple[str, dict[str, float]]:
    view = _view(run, examples)
    page = render("report.html.jinja", view)
    shown = [view["revise"].examples, view["label"].examples, view["samples"], view["rollouts"]]
    counts = {"bytes": len(page.encode()), "sections": len(SECTIONS), "examples": sum(map(len, shown))}
    return page, {key: float(value) for key, value in counts.items()}


def render(template: str, view: Mapping[str, Any]) -> str:
    """The page that one of the report's templates makes of `view`: every value escaped, nothing hidden in it."""
    return _environment().get_template(template).render(view)


def _view(run: RunFolder, examples: int) -> dict[str, Any]:
    """Everything that the template shows."""
    rows = overview.stage_rows(run)
    config, config_text = overview.read_config(run)
    constitution, constitution_problem = overview.read_constitution(run)
    summary = read_summary(run)
    part = overview.main_slice(config, summary.slices) if summary is not None else None
    revise = feedback.read_revise(run, examples)
    label = feedback.read_label(run, constitution, examples, overview.panel(config))
    held_out = curves.read_held_out(run)
    evaluate_failures = samples.evaluate_failures(run)
    return {
        "title": run.root.resolve().name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "sections": [(id, name) for id, name in SECTIONS if id != "card" or any(row.name == id for row in rows)],
        "stages": {row.name: row for row in rows},
        "failed": _failed(revise, label, evaluate_failures.total()),
        "facts": overview.facts(config, constitution, rows),
        "headline": verdict.headline(summary, part),
        "further": verdict.further(summary, part) if summary is not None else [],
        "summary": summary,
        "measured": summary.measured() if summary is not None else {},
        "unmeasured": summary.unmeasured() if summary is not None else [],
        "card": card_of_run(run),
        "constitution": constitution,
        "constitution_problem": constitution_problem,
        "revise": revise,
        "sft": curves.sft_curves(run),
        "label": label,
        "label_plot": histogram("prob-a", "Labels by P(A better)", label.bins, "P(A better)"),
        "reward": curves.reward_curves(run),
        "held_out": held_out,
        "reliability": curves.reliability_plot(held_out),
        "ppo": curves.ppo_curves(run, overview.lookup(config, "ppo.kl_target")),
        "validations": validation.read_validations(
            run,
            keep=overview.lookup(config, "ppo.keep", "last"),
            finished=run.record("ppo") is not None,
            examples=examples,
        ),
        "gold_names": list(BETTER),
        "rollouts": curves.read_rollouts(run, examples),
        "evaluate_plots": samples.measure_plots(summary) if summary is not None else [],
        "evaluate_failures": evaluate_failures,
        "samples": samples.side_by_side(run, summary, examples),
        "config_text": config_text,
        "provenance": overview.provenance(rows),
    }


def _failed(revise: feedback.ReviseFacts, label: feedback.LabelFacts, evaluate: int) -> dict[str, int]:
    """Failures found in the records of the stages that have records with failures."""
    return {"revise": revise.failures.total(), "label": label.failures.total(), "evaluate": evaluate}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rlaif.view", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": text.number,
        "interval": text.interval,
        "percent": text.percent,
        "percents": text.percents,
        "duration": text.duration,
        "model_name": name_of,
        "beginning": text.beginning,
        "shown": text.shown,
        "sentence": text.sentence,
    }
    environment.tests |= {"long": text.is_long, "known": text.is_known}
    environment.globals |= {"reference": REFERENCE, "common_decimals": text.common_decimals}
    environment.globals |= {"judged_class": _judged, "plain": _plain}
    return environment


def _finalize(value: Any) -> Any:
    """What stands on the page for a value: strings with nothing invisible, numbers rounded, None named."""
    if value is None or isinstance(value, float):
        return text.number(value)
    if isinstance(value, str) and not isinstance(value, Markup):
        return text.visible(value)
    return value


def _judged(summary: Summary, measure: str, difference: float) -> str:
    """CSS class of a difference whose interval excludes 0: "better", "worse", or "" where no direction is good."""
    better = summary.measures[measure].better
    if better not in ("lower", "higher"):
        return ""
    return "better" if (difference < 0) == (better == "lower") else "worse"


def _plain(value: Any) -> str:
    """A config value as JSON, without passwords in addresses."""
    return overview.without_passwords(json.dumps(value, ensure_ascii=False, default=str))
