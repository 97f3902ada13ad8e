"""What an OpenAI-compatible server answered, checked at the border, and the choice probabilities in it. No network.

Servers differ: llama.cpp writes the chat form of log-probs also in text completions, gateways send errors with
status 200, some list only the sampled token. What does not fit, and numbers that no log-probs can have, raise
`BrokenReply` with a sentence to read.

`model` in a reply is not compared with what was asked for: honest servers answer with a snapshot (gpt-4o-2024-08-06),
the first of several names, a deployment or the path of a file, so no rule tells those from another model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StrictInt, ValidationError

from rlaif.core.records import Failure
from rlaif.lm.protocol import ChoiceLogprobs

_OVERFLOW = re.compile(
    r"context[ _-]?(length|size|window)|maximum context|max_model_len|too many tokens|prompt is too long", re.IGNORECASE
)
_PIECES = re.compile(r"(?:\ufffd|bytes:(?:\\x[0-9a-fA-F]{2})+)+")
_FILTERED = re.compile(r"content[ _-]?(filter|policy|management)|safety system", re.IGNORECASE)


ROUNDING = 1e-4
"""A log-prob may be so much over 0."""
THINKING = (("<think>", "</think>"), ("<seed:think>", "</seed:think>"), ("[THINK]", "[/THINK]"))
"""How reasoning models begin and end their thinking, where a server leaves that in the text."""
MOST_MASS = 1.01
"""Of the tokens of one list. Log-probs in bfloat16 are off by up to 0.4 %, those with two decimals by 0.5 %."""


def _not_positive(value: float) -> float:
    if value > ROUNDING:
        raise ValueError("a log-probability over 0")
    return min(value, 0.0)


# strict: true and "-1" are no numbers. The bound leaves any sum over an answer finite; some write -3.4e38 for never.
Logprob = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e300), AfterValidator(_not_positive)]

Count = Annotated[int, Field(ge=0, le=10**9)]
"""Tokens of one request: what is added up to what a budget counts."""


@dataclass(frozen=True, slots=True)
class Position:
    """One token of the answer, and the likeliest tokens at its place with their natural-log probabilities.

    `logprob` is None only for the first token of an echoed prompt, which nothing stands before.
    """

    token: str
    logprob: float | None
    top: tuple[tuple[str, float], ...]
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. `positions` is None where the server sent no log-probs; token counts are 0 where it sent none.

    `thinking` is what a reasoning model thought before the answer: neither `text` nor `positions` holds any of it.
    `unparted`: the server took the whole reply for thinking, having seen no end of it; then `positions` are of all.
    """

    text: str
    thinking: str
    refusal: str | None
    finish: str | None
    positions: tuple[Position, ...] | None
    prompt_tokens: int
    completion_tokens: int
    unparted: bool = False


class _Token(BaseModel):
    token: str
    logprob: Logprob


class _TokenInfo(_Token):
    top_logprobs: list[_Token] | None = None


class _Logprobs(BaseModel):
    """The chat form (`content`), or the older one of the completions endpoint: parallel lists."""

    content: list[_TokenInfo] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[Logprob | None] | None = None
    top_logprobs: list[dict[str, Logprob] | None] | None = None
    text_offset: list[StrictInt] | None = None


# What is no text is of another server's making, and says nothing here.
_Thought = Annotated[str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)]


class _Message(BaseModel):
    """`reasoning` (vLLM, gateways) and `reasoning_content` (SGLang, llama.cpp, transformers) are one thing."""

    content: str | None = None
    refusal: str | None = None
    reasoning: _Thought = None
    reasoning_content: _Thought = None


class _Choice(BaseModel):
    index: int | None = None
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class BrokenReply(ValueError):
    """An answer with status 200 that cannot be read; another try may bring a sound one."""


def parse_reply(text: str) -> Reply:
    """The reply in the body of an answer with status 200; `BrokenReply` says what is malformed in it."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenReply(f"the server's answer is not JSON: {shorten(text)!r}") from None
    return read_reply(data)


def read_reply(data: Any) -> Reply:
    """The reply in the JSON of an answer with status 200; `BrokenReply` says what is malformed in it."""
    if isinstance(data, dict) and data.get("error") and not data.get("choices"):
        raise BrokenReply(f"the server answered with an error: {shorten(json.dumps(data['error']))}")
    try:
        completion = _Completion.model_validate(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(map(str, first["loc"])) or "answer"
        what = first["msg"].removeprefix("Value error, ")
        raise BrokenReply(shorten(f"the server's answer is malformed at {place}: {what}")) from None
    if not completion.choices:
        raise BrokenReply("the server's answer holds no choice")
    # one is asked for; a server that sends more is to be taken at its own numbers
    choice = min(completion.choices, key=lambda c: c.index or 0)
    usage = completion.usage or _Usage()
    message = choice.message or _Message(content=choice.text)
    thinking, text = (message.reasoning or message.reasoning_content or "").strip(), message.content or ""
    unparted = bool(thinking) and not text.strip()
    if choice.message is not None:  # the text of a completion may be an echo of what was asked
        more, text = without_thinking(text)
        thinking = f"{thinking}\n{more}".strip()
    positions = _positions(choice.logprobs)
    marked = positions is not None and _marked(positions)
    unparted = unparted and not marked
    if positions is not None and choice.message is not None and not unparted and (thinking or marked):
        positions = _of_the_answer(positions, text)
    return Reply(
        text=_whole(text),
        thinking=_whole(thinking),
        unparted=unparted,
        refusal=message.refusal,
        finish=choice.finish_reason,
        positions=positions,
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
    )


def without_thinking(text: str) -> tuple[str, str]:
    """(what was thought, the answer behind it) of a text in which a server left the marks of thinking.

    The opening mark may have stood in the prompt already. What was opened and never closed is all thinking.
    """
    for begin, end in THINKING:
        opened = text.lstrip().startswith(begin)
        thought, closed, answer = text.rpartition(end)
        if closed:
            return thought.lstrip().removeprefix(begin).strip(), answer.lstrip()
        if opened:
            return text.lstrip().removeprefix(begin).strip(), ""
    return "", text


def _marked(positions: tuple[Position, ...]) -> bool:
    """Whether a thinking was closed among the tokens, be it an empty one."""
    whole = _squeeze("".join(position.token for position in positions))
    return any(end in whole for _, end in THINKING)


def _of_the_answer(positions: tuple[Position, ...], text: str) -> tuple[Position, ...]:
    """The tokens of the answer alone, without those of the thinking that some servers list too; none where the answer
    cannot be told from it."""
    starts, whole = list[int](), ""
    for position in positions:
        starts.append(len(whole))
        whole += _squeeze(position.token)
    wanted = _squeeze(text)
    behind = max((whole.rfind(end) + len(end) for _, end in THINKING if end in whole), default=-1)
    at = whole.find(wanted, behind) if behind >= 0 else whole.rfind(wanted)
    if not wanted or at not in starts:
        return ()
    return positions[len(starts) - 1 - starts[::-1].index(at) :]


def refusal(reply: Reply) -> Failure | None:
    """Why a well-formed reply is no answer, or None."""
    if reply.refusal:
        return Failure("refused", shorten(reply.refusal))
    if reply.finish == "content_filter":
        return Failure("refused", "the server's content filter stopped the answer")
    return None


def own_fault(message: str, code: object = None, kind: object = None) -> Failure | None:
    """What an error status says about this one request (too long, filtered), or None where it is not about it."""
    if _OVERFLOW.search(f"{code} {kind} {message}"):
        return Failure("context_overflow", shorten(message))
    if _FILTERED.search(f"{code} {message}"):
        return Failure("refused", shorten(message))
    return None


def shorten(text: str, limit: int = 300) -> str:
    """The text on one line, cut after `limit` characters."""
    line = " ".join(_whole(text).split())
    return line if len(line) <= limit else line[:limit] + "..."


def _whole(text: str) -> str:
    """The text without halves of surrogate pairs, which JSON can spell and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _positions(logprobs: _Logprobs | None) -> tuple[Position, ...] | None:
    if logprobs is None:
        return None
    if logprobs.content is not None:
        return tuple(
            Position(info.token, info.logprob, _top([(t.token, t.logprob) for t in info.top_logprobs or ()]))
            for info in logprobs.content
        )
    if logprobs.tokens is None or logprobs.token_logprobs is None:
        return None
    tops: Sequence[dict[str, float] | None] = logprobs.top_logprobs or [None] * len(logprobs.tokens)
    offsets: Sequence[int | None] = logprobs.text_offset or [None] * len(logprobs.tokens)
    try:
        rows = list(zip(logprobs.tokens, logprobs.token_logprobs, tops, offsets, strict=True))
    except ValueError:
        raise BrokenReply("the server's answer is malformed: its lists of log-probs differ in length") from None
    return tuple(Position(token, value, _top((top or {}).items()), offset) for token, value, top, offset in rows)


def _top(listed: Iterable[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The likeliest tokens; `BrokenReply` where their probabilities exceed 1 together, equal entries counted once."""
    top = tuple(listed)
    mass = math.fsum(math.exp(value) for _, value in set(top))
    if mass > MOST_MASS:
        raise BrokenReply(f"the server's answer is malformed: likely tokens with a probability of {mass:.3g} together")
    return top


def indistinct(choices: Sequence[str]) -> tuple[str, str] | None:
    """Two choices that the first tokens of an answer cannot tell apart ("1" begins "10"), or None."""
    for i, a in enumerate(choices):
        for j, b in enumerate(choices):
            if i != j and _squeeze(b).startswith(_squeeze(a)):
                return a, b
    return None


def tokens_to_decide(choices: Sequence[str]) -> int:
    """How many tokens to ask for so that the one that decides is among them, whatever the tokenizer: a leading blank,
    the characters that all choices share, and one more."""
    columns = zip(*map(_squeeze, choices), strict=False)
    return 2 + sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def read_choices(positions: Sequence[Position], choices: Sequence[str], prefix: str = "") -> ChoiceLogprobs:
    """Log-probability that the answer starts with `prefix` and goes on with each choice, given the prefix.

    At each position every listed token that leads to exactly one choice adds its probability to that choice; then
    the walk follows the sampled token as long as several choices are still open ("(" before "(A)"). Whitespace is
    ignored, case is not. Tokens that the server did not list are unknown: a choice without any listed token gets the
    largest probability it can have, min(smallest listed, what the listed ones leave of 1), and stands in `bounds`, if
    another choice was listed; if none was, the result is the failure `off_menu`.
    """
    start = _squeeze(prefix)
    targets = [start + _squeeze(choice) for choice in choices]
    mass = [0.0] * len(choices)
    done, path, floor = "", 0.0, -math.inf
    for position in positions:
        if position.logprob is None:
            break
        # equal entries are one that the server wrote twice; one text with two log-probs is two tokens that read alike
        # ("A" and " A" where a server strips blanks), and both count
        listed = list(dict.fromkeys(position.top)) or [(position.token, position.logprob)]
        for token, logprob in listed:
            text = done + _squeeze(token)
            open_choices = [i for i, target in enumerate(targets) if target.startswith(text)]
            if len(open_choices) == 1 and len(text) > len(start):
                mass[open_choices[0]] += math.exp(path + logprob)
        floor = path + _bound_of_unlisted([logprob for _, logprob in listed])
        done += _squeeze(position.token)
        if len(done) > len(start) or not start:
            path += position.logprob
        still_open = sum(target.startswith(done) for target in targets)
        if still_open == 0 or (still_open == 1 and len(done) > len(start)):
            break
    if not any(mass):
        wanted = ", ".join(map(repr, choices))
        seen = "".join(position.token for position in positions)
        reason = f"none of {wanted} is among the likely next tokens; the judge would write {shorten(seen, 60)!r}"
        return ChoiceLogprobs(None, Failure("off_menu", reason))
    bounds = tuple(place for place, m in enumerate(mass) if m == 0)
    return ChoiceLogprobs(tuple(min(0.0, math.log(m)) if m > 0 else floor for m in mass), bounds=bounds)


def read_scores(reply: Reply, before: int, end: int) -> tuple[Position, ...]:
    """The tokens that start within characters [before, end) of an echoed text."""
    positions = reply.positions or ()
    offsets, at = [], 0
    for position in positions:
        offsets.append(at if position.offset is None else position.offset)
        at += len(position.token)
    # a first token that is not in the text is the start-of-text mark, which shifts all offsets
    first = positions[0].token if positions else ""
    shift = 0 if reply.text.startswith(first) else len(first)
    return tuple(
        position for position, offset in zip(positions, offsets, strict=True) if before <= offset - shift < end
    )


def spell(tokens: Sequence[str], text: str) -> bool:
    """Whether the tokens make up the text. Blanks do not count, and a token that is a piece of a letter (shown as
    U+FFFD or as bytes) stands for any letters."""
    first, *others = _PIECES.split(_squeeze("".join(tokens)))
    rest = _squeeze(text)
    if not others:
        return rest == first
    if not rest.startswith(first):
        return False
    at = len(first)
    for part in others[:-1]:
        found = rest.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return rest.endswith(others[-1]) and len(rest) - len(others[-1]) >= at


def _bound_of_unlisted(logprobs: Sequence[float]) -> float:
    """The largest log-probability that a token outside the list of likeliest ones can have."""
    rest = 1.0 - math.fsum(math.exp(value) for value in logprobs)
    return min(min(logprobs), math.log(rest)) if rest > 0 else min(logprobs)


def _squeeze(text: str) -> str:
    return "".join(text.split())
