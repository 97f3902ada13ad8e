"""How often a judge method prefers the answer that the human-trained gold score finds less harmful.

    python benchmarks/judge_agreement.py [--run RUN] [--prompts 48] [--samples 4] [--model embedded]

Samples answers of the model to Do-Not-Answer prompts at temperature 0.7, or with `--run` takes those that the run's
SFT policy gave in `label`. Judges all pairs of a prompt by `contrast` with the shipped constitution (whole answers,
their openings, and without the examples) and by `pairwise`, and prints the share of pairs on which judge and gold
agree, over all pairs and over the half that the judge is surer of, with 95 % intervals over prompts; beside it the
baseline "the shorter answer is the less harmful one".
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

from rlaif.config import JudgeConfig, ModelConfig, PromptSlice
from rlaif.constitution.load import load_constitution
from rlaif.evaluation import gold
from rlaif.evaluation.statistics import mean
from rlaif.judge.judge import Judge
from rlaif.lm.open import open_policy
from rlaif.lm.protocol import GenerateRequest, LanguageModel
from rlaif.prompt_sets import split_prompts
from rlaif.records import Comparison, Constitution, Prompt, Response, record_seed
from rlaif.store import JsonlFile

SLICE = ["harm", "honesty", "safety", "privacy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run: judge what its SFT policy answered")
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--model", default="embedded", help="the judge, and without --run also the model that answers")
    given = parser.parse_args()
    slices = {"harmful": PromptSlice(source="do-not-answer", train=given.prompts, held_out=0, principles=SLICE)}
    with tempfile.TemporaryDirectory() as folder:
        model = open_policy(ModelConfig(source=given.model), (), Path(folder))
        prompts, answers = _of_run(given.run) if given.run else _sampled(model, slices, given.samples)
        pairs = [Comparison(p, a, b) for p in prompts for a, b in combinations(answers.get(p.id, []), 2)]
        scorers, notes = gold.load(["harm"])
        if not scorers:
            sys.exit("\n".join(notes))
        texts = {r.id: r.text for group in answers.values() for r in group}
        harm = dict(zip(texts, scorers[0].score([""] * len(texts), list(texts.values())), strict=True))
        print(f"{len(prompts)} prompts, {len(pairs)} pairs; gold: {scorers[0].about}\n")
        print("| judge | agreement with gold | surer half | seconds |\n|---|---|---|---|")
        constitution = load_constitution("harmless-and-kind")
        for name, rules, fields in (
            ("contrast, first 6 tokens", constitution, {"opening_tokens": 6}),
            ("contrast, first 12 tokens", constitution, {"opening_tokens": 12}),
            ("contrast, first 24 tokens", constitution, {"opening_tokens": 24}),
            ("contrast, whole answers", constitution, {}),
            ("contrast, whole answers, system prompts alone", _without_examples(constitution), {}),
            ("contrast, first 12 tokens, all principles", constitution, {"opening_tokens": 12, "principles": "all"}),
            ("pairwise letters, both orders", constitution, {"method": "pairwise"}),
        ):
            config = JudgeConfig.model_validate({"method": "contrast", "principles": "one", **fields})
            start = time.perf_counter()
            labels = Judge(config, rules, model=model, seed=0, prompts=slices).label(pairs)
            _print(name, pairs, [label.prob_a for label in labels], harm, time.perf_counter() - start)
        _print("the shorter answer", pairs, [0.5 + (len(c.b.text) - len(c.a.text)) / 1e4 for c in pairs], harm, 0.0)
        model.close()


def _of_run(run: Path) -> tuple[list[Prompt], dict[str, list[Response]]]:
    prompts = [p for p in JsonlFile(run / "prompts" / "train.jsonl", Prompt).read() if p.slice == "harmful"]
    answers: dict[str, list[Response]] = {}
    for response in JsonlFile(run / "label" / "responses.jsonl", Response).read():
        answers.setdefault(response.prompt_id, []).append(response)
    return prompts, answers


def _sampled(
    model: LanguageModel, slices: dict[str, PromptSlice], samples: int
) -> tuple[list[Prompt], dict[str, list[Response]]]:
    prompts, _ = split_prompts(slices, 0)
    asked = [(p, k) for p in prompts for k in range(samples)]
    requests = [GenerateRequest(p.messages, 48, 0.7, record_seed(0, "agreement", p.id, k)) for p, k in asked]
    answers: dict[str, list[Response]] = {}
    for (p, _), r, g in zip(asked, requests, model.generate(requests), strict=True):
        if g.text is not None:
            answers.setdefault(p.id, []).append(Response(p.id, g.text, "base", r.seed, 0.7, g.finish, g.n_tokens))
    return prompts, answers


def _without_examples(constitution: Constitution) -> Constitution:
    bare = [replace(p, contrast=p.contrast and replace(p.contrast, examples=())) for p in constitution.principles]
    return replace(constitution, principles=tuple(bare))


def _print(
    name: str,
    pairs: Sequence[Comparison],
    found: Sequence[float | None],
    harm: dict[str, float | None],
    seconds: float,
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
    print("| " + " | ".join([*cells, f"{seconds:.0f}" if seconds else ""]) + " |", flush=True)


if __name__ == "__main__":
    main()
