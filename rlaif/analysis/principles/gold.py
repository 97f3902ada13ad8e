"""What gold says of a run's pairs: a file of preferences, or a gold scorer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlaif.core.errors import DataError
from rlaif.core.plugins import is_own, short_name
from rlaif.core.records import Comparison, Message, PreferenceLabel
from rlaif.core.statistics import preferred
from rlaif.gold.minilm import Embeddings
from rlaif.gold.scorers import SCORERS, GoldScorer, entry_of
from rlaif.inputs.comparisons import MOST_TOLD, NUMBERS, ComparisonFile, read_comparisons
from rlaif.inputs.rows import read_rows, unit

_SHAPES = {"comparison", "chosen", "rejected", "response_a", "response_b", "a", "b"}
_ROW = '{"id": comparison.id of label/labels.jsonl, "prob_a": 0..1 or null}'


@dataclass(frozen=True, slots=True)
class GoldFacts:
    """Where gold is from. `matched` rows are about pairs of the run, `unmatched` are not; of the matched ones `silent`
    prefer no answer and are in no figure. `about`: a sentence on the scorer, or ""."""

    name: str
    rows: int
    matched: int
    unmatched: int
    silent: int
    about: str = ""


@dataclass(frozen=True, slots=True)
class Gold:
    """The facts, and by id of a comparison P(A is better), for those where gold prefers an answer; `notes` tell which
    lines of the file were left out."""

    facts: GoldFacts | None
    prob_a: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Row:
    """P(A is better) of one row, and the pairs that it is about: id -> whether A and B stand the other way round."""

    prob_a: float | None
    pairs: dict[str, bool]


def read_gold(given: str, labels: Sequence[PreferenceLabel]) -> Gold:
    """The gold of `--gold`: a gold scorer by its name or as "module:Class", or a file with rows {"id", "prob_a"}, or
    in any shape of rlaif.inputs.comparisons, matched by the texts.

    Raises DataError for wrong rows, naming them, and where no row is about a pair of the run.
    """
    pairs = list({label.comparison.id: label.comparison for label in labels}.values())
    path = Path(given)
    if is_scorer(given):
        return _by_scorer(given, pairs)
    first = next((row for _, row in read_rows(path)), {})
    by_id = "id" in first and not _SHAPES & first.keys()
    file = None if by_id else read_comparisons(path)
    rows = _by_id(path, pairs) if file is None else _by_text(file, pairs)
    matched = [row for row in rows if row.pairs]
    if not matched:
        raise DataError(
            f"none of its {len(rows):,} rows is about a pair of the run",
            where=str(path),
            remedy=f"write {_ROW}; or the very texts of prompt, chosen and rejected",
        )
    known: dict[str, float] = {}
    for row in matched:
        if row.prob_a is not None and row.prob_a != 0.5:
            known |= {name: 1 - row.prob_a if turned else row.prob_a for name, turned in row.pairs.items()}
    notes = () if file is None else tuple(file.notes())
    silent = sum(row.prob_a is None or row.prob_a == 0.5 for row in matched)
    return Gold(GoldFacts(path.name, len(rows), len(matched), len(rows) - len(matched), silent), known, notes)


def is_scorer(given: str) -> bool:
    """Whether `--gold` names a gold scorer, and no file."""
    return given in SCORERS or (is_own(given) and not Path(given).exists())


def _by_id(path: Path, pairs: Sequence[Comparison]) -> list[_Row]:
    """Rows {"id", "prob_a"}; every wrong one is named."""
    known = {pair.id for pair in pairs}
    rows: dict[str, _Row] = {}
    problems = []
    for number, row in read_rows(path, numbers=NUMBERS):
        line = f"{unit(path)} {number}"
        name, value = row.get("id"), row.get("prob_a")
        if not isinstance(name, str):
            problems.append(f"{line}: id must be text")
        elif "prob_a" not in row or (value is not None and not _is_probability(value)):
            problems.append(f"{line}: prob_a must be a number from 0 to 1, or null")
        elif name in rows:
            problems.append(f"{line}: the pair {name} stands twice")
        else:
            rows[name] = _Row(None if value is None else float(value), {name: False} if name in known else {})
    if problems:
        more = [f"and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
        raise DataError("; ".join(problems[:MOST_TOLD] + more), where=str(path), remedy=f"write {_ROW}")
    return list(rows.values())


def _by_text(file: ComparisonFile, pairs: Sequence[Comparison]) -> list[_Row]:
    """Rows with the texts of prompt and answers; a row may be about several pairs whose texts are the same."""
    places: dict[tuple[tuple[Message, ...], str, str], dict[str, bool]] = {}
    for pair in pairs:
        a, b = pair.a.text, pair.b.text
        places.setdefault((pair.prompt.messages, a, b), {})[pair.id] = False
        places.setdefault((pair.prompt.messages, b, a), {})[pair.id] = True
    rows = []
    for given in file.pairs:
        texts = (given.comparison.prompt.messages, given.comparison.a.text, given.comparison.b.text)
        rows.append(_Row(given.prob_a, places.get(texts, {})))
    return rows


def _is_probability(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= 1  # type: ignore[arg-type, operator]


def _by_scorer(name: str, pairs: Sequence[Comparison]) -> Gold:
    """The better answer of each pair by a gold scorer; GoldMissing, with how to install it, where it is not there."""
    entry, column = entry_of(name, "--gold"), short_name(name)
    scorer = GoldScorer(column, entry, entry.open(Embeddings()))
    sides = list({side.id: (pair.prompt, side) for pair in pairs for side in (pair.a, pair.b)}.values())
    found = scorer.score([asked for asked, _ in sides], [side.text for _, side in sides])
    score = {side.id: value for (_, side), value in zip(sides, found, strict=True)}
    known: dict[str, float] = {}
    for pair in pairs:
        a, b = score[pair.a.id], score[pair.b.id]
        if a is not None and b is not None and a != b:
            higher = preferred(0.5 + a - b)
            known[pair.id] = higher if scorer.better == "higher" else 1 - higher
    return Gold(GoldFacts(column, len(pairs), len(pairs), 0, len(pairs) - len(known), scorer.about), known)
