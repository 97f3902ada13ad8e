"""`label`: the SFT policy answers each prompt several times, and the judge says which of two answers is better.

RL-CAI (arXiv 2212.08073, section 4) and RLAIF (2309.00267): the labels stay soft. A pair that the judge cannot
judge is kept with its reason and counted; it is no tie and no coin flip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from rlaif.core.errors import StageError
from rlaif.core.files import JsonlFile
from rlaif.core.records import Comparison, FailedAnswer, PreferenceLabel, Prompt, Response, content_id, record_seed
from rlaif.judge.gate import passed_card
from rlaif.lm.open import OnDemand
from rlaif.lm.protocol import GenerateRequest
from rlaif.stages.context import StageContext
from rlaif.stages.resume import answer_record, commonest, failed_answers, resume


def run(context: StageContext) -> dict[str, float]:
    """Writes label/responses.jsonl and label/labels.jsonl; returns counts of pairs, labels and failures by kind."""
    prompts = context.train_prompts()
    answers = _sample(context, prompts)
    responses = [answer for answer in answers if isinstance(answer, Response)]
    comparisons = _comparisons(context, prompts, responses)
    if not comparisons:
        lost = [answer for answer in answers if isinstance(answer, FailedAnswer)]
        raise StageError(
            f"no prompt has two different answers{commonest(lost)}",
            where=str(context.folder / "failures.jsonl") if lost else "label",
            remedy="raise label.samples or label.temperature",
        )
    labels = _judge(context, comparisons)
    failures = Counter(answer.failure.kind for answer in answers if isinstance(answer, FailedAnswer))
    failures.update(label.failure.kind for label in labels if label.failure is not None)
    del failures["abstained"]
    return {
        "prompts": len(prompts),
        "responses": len(responses),
        "responses_failed": len(answers) - len(responses),
        "responses_finished": sum(r.finish == "stop" for r in responses),
        **label_counts(labels),
        "failed": sum(failures.values()),
        **{f"failed_{kind}": number for kind, number in sorted(failures.items())},
    }


def pairs(context: StageContext) -> list[Comparison]:
    """The pairs that the stage has judged; samples the answers that are not there yet."""
    prompts = context.train_prompts()
    answers = _sample(context, prompts)
    return _comparisons(context, prompts, [answer for answer in answers if isinstance(answer, Response)])


def label_counts(labels: Sequence[PreferenceLabel]) -> dict[str, float]:
    """What labels come to: pairs, labelled ones, abstentions, failures, mean confidence and consistency."""
    missing = [label.failure.kind for label in labels if label.failure is not None]
    probabilities = [label.prob_a for label in labels if label.prob_a is not None]
    consistencies = [label.consistency for label in labels if label.consistency is not None]
    counts: dict[str, float] = {
        "pairs": len(labels),
        "labelled": len(probabilities),
        "abstained": missing.count("abstained"),
        "pairs_failed": len(missing) - missing.count("abstained"),
    }
    silent = Counter(v.member for label in labels for v in label.verdicts if v.member and v.failure is not None)
    counts.update({f"verdicts_failed_{member}": number for member, number in sorted(silent.items())})
    if probabilities:
        counts["mean_confidence"] = sum(abs(p - 0.5) for p in probabilities) / len(probabilities) + 0.5
    if consistencies:
        counts["consistency"] = sum(consistencies) / len(consistencies)
    return counts


def _sample(context: StageContext, prompts: Sequence[Prompt]) -> list[Response | FailedAnswer]:
    """`label.samples` answers of the SFT policy per prompt, those that failed among them."""
    table, seed = context.config.label, context.config.seed
    policy = OnDemand(lambda: context.open_policy((context.adapter("sft"),)))

    def answer(chunk: Sequence[Prompt]) -> list[Response | FailedAnswer]:
        asked = [(prompt, record_seed(seed, "label", prompt.id, k)) for prompt in chunk for k in range(table.samples)]
        requests = [GenerateRequest(p.messages, table.max_new_tokens, table.temperature, s) for p, s in asked]
        return [
            answer_record(prompt, "sft", request, made)
            for (prompt, _), request, made in zip(asked, requests, policy.ask(requests), strict=True)
        ]

    with context.progress.task("sampling answers", len(prompts), "prompts") as task:
        answers = resume(
            prompts,
            size=table.batch_size,
            files=(context.responses("label"), failed_answers(context.folder)),
            keys=lambda p: [(p.id, record_seed(seed, "label", p.id, k)) for k in range(table.samples)],
            key_of=lambda r: (r.prompt_id, r.seed),
            work=answer,
            task=task,
        )
    policy.close()
    return answers


def _comparisons(context: StageContext, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Comparison]:
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
    judge = context.judge(card=passed_card(context.run, config))
    with context.progress.task("judging pairs", len(comparisons), "pairs") as task:
        labels = resume(
            comparisons,
            size=config.label.batch_size * config.label.pairs,
            files=(JsonlFile(context.folder / "labels.jsonl", PreferenceLabel),),
            keys=lambda comparison: [comparison.id],
            key_of=lambda label: label.comparison.id,
            work=judge.label,
            task=task,
        )
    judge.close()
    return labels
