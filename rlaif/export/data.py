"""What a run made of data, as a data set that other trainers read: judged pairs, prompts, examples of SFT.

Rows are written one by one in the order of the run's files; what is left out is counted by reason, for the card.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rlaif.config import RunConfig
from rlaif.config.load import load as read_config
from rlaif.core.errors import ConfigError, DataError, near
from rlaif.core.files import JsonlFile, RunFolder, file_hash
from rlaif.core.records import Constitution, PreferenceLabel, Prompt, Response, SftExample, content_id
from rlaif.export import card as cards
from rlaif.export import place
from rlaif.export.data_card import DataFacts, Shape, data_card
from rlaif.export.duplicates import NEAR, first_of_each
from rlaif.export.source import finished
from rlaif.export.splits import TRAIN, DataSplit, draw_splits
from rlaif.judge.aggregate import Vote, votes
from rlaif.judge.confounds import chosen_first, surplus

SHAPES: tuple[Shape, ...] = ("preference", "implicit", "kto", "prompt-only", "sft")
JUDGED: tuple[Shape, ...] = ("preference", "implicit", "kto")
FileFormat = Literal["parquet", "jsonl"]
FORMATS: tuple[FileFormat, ...] = ("parquet", "jsonl")
Row = dict[str, Any]
BATCH = 1000
"""Rows that are held at a time."""


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Which rows, and in which splits; what is empty or None leaves nothing out.

    `min_confidence`: least probability of the chosen answer; `min_agreement`: least share of the principles that
    answered and prefer it; `principles`: each of them prefers it. `near_duplicates`: share of pieces from which on a
    prompt repeats an earlier one. `balance`: of each split and slice, as many pairs prefer the longer as the shorter
    answer.
    """

    shape: Shape = "preference"
    file_format: FileFormat = "parquet"
    min_confidence: float | None = None
    slices: tuple[str, ...] = ()
    min_agreement: float | None = None
    principles: tuple[str, ...] = ()
    near_duplicates: float | None = None
    balance: bool = False
    splits: tuple[DataSplit, ...] = ()

    @property
    def of_votes(self) -> str:
        """The option that needs a judge's votes; "" for none."""
        return "--principle" if self.principles else "" if self.min_agreement is None else "--min-agreement"

    @property
    def of_labels(self) -> str:
        """The option that needs labels; "" for none."""
        return "--min-confidence" if self.min_confidence is not None else self.of_votes or "--balance" * self.balance

    def options(self) -> list[str]:
        """As they are typed."""
        found = ["--shape", self.shape, "--format", self.file_format]
        found += [] if self.min_confidence is None else ["--min-confidence", f"{self.min_confidence:g}"]
        found += [] if self.min_agreement is None else ["--min-agreement", f"{self.min_agreement:g}"]
        found += [] if self.near_duplicates is None else ["--near-duplicates", f"{self.near_duplicates:g}"]
        found += [word for name in self.principles for word in ("--principle", name)]
        found += [word for name in self.slices for word in ("--slice", name)]
        found += ["--balance"] * self.balance
        return found + [word for split in self.splits for word in ("--split", f"{split.name}={split.share:g}")]


@dataclass(frozen=True, slots=True)
class DataExport:
    """What was written: how many rows, in all and of each split, and why records made none."""

    out: Path
    shape: Shape
    rows: int
    splits: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        found = {"wrote": str(self.out), "export": "data", "shape": self.shape}
        return {**found, "rows": self.rows, "splits": self.splits, "left_out": self.left_out}


def export_data(run: RunFolder, out: Path, request: DataRequest, *, force: bool = False) -> DataExport:
    """What was written to `out`. Raises, before anything is: RunFolderError for a place that is taken, StageError for a
    stage that is missing, ConfigError for a slice or a principle that there is not and for a package that is missing,
    DataError where no row is left, a split is empty, or the constitution is not the one that the labels were made
    under."""
    place.refuse_place(out, run, force=force)
    config, constitution = read_config(run.config_path), cards.constitution_of(run)
    _refuse_request(request, config, constitution)
    facts = DataFacts()
    source = _sifted(_source(run, request, config, constitution), request, config.seed)
    for _ in source(facts):  # once to count and to check, before anything is written
        pass
    rows = facts.rows.total()
    if request.shape in JUDGED and not config.given_labels:
        cards.refuse_edited_constitution(run, constitution, facts.constitutions)
    if not rows:
        raise DataError(
            f"no row is left ({facts.told()})",
            where=str(run.root),
            remedy="lower --min-confidence or --min-agreement, leave --balance out, or take more slices",
        )
    if empty := [split for split in _names(request) if not facts.rows[split]]:
        remedy = "leave --balance out, take more prompts, or other shares"
        raise DataError(f"no row is left in the split {empty[0]}", where="--split", remedy=remedy)
    command = place.command("data", run, out, request.options())
    files = {split: f"{split}.{request.file_format}" for split in _names(request)}

    def write(folder: Path) -> None:
        (folder / "data").mkdir()
        with ExitStack() as writers:
            put = {
                split: writers.enter_context(_writer(folder / "data" / name, request)) for split, name in files.items()
            }
            left = source(DataFacts())
            while part := list(islice(left, BATCH)):
                for split in files:
                    put[split]([row for at, row in part if at == split])
        # `datasets` knows what it has in its cache by the names of folder and subset alone.
        written = content_id(*(file_hash(folder / "data" / name) for name in files.values()))
        named = {"name": out.name, "subset": f"{request.shape}-{written[:8]}", "command": command}
        about = _grouped(request, config.seed)
        readme = data_card(run, config, constitution, request.shape, facts, files=files, grouped=about, **named)
        (folder / "README.md").write_text(readme, encoding="utf-8")

    found = DataExport(out, request.shape, rows, {split: facts.rows[split] for split in files}, dict(facts.left_out))
    about = {**found.as_json(), "wrote": out.name, "constitution": constitution.hash, "command": command}
    place.write_export(out, write, about)
    return found


def _names(request: DataRequest) -> list[str]:
    return [TRAIN, *(split.name for split in request.splits)]


def _grouped(request: DataRequest, seed: int) -> str:
    """What was done about near-duplicates and splits, in words; "" for nothing."""
    if request.near_duplicates is None and not request.splits:
        return ""
    nearly = f"at least {request.near_duplicates or NEAR:.0%} of their pieces of five letters"
    found = [f"Prompts are near-duplicates that share {nearly}, directly or by a chain of such prompts (MinHash)."]
    if request.near_duplicates is not None:
        found.append("Of these the first is here.")
    if request.splits:
        found.append(
            f"The splits are by prompt, drawn with the seed {seed}: all rows of a prompt, and of its near-duplicates, "
            "are in one split."
        )
    return " ".join(found)


def _refuse_request(request: DataRequest, config: RunConfig, constitution: Constitution) -> None:
    for name in request.slices:
        if name not in config.prompts and not config.given_labels:  # given labels may have slices of their own
            what = f"the run has no slice {name!r}{near(name, config.prompts)}"
            raise ConfigError(what, where="--slice", remedy=f"write one of {', '.join(config.prompts)}")
    if request.of_labels and request.shape not in JUDGED:
        raise ConfigError(
            f"rows of the shape {request.shape} have no label",
            where=request.of_labels,
            remedy=f"leave it out, or take one of {', '.join(JUDGED)}",
        )
    if request.of_votes and config.given_labels:
        what = "the labels were given to the run, so no principle of it voted"
        raise ConfigError(what, where=request.of_votes, remedy="leave it out")
    known = [principle.id for principle in constitution.principles]
    for name in request.principles:
        if name not in known:
            what = f"the constitution has no principle {name!r}{near(name, known)}"
            raise ConfigError(what, where="--principle", remedy=f"write one of {', '.join(known)}")


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Made:
    """What one record makes: the rows of a prompt, and the label where it is one."""

    prompt: Prompt
    rows: tuple[Row, ...]
    label: PreferenceLabel | None = None


def _source(
    run: RunFolder, request: DataRequest, config: RunConfig, constitution: Constitution
) -> Callable[[DataFacts], Iterator[_Made]]:
    """The rows of each record, and what becomes of it, as often as they are asked for; StageError where the stage that
    makes them is not finished."""
    if request.shape == "prompt-only":
        prompts = JsonlFile(run.file("prompts", "train.jsonl"), Prompt)
        return lambda facts: _of_prompts(prompts, request, facts)
    if request.shape == "sft":
        finished(run, "sft")
        examples = JsonlFile(run.file("sft", "examples.jsonl"), SftExample)
        return lambda facts: _of_examples(examples, request, facts)
    finished(run, "label")
    labels = JsonlFile(run.file("label", "labels.jsonl"), PreferenceLabel)
    panel = config.judge.weights

    def judged(facts: DataFacts) -> Iterator[_Made]:
        for label, chosen, rejected in _kept(labels, request, facts):
            given = votes(label.verdicts, constitution.principles, panel)
            voted = _prefer(given, chosen is label.comparison.a)
            if voted and sum(voted.values()) < (request.min_agreement or 0) * len(voted) - 1e-9:
                facts.left_out["below --min-agreement"] += 1
            elif request.of_votes and not voted:
                facts.left_out["no principle answered"] += 1
            elif not all(voted.get(name, False) for name in request.principles):
                facts.left_out["a principle of --principle does not prefer the chosen answer"] += 1
            else:
                rows = _label_rows(request.shape, label, chosen, rejected, _more(label, chosen, given))
                yield _Made(label.comparison.prompt, tuple(rows), label)

    return judged


def _prefer(given: Iterable[Vote], a_is_chosen: bool) -> dict[str, bool]:
    """Principle -> whether it prefers the chosen answer, of those that answered; at one half it does not."""
    known = [(vote.principle.id, vote.prob_a) for vote in given if vote.prob_a is not None]
    return {name: prob > 0.5 if a_is_chosen else prob < 0.5 for name, prob in known}


def _sifted(
    source: Callable[[DataFacts], Iterator[_Made]], request: DataRequest, seed: int
) -> Callable[[DataFacts], Iterator[tuple[str, Row]]]:
    """Rows with their split, without what the other records make superfluous. The records are read once for
    near-duplicates and splits, and once for the balance."""
    first: dict[str, str] = {}
    if request.near_duplicates is not None or request.splits:
        texts = ((made.prompt.id, _said(made.prompt)) for made in source(DataFacts()))
        first = first_of_each(texts, request.near_duplicates or NEAR)
    once = request.near_duplicates is not None
    there = {prompt: leader for prompt, leader in first.items() if prompt == leader or not once}
    split_of = draw_splits(there, request.splits, seed) if request.splits else {}

    def kept(facts: DataFacts) -> Iterator[tuple[str, _Made]]:
        for made in source(facts):
            if once and first[made.prompt.id] != made.prompt.id:
                facts.left_out["the prompt nearly repeats an earlier one"] += 1
            else:
                yield split_of.get(made.prompt.id, TRAIN), made

    def pairs() -> Iterator[tuple[str, str, Response, Response]]:
        for split, made in kept(DataFacts()):
            if made.label is not None and (pair := chosen_first(made.label)) is not None:
                yield made.label.id, f"{split} {made.prompt.slice}", *pair

    left_over = surplus(pairs(), seed) if request.balance else set()

    def rows(facts: DataFacts) -> Iterator[tuple[str, Row]]:
        for split, made in kept(facts):
            if made.label is not None and made.label.id in left_over:
                facts.left_out["more pairs of its slice prefer an answer of that length and end than of the other"] += 1
                continue
            if made.label is not None:
                facts.judges.update((v.judge, v.method) for v in made.label.verdicts)
                facts.tally.add(made.label)
            facts.rows[split] += len(made.rows)
            yield from ((split, row) for row in made.rows)

    return rows


def _said(prompt: Prompt) -> str:
    """The turns of the conversation; not the system message, which many prompts may share."""
    return "\n".join(turn.content for turn in prompt.messages if turn.role != "system")


def _kept(
    labels: Iterable[PreferenceLabel], request: DataRequest, facts: DataFacts
) -> Iterator[tuple[PreferenceLabel, Response, Response]]:
    """The labels with a preference that is sure enough, each with its chosen and its rejected answer."""
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


def _of_prompts(prompts: Iterable[Prompt], request: DataRequest, facts: DataFacts) -> Iterator[_Made]:
    for prompt in prompts:
        facts.records += 1
        if request.slices and prompt.slice not in request.slices:
            facts.left_out["another slice"] += 1
            continue
        more = {"slice": prompt.slice, "tags": list(prompt.tags), "prompt_columns": prompt.columns, "id": prompt.id}
        yield _Made(prompt, ({"prompt": _chat(prompt), **more},))


def _of_examples(examples: Iterable[SftExample], request: DataRequest, facts: DataFacts) -> Iterator[_Made]:
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
            row = {"messages": _chat(example.prompt) + _turn(example.response), **more}
            yield _Made(example.prompt, (row,))


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
