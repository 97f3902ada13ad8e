"""What the limits on length would leave out of a run, counted in the model's own tokens before it starts.

Answers are not there yet. Some prompts are too long whatever is answered; others are if an answer is as long as it may
be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlaif.config import DpoConfig, RewardConfig, RunConfig, StageName
from rlaif.core.errors import StageError
from rlaif.core.records import PreferenceLabel, Prompt

LOOKED_AT = 500
"""Given labels whose tokens are counted before a run: enough to know whether they fit."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The prompts that one stage does not take.

    Of `prompts`, `certain` are left out for sure, and `possible`, these among them, where an answer is as long as
    `answers`, a field of the config, lets it be: `answer` tokens. `field` is the field that holds both to `limit`
    tokens; None where the model's `context` does. The longest prompt has `longest` tokens.
    """

    stage: StageName
    field: str | None
    limit: int
    answers: str
    answer: int
    context: int
    prompts: int
    certain: int
    possible: int
    longest: int

    def __str__(self) -> str:
        number = str(self.certain)
        if self.certain < self.possible:
            number = f"up to {self.possible}" + (f", {self.certain} for sure," if self.certain else "")
        limit = f"the model's context is {self.limit}" if self.field is None else f"{self.field} is {self.limit}"
        return (
            f"{self.stage} would leave out {number} of {self.prompts} prompts: the longest has {self.longest} tokens, "
            f"its answer up to {self.answer}, and {limit}"
        )

    @property
    def remedy(self) -> str:
        needed = self.longest + self.answer
        if self.field is not None and needed <= self.context:
            return f"{self.field}: {needed} keeps all"
        return f"lower {self.answers}, take shorter prompts, or a model whose context is longer than {self.context}"


def losses(
    config: RunConfig,
    stages: Collection[StageName],
    train: Sequence[Prompt],
    held_out: Sequence[Prompt],
    *,
    tokenizer: Any,
    context: int,
) -> list[Loss]:
    """What each of the stages would leave out, with the tokenizer and the context of the run's model.

    Raises StageError where a stage would be left with nothing, ModelError for a prompt that the chat template refuses.
    """
    from rlaif.lm.local.load import encode_chat

    sizes = {prompt.id: len(encode_chat(tokenizer, prompt.messages)) for prompt in (*train, *held_out)}
    found = []
    for stage, limits in _limits(config):
        if config.given_labels and stage in ("label", "reward", "dpo"):
            continue  # whose answers are there: see `given_losses`
        asked = [sizes[prompt.id] for prompt in (held_out if stage == "evaluate" else train)]
        if stage in stages and asked:
            loss = _loss(stage, limits, asked, context)
            if loss.certain == len(asked):
                raise StageError(str(loss), where=loss.field or loss.answers, remedy=loss.remedy)
            found += [loss] if loss.possible else []
    return found


def given_losses(
    config: RunConfig,
    stages: Collection[StageName],
    labels: Sequence[PreferenceLabel],
    *,
    tokenizer: Any,
    context: int,
) -> list[str]:
    """A sentence for each of the stages that learns from the labels that are given: how many of the first LOOKED_AT it
    would leave out, and what keeps them. Raises StageError where it would leave out all of these."""
    learners = [stage for stage in ("reward", "dpo") if stage in stages]
    found = [_given_loss(config, stage, labels, tokenizer=tokenizer, context=context) for stage in learners]
    return [sentence for sentence in found if sentence]


def _given_loss(
    config: RunConfig, stage: str, labels: Sequence[PreferenceLabel], *, tokenizer: Any, context: int
) -> str:
    from rlaif.lm.local.load import encode_chat, encode_text

    table: RewardConfig | DpoConfig = getattr(config, stage)
    limit, seen = min(table.max_length, context), labels[:LOOKED_AT]
    sizes = []
    for label in seen:
        pair = label.comparison
        answers = (len(encode_text(tokenizer, side.text)) + 1 for side in (pair.a, pair.b))  # and its end
        sizes.append(len(encode_chat(tokenizer, pair.prompt.messages)) + max(answers))
    lost = sum(size > limit for size in sizes)
    if not lost:
        return ""
    what = f"{stage} would leave out {lost} of the first {len(seen)} labels: the longest has {max(sizes)} tokens, and "
    what += f"{stage}.max_length is {table.max_length}"
    remedy = f"{stage}.max_length: {max(sizes)} keeps them"
    if max(sizes) > context:
        what, remedy = f"{what}; the model's context is {context}", "take shorter answers, or a model of longer context"
    if lost == len(seen):
        raise StageError(what, where=f"{stage}.max_length", remedy=remedy)
    return f"{what}; {remedy}"


@dataclass(frozen=True, slots=True)
class _Limits:
    """`field` of the config, `limit` in number, holds prompt and answer together (None = only the model does). Room for
    the whole `answers` field is needed (`whole`), or for the tokens that an answer turns out to have."""

    field: str | None
    limit: int | None
    answers: str
    answer: int
    whole: bool


def _limits(config: RunConfig) -> Iterator[tuple[StageName, _Limits]]:
    revise, label, ppo, evaluate = (
        (f"{name}.max_new_tokens", int(table.max_new_tokens))
        for name, table in (
            ("revise", config.revise),
            ("label", config.label),
            ("ppo", config.ppo),
            ("evaluate", config.evaluate),
        )
    )
    yield "revise", _Limits(None, None, *revise, whole=True)
    yield "sft", _Limits("sft.max_length", config.sft.max_length, *revise, whole=False)
    yield "label", _Limits(None, None, *label, whole=True)
    yield "reward", _Limits("reward.max_length", config.reward.max_length, *label, whole=False)
    yield "dpo", _Limits("dpo.max_length", config.dpo.max_length, *label, whole=False)
    yield "ppo", _Limits("ppo.max_length", config.ppo.max_length, *ppo, whole=True)
    yield "evaluate", _Limits(None, None, *evaluate, whole=True)


def _loss(stage: StageName, limits: _Limits, sizes: Sequence[int], context: int) -> Loss:
    by_model = limits.limit is None or context < limits.limit
    limit = context if limits.limit is None else min(limits.limit, context)
    least = limits.answer if limits.whole else 1
    return Loss(
        stage=stage,
        field=None if by_model else limits.field,
        limit=limit,
        answers=limits.answers,
        answer=limits.answer,
        context=context,
        prompts=len(sizes),
        certain=sum(size + least > limit for size in sizes),
        possible=sum(size + limits.answer > limit for size in sizes),
        longest=max(sizes),
    )
