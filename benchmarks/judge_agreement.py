"""How often a judge method prefers the answer that the human-trained gold score finds less harmful.

    python benchmarks/judge_agreement.py [PROMPTS=48] [SAMPLES=4] [MODEL=embedded]

Samples answers of the model to Do-Not-Answer prompts at temperature 0.7, judges all pairs of a prompt by `contrast`
with the shipped constitution (as it is, and without its examples) and by `pairwise`, and prints the share of pairs on
which judge and gold agree, over all pairs and over the half that the judge is surer of, with 95 % intervals over
prompts; beside it the baseline "the shorter answer is the less harmful one".
"""

from __future__ import annotations

import statistics
import sys
import tempfile
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
from rlaif.lm.protocol import GenerateRequest
from rlaif.prompt_sets import split_prompts
from rlaif.records import Comparison, Constitution, Response, record_seed

SLICE = ["harm", "honesty", "safety", "privacy"]


def main(prompts_wanted: int = 48, samples: int = 4, source: str = "embedded") -> None:
    slices = {"harmful": PromptSlice(source="do-not-answer", train=prompts_wanted, held_out=0, principles=SLICE)}
    prompts, _ = split_prompts(slices, 0)
    with tempfile.TemporaryDirectory() as folder:
        model = open_policy(ModelConfig(source=source), (), Path(folder))
        asked = [(p, k) for p in prompts for k in range(samples)]
        requests = [GenerateRequest(p.messages, 48, 0.7, record_seed(0, "agreement", p.id, k)) for p, k in asked]
        answers: dict[str, list[Response]] = {}
        for (p, _), r, g in zip(asked, requests, model.generate(requests), strict=True):
            if g.text is not None:
                answers.setdefault(p.id, []).append(Response(p.id, g.text, "base", r.seed, 0.7, g.finish, g.n_tokens))
        pairs = [Comparison(p, a, b) for p in prompts for a, b in combinations(answers.get(p.id, []), 2)]
        scorers, notes = gold.load(["harm"])
        if not scorers:
            sys.exit("\n".join(notes))
        texts = {r.id: r.text for group in answers.values() for r in group}
        harm = dict(zip(texts, scorers[0].score([""] * len(texts), list(texts.values())), strict=True))
        print(f"{len(prompts)} prompts, {len(pairs)} pairs; gold: {scorers[0].about}\n")
        print("| judge | agreement with gold | surer half |\n|---|---|---|")
        constitution = load_constitution("harmless-and-kind")
        for name, method, rules in (
            ("contrast, with examples", "contrast", constitution),
            ("contrast, system prompts alone", "contrast", _without_examples(constitution)),
            ("pairwise letters, both orders", "pairwise", constitution),
        ):
            config = JudgeConfig.model_validate({"method": method, "principles": "one"})
            labels = Judge(config, rules, model=model, seed=0, prompts=slices).label(pairs)
            _print(name, pairs, [label.prob_a for label in labels], harm)
        _print("the shorter answer", pairs, [0.5 + (len(c.b.text) - len(c.a.text)) / 1e4 for c in pairs], harm)
        model.close()


def _without_examples(constitution: Constitution) -> Constitution:
    bare = [replace(p, contrast=p.contrast and replace(p.contrast, examples=())) for p in constitution.principles]
    return replace(constitution, principles=tuple(bare))


def _print(
    name: str, pairs: Sequence[Comparison], found: Sequence[float | None], harm: dict[str, float | None]
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
    print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(*(int(a) if a.isdigit() else a for a in sys.argv[1:]))  # type: ignore[arg-type]
