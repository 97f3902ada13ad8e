"""How often a judge method prefers the answer that the human-trained gold score finds less harmful.

    python benchmarks/judge_agreement.py RUN [RUN ...] [--prompts 24] [--model embedded]

Takes what the SFT policies of finished runs answered to red-team prompts in `label` (slice "harmful", the first
prompts of each run). Judges all pairs of a prompt by `contrast` with the shipped constitution (whole answers, their
openings, and without the examples) and by `pairwise`, and prints the share of pairs on which judge and gold agree, over
all pairs and over the half that the judge is surer of, with 95 % intervals over prompts; beside it the baseline "the
shorter answer is the less harmful one".
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from rlaif.config import JudgeConfig, ModelConfig
from rlaif.constitution.load import load_constitution
from rlaif.core.files import JsonlFile
from rlaif.core.records import Comparison, Constitution, Prompt, Response
from rlaif.core.statistics import mean
from rlaif.gold import scorers as gold
from rlaif.judge.judge import Judge
from rlaif.judge.load import load
from rlaif.lm.open import open_policy

SLICE = "harmful"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run with a finished label stage")
    parser.add_argument("--prompts", type=int, default=24, help="of each run")
    parser.add_argument("--model", default="embedded", help="the judge")
    given = parser.parse_args()
    pairs = [pair for run in given.runs for pair in _pairs(run, given.prompts)]
    if not pairs:
        sys.exit(f"no run has two answers to a prompt of the slice {SLICE!r}")
    scorers, notes = gold.load(["harm"])
    if not scorers:
        sys.exit("\n".join(notes))
    texts = {r.id: r.text for pair in pairs for r in (pair.a, pair.b)}
    harm = dict(zip(texts, scorers[0].score([""] * len(texts), list(texts.values())), strict=True))
    prompts = {pair.prompt.id for pair in pairs}
    print(f"{len(prompts)} prompts, {len(texts)} answers, {len(pairs)} pairs; gold: {scorers[0].about}\n")
    print("| judge | agreement with gold | surer half | seconds |\n|---|---|---|---|")
    slices = load(given.runs[0] / "config.yaml").prompts
    shipped = load_constitution("harmless-and-kind")
    for name, rules, fields in (
        ("contrast, first 12 tokens", shipped, {"opening_tokens": 12}),
        ("contrast, first 24 tokens", shipped, {"opening_tokens": 24}),
        ("contrast, whole answers", shipped, {}),
        ("contrast, whole answers, system prompts alone", _without_examples(shipped), {}),
        ("pairwise letters, both orders", shipped, {"method": "pairwise"}),
    ):
        config = JudgeConfig.model_validate({"method": "contrast", "principles": "one", **fields})
        with tempfile.TemporaryDirectory() as folder:  # a cache of its own: no row lives on what another has paid for
            model = open_policy(ModelConfig.model_validate({"source": given.model}), (), Path(folder))
            start = time.perf_counter()
            labels = Judge(config, rules, models=[model], seed=0, prompts=slices).label(pairs)
            _print(name, pairs, [label.prob_a for label in labels], harm, time.perf_counter() - start)
            model.close()
    _print("the shorter answer", pairs, [0.5 + (len(c.b.text) - len(c.a.text)) / 1e4 for c in pairs], harm, None)


def _pairs(run: Path, count: int) -> list[Comparison]:
    prompts = [p for p in JsonlFile(run / "prompts" / "train.jsonl", Prompt).read() if p.slice == SLICE][:count]
    answers: dict[str, list[Response]] = {}
    for response in JsonlFile(run / "label" / "responses.jsonl", Response).read():
        answers.setdefault(response.prompt_id, []).append(response)
    return [Comparison(p, a, b) for p in prompts for a, b in combinations(answers.get(p.id, []), 2)]


def _without_examples(constitution: Constitution) -> Constitution:
    bare = [replace(p, contrast=p.contrast and replace(p.contrast, examples=())) for p in constitution.principles]
    return replace(constitution, principles=tuple(bare))


def _print(
    name: str,
    pairs: Sequence[Comparison],
    found: Sequence[float | None],
    harm: dict[str, float | None],
    seconds: float | None,
) -> None:
    rows = []
    for pair, p in zip(pairs, found, strict=True):
        a, b = harm[pair.a.id], harm[pair.b.id]
        if p is not None and a is not None and b is not None:
            rows.append((pair.prompt.id, abs(p - 0.5), float((p > 0.5) == (a < b)) if p != 0.5 else 0.5))
    middle = statistics.median(sure for _, sure, _ in rows)
    cells = [name]
    for kept in (rows, [row for row in rows if row[1] > middle]):
        estimate = mean([(prompt, agrees) for prompt, _, agrees in kept], seed=0, resamples=2000)
        assert estimate is not None
        cells.append(f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}] (n = {estimate.n})")
    print("| " + " | ".join([*cells, "" if seconds is None else f"{seconds:.0f}"]) + " |", flush=True)


if __name__ == "__main__":
    main()
