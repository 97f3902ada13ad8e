"""The README.md of an export: what a stranger must know to trust it, and what the hub reads of it.

Names, texts and sentences of a run may come from a file or a model, so they are shown and never obeyed: in a sentence
or a table as plain text, a whole text between fences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlaif.config import RunConfig
from rlaif.constitution.load import load_constitution
from rlaif.core.errors import DataError
from rlaif.core.evaluation import REFERENCE, Cell, Summary, read_summary
from rlaif.core.files import RunFolder, path_hash
from rlaif.core.records import Constitution, WinRate
from rlaif.core.terminal import visible
from rlaif.judge.card.records import JudgeCard, card_of_run
from rlaif.view.text import number

TAGS = ["rlaif", "constitutional-ai"]


def plain(text: object) -> str:
    """The text on one line, without anything that Markdown or HTML would take for its own."""
    line = " ".join(visible(str(text)).split())
    return re.sub(r"([\\`*_\[\]<>|#!&])", r"\\\1", line)


def fenced(text: str, language: str = "") -> str:
    """The text between fences that are longer than any in it."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{visible(text).rstrip()}\n{fence}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; the cells are plain text, or Markdown where they are made by `code`."""
    lines = [heads, ["---"] * len(heads), *([c if isinstance(c, _Code) else plain(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class _Code(str):
    """A piece of Markdown that is ours."""


def code(text: str) -> str:
    """The text between backquotes, of a name that is ours or of the config."""
    return _Code(f"`{visible(text)}`")


def model_name(source: str) -> str:
    """What a reader knows the model of the config by, as plain text."""
    if source == "embedded":
        return "SmolLM2-135M-Instruct (4-bit, as rlaif ships it)"
    return plain(Path(source).name if Path(source).expanduser().exists() else source)


def page(metadata: Any, parts: Iterable[str]) -> str:
    """The README: the hub's block of metadata, and below it the parts, a paragraph each."""
    return "\n\n".join([f"---\n{metadata.to_yaml()}\n---", *parts]) + "\n"


def constitution_of(run: RunFolder) -> Constitution:
    """The constitution that lies in the run's folder."""
    return load_constitution(str(run.constitution_path))


def refuse_edited_constitution(run: RunFolder, constitution: Constitution, hashes: Iterable[str]) -> None:
    """Raises DataError where records were made under another constitution than the one that would be shown for them."""
    other = sorted({found for found in hashes if found and found != constitution.hash})
    if other:
        raise DataError(
            f"is not the constitution that the records were made under ({other[0]}): its hash is {constitution.hash}",
            where=str(run.constitution_path),
            remedy="put that one back, or make the records again under this one",
        )


def origin(run: RunFolder, config: RunConfig, constitution: Constitution) -> str:
    """Two lines: the constitution, and what its judge is worth; or whence the labels come that were given."""
    if config.given_labels:
        return f"- Labels: given to the run in {plain(Path(str(config.label.source)).name)}; no judge made them"
    rules = (
        f"- Constitution: {plain(constitution.name)}, version {plain(constitution.version)}, "
        f"{len(constitution.principles)} principles, hash `{constitution.hash}`"
    )
    return f"{rules}\n- {judge_line(card_of_run(run))}"


def judge_line(card: JudgeCard | None) -> str:
    """What the judge's card says first; that there is none, where there is none."""
    if card is None:
        return "Judge: not measured on pairs whose better answer is known (the run has no judge's card)"
    said = plain(card.verdict[0]) if card.verdict else "nothing can be said of it"
    judge = f"{plain(card.subject.model)} by `{card.subject.method}`"
    return f"Judge: {judge}, measured on {plain(card.subject.gold)}: {said} (card `{card.id}`)"


# --- the evaluation ---------------------------------------------------------------------------------------------------


def evaluation_of(run: RunFolder, model: str) -> Summary | None:
    """The run's evaluation, where it is finished and of the adapters that are there now."""
    record = run.record("evaluate")
    summary = None if record is None else read_summary(run)
    if record is None or summary is None or model not in summary.models:
        return None
    seen = {name: value for name, value in record.inputs.items() if name in ("sft/adapter", f"{model}/adapter")}
    return summary if all(value == path_hash(run.root / name) for name, value in seen.items()) else None


def eval_results(summary: Summary, model: str) -> list[Any]:
    """The evaluation as the hub's `model-index` has it: a result for each slice and measure."""
    from huggingface_hub import EvalResult

    def result(part: str, kind: str, name: str, value: float) -> Any:
        return EvalResult(
            task_type="text-generation",
            dataset_type="held-out-prompts",
            dataset_name=f"held-out prompts of the run, slice {visible(part)}",
            dataset_config=visible(part),
            metric_type=visible(kind),
            metric_name=visible(name),
            metric_value=round(value, 6),
        )

    found = [
        result(cell.slice, cell.measure, _named(summary, cell), cell.mean)
        for cell in _cells(summary, model)
        if cell.mean is not None
    ]
    for part in summary.slices:
        rate = _win_rate(summary, model, part)
        if rate is not None and rate.rate is not None:
            name = f"win rate v SFT by the judge{_between(rate.low, rate.high)}"
            found.append(result(part, "win_rate", name, rate.rate))
    return found


def evaluation_table(summary: Summary, model: str) -> str:
    """The same as a table to read, with intervals and the paired differences from SFT."""
    rows: list[Sequence[object]] = []
    for cell in _cells(summary, model):
        mean, change = _value(cell.mean, cell.low, cell.high), ""
        if cell.difference is not None:
            change = _value(cell.difference, cell.difference_low, cell.difference_high)
        rows.append((cell.slice, summary.measures[cell.measure].label, cell.n, mean, change))
    for part in summary.slices:
        rate, kl = _win_rate(summary, model, part), summary.divergence(model, part)
        if rate is not None:
            value = _value(rate.rate, rate.low, rate.high)
            rows.append((part, "win rate v SFT, by the judge", rate.scored, value, ""))
        if kl is not None:
            rows.append((part, "KL from SFT, nats an answer", kl.n, _value(kl.mean, kl.low, kl.high), ""))
    return table(["prompts", "measure", "n", "mean (95 % interval)", "difference from SFT"], rows)


def _win_rate(summary: Summary, model: str, part: str) -> WinRate | None:
    """The rate against SFT; of SFT itself there is none."""
    return None if model == REFERENCE else summary.win_rate(model, part)


def _cells(summary: Summary, model: str) -> Iterator[Cell]:
    """The model's cells that were measured, slice by slice."""
    for part in summary.slices:
        for key in summary.measured():
            cell = summary.cell(model, part, key)
            if cell is not None and cell.mean is not None:
                yield cell


def _named(summary: Summary, cell: Cell) -> str:
    return f"{summary.measures[cell.measure].label}{_between(cell.low, cell.high)}"


def _value(mean: float | None, low: float | None, high: float | None) -> str:
    return f"{number(mean)}{_between(low, high)}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({number(low)} to {number(high)})"
