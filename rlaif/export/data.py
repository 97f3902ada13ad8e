"""What a run made of data, as a data set that other trainers read: judged pairs, prompts, examples of SFT.

Rows are written one by one in the order of the run's files; what is left out is counted by reason, for the card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rlaif.config import RunConfig
from rlaif.config.load import load as read_config
from rlaif.core.errors import ConfigError, DataError, near
from rlaif.core.files import JsonlFile, RunFolder, file_hash
from rlaif.core.records import Constitution, PreferenceLabel, Prompt, Response, SftExample
from rlaif.export import card as cards
from rlaif.export import place
from rlaif.export.data_card import DataFacts, Shape, data_card
from rlaif.export.source import finished
from rlaif.judge.aggregate import votes
from rlaif.judge.confounds import chosen_first

SHAPES: tuple[Shape, ...] = ("preference", "implicit", "kto", "prompt-only", "sft")
JUDGED: tuple[Shape, ...] = ("preference", "implicit", "kto")
FileFormat = Literal["parquet", "jsonl"]
FORMATS: tuple[FileFormat, ...] = ("parquet", "jsonl")
Row = dict[str, Any]
BATCH = 1000
"""Rows that are held at a time."""


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Which rows: `min_confidence` is the least probability of the chosen answer, `slices` empty are all."""

    shape: Shape = "preference"
    file_format: FileFormat = "parquet"
    min_confidence: float | None = None
    slices: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """As they are typed."""
        found = ["--shape", self.shape, "--format", self.file_format]
        found += [] if self.min_confidence is None else ["--min-confidence", f"{self.min_confidence:g}"]
        return found + [word for name in self.slices for word in ("--slice", name)]


@dataclass(frozen=True, slots=True)
class DataExport:
    """What was written: how many rows, and why records made none."""

    out: Path
    shape: Shape
    rows: int
    left_out: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        found = {"wrote": str(self.out), "export": "data", "shape": self.shape}
        return {**found, "rows": self.rows, "left_out": self.left_out}


def export_data(run: RunFolder, out: Path, request: DataRequest, *, force: bool = False) -> DataExport:
    """What was written to `out`. Raises, before anything is: RunFolderError for a place that is taken, StageError for a
    stage that is missing, ConfigError for a slice that there is not, DataError where no row is left or the constitution
    is not the one that the labels were made under."""
    place.refuse_place(out, run, force=force)
    config, constitution = read_config(run.config_path), cards.constitution_of(run)
    _refuse_request(request, config)
    facts = DataFacts()
    source = _source(run, request, config, constitution)
    rows = sum(1 for _ in source(facts))  # once to count and to check, before anything is written
    if request.shape in JUDGED and not config.given_labels:
        cards.refuse_edited_constitution(run, constitution, facts.constitutions)
    if not rows:
        raise DataError(
            f"no row is left ({facts.told()})",
            where=str(run.root),
            remedy="lower --min-confidence, or take more slices",
        )
    command = place.command("data", run, out, request.options())
    name = f"train.{request.file_format}"

    def write(folder: Path) -> None:
        (folder / "data").mkdir()
        with _writer(folder / "data" / name, request) as put:
            left = source(DataFacts())
            while part := list(islice(left, BATCH)):
                put(part)
        # `datasets` knows what it has in its cache by the names of folder and subset alone.
        subset = f"{request.shape}-{file_hash(folder / 'data' / name)[:8]}"
        named = {"name": out.name, "subset": subset, "file": name, "command": command}
        readme = data_card(run, config, constitution, request.shape, facts, rows, **named)
        (folder / "README.md").write_text(readme, encoding="utf-8")

    found = DataExport(out, request.shape, rows, dict(facts.left_out))
    about = {**found.as_json(), "wrote": out.name, "constitution": constitution.hash, "command": command}
    place.write_export(out, write, about)
    return found


def _refuse_request(request: DataRequest, config: RunConfig) -> None:
    for name in request.slices:
        if name not in config.prompts and not config.given_labels:  # given labels may have slices of their own
            what = f"the run has no slice {name!r}{near(name, config.prompts)}"
            raise ConfigError(what, where="--slice", remedy=f"write one of {', '.join(config.prompts)}")
    if request.min_confidence is not None and request.shape not in JUDGED:
        raise ConfigError(
            f"rows of the shape {request.shape} have no confidence",
            where="--min-confidence",
            remedy=f"leave it out, or take one of {', '.join(JUDGED)}",
        )


# --- rows -------------------------------------------------------------------------------------------------------------


def _source(
    run: RunFolder, request: DataRequest, config: RunConfig, constitution: Constitution
) -> Callable[[DataFacts], Iterator[Row]]:
    """The rows, and what becomes of each record, as often as they are asked for; StageError where the stage that makes
    them is not finished."""
    if request.shape == "prompt-only":
        prompts = JsonlFile(run.file("prompts", "train.jsonl"), Prompt)
        return lambda facts: _prompt_rows(prompts, request, facts)
    if request.shape == "sft":
        finished(run, "sft")
        examples = JsonlFile(run.file("sft", "examples.jsonl"), SftExample)
        return lambda facts: _sft_rows(examples, request, facts)
    finished(run, "label")
    labels = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    panel = config.judge.weights

    def judged(facts: DataFacts) -> Iterator[Row]:
        for label, chosen, rejected in _kept(labels, request, facts):
            given = votes(label.verdicts, constitution.principles, panel)
            yield from _label_rows(request.shape, label, chosen, rejected, _more(label, chosen, given))

    return judged


def _kept(
    labels: Iterable[PreferenceLabel], request: DataRequest, facts: DataFacts
) -> Iterator[tuple[PreferenceLabel, Response, Response]]:
    """The labels that make rows, each with its chosen and its rejected answer."""
    for label in labels:
        facts.records += 1
        if request.slices and label.comparison.prompt.slice not in request.slices:
            facts.left_out["another slice"] += 1
            continue
        facts.constitutions.add(label.constitution_hash)
        facts.cards.add(label.judge_card)
        pair = chosen_first(label)
        if label.failure is not None:
            facts.failed(label.failure)
        elif label.prob_a is None or pair is None:
            facts.left_out["a tie"] += 1
        elif max(label.prob_a, 1 - label.prob_a) < (request.min_confidence or 0.5):
            facts.left_out["below --min-confidence"] += 1
        else:
            facts.judges.update((v.judge, v.method) for v in label.verdicts)
            facts.tally.add(label)
            yield label, *pair


def _more(label: PreferenceLabel, chosen: Response, given: Iterable[Any]) -> Row:
    """The columns that every shape with labels has beside those that trainers read."""
    assert label.prob_a is not None
    prob = max(label.prob_a, 1 - label.prob_a)
    turned = chosen is not label.comparison.a
    known = [(vote.principle.id, vote.prob_a) for vote in given if vote.prob_a is not None]
    return {
        "prob_chosen": prob,
        "margin": 2 * prob - 1,
        "principle_votes": [{"principle": name, "prob_chosen": 1 - p if turned else p} for name, p in known],
        "slice": label.comparison.prompt.slice,
        "prompt_columns": label.comparison.prompt.columns,
        "answers": label.answers,
        "judge_card": label.judge_card,
        "constitution_hash": label.constitution_hash,
        "id": label.id,
    }


def _label_rows(shape: Shape, label: PreferenceLabel, chosen: Response, rejected: Response, more: Row) -> Iterator[Row]:
    before = _chat(label.comparison.prompt)
    if shape == "kto":
        for response, good in ((chosen, True), (rejected, False)):
            yield {"prompt": before, "completion": _turn(response.text), "label": good} | {
                "finished": response.finish == "stop",
                **more,
            }
        return
    ends = {"chosen_finished": chosen.finish == "stop", "rejected_finished": rejected.finish == "stop"}
    if shape == "implicit":
        yield {"chosen": before + _turn(chosen.text), "rejected": before + _turn(rejected.text), **ends, **more}
    else:
        yield {"prompt": before, "chosen": _turn(chosen.text), "rejected": _turn(rejected.text), **ends, **more}


def _prompt_rows(prompts: Iterable[Prompt], request: DataRequest, facts: DataFacts) -> Iterator[Row]:
    for prompt in prompts:
        facts.records += 1
        if request.slices and prompt.slice not in request.slices:
            facts.left_out["another slice"] += 1
            continue
        more = {"slice": prompt.slice, "tags": list(prompt.tags), "prompt_columns": prompt.columns, "id": prompt.id}
        yield {"prompt": _chat(prompt), **more}


def _sft_rows(examples: Iterable[SftExample], request: DataRequest, facts: DataFacts) -> Iterator[Row]:
    """Examples that end. One that was cut off would teach another trainer to stop in the middle of a sentence."""
    for example in examples:
        facts.records += 1
        if request.slices and example.prompt.slice not in request.slices:
            facts.left_out["another slice"] += 1
        elif example.finish != "stop":
            facts.left_out["an answer that was cut off"] += 1
        else:
            more = {"kind": example.kind, "slice": example.prompt.slice, "prompt_columns": example.prompt.columns}
            more["id"] = example.id
            yield {"messages": _chat(example.prompt) + _turn(example.response), **more}


def _chat(prompt: Prompt) -> list[Row]:
    return [{"role": turn.role, "content": turn.content} for turn in prompt.messages]


def _turn(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


# --- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def _writer(path: Path, request: DataRequest) -> Iterator[Callable[[Sequence[Row]], object]]:
    """A function that adds rows to the file, which is open within the block."""
    if request.file_format == "jsonl":
        with path.open("w", encoding="utf-8") as file:
            yield lambda rows: file.writelines(json.dumps(_sound(row), ensure_ascii=False) + "\n" for row in rows)
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = _schema(request.shape)
    with ParquetWriter(path, schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist([_sound(row) for row in rows], schema=schema))


def _sound(value: Any) -> Any:
    """The value with half characters written out, which no UTF-8 has a place for."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, list):
        return [_sound(item) for item in value]
    return {key: _sound(item) for key, item in value.items()} if isinstance(value, dict) else value


def _schema(shape: Shape) -> Any:
    """The columns with their types, so that no reader has to guess them from the first rows."""
    import pyarrow as pa

    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    vote = pa.struct([("principle", pa.string()), ("prob_chosen", pa.float64())])
    text, truth, number = pa.string(), pa.bool_(), pa.float64()
    more = {"prob_chosen": number, "margin": number, "principle_votes": pa.list_(vote), "slice": text}
    more |= {"prompt_columns": text, "answers": text, "judge_card": text, "constitution_hash": text, "id": text}
    ends = {"chosen_finished": truth, "rejected_finished": truth}
    columns: dict[Shape, dict[str, Any]] = {
        "preference": {"prompt": chat, "chosen": chat, "rejected": chat, **ends, **more},
        "implicit": {"chosen": chat, "rejected": chat, **ends, **more},
        "kto": {"prompt": chat, "completion": chat, "label": truth, "finished": truth, **more},
        "prompt-only": {"prompt": chat, "slice": text, "tags": pa.list_(text), "prompt_columns": text, "id": text},
        "sft": {"messages": chat, "kind": text, "slice": text, "prompt_columns": text, "id": text},
    }
    return pa.schema(list(columns[shape].items()))
