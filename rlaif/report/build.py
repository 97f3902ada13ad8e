"""Writes report.html: a run folder -> one self-contained page. Reads the run folder and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlaif.config import StageName
from rlaif.core.evaluation import REFERENCE, Summary, read_held_out, read_summary
from rlaif.core.files import RunFolder, write_atomic
from rlaif.judge.card.records import card_of_run
from rlaif.judge.gold_agreement import read_agreement
from rlaif.report import curves, feedback, first_screen, overview, samples, validation, verdict
from rlaif.report.summary import name_of
from rlaif.view.plots import histogram
from rlaif.view.render import render

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
    ("dpo", "DPO"),
    ("evaluate", "Evaluate"),
    ("provenance", "Config & provenance"),
)


@dataclass(frozen=True, slots=True)
class Written:
    """Where the page is, and how much of it there is: `examples` counts the texts to read of every kind."""

    path: Path
    bytes: int
    sections: int
    examples: int


def build_report(run: RunFolder, examples: int, abouts: Mapping[StageName, str]) -> Written:
    """Writes the page, whole or not at all, with at most `examples` texts to read of each kind.

    `abouts` are the stages in their order, each with a sentence on what it does.
    """
    rows = overview.stage_rows(run, abouts)
    config, config_text = overview.read_config(run)
    constitution, constitution_problem = overview.read_constitution(run)
    if overview.lookup(config, "label.source") is not None:
        constitution, constitution_problem = None, "The labels are given: no constitution has a part in them."
    elif not {"revise", "label"} & abouts.keys():
        constitution, constitution_problem = None, "This run has no judge: no constitution has a part in it."
    summary = read_summary(run)
    part = overview.main_slice(config, summary.slices) if summary is not None else None
    revise = feedback.read_revise(run, examples)
    label = feedback.read_label(run, constitution, examples, overview.panel(config))
    held_out = read_held_out(run)
    golds = validation.gold_measures(overview.lookup(config, "ppo.gold", []), summary)
    evaluate_failures = samples.evaluate_failures(run)
    controls, controls_problem = first_screen.controls_of(run)
    cases = first_screen.chosen_prompts(run, summary, part)
    further = verdict.further(summary, part, controls) if summary is not None else []
    answers, rollouts = samples.side_by_side(run, summary, examples), curves.read_rollouts(run, examples)
    known = {row.name for row in rows}
    sections = [(id, name) for id, name in SECTIONS if id not in overview.RECORD_FILES or id in known]
    view: dict[str, object] = {
        "title": run.root.resolve().name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "sections": sections,
        "stages": {row.name: row for row in rows},
        "failed": _failed(revise, label, evaluate_failures.total()),
        "facts": overview.facts(config, constitution, rows),
        "headline": verdict.headline(summary, part) if "evaluate" in known else verdict.NOT_COMPARED,
        "further": [line for line in [*further, verdict.reward_sentence(held_out)] if line],
        "pictures": first_screen.pictures(summary, controls, part) if summary is not None else [],
        "controls": controls,
        "controls_problem": controls_problem,
        "cases": cases.cases,
        "cases_rule": cases.rule,
        "case_measures": first_screen.case_measures(summary),
        "explanations": verdict.explanations(summary, part) if summary is not None else {},
        "explained": verdict.compared(summary) if summary is not None else "",
        "none_shown": verdict.NONE_SHOWN,
        "summary": summary,
        "measured": summary.measured() if summary is not None else {},
        "unmeasured": summary.unmeasured() if summary is not None else [],
        "card": card_of_run(run),
        "constitution": constitution,
        "constitution_problem": constitution_problem,
        "revise": revise,
        "sft": curves.sft_curves(run),
        "label": label,
        "agreement": read_agreement(run),
        "label_plot": histogram("prob-a", "Labels by P(A better)", label.bins, "P(A better)"),
        "reward": curves.reward_curves(run),
        "held_out": held_out,
        "accuracies": curves.accuracies(held_out),
        "reliability": curves.reliability_plot(held_out),
        "ppo": curves.ppo_curves(run, overview.lookup(config, "ppo.kl_target")),
        "dpo": curves.dpo_curves(run),
        "validations": validation.read_validations(
            run,
            keep=overview.lookup(config, "ppo.keep", "last"),
            finished=run.record("ppo") is not None,
            examples=examples,
            gold=golds,
        ),
        "gold_names": list(golds),
        "rollouts": rollouts,
        "evaluate_plots": samples.measure_plots(summary) if summary is not None else [],
        "evaluate_failures": evaluate_failures,
        "samples": answers,
        "config_text": config_text,
        "provenance": overview.provenance(rows),
        "reference": REFERENCE,
        "model_name": name_of,
        "judged_class": _judged,
        "plain": _plain,
    }
    page = render("report.html.jinja", view)
    write_atomic(run.report_path, page)
    shown = len(revise.examples) + len(label.examples) + len(answers) + len(rollouts)
    return Written(run.report_path, len(page.encode()), len(sections), shown)


def _failed(revise: feedback.ReviseFacts, label: feedback.LabelFacts, evaluate: int) -> dict[str, int]:
    """Failures found in the records of the stages that have records with failures."""
    return {"revise": revise.failures.total(), "label": label.failures.total(), "evaluate": evaluate}


def _judged(summary: Summary, measure: str, difference: float) -> str:
    """CSS class of a difference whose interval excludes 0: "better", "worse", or "" where no direction is good."""
    better = summary.measures[measure].better
    if better not in ("lower", "higher"):
        return ""
    return "better" if (difference < 0) == (better == "lower") else "worse"


def _plain(value: Any) -> str:
    """A config value as JSON, without passwords in addresses."""
    return overview.without_passwords(json.dumps(value, ensure_ascii=False, default=str))
