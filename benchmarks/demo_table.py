"""Prints the table of docs/reference/results-demo.md from finished runs:
`python benchmarks/demo_table.py NAME=RUN[,RUN...] ...`

Runs behind one name (seeds) are pooled: per prompt the mean over seeds, differences v SFT taken within each run, the
interval by bootstrap over prompts. A second table says what each stage cost, from the first run of the first name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaif.core.files import JsonlFile, RunFolder, read_json_lines
from rlaif.core.records import PreferenceLabel, Response
from rlaif.core.statistics import Estimate, Keyed, mean, paired_difference, preferred

MEASURES = ("harm", "toxicity", "words", "finished", "refusal", "distinct_2")
RESAMPLES = 5000


def main(arguments: Sequence[str]) -> None:
    groups = {name: [Path(p) for p in paths.split(",")] for name, _, paths in (a.partition("=") for a in arguments)}
    for part in ("harmful", "harmless", "borderline"):
        print(f"\n### {part} prompts\n")
        print("| run | model | gold harm | v SFT | wins v SFT (judge) | words | finished | refusals | toxicity | KL |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name, runs in groups.items():
            for model in ("base", "sft", "ppo"):
                print(_row(name, runs, part, model))
    print("\n### Cost\n")
    _cost(RunFolder(next(iter(groups.values()))[0]))


def _row(name: str, runs: Sequence[Path], part: str, model: str) -> str:
    rows = {
        m: [r for run in runs for r in _scores(run) if r["slice"] == part and r["model"] == m] for m in (model, "sft")
    }
    cells = [name, model, _show(_mean(rows[model], "harm"))]
    cells.append("" if model == "sft" else _show(_difference(rows[model], rows["sft"], "harm"), sign=True))
    cells.append(_show(_wins(runs, part)) if model == "ppo" else "")
    for measure, digits in (("words", 1), ("finished", 2), ("refusal", 2), ("toxicity", 3)):
        found = _mean(rows[model], measure)
        cells.append("" if found is None else f"{found.mean:.{digits}f}")
    cells.append(_kl(runs, part) if model == "ppo" else "")
    return "| " + " | ".join(cells) + " |"


def _scores(run: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(run / "evaluate" / "scores.jsonl")]


def _keyed(rows: Sequence[dict[str, Any]], measure: str) -> list[Keyed]:
    return [(row["prompt_id"], None if row.get(measure) is None else float(row[measure])) for row in rows]


def _mean(rows: Sequence[dict[str, Any]], measure: str) -> Estimate | None:
    return mean(_keyed(rows, measure), seed=0, resamples=RESAMPLES)


def _difference(rows: Sequence[dict[str, Any]], against: Sequence[dict[str, Any]], measure: str) -> Estimate | None:
    return paired_difference(_keyed(rows, measure), _keyed(against, measure), seed=0, resamples=RESAMPLES)


def _wins(runs: Sequence[Path], part: str) -> Estimate | None:
    values: list[Keyed] = []
    for run in runs:
        kind = {r.id: r.model for r in JsonlFile(run / "evaluate" / "responses.jsonl", Response).read()}
        for label in JsonlFile(run / "evaluate" / "labels.jsonl", PreferenceLabel).read():
            pair = label.comparison
            if pair.prompt.slice == part and (kind[pair.a.id], kind[pair.b.id]) == ("ppo", "sft"):
                p = label.prob_a
                values.append((pair.prompt.id, None if p is None else preferred(p)))
    return mean(values, seed=0, resamples=RESAMPLES)


def _kl(runs: Sequence[Path], part: str) -> str:
    found = []
    for run in runs:
        summary = json.loads((run / "evaluate" / "summary.json").read_text(encoding="utf-8"))
        found += [row["mean"] for row in summary["kl"] if row["model"] == "ppo" and row["slice"] == part]
    found = [value for value in found if value is not None]
    return f"{sum(found) / len(found):.1f}" if found else ""


def _show(estimate: Estimate | None, *, sign: bool = False) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    form = "+.3f" if sign else ".3f"
    return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _cost(run: RunFolder) -> None:
    print("| stage | seconds | peak memory so far | tokens sampled | tokens scored | judge calls | failed |")
    print("|---|---|---|---|---|---|---|")
    for stage in ("revise", "sft", "label", "reward", "ppo", "evaluate", "report"):
        record = run.record(stage)
        if record is None:
            continue
        counts = record.counts
        sampled = counts.get("policy_generated_tokens", counts.get("generated_tokens", 0))
        cells = [stage, f"{record.seconds:.0f}", f"{record.peak_memory_gb:.1f} GB", f"{sampled:,.0f}"]
        cells.append(f"{counts.get('judge_scored_tokens', 0) + counts.get('policy_scored_tokens', 0):,.0f}")
        cells += [f"{counts.get('judge_calls', 0):,.0f}", f"{counts.get('failed', 0):,.0f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
