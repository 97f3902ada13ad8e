"""Files of comparisons: our own labels, and the shapes in which others keep pairs of answers.

Each line of the JSONL file has one of these shapes, and `read_comparisons` finds out which:

    {"comparison": {...}, "prob_a": 0.8, "verdicts": [...]}       a label of ours, as in label/labels.jsonl
    {"prompt": {...}, "a": {...}, "b": {...}}                     a Comparison of ours, not judged
    {"prompt": ..., "chosen": ..., "rejected": ...}               TRL's preference format
    {"prompt": ..., "response_a": "...", "response_b": "...", "prob_a": 0.8}      or "label": "a" | "b" | "tie"

The prompt and the answers are texts, lists of messages or transcripts ("\\n\\nHuman: ...\\n\\nAssistant: ...", as in
hh-rlhf). Answers may repeat the conversation before them; where it is in messages or a transcript, `prompt` is not
needed. The last two shapes take an optional `slice`, `tags` (a `subset`, as RewardBench has it, is one more) and
`system` (the text of a system message before the prompt); where `score_chosen` and `score_rejected` are equal, neither
answer is preferred. Other keys are ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.errors import DataError
from rlaif.prompt_sets import filled_text, json_lines, read_conversation, read_messages, read_tags
from rlaif.records import (
    Comparison,
    Failure,
    Message,
    PreferenceLabel,
    Prompt,
    Response,
    Role,
    Verdict,
    content_id,
    from_json,
)

MOST_TOLD = 20
"""Problems and repeated lines that are named; of more only the number is told."""
LABELS = {"a": 1.0, "b": 0.0, "tie": 0.5}
FEW_WORDS = 5
"""From so many words on, a prompt with which both answers begin is one that they repeat."""
_OTHER_NAMES = ("question", "instruction", "query", "conversations", "conversation", "messages", "context", "input")
"""Where others keep what is `prompt` here."""
_TRANSCRIPT = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SHAPES = "write prompt, chosen and rejected; or prompt, response_a and response_b with prob_a or label"


@dataclass(frozen=True, slots=True)
class GivenPair:
    """One line of the file. `prob_a` is what the file says, None if it says nothing (for a label of ours that failed,
    with the `failure`); `verdicts` and `constitution_hash` come with labels of ours. `line` counts from 1. `group` is
    one for pairs whose prompts are to be taken as one; it is the prompt's id where nobody says otherwise."""

    comparison: Comparison
    prob_a: float | None
    line: int
    verdicts: tuple[Verdict, ...] = ()
    failure: Failure | None = None
    constitution_hash: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        if not self.group:
            object.__setattr__(self, "group", self.comparison.prompt.id)


@dataclass(frozen=True, slots=True)
class Repeated:
    """A line that was left out: its pair, in either order, stands in the line `first` too. `agrees` says whether it
    has the same label."""

    line: int
    first: int
    agrees: bool


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line that is well formed and compares nothing, such as one with a blank answer."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class ComparisonFile:
    """The pairs of a file, in file order, each once, the lines that repeat one, and those that compare nothing."""

    path: Path
    pairs: tuple[GivenPair, ...]
    repeated: tuple[Repeated, ...]
    left_out: tuple[LeftOut, ...] = ()

    def notes(self) -> list[str]:
        """What a reader should be told before any number: how many lines were left out, which and why."""
        notes = []
        if self.left_out:
            lines = [f"{left.line} ({left.why})" for left in self.left_out]
            notes.append(f"left out, as they compare nothing, {len(lines):,} of the lines: {_first_of(lines)}")
        if self.repeated:
            lines = [f"{r.line} (as in {r.first})" for r in self.repeated]
            other = sum(not r.agrees for r in self.repeated)
            against = f"; {other} of them have another label than the first" if other else ""
            notes.append(f"left out, as they repeat a pair, {len(lines):,} of the lines: {_first_of(lines)}{against}")
        return notes


class _ComparesNothing(DataError):
    """Raised for a line that is to be left out."""


def read_comparisons(path: Path) -> ComparisonFile:
    """The pairs of a JSONL file in any of the shapes above, ids by content.

    Of `chosen` and `rejected`, which one stands as A is drawn by a hash of the two texts. A pair that stands twice is
    kept as the first line has it, and a line that compares nothing (a blank answer, two equal ones, answers to
    different conversations) is left out. Raises DataError that names every wrong line (up to 20) with its field.
    """
    pairs: list[GivenPair] = []
    left_out: list[LeftOut] = []
    problems: list[tuple[int, DataError]] = []
    try:
        for number, row in json_lines(path):
            try:
                pairs.append(_pair(row, number))
            except _ComparesNothing as problem:
                left_out.append(LeftOut(number, problem.what))
            except DataError as problem:
                problems.append((number, problem))
    except DataError as broken:  # no line of JSON: nothing after it can be read
        if not problems:
            raise
        place = (broken.where or "").removeprefix(f"{path}:")
        problems.append((int(place) if place.isdigit() else 0, DataError(broken.what, remedy=broken.remedy)))
    if problems:
        raise _all_of(path, problems)
    if not pairs:
        lines = [f"line {left.line}: {left.why}" for left in left_out]
        why = f": {_first_of(lines)}" if lines else ""
        raise DataError(f"holds no comparison{why}", where=str(path), remedy=_SHAPES)
    return ComparisonFile(path, *_without_repeated(pairs), tuple(left_out))


def _pair(row: dict[str, Any], line: int) -> GivenPair:
    if "comparison" in row:
        label = _record(PreferenceLabel, row)
        return GivenPair(
            label.comparison, _probability(label.prob_a), line, label.verdicts, label.failure, label.constitution_hash
        )
    if "a" in row and "b" in row:
        return GivenPair(_record(Comparison, row), None, line)
    if "chosen" in row and "rejected" in row:
        return _preference(row, line)
    if "response_a" in row and "response_b" in row:
        prompt, *texts = _conversation(row, ("response_a", "response_b"))
        return GivenPair(_comparison(prompt, texts, row), _given_probability(row), line)
    known = {"prompt", "chosen", "rejected", "response_a", "response_b", "comparison"}
    found = ", ".join(sorted(known & row.keys()))
    raise DataError(f"is no comparison{f', it has only {found}' if found else ''}", remedy=_SHAPES)


def _preference(row: dict[str, Any], line: int) -> GivenPair:
    """A line with `chosen` and `rejected`; the hash of the two, whichever is chosen, says which one stands as A."""
    prompt, chosen, rejected = _conversation(row, ("chosen", "rejected"))
    first, second = sorted((chosen, rejected))
    swapped = int(content_id("places", prompt, first, second), 16) % 2 == 1
    texts = [second, first] if swapped else [first, second]
    scores = [row.get(f"score_{side}") for side in ("chosen", "rejected")]
    undecided = all(isinstance(score, int | float) for score in scores) and scores[0] == scores[1]
    return GivenPair(_comparison(prompt, texts, row), 0.5 if undecided else float(texts[0] == chosen), line)


def _conversation(row: dict[str, Any], keys: tuple[str, str]) -> tuple[tuple[Message, ...], str, str]:
    """The prompt of a line and its two answers, which may repeat the prompt or bring it along."""
    given = row.get("prompt")
    if given is None and all(_stands_alone(row[key]) for key in keys):
        raise _no_prompt(row, keys[0])
    sides = [_side(row[key], key) for key in keys]
    prompt = _implicit(keys, sides) if given is None else _prompt(given)
    own = [_split(side)[0] for side in (prompt, *sides)]
    if row.get("system") not in (None, ""):
        own.append((Message("system", filled_text(row["system"], "system", "a system message")),))
    systems = {
        message.content.strip(): message for before in reversed(own) for message in before
    }  # as the prompt has it
    if len(systems) > 1:
        raise _ComparesNothing("the system messages of the prompt and the answers differ")
    first, second = (_answer(side, key, prompt) for side, key in zip(sides, keys, strict=True))
    return (*systems.values(), *_split(prompt)[1]), *_without_prompt(first, second, prompt)


def _split(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system message at the beginning, or none, and the other messages."""
    number = int(messages[0].role == "system")
    return messages[:number], messages[number:]


def _stands_alone(value: Any) -> bool:
    """Whether this is an answer without any conversation before it."""
    if isinstance(value, str):
        return not _TRANSCRIPT.match(value)
    return isinstance(value, dict) or (isinstance(value, list) and len(value) < 2)


def _no_prompt(row: dict[str, Any], key: str) -> DataError:
    name = next((name for name in _OTHER_NAMES if name in row), None)
    if name is not None:
        return DataError(
            f"there is no prompt, but there is {name}",
            where=key,
            remedy=f"rename {name} to prompt: a text, or a list of messages with role and content",
        )
    return DataError(
        "there is no prompt, and only lists of messages or transcripts can bring it along",
        where=key,
        remedy="add the prompt; of texts that repeat it, keep the answer alone",
    )


def _implicit(keys: tuple[str, str], sides: Sequence[tuple[Message, ...]]) -> tuple[Message, ...]:
    """The conversation that both sides share, for a line without a prompt."""
    for side, key in zip(sides, keys, strict=True):
        if side[-1].role != "assistant":
            raise _ComparesNothing(f"{key} does not end with the assistant's answer")
    if not _same(sides[0][:-1], sides[1][:-1]):
        raise _ComparesNothing(f"{keys[0]} and {keys[1]} do not share the conversation before their last message")
    return _checked(sides[0][:-1], keys[0])


def _same(one: Sequence[Message], other: Sequence[Message]) -> bool:
    """Whether these are the same turns, whatever space stands around them."""
    return [(m.role, m.content.strip()) for m in one] == [(m.role, m.content.strip()) for m in other]


def _without_prompt(first: str, second: str, prompt: tuple[Message, ...]) -> tuple[str, str]:
    """Both texts without the prompt, where both repeat it before the answer. A prompt of few words is none that is
    repeated: answers to "Hello" begin with it."""
    asked = prompt[-1].content.strip()
    again = re.compile(rf"\s*{re.escape(asked)}\s+(?=\S)")
    found = [again.match(text) for text in (first, second)]
    if len(asked.split()) < FEW_WORDS or not all(found):
        return first, second
    one, other = (text[match.end() :] for text, match in zip((first, second), found, strict=True) if match is not None)
    return one, other


def _side(value: Any, key: str) -> tuple[Message, ...]:
    """The messages of one side, the answer last; a text that is a transcript has several."""
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        raise DataError(f"is a list of {len(value)} texts", where=key, remedy="write a line for each pair of answers")
    if isinstance(value, dict):
        value = [value]
    last = (
        value[-1].get("content", False) if isinstance(value, list) and value and isinstance(value[-1], dict) else value
    )
    if last is None or (isinstance(last, str) and not last.strip()):
        raise _ComparesNothing(f"{key} is blank")
    if isinstance(value, list):
        return read_messages(value, key)
    text = filled_text(value, key, "an answer")
    turns = _transcript(text) or (Message("assistant", text),)
    if not all(turn.content for turn in turns):
        raise _ComparesNothing(f"{key} {'has a blank turn' if turns[-1].content else 'is blank'}")
    return turns


def _transcript(text: str) -> tuple[Message, ...]:
    """The turns of a text like "\\n\\nHuman: ...\\n\\nAssistant: ..." (hh-rlhf), () for any other. Turns of one speaker
    in a row are one."""
    if not _TRANSCRIPT.match(text):
        return ()
    turns: list[Message] = []
    _, *parts = _TURN.split(f"\n\n{text.strip()}")
    for speaker, said in zip(parts[::2], parts[1::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        before = f"{turns.pop().content}\n\n" if turns and turns[-1].role == role else ""
        turns.append(Message(role, f"{before}{said.strip()}".strip()))
    return tuple(turns)


def _checked(messages: tuple[Message, ...], where: str) -> tuple[Message, ...]:
    return read_conversation([{"role": m.role, "content": m.content} for m in messages], where)


def _prompt(value: Any) -> tuple[Message, ...]:
    if isinstance(value, list):
        return read_conversation(value, "prompt")
    text = filled_text(value, "prompt", "a prompt")
    turns = _transcript(text)
    if not turns:
        return (Message("user", text),)
    return _checked(turns if turns[-1].content else turns[:-1], "prompt")  # it may end with "Assistant:"


def _answer(side: tuple[Message, ...], key: str, prompt: tuple[Message, ...]) -> str:
    """The text of the one message behind the prompt, which may be repeated."""
    turns, rest = _split(prompt)[1], _split(side)[1]
    rest = rest[len(turns) :] if _same(rest[: len(turns)], turns) else rest
    if len(rest) != 1 or rest[0].role != "assistant":
        raise DataError(
            "must be one message by the assistant, behind the messages of the prompt or alone "
            f"(given: {', '.join(m.role for m in rest) or 'the prompt alone'})",
            where=key,
            remedy="what comes before the answer belongs into the prompt, word for word",
        )
    return rest[0].content


def _comparison(messages: tuple[Message, ...], texts: list[str], row: dict[str, Any]) -> Comparison:
    if texts[0] == texts[1]:
        raise _ComparesNothing("both answers are the same text")
    part = row.get("slice", "")
    if not isinstance(part, str):
        raise DataError(f"must be text, not {type(part).__name__}", where="slice", remedy="put it in quotes")
    tags = read_tags(row.get("tags", []), "tags")
    if isinstance(row.get("subset"), str):
        tags += (row["subset"],)
    prompt = Prompt(messages, slice=part, tags=tags)
    a, b = (Response(prompt.id, text, "given", 0, 0.0, "stop", 0) for text in texts)
    return Comparison(prompt, a, b)


def _given_probability(row: dict[str, Any]) -> float | None:
    """What `prob_a` or `label` says; None where neither stands or the one that does is null."""
    label, probability = row.get("label"), row.get("prob_a")
    if label is not None and probability is not None:
        raise DataError("stands beside prob_a", where="label", remedy="keep one of the two")
    if label is None:
        return _probability(probability)
    if not isinstance(label, str) or label.lower() not in LABELS:
        raise DataError(f"must be one of {', '.join(LABELS)} (given: {label!r})", where="label")
    return LABELS[label.lower()]


def _probability(value: Any) -> float | None:
    if value is None:
        return None
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
    if not fits:
        raise DataError(
            f"must be a number from 0 to 1 (given: {str(value)[:60]!r})",
            where="prob_a",
            remedy="the probability that answer A is the better one; null for none",
        )
    return float(value)


def _record(kind: type[Any], row: dict[str, Any]) -> Any:
    """The record of ours in `row`; DataError naming the first field that is wrong."""
    from pydantic import ValidationError

    try:
        return from_json(kind, row)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise DataError(
            f"is not a {kind.__name__} of rlaif: {first['msg'].lower()}",
            where=".".join(map(str, first["loc"])) or None,
            remedy="mend the line, or write prompt, response_a, response_b and prob_a instead",
        ) from None


def _without_repeated(pairs: Iterable[GivenPair]) -> tuple[tuple[GivenPair, ...], tuple[Repeated, ...]]:
    """The first of equal pairs, in either order, and what was left out."""
    kept: dict[tuple[str, str, str], GivenPair] = {}
    repeated = []
    for pair in pairs:
        comparison = pair.comparison
        low, high = sorted((comparison.a.id, comparison.b.id))
        first = kept.setdefault((comparison.prompt.id, low, high), pair)
        if first is not pair:
            turned = first.comparison.a.id != comparison.a.id and pair.prob_a is not None
            told = 1 - pair.prob_a if turned and pair.prob_a is not None else pair.prob_a
            repeated.append(Repeated(pair.line, first.line, told == first.prob_a))
    return tuple(kept.values()), tuple(repeated)


def _first_of(lines: Sequence[str]) -> str:
    """The first MOST_TOLD of them, and how many more there are."""
    more = [f"and {len(lines) - MOST_TOLD:,} more"] if len(lines) > MOST_TOLD else []
    return ", ".join([*lines[:MOST_TOLD], *more])


def _all_of(path: Path, problems: list[tuple[int, DataError]]) -> DataError:
    """One error that names every line, pointing at the first."""
    told: list[str] = []
    for number, problem in problems[:MOST_TOLD]:
        text = f"{problem.where}: {problem.what}" if problem.where else problem.what
        told.append(f"line {number}: {text}" if told else text)
    told += [f"and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
    first, problem = problems[0]
    return DataError("; ".join(told), where=f"{path}:{first}", remedy=problem.remedy)
