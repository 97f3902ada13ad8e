"""`label`: the SFT policy answers each prompt several times, and the judge says which of two answers is better.

RL-CAI (arXiv 2212.08073, section 4) and RLAIF (2309.00267): the labels stay soft. A pair that the judge cannot
judge is kept with its reason and counted; it is no tie and no coin flip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from rlaif.errors import StageError
from rlaif.feedback.chunks import resume
from rlaif.judge.judge import Judge
from rlaif.lm.protocol import GenerateRequest
from rlaif.records import Comparison, PreferenceLabel, Prompt, Response, content_id, record_seed
from rlaif.stage import StageContext
from rlaif.store import JsonlFile


def run(context: StageContext) -> dict[str, float]:
    """Writes label/responses.jsonl and label/labels.jsonl; returns counts of pairs, labels and failures by kind."""
    prompts = context.train_prompts()
    responses = _sample(context, prompts)
    comparisons = _comparisons(context, prompts, responses)
    if not comparisons:
        raise StageError(
            "no prompt has two different answers",
            where="label",
            remedy="raise label.samples or label.temperature",
        )
    labels = _judge(context, comparisons)
    failures = Counter(label.failure.kind for label in labels if label.failure is not None)
    probabilities = [label.prob_a for label in labels if label.prob_a is not None]
    consistencies = [label.consistency for label in labels if label.consistency is not None]
    counts: dict[str, float] = {
        "prompts": len(prompts),
        "responses": len(responses),
        "responses_finished": sum(r.finish == "stop" for r in responses),
        "pairs": len(labels),
        "labelled": len(probabilities),
        "failed": len(labels) - len(probabilities),
        **{f"failed_{kind}": number for kind, number in sorted(failures.items())},
    }
    if probabilities:
        counts["mean_confidence"] = sum(abs(p - 0.5) for p in probabilities) / len(probabilities) + 0.5
    if consistencies:
        counts["consistency"] = sum(consistencies) / len(consistencies)
    return counts


def _sample(context: StageContext, prompts: Sequence[Prompt]) -> list[Response]:
    """`label.samples` answers of the SFT policy per prompt; an answer that failed is missing and counted by `run`."""
    table, seed = context.config.label, context.config.seed
    file = context.responses("label")
    if all_there(file, len(prompts) * table.samples):
        return file.read()
    policy = context.open_policy((context.adapter("sft"),))

    def answer(chunk: Sequence[Prompt]) -> list[Response]:
        asked = [(prompt, k) for prompt in chunk for k in range(table.samples)]
        requests = [
            GenerateRequest(p.messages, table.max_new_tokens, table.temperature, record_seed(seed, "label", p.id, k))
            for p, k in asked
        ]
        answers = policy.generate(requests)
        return [
            Response(p.id, g.text, "sft", r.seed, table.temperature, g.finish, g.n_tokens)
            for (p, _), r, g in zip(asked, requests, answers, strict=True)
            if g.text is not None
        ]

    with context.progress.task("sampling answers", len(prompts), "prompts") as task:
        responses = resume(
            prompts,
            size=table.batch_size,
            file=file,
            keys=lambda p: [(p.id, record_seed(seed, "label", p.id, k)) for k in range(table.samples)],
            key_of=lambda r: (r.prompt_id, r.seed),
            work=answer,
            task=task,
        )
    context.extra["policy_usage"] = policy.usage.as_counts("policy")
    policy.close()
    return responses


def all_there(file: JsonlFile[Response], expected: int) -> bool:
    """Whether every answer is on disk, so that the policy need not be loaded."""
    return len(file.read()) == expected


def _comparisons(
    context: StageContext, prompts: Sequence[Prompt], responses: Sequence[Response]
) -> list[Comparison]:
    """Up to `label.pairs` pairs of different answers per prompt, chosen and ordered by hash."""
    seed = context.config.seed
    answers: dict[str, dict[str, Response]] = {}
    for response in responses:
        answers.setdefault(response.prompt_id, {}).setdefault(response.text, response)
    found = []
    for prompt in prompts:
        pairs = list(combinations(answers.get(prompt.id, {}).values(), 2))
        pairs.sort(key=lambda pair: content_id(seed, pair[0].id, pair[1].id))
        for first, second in pairs[: context.config.label.pairs]:
            # Which answer stands as A is drawn too: nothing about an answer may show in its place.
            flip = record_seed(seed, "order", first.id, second.id) % 2
            a, b = (second, first) if flip else (first, second)
            found.append(Comparison(prompt, a, b))
    return found


def _judge(context: StageContext, comparisons: Sequence[Comparison]) -> list[PreferenceLabel]:
    config = context.config
    model = None if config.judge.method == "random" else context.open_judge()
    judge = Judge(
        config.judge, context.constitution, model=model, seed=config.seed, templates=context.run.templates_path
    )
    with context.progress.task("judging pairs", len(comparisons), "pairs") as task:
        labels = resume(
            comparisons,
            size=config.label.batch_size * config.label.pairs,
            file=JsonlFile(context.folder / "labels.jsonl", PreferenceLabel),
            keys=lambda comparison: [comparison.id],
            key_of=lambda label: label.comparison.id,
            work=judge.label,
            task=task,
        )
    if model is not None:
        context.extra["judge_usage"] = model.usage.as_counts("judge")
        model.close()
    return labels
