"""The ways to ask a judge which of two responses follows a principle better. Each turns asks into verdicts.

`contrast`  log p(response | principle followed) - log p(response | principle violated), mean over tokens; fits small
            models, which pick the same letter whatever they read. It sees one response at a time: no order to bias.
`pairwise`  "(A) or (B)?" by the log-probs of the letters, both orders (RLAIF, arXiv 2309.00267, section 2.1).
`cot`       the judge's reasons first, then the letters, both orders; probabilities clamped (Constitutional AI, arXiv
            2212.08073, section 4.1).
`rating`    one response at a time, the mean of a scale by the log-probs of its numbers (RLAIF, section 2.2.2). The
            scale is 1 to 9, not the paper's 1 to 10: "1" begins "10", so the first token of an answer, which is all
            that a server shows, cannot tell them apart, and P("1") of a local model would hold that of "10".
`random`    a coin from a hash: the control that shows what labels without information do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlaif.core.errors import ConstitutionError
from rlaif.core.records import (
    Comparison,
    Failure,
    Message,
    Order,
    Principle,
    Prompt,
    Response,
    Verdict,
    record_seed,
)
from rlaif.core.statistics import sigmoid
from rlaif.inputs.templates import Rendered, Template
from rlaif.lm.protocol import ChoiceLogprobs, ChoiceRequest, GenerateRequest, LanguageModel, ScoreRequest

TIE = 1e-3
"""Nats per token under which `contrast` calls two responses equal: those with the same opening, scored together, are no
win for either. What bfloat16 changes from one batch to another is more, about 0.01; a walk on a CPU changes nothing
(docs/reference/results-judging.md)."""

RATINGS = ("1", "2", "3", "4", "5", "6", "7", "8", "9")
UNLISTED = 0.01
"""Most of the probability that ratings without a log-prob may hold; it can move a mean rating by 0.08 points."""
ORDERS: tuple[Order, Order] = ("ab", "ba")


@dataclass(frozen=True, slots=True)
class Ask:
    """One comparison to be judged under one principle."""

    comparison: Comparison
    principle: Principle


def contrast(
    asks: Sequence[Ask], model: LanguageModel, template: Template, *, scale: float, opening: int | None = None
) -> list[list[Verdict]]:
    """One verdict per ask: P(A) = sigmoid((s_A - s_B) / scale), s = mean over tokens of the log-probs' difference.

    With `opening` only that many tokens at the beginning of a response are judged.
    """
    requests: list[ScoreRequest] = []
    place: dict[tuple[str, str], int] = {}
    for ask in asks:
        for response in (ask.comparison.a, ask.comparison.b):
            key = (ask.principle.hash, response.id)
            if key not in place:
                place[key] = len(requests)
                requests += _contrast_requests(ask.principle, ask.comparison.prompt, response, template, opening)
    answers = model.ask(requests)

    def score(principle: Principle, response: Response) -> float | Failure:
        followed, violated = answers[place[principle.hash, response.id] :][:2]
        for answer in (followed, violated):
            if answer.failure is not None:
                return answer.failure
        assert followed.token_logprobs is not None
        assert violated.token_logprobs is not None
        return (math.fsum(followed.token_logprobs) - math.fsum(violated.token_logprobs)) / len(followed.token_logprobs)

    verdicts = []
    for ask in asks:
        a, b = score(ask.principle, ask.comparison.a), score(ask.principle, ask.comparison.b)
        margin, failure = _difference(a, b)
        if margin is not None and abs(margin) < TIE:
            margin = 0.0
        probability = None if margin is None else sigmoid(margin / scale)
        verdicts.append([_verdict(ask, "contrast", "none", model.name, probability, margin, failure)])
    return verdicts


def _contrast_requests(
    principle: Principle, prompt: Prompt, response: Response, template: Template, opening: int | None
) -> tuple[ScoreRequest, ScoreRequest]:
    pair = principle.contrast
    if pair is None:
        raise ConstitutionError(
            "the method contrast needs a pair of system prompts",
            where=f"principle {principle.id}",
            remedy="give it a `contrast` with `followed` and `violated`, or choose judge.method: pairwise",
        )
    followed = [m for e in pair.examples for m in (Message("user", e.prompt), Message("assistant", e.followed))]
    violated = [m for e in pair.examples for m in (Message("user", e.prompt), Message("assistant", e.violated))]
    contexts = (
        template.render(system=system, examples=tuple(examples), conversation=prompt.messages).messages
        for system, examples in ((pair.followed, followed), (pair.violated, violated))
    )
    first, second = (ScoreRequest(messages, response.text, opening) for messages in contexts)
    return first, second


def rating(
    asks: Sequence[Ask], model: LanguageModel, template: Template, *, scale: float, few_shots: int = 0
) -> list[list[Verdict]]:
    """One verdict per ask: P(A) = sigmoid((E_A - E_B) / scale), E = mean rating of a response, 1 to 9.

    A response is rated once per principle, however many pairs it is in.
    """
    requests: list[ChoiceRequest] = []
    place: dict[tuple[str, str], int] = {}
    for ask in asks:
        for response in (ask.comparison.a, ask.comparison.b):
            key = (ask.principle.hash, response.id)
            if key not in place:
                place[key] = len(requests)
                shown = template.render(
                    principle=ask.principle, prompt=ask.comparison.prompt, response=response.text, few_shots=few_shots
                )
                requests.append(ChoiceRequest(shown.messages, RATINGS, shown.prefix))
    means = [mean_rating(answer) for answer in model.ask(requests)]
    verdicts = []
    for ask in asks:
        a, b = (means[place[ask.principle.hash, response.id]] for response in (ask.comparison.a, ask.comparison.b))
        margin, failure = _difference(a, b)
        probability = None if margin is None else sigmoid(margin / scale)
        raw = f"ratings {a:.2f} and {b:.2f}" if isinstance(a, float) and isinstance(b, float) else ""
        verdicts.append([_verdict(ask, "rating", "none", model.name, probability, margin, failure, raw=raw)])
    return verdicts


def mean_rating(answer: ChoiceLogprobs) -> float | Failure:
    """The mean of RATINGS by their probabilities, scaled to add up to 1.

    Ratings that a server did not list count with the most that they can have; where that is more than UNLISTED of the
    whole, the answer is the failure `missing_logprobs`.
    """
    if answer.failure is not None:
        return answer.failure
    assert answer.logprobs is not None
    highest = max(answer.logprobs)
    masses = [math.exp(value - highest) for value in answer.logprobs]
    unlisted = math.fsum(masses[place] for place in answer.bounds) / math.fsum(masses)
    if unlisted > UNLISTED:
        names = ", ".join(RATINGS[place] for place in answer.bounds)
        reason = (
            f"the server lists no log-probs for the ratings {names}, which may hold {unlisted:.0%} of the probability; "
            "use judge.api: chat (20 tokens are listed, completions lists 5), backend: local, or method: pairwise"
        )
        return Failure("missing_logprobs", reason)
    return math.fsum(int(name) * mass for name, mass in zip(RATINGS, masses, strict=True)) / math.fsum(masses)


def _difference(a: float | Failure, b: float | Failure) -> tuple[float | None, Failure | None]:
    """`a` - `b`, or None with the first failure."""
    if isinstance(a, Failure):
        return None, a
    if isinstance(b, Failure):
        return None, b
    return a - b, None


def pairwise(
    asks: Sequence[Ask], model: LanguageModel, template: Template, *, few_shots: int = 0
) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba": P(first) = softmax of the two letters' log-probs."""
    requests = [_letters(_pair(ask, order, template, few_shots=few_shots)) for ask in asks for order in ORDERS]
    answers = iter(model.ask(requests))
    verdicts = []
    for ask in asks:
        pair = []
        for order in ORDERS:
            answer = next(answers)
            margin = _log_odds(answer)
            probability = None if margin is None else sigmoid(margin)
            pair.append(_verdict(ask, "pairwise", order, model.name, probability, margin, answer.failure))
        verdicts.append(pair)
    return verdicts


def cot(
    asks: Sequence[Ask],
    model: LanguageModel,
    template: Template,
    *,
    rationale_tokens: int,
    clamp: tuple[float, float] | None,
) -> list[list[Verdict]]:
    """Two verdicts per ask, orders "ab" and "ba", each with its rationale: P(first) by the letters that follow it, kept
    within `clamp`; the margin is not clamped.

    A rationale that is cut at `rationale_tokens` is used as far as it goes, and `raw` says so: it is a means, and the
    letters are asked for in any case. One that failed leaves nothing to judge by: its failure is the verdict's.
    """
    sides = [(ask, order) for ask in asks for order in ORDERS]
    first = [_pair(ask, order, template, rationale="") for ask, order in sides]
    # The seed decides nothing at temperature 0, and one for all asks lets equal questions share an answer.
    written = model.ask([GenerateRequest(r.messages, rationale_tokens, 0.0, 0, r.prefix) for r in first])
    texts = ["" if answer.text is None else answer.text.strip() for answer in written]
    second = [
        _letters(_pair(ask, order, template, rationale=text))
        for (ask, order), text in zip(sides, texts, strict=True)
        if text
    ]
    chosen = iter(model.ask(second))
    verdicts: list[list[Verdict]] = [[] for _ in asks]
    for place, ((ask, order), answer, text) in enumerate(zip(sides, written, texts, strict=True)):
        choice = next(chosen) if text else ChoiceLogprobs(None, answer.failure or Failure("empty", "no rationale"))
        margin = _log_odds(choice)
        probability = None if margin is None else sigmoid(margin)
        if probability is not None and clamp is not None:
            probability = min(max(probability, clamp[0]), clamp[1])
        raw = f"the rationale was cut at {rationale_tokens} tokens" if text and answer.finish == "length" else ""
        verdicts[place // len(ORDERS)].append(
            _verdict(ask, "cot", order, model.name, probability, margin, choice.failure, rationale=text, raw=raw)
        )
    return verdicts


def _pair(ask: Ask, order: Order, template: Template, **more: str | int) -> Rendered:
    """The two responses in the order, as the template shows them."""
    shown = ask.comparison if order == "ab" else ask.comparison.swap()
    return template.render(
        principle=ask.principle, prompt=shown.prompt, response_a=shown.a.text, response_b=shown.b.text, **more
    )


def _letters(rendered: Rendered) -> ChoiceRequest:
    return ChoiceRequest(rendered.messages, ("A", "B"), rendered.prefix)


def _log_odds(letters: ChoiceLogprobs) -> float | None:
    return None if letters.logprobs is None else letters.logprobs[0] - letters.logprobs[1]


def random(asks: Sequence[Ask], *, seed: int) -> list[list[Verdict]]:
    """One verdict per ask with P(A) uniform on [0, 1], drawn from the seed, the two responses and the principle.

    The two stand in the draw in the order of their ids: swapped, they get the complement.
    """
    verdicts = []
    for ask in asks:
        a, b = ask.comparison.a.id, ask.comparison.b.id
        point = record_seed(seed, "random judge", min(a, b), max(a, b), ask.principle.id) / (1 << 63)
        verdicts.append([_verdict(ask, "random", "none", "random", point if a <= b else 1 - point, None, None)])
    return verdicts


def _verdict(
    ask: Ask,
    method: str,
    order: Order,
    judge: str,
    probability: float | None,
    margin: float | None,
    failure: Failure | None,
    *,
    rationale: str = "",
    raw: str = "",
) -> Verdict:
    return Verdict(
        comparison_id=ask.comparison.id,
        principle_id=ask.principle.id,
        principle_hash=ask.principle.hash,
        method=method,
        order=order,
        judge=judge,
        prob_first=probability,
        margin=margin,
        rationale=rationale,
        raw=raw,
        failure=failure,
    )
