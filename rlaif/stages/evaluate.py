"""The stage `evaluate`: base, SFT, PPO and DPO answer the held-out prompts; gold scores, the judge and KL compare them.

With `evaluate.best_of` the best of so many answers of SFT stands beside them as a further model (best_of.py).

What costs time is appended chunk by chunk and read back on resume; what is cheap (scores, summary) is computed anew
from those files. A chunk is a fixed stretch of the work list: it is skipped when all its records are on disk and
otherwise done again as a whole, so that no record depends on where an earlier session stopped.

The base model gives every answer a log-probability per token, at temperature 1, as a check of everyday quality.
KL(ppo || sft) is estimated on the PPO policy's own answers: the sum over the tokens of each answer's text of
log p_ppo - log p_sft (DPO's likewise), the end-of-turn token excluded (the text is tokenised again; nothing is known of
how a cut-off answer would have ended). Both are taken at the temperature of the answers, for it is the mean under the
distribution that they were drawn from that is a KL; likeliest answers (temperature 0) are read at temperature 1.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

from rlaif.config import RunConfig
from rlaif.core.errors import StageError
from rlaif.core.evaluation import ALIGNED, REFERENCE, ScoreRow
from rlaif.core.files import JsonlFile, write_atomic
from rlaif.core.records import Comparison, FailedAnswer, Failure, PreferenceLabel, Prompt, Response, record_seed
from rlaif.core.statistics import Draw
from rlaif.gold import scorers as gold
from rlaif.judge.gold_agreement import gold_agreement
from rlaif.lm.open import OnDemand
from rlaif.lm.protocol import GenerateRequest, LanguageModel, ScoreRequest
from rlaif.stages.context import StageContext
from rlaif.stages.resume import answer_record, chunks, failed_answers, resume
from rlaif.stages.summary import (
    COMPARISONS,
    LogprobRow,
    Measurements,
    answer_scores,
    best_of_name,
    compared_models,
    summarise,
)

T = TypeVar("T")
R = TypeVar("R")


AnswerRecord = Response | FailedAnswer


def run(context: StageContext) -> dict[str, float]:
    """Counts and headline numbers of the evaluation; writes responses, labels, scores and summary.json."""
    # 1. What there is to compare.
    prompts = list({prompt.id: prompt for prompt in context.held_out_prompts()}.values())
    if not prompts:
        raise StageError(
            "there are no held-out prompts to evaluate on",
            where="prompts.<slice>.held_out",
            remedy="add a slice of prompts that were not trained on, with train: 0 and held_out: 20 or more",
        )
    adapters, notes = _available(context)
    config = context.config.evaluate
    best = best_of_name(config.best_of) if _can_choose(context, adapters, notes) else ""

    # 2. Answers of every model. PPO and DPO go before SFT, which then scores their answers in the same visit (for KL);
    # base goes last and scores those of all.
    answers: dict[str, list[AnswerRecord]] = {}
    logprobs: list[LogprobRow] = []
    for model in [name for name in (*ALIGNED, REFERENCE, "base") if name in adapters]:
        with closing(OnDemand(partial(context.open_policy, adapters[model]))) as policy:
            answers[model] = _answers(context, prompts, model, policy, config.samples, "responses.jsonl")
            if model == REFERENCE and best:
                drawn = _answers(context, prompts, best, policy, config.best_of, "best_of.jsonl")
            if not adapters[model]:
                given = [answer for rows in answers.values() for answer in rows]
                logprobs += _logprobs(context, prompts, given, "base", policy, temperature=1.0)
            aligned = [name for name in ALIGNED if name in adapters] if REFERENCE in adapters else []
            for name in aligned if model == REFERENCE else [name for name in aligned if name == model]:
                logprobs += _logprobs(
                    context, prompts, answers[name], model, policy, temperature=config.temperature or 1.0
                )
        if model == REFERENCE and best:  # the policy is closed, so that the reward models have its room
            answers[best] = _chosen(context, prompts, drawn, answers[REFERENCE])
    answers = {model: answers[model] for model in ("base", REFERENCE, *ALIGNED, best) if model in answers}

    # 3. Scores that never saw an AI label, per response.
    responses = [answer for rows in answers.values() for answer in rows if isinstance(answer, Response)]
    scores, scorers, missing = _scores(context, prompts, responses, logprobs)
    notes += missing + _judge_notes(context.config, adapters)

    #    The same scorers say what the labels were worth, which no reward saw.
    _label_agreement(context, scorers, missing)

    # 4. The judge on pairs of models: k-th answer against k-th answer.
    labels = _labels(context, prompts, answers) if context.config.judged else []

    # 5. What it comes to.
    outcome = Measurements(
        prompts,
        config.samples,
        list(answers),
        responses,
        scores,
        labels,
        logprobs,
        scorers,
        notes,
        best_of=config.best_of,
        judged=context.config.judged,
    )
    summary, headline = summarise(outcome, context.config.seed, config.bootstrap)
    summary.write(context.folder / "summary.json")
    return {**_counts(prompts, answers, labels, logprobs), **headline}


def _label_agreement(context: StageContext, scorers: Sequence[gold.GoldScorer], notes: Sequence[str]) -> None:
    """Writes label_agreement.json: how far gold agrees with the run's labels, if there are any."""
    labels = JsonlFile(context.run.file("label", "labels.jsonl"), PreferenceLabel).read()
    if labels and (scorers or notes):
        draw = Draw(record_seed(context.config.seed, "label agreement"), context.config.evaluate.bootstrap)
        gold_agreement(labels, scorers, draw, notes).write(context.run)


def _judge_notes(config: RunConfig, adapters: Container[str]) -> list[str]:
    """What a reader of the win rates has to know of the judge."""
    notes, judge = [], config.judge
    if not config.start:
        after, given = " and ".join(name.upper() for name in config.align_by), ""
        if config.given_labels:
            given = "the labels were given, and "
        notes.append(f"SFT is the model of the run as it is: {given}nothing was fine-tuned before {after}")
    if not config.judged:
        whose = "the labels of this run are not a judge's" if config.given_labels else "this run has no labels"
        return [*notes, f"win rates: no judge was asked, since {whose}"]
    if judge.method == "contrast" and judge.opening_tokens is not None:
        notes.append(f"win rates: the judge read the first {judge.opening_tokens} tokens of each answer")
    if config.ppo.scored_by("judge") and "ppo" in adapters:
        notes.append("win rates of PPO: this judge was its reward, so they show that it learnt, not that it is better")
    if "dpo" in adapters:
        notes.append(
            "win rates of DPO: it learnt this judge's labels, so they show that it learnt, not that it is better"
        )
    return notes


def _available(context: StageContext) -> tuple[dict[str, tuple[Path, ...]], list[str]]:
    """Adapter folders of every model whose stages were run, and a note for each that is left out."""
    found, notes = {}, []
    for model, stages in compared_models(context.config).items():
        folders = tuple(context.adapter(stage) for stage in stages)
        absent = [stage for stage, folder in zip(stages, folders, strict=True) if not folder.is_dir()]
        if absent:
            notes.append(f"{model} not evaluated: there is no adapter of the stage {' and '.join(absent)}")
        else:
            found[model] = folders
    if REFERENCE not in found or not set(ALIGNED) & found.keys():
        notes.append("KL not measured: it needs the SFT adapter and that of PPO or DPO")
    return found, notes


def _can_choose(context: StageContext, adapters: Container[str], notes: list[str]) -> bool:
    """Whether the best of n is asked for and can be had; where it cannot, `notes` grows by the reason."""
    n = context.config.evaluate.best_of
    if not n:
        return False
    absent = [] if REFERENCE in adapters else ["sft"]
    if context.config.ppo.scored_by("model"):
        names = context.config.reward.adapters
        absent += [] if all(context.run.file("reward", name).is_dir() for name in names) else ["reward"]
    if absent:
        notes.append(f"{best_of_name(n)} not evaluated: there is no adapter of the stage {' and '.join(absent)}")
    return not absent


def _chosen(
    context: StageContext, prompts: Sequence[Prompt], drawn: Sequence[AnswerRecord], references: Sequence[AnswerRecord]
) -> list[AnswerRecord]:
    """The best of the drawn answers to every prompt, and those that failed, which are counted."""
    from rlaif.stages.best_of import choose  # with torch, which an evaluation behind a server does without

    given, beside = ([row for row in rows if isinstance(row, Response)] for rows in (drawn, references))
    failed = [row for row in drawn if isinstance(row, FailedAnswer)]
    return [*choose(context, prompts, given, beside), *failed]


def _answers(
    context: StageContext, prompts: Sequence[Prompt], model: str, policy: LanguageModel, samples: int, file: str
) -> list[AnswerRecord]:
    """The model's answers, `samples` per prompt, prompt by prompt; from the file of the stage where they are there."""
    config = context.config.evaluate
    plan = [
        (prompt, record_seed(context.config.seed, "evaluate", model, prompt.id, k))
        for prompt in prompts
        for k in range(samples)
    ]

    def work(chunk: Sequence[tuple[Prompt, int]]) -> list[AnswerRecord]:
        requests = [
            GenerateRequest(prompt.messages, config.max_new_tokens, config.temperature, seed) for prompt, seed in chunk
        ]
        return [
            answer_record(prompt, model, request, made)
            for (prompt, _), request, made in zip(chunk, requests, policy.ask(requests), strict=True)
        ]

    with context.progress.task(f"answers of {model}", len(plan), "answers") as task:
        return resume(
            chunks(plan, config.batch_size),
            files=(JsonlFile(context.folder / file, Response), failed_answers(context.folder)),
            keys=lambda part: [(part[0].id, model, part[1])],
            key_of=lambda row: (row.prompt_id, row.model, row.seed),
            work=work,
            task=task,
        )


def _logprobs(
    context: StageContext,
    prompts: Sequence[Prompt],
    answers: Sequence[AnswerRecord],
    model: str,
    policy: LanguageModel,
    *,
    temperature: float,
) -> list[LogprobRow]:
    """Log-probability under `model` at the temperature of each of the answers that were given."""
    messages = {prompt.id: prompt.messages for prompt in prompts}
    plan = [answer for answer in answers if isinstance(answer, Response)]

    def work(chunk: Sequence[Response]) -> list[LogprobRow]:
        found = policy.ask(
            [ScoreRequest(messages[part.prompt_id], part.text, temperature=temperature) for part in chunk]
        )
        rows = []
        for part, result in zip(chunk, found, strict=True):
            tokens = result.token_logprobs
            if tokens is None:
                failure = result.failure or Failure("missing_logprobs", "no log-probs and no reason")
                rows.append(LogprobRow(part.id, part.prompt_id, model, None, 0, failure, temperature))
            else:
                row = LogprobRow(part.id, part.prompt_id, model, sum(tokens), len(tokens), temperature=temperature)
                rows.append(row)
        return rows

    with context.progress.task(f"log-probs by {model}", len(plan), "answers") as task:
        return resume(
            chunks(plan, context.config.evaluate.batch_size),
            files=(JsonlFile(context.folder / "logprobs.jsonl", LogprobRow),),
            keys=lambda part: [(part.id, model, temperature)],
            key_of=lambda row: (row.response_id, row.model, row.temperature),
            work=work,
            task=task,
        )


def _scores(
    context: StageContext, prompts: Sequence[Prompt], responses: Sequence[Response], logprobs: Sequence[LogprobRow]
) -> tuple[list[ScoreRow], list[gold.GoldScorer], list[str]]:
    """One row of scores per response, the scorers that could be had, and a note for each that could not."""
    by_id = {prompt.id: prompt for prompt in prompts}
    by_base = {row.response_id: row for row in logprobs if row.model == "base"}
    names = context.config.evaluate.gold
    with gold.loading(names, context.progress, len(responses)) as (scorers, notes):
        texts, asked = [part.text for part in responses], [by_id[part.prompt_id] for part in responses]
        columns = {scorer.name: scorer.score(asked, texts) for scorer in scorers}
    rows = []
    for index, part in enumerate(responses):
        values = {name: column[index] for name, column in columns.items()} | answer_scores(part, by_base.get(part.id))
        rows.append(ScoreRow(part.id, part.prompt_id, by_id[part.prompt_id].slice, part.model, values))
    lines = "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows)
    write_atomic(context.folder / "scores.jsonl", lines)
    return rows, scorers, notes


def _labels(
    context: StageContext, prompts: Sequence[Prompt], answers: dict[str, list[AnswerRecord]]
) -> list[PreferenceLabel]:
    """The judge's labels of every pair of models, in the order of COMPARISONS; from disk where they are there."""
    plan = [
        comparison
        for first, second in COMPARISONS
        if first in answers and second in answers
        for comparison in _pairs(prompts, context.config.evaluate.samples, answers[first], answers[second])
    ]
    with context.progress.task("judge: win rates", len(plan), "pairs") as task:
        return resume(
            chunks(plan, context.config.evaluate.batch_size),
            files=(JsonlFile(context.folder / "labels.jsonl", PreferenceLabel),),
            keys=lambda part: [part.id],
            key_of=lambda label: label.comparison.id,
            work=context.judge().label,
            task=task,
        )


def _pairs(
    prompts: Sequence[Prompt],
    samples: int,
    first: Sequence[AnswerRecord],
    second: Sequence[AnswerRecord],
) -> Iterator[Comparison]:
    """The k-th answer of the one against the k-th of the other, where both were given."""
    for index, prompt in enumerate(prompts):
        for place in range(index * samples, (index + 1) * samples):
            a, b = first[place], second[place]
            if isinstance(a, Response) and isinstance(b, Response):
                yield Comparison(prompt, a, b)


def _counts(
    prompts: Sequence[Prompt],
    answers: dict[str, list[AnswerRecord]],
    labels: Sequence[PreferenceLabel],
    logprobs: Sequence[LogprobRow],
) -> dict[str, float]:
    """Records written, and failed by kind, from the files alone, so that a resumed run counts the same.

    A judge that abstains has not failed: that is counted by itself.
    """
    rows = [row for part in answers.values() for row in part]
    responses = [row for row in rows if isinstance(row, Response)]
    found = [row.failure for row in rows if isinstance(row, FailedAnswer)]
    found += [label.failure for label in labels if label.failure is not None]
    found += [row.failure for row in logprobs if row.failure is not None]
    failures = Counter(failure.kind for failure in found if failure.kind != "abstained")
    return {
        "prompts": float(len(prompts)),
        "responses": float(len(responses)),
        "labels": float(len(labels)),
        "labels_unscored": float(sum(label.prob_a is None for label in labels)),
        "answer_tokens": float(sum(part.n_tokens for part in responses)),
        "abstained": float(len(found) - failures.total()),
        "failed": float(failures.total()),
        **{f"failed_{kind}": float(n) for kind, n in sorted(failures.items())},
    }
