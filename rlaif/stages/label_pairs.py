"""The pairs of `label`: which answers are sampled, which two are compared, and which labels are left out again.

Pairs by contrast are those of RLCD (arXiv 2307.12950): the policy answers once in a context that follows a principle
and once in one that violates it, so the better answer is known beforehand. Departures from the paper:

1. The contexts are those of the constitution's contrast texts, the very ones that the method `contrast` scores in.
2. The judge confirms a pair by default; one that it sees the other way round is no label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby

from rlaif.config import LabelConfig
from rlaif.constitution.load import by_slice
from rlaif.core.files import JsonlFile
from rlaif.core.records import (
    Comparison,
    FailedAnswer,
    Failure,
    PreferenceLabel,
    Principle,
    Prompt,
    Response,
    content_id,
    record_seed,
)
from rlaif.inputs.templates import load_template
from rlaif.judge.confounds import chosen_first, finished, longer, surplus
from rlaif.judge.judge import Judge
from rlaif.judge.methods import contrast
from rlaif.lm.open import OnDemand
from rlaif.lm.protocol import GenerateRequest
from rlaif.stages.context import StageContext
from rlaif.stages.resume import answer_record, chunks, failed_answers, resume

POLICY, BASE = "sft", "base"
"""`Response.model` of an answer to the mere prompt: of the SFT policy, or of the model before it."""
FOLLOWED, VIOLATED = " followed", " violated"
"""How `Response.model` of the answers of a pair by contrast ends; before it stands who gave them."""


@dataclass(frozen=True, slots=True)
class LabelPair:
    """Two answers to be labelled. `principle`: the one whose contexts made them; None for two of the mere policy."""

    comparison: Comparison
    principle: Principle | None = None

    def rules(self, judge: Judge) -> Sequence[Principle]:
        """What the judge is asked about the pair."""
        return judge.principles(self.comparison) if self.principle is None else (self.principle,)


@dataclass(frozen=True, slots=True)
class PairsFound:
    """Every answer, and the pairs that they make, in parts that are judged together: of a batch of prompts those of
    one kind. `identical`: answers of a contrast that are word for word alike, and so make none."""

    answers: list[Response | FailedAnswer]
    parts: list[list[LabelPair]]
    identical: int

    @property
    def pairs(self) -> list[LabelPair]:
        return [pair for part in self.parts for pair in part]

    @property
    def responses(self) -> list[Response]:
        return [answer for answer in self.answers if isinstance(answer, Response)]

    @property
    def lost(self) -> list[FailedAnswer]:
        return [answer for answer in self.answers if isinstance(answer, FailedAnswer)]


def find_pairs(context: StageContext, prompts: Sequence[Prompt]) -> PairsFound:
    """The pairs of the prompts, of the policy first; samples the answers that are not there yet."""
    draws = _draws(context, prompts) if context.config.label.by_contrast else []
    answers = _sample(context, prompts, draws)
    responses = [answer for answer in answers if isinstance(answer, Response)]
    of_policy = [LabelPair(pair) for pair in _of_policy(context, prompts, responses)]
    by_contrast: list[LabelPair] = []
    by_seed = {(response.prompt_id, response.seed): response for response in responses}
    identical = 0
    for draw in draws:
        followed, violated = (
            by_seed.get((draw.prompt.id, draw.seed(context, model))) for model in _contrasted(context)
        )
        if followed is None or violated is None:
            continue
        if followed.text == violated.text:
            identical += 1
        else:
            by_contrast.append(LabelPair(_placed(context, draw.prompt, followed, violated), draw.principle))
    # Batches of prompts, not of pairs: how many pairs the prompts before have changes nothing about a batch.
    batch = {prompt.id: place // context.config.label.batch_size for place, prompt in enumerate(prompts)}
    parts = [
        list(part)
        for kind in (of_policy, by_contrast)
        for _, part in groupby(kind, lambda p: batch[p.comparison.prompt.id])
    ]
    return PairsFound(answers, parts, identical)


def own_answers(responses: Sequence[Response]) -> dict[str, list[Response]]:
    """Id of the prompt -> its answers in label/responses.jsonl that the SFT policy gave to the mere prompt."""
    found: dict[str, list[Response]] = {}
    for response in responses:
        if not response.model.endswith((FOLLOWED, VIOLATED)):
            found.setdefault(response.prompt_id, []).append(response)
    return found


# --- the answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Draw:
    """Pair `number` by contrast of a prompt, and the principle that is drawn for it."""

    prompt: Prompt
    number: int
    principle: Principle

    def seed(self, context: StageContext, model: str) -> int:
        return record_seed(context.config.seed, "label", self.prompt.id, self.number, model)


def _draws(context: StageContext, prompts: Sequence[Prompt]) -> list[_Draw]:
    """`label.pairs` draws per prompt, of the principles that apply to its slice."""
    config, scopes = context.config, by_slice(context.constitution, context.config.prompts)
    return [
        _Draw(prompt, k, scopes[prompt.slice].draw(record_seed(config.seed, "label principle", prompt.id, k)))
        for prompt in prompts
        for k in range(config.label.pairs)
    ]


def _contrasted(context: StageContext) -> tuple[str, str]:
    """`Response.model` of the two answers of a pair by contrast."""
    writer = context.config.label.contrast_from
    return writer + FOLLOWED, writer + VIOLATED


Wanted = tuple[str, GenerateRequest]
"""`Response.model` of an answer, and the request for it."""


def _sample(context: StageContext, prompts: Sequence[Prompt], draws: Sequence[_Draw]) -> list[Response | FailedAnswer]:
    """The answers that `label.answers` asks for, of the SFT policy or of the model before it, those that failed among
    them."""
    table, seed = context.config.label, context.config.seed
    policy, base = OnDemand(lambda: context.open_policy(context.start)), OnDemand(lambda: context.open_policy(()))
    wanted: dict[str, list[Wanted]] = {prompt.id: [] for prompt in prompts}
    for prompt in prompts if table.by_policy else ():
        for k in range(table.samples):
            own = record_seed(seed, "label", prompt.id, k)
            wanted[prompt.id].append(
                (POLICY, GenerateRequest(prompt.messages, table.max_new_tokens, table.temperature, own))
            )
    template = load_template(contrast.TEMPLATE, context.run.templates_path)
    for draw in draws:
        both = contrast.contexts(draw.principle, draw.prompt, template)
        for model, messages in zip(_contrasted(context), both, strict=True):
            own = draw.seed(context, model)
            wanted[draw.prompt.id].append(
                (model, GenerateRequest(messages, table.max_new_tokens, table.temperature, own))
            )

    def answer(chunk: Sequence[Prompt]) -> list[Response | FailedAnswer]:
        answers: list[Response | FailedAnswer] = []
        whole = [(prompt, *one) for prompt in chunk for one in wanted[prompt.id]]
        for writer, of_base in ((policy, False), (base, True)):
            asked = [one for one in whole if one[1].startswith(BASE) == of_base]
            made = writer.ask([request for _, _, request in asked]) if asked else []
            answers += [answer_record(*one, found) for one, found in zip(asked, made, strict=True)]
        return answers

    with context.progress.task("sampling answers", len(prompts), "prompts") as task:
        answers = resume(
            chunks(prompts, table.batch_size),
            files=(JsonlFile(context.folder / "responses.jsonl", Response), failed_answers(context.folder)),
            keys=lambda p: [(p.id, request.seed) for _, request in wanted[p.id]],
            key_of=lambda r: (r.prompt_id, r.seed),
            work=answer,
            task=task,
        )
    policy.close()
    base.close()
    return answers


# --- the pairs --------------------------------------------------------------------------------------------------------


def _of_policy(context: StageContext, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Iterator[Comparison]:
    """Up to `label.pairs` pairs of different answers per prompt, chosen and ordered by hash."""
    seed, own = context.config.seed, own_answers(responses)
    for prompt in prompts:
        different: dict[str, Response] = {}
        for response in own.get(prompt.id, ()):
            different.setdefault(response.text, response)
        pairs = list(combinations(different.values(), 2))
        pairs.sort(key=lambda pair: content_id(seed, pair[0].id, pair[1].id))
        for first, second in pairs[: context.config.label.pairs]:
            yield _placed(context, prompt, first, second)


def _placed(context: StageContext, prompt: Prompt, first: Response, second: Response) -> Comparison:
    """The two; which stands as A is drawn too: nothing about an answer may show in its place."""
    flip = record_seed(context.config.seed, "order", first.id, second.id) % 2
    a, b = (second, first) if flip else (first, second)
    return Comparison(prompt, a, b)


# --- the labels -------------------------------------------------------------------------------------------------------


def taken(pair: LabelPair, table: LabelConfig, constitution_hash: str) -> PreferenceLabel:
    """The label of a pair by contrast that nobody is asked about."""
    assert pair.principle is not None
    prob_a = table.contrast_prob if pair.comparison.a.model.endswith(FOLLOWED) else 1 - table.contrast_prob
    return PreferenceLabel(
        pair.comparison,
        prob_a,
        (),
        constitution_hash=constitution_hash,
        answers="contrast",
        principle_id=pair.principle.id,
    )


def confirmed(pair: LabelPair, label: PreferenceLabel) -> PreferenceLabel:
    """The judge's `label` of the pair; of one by contrast that the judge sees otherwise, without a preference."""
    if pair.principle is None:
        return label
    found = replace(label, answers="contrast", principle_id=pair.principle.id)
    if label.prob_a is None:
        return found
    better = label.prob_a if pair.comparison.a.model.endswith(FOLLOWED) else 1 - label.prob_a
    if better > 0.5:
        return found
    reason = f"the judge gives the answer that follows {pair.principle.id} P(better) {better:.3f}"
    return replace(found, prob_a=None, failure=Failure("disagreed", reason))


def balanced(labels: Sequence[PreferenceLabel], seed: int) -> list[PreferenceLabel]:
    """The labels, with the surplus of those by contrast left without a preference (rlaif.judge.confounds)."""
    known = [(x, pair) for x in labels if x.answers == "contrast" and (pair := chosen_first(x)) is not None]
    left_out = surplus(((x.id, x.comparison.prompt.slice, *pair) for x, pair in known), seed)
    return [replace(x, prob_a=None, failure=_unbalanced(x)) if x.id in left_out else x for x in labels]


def _unbalanced(label: PreferenceLabel) -> Failure:
    pair = chosen_first(label)
    assert pair is not None
    kinds = [{1: "the longer", -1: "the shorter", 0: ""}[longer(*pair)]]
    kinds.append({1: "the only one that ended", -1: "the only one that was cut", 0: ""}[finished(*pair)])
    what = " and ".join(filter(None, kinds))
    return Failure(
        "unbalanced", f"more pairs of this slice prefer {what} than the opposite: P(A better) {label.prob_a:.3f}"
    )


def silent_slices(prompts: Sequence[Prompt], labels: Sequence[PreferenceLabel]) -> Iterator[str]:
    """A sentence for each slice of the prompts without a single preference."""
    why: dict[str, Counter[str]] = {prompt.slice: Counter() for prompt in prompts}
    known = {label.comparison.prompt.slice for label in labels if label.prob_a is not None}
    for label in labels:
        if label.failure is not None:
            why[label.comparison.prompt.slice][label.failure.kind] += 1
    for name, kinds in why.items():
        if name not in known:
            yield f"no pair of the slice {name} has a preference: {told(kinds) or 'it has no pair'}"


def told(kinds: Mapping[str, int]) -> str:
    """The kinds of failure with their numbers, the commonest first."""
    order = sorted(kinds, key=lambda kind: (-kinds[kind], kind))
    return ", ".join(f"{kinds[kind]} {kind}" for kind in order)
