"""Files of comparisons: our own labels, and the shapes in which others keep pairs of answers.

Each row of the file (JSON lines, a JSON array, CSV, parquet) has one of these shapes, and `read_comparisons` finds out
which:

    {"comparison": {...}, "prob_a": 0.8, "verdicts": [...]}       a label of ours, as in label/labels.jsonl
    {"prompt": {...}, "a": {...}, "b": {...}}                     a Comparison of ours, not judged
    {"prompt": ..., "chosen": ..., "rejected": ...}               TRL's preference format
    {"prompt": ..., "chosen": ["...", ...], "rejected": ["...", ...]}             as RewardBench 2 and RM-Bench have it
    {"prompt": ..., "response_a": "...", "response_b": "...", "prob_a": 0.8}      or "label": "a" | "b" | "tie"
    {"question": "...", "response_A": "...", "response_B": "...", "label": "A>B"} as JudgeBench has it

The prompt and the answers are texts, lists of messages or transcripts ("\\n\\nHuman: ...\\n\\nAssistant: ...", as in
hh-rlhf). Answers may repeat the conversation before them; where it is in messages or a transcript, `prompt` is not
needed. A row with lists is one pair for each right answer and each wrong one. All but the first two shapes take an
optional `slice`, `tags` (a `subset`, as RewardBench has it, is one more, and so is JudgeBench's `source`) and `system`
(the text of a system message before the prompt). The chosen answer is better for sure, or with the probability
`prob_chosen`; where `score_chosen` and `score_rejected` are equal, neither is preferred. Other keys are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif.core.errors import DataError
from rlaif.core.records import Comparison, Failure, Message, PreferenceLabel, Prompt, Verdict, content_id, from_json
from rlaif.inputs.conversations import ComparesNothing, conversation_of
from rlaif.inputs.prompt_sets import read_tags
from rlaif.inputs.rows import place, read_rows, unit

MOST_TOLD = 20
"""Problems and repeated lines that are named; of more only the number is told."""
LABELS = {"a": 1.0, "b": 0.0, "tie": 0.5, "a>b": 1.0, "b>a": 0.0, "a=b": 0.5}
SIDES = ("chosen", "rejected")
NUMBERS = ("prob_a", "prob_chosen", "score_chosen", "score_rejected")
"""Columns of numbers."""
_SHAPES = "write prompt, chosen and rejected; or prompt, response_a and response_b with prob_a or label"


@dataclass(frozen=True, slots=True)
class GivenPair:
    """One row of the file. `prob_a` is what the file says, None if it says nothing (for a label of ours that failed,
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
class RepeatedLine:
    """A line that was left out: its pair, in either order, stands in the line `first` too. `agrees` says whether it
    has the same label."""

    line: int
    first: int
    agrees: bool


@dataclass(frozen=True, slots=True)
class LeftOutLine:
    """A line that is well formed and compares nothing, such as one with a blank answer."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class ComparisonFile:
    """The pairs of a file, in file order, each once, the lines that repeat one, and those that compare nothing."""

    path: Path
    pairs: tuple[GivenPair, ...]
    repeated: tuple[RepeatedLine, ...]
    left_out: tuple[LeftOutLine, ...] = ()

    def notes(self) -> list[str]:
        """What a reader should be told before any number: how many rows were left out, which and why."""
        notes, rows = [], f"{unit(self.path)}s"
        if self.left_out:
            lines = [f"{left.line} ({left.why})" for left in self.left_out]
            number = len({left.line for left in self.left_out})
            notes.append(f"left out, as they compare nothing, {number:,} of the {rows}: {_first_of(lines)}")
        if self.repeated:
            lines = [f"{r.line} (as in {r.first})" for r in self.repeated]
            other = sum(not r.agrees for r in self.repeated)
            against = f"; {other} of them have another label than the first" if other else ""
            notes.append(f"left out, as they repeat a pair, {len(lines):,} of the {rows}: {_first_of(lines)}{against}")
        return notes


def read_comparisons(path: Path) -> ComparisonFile:
    """The pairs of a file in any of the shapes above, ids by content.

    Of `chosen` and `rejected`, which one stands as A is drawn by a hash of the two texts. A pair that stands twice is
    kept as the first line has it, and a line that compares nothing (a blank answer, two equal ones, answers to
    different conversations) is left out. Raises DataError that names every wrong line (up to 20) with its field.
    """
    pairs: list[GivenPair] = []
    left_out: list[LeftOutLine] = []
    problems: list[tuple[int, DataError]] = []
    try:
        for number, row in read_rows(path, numbers=NUMBERS):
            try:
                for part in _parts(row):
                    try:
                        pairs.append(_pair(part, number))
                    except ComparesNothing as problem:
                        left = LeftOutLine(number, problem.what)
                        left_out += [left] if left_out[-1:] != [left] else []
            except DataError as problem:
                problems.append((number, problem))
    except DataError as broken:  # no line of JSON: nothing after it can be read
        if not problems:
            raise
        line = (broken.where or "").removeprefix(f"{path}:")
        problems.append((int(line) if line.isdigit() else 0, DataError(broken.what, remedy=broken.remedy)))
    if problems:
        raise _all_of(path, problems)
    if not pairs:
        lines = [f"{unit(path)} {left.line}: {left.why}" for left in left_out]
        why = f": {_first_of(lines)}" if lines else ""
        raise DataError(f"holds no comparison{why}", where=str(path), remedy=_SHAPES)
    return ComparisonFile(path, *_without_repeated(pairs), tuple(left_out))


def _parts(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The line itself, or, where it has lists of answers, one for each right answer and each wrong one."""
    if "response_A" in row and "response_B" in row:
        own = {"prompt": row.get("question"), "subset": row.get("source"), **row}
        yield {**own, "response_a": row["response_A"], "response_b": row["response_B"]}
    elif not any(_is_texts(row.get(side)) for side in SIDES):
        yield row
    else:
        right, wrong = (_each(row.get(side)) for side in SIDES)
        yield from ({**row, "chosen": one, "rejected": other} for one in right for other in wrong)


def _is_texts(value: Any) -> bool:
    """Whether this is a list of answers, and not of messages; some of them may be missing."""
    return isinstance(value, list) and all(text is None or isinstance(text, str) for text in value)


def _each(value: Any) -> list[Any]:
    """The different answers of one side, of which there may be a single one or a blank one."""
    return list(dict.fromkeys(value)) or [""] if _is_texts(value) else [value]


def _pair(row: dict[str, Any], line: int) -> GivenPair:
    if row.get("comparison") is not None:
        label = _record(PreferenceLabel, row)
        return GivenPair(label.comparison, label.prob_a, line, label.verdicts, label.failure, label.constitution_hash)
    if "a" in row and "b" in row:
        return GivenPair(_record(Comparison, row), None, line)
    if all(side in row for side in SIDES):
        return _preference(row, line)
    if "response_a" in row and "response_b" in row:
        prompt, *texts = conversation_of(row, ("response_a", "response_b"))
        return GivenPair(_comparison(prompt, texts, row), _given_probability(row), line)
    known = {"prompt", "chosen", "rejected", "response_a", "response_b", "comparison"}
    found = ", ".join(sorted(known & row.keys()))
    raise DataError(f"is no comparison{f', it has only {found}' if found else ''}", remedy=_SHAPES)


def _preference(row: dict[str, Any], line: int) -> GivenPair:
    """A line with `chosen` and `rejected`; the hash of the two, whichever is chosen, says which one stands as A."""
    prompt, chosen, rejected = conversation_of(row, SIDES)
    first, second = sorted((chosen, rejected))
    swapped = int(content_id("places", prompt, first, second), 16) % 2 == 1
    texts = [second, first] if swapped else [first, second]
    scores = [row.get(f"score_{side}") for side in SIDES]
    undecided = all(isinstance(score, int | float) for score in scores) and scores[0] == scores[1]
    better = _probability(row.get("prob_chosen"), "prob_chosen", "that the chosen answer is the better one")
    if better is None:
        better = 0.5 if undecided else 1.0
    return GivenPair(_comparison(prompt, texts, row), better if texts[0] == chosen else 1 - better, line)


def _comparison(messages: tuple[Message, ...], texts: list[str], row: dict[str, Any]) -> Comparison:
    if texts[0] == texts[1]:
        raise ComparesNothing("both answers are the same text")
    part = "" if row.get("slice") is None else row["slice"]
    if not isinstance(part, str):
        raise DataError(f"must be text, not {type(part).__name__}", where="slice", remedy="put it in quotes")
    tags = read_tags(row.get("tags"), "tags")
    if isinstance(row.get("subset"), str):
        tags += (row["subset"],)
    return Comparison.of_texts(Prompt(messages, slice=part, tags=tags), *texts)


def _given_probability(row: dict[str, Any]) -> float | None:
    """What `prob_a` or `label` says; None where neither stands or the one that does is null."""
    label, probability = row.get("label"), row.get("prob_a")
    if label is not None and probability is not None:
        raise DataError("stands beside prob_a", where="label", remedy="keep one of the two")
    if label is None:
        return _probability(probability, "prob_a", "that answer A is the better one; null for none")
    if not isinstance(label, str) or label.lower() not in LABELS:
        raise DataError(f"must be one of {', '.join(LABELS)} (given: {label!r})", where="label")
    return LABELS[label.lower()]


def _probability(value: Any, where: str, of: str) -> float | None:
    if value is None:
        return None
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
    if not fits:
        raise DataError(
            f"must be a number from 0 to 1 (given: {str(value)[:60]!r})",
            where=where,
            remedy=f"the probability {of}",
        )
    return float(value)


def _record(kind: type[Any], row: dict[str, Any]) -> Any:
    """The record of ours in `row`; DataError naming the first field that is wrong."""
    from pydantic import ValidationError

    try:
        return from_json(kind, row)
    except ValidationError as problem:
        first = problem.errors()[0]
        out_of_range = f"{first['msg']} (given: {str(first['input'])[:60]!r})"
        raise DataError(
            out_of_range if first["type"] == "range" else f"is not a {kind.__name__} of rlaif: {first['msg'].lower()}",
            where=".".join(map(str, first["loc"])) or None,
            remedy="mend the line, or write prompt, response_a, response_b and prob_a instead",
        ) from None


def _without_repeated(pairs: Iterable[GivenPair]) -> tuple[tuple[GivenPair, ...], tuple[RepeatedLine, ...]]:
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
            repeated.append(RepeatedLine(pair.line, first.line, told == first.prob_a))
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
        told.append(f"{unit(path)} {number}: {text}" if told else text)
    told += [f"and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
    first, problem = problems[0]
    return DataError("; ".join(told), where=place(path, first), remedy=problem.remedy)
