"""`rlaif show`: what a run wrote, for reading in a terminal. Model text is shown as it is: never as markup, and with
control characters written out, so that it cannot move the cursor or set colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlaif.config import STAGES
from rlaif.core.errors import DataError, StageError, near
from rlaif.core.evaluation import read_held_out
from rlaif.core.files import JsonlFile, MetricsLog, RunFolder
from rlaif.core.records import (
    FailedAnswer,
    Failure,
    PreferenceLabel,
    Prompt,
    Response,
    RevisionTrace,
    Rollout,
    SftExample,
    Verdict,
)
from rlaif.core.shard import shards_of
from rlaif.core.terminal import visible
from rlaif.judge.card.records import card_of_run
from rlaif.report.summary import summary_table
from rlaif.report.terminal import result
from rlaif.run.ledger import holds_work
from rlaif.stages.table import abouts_of
from rlaif.view.text import number

R = TypeVar("R")
LATEST = 12  # rows of a metrics table


def show(run_path: Any, what: str | None, *, n: int, failed: bool, console: Console) -> None:
    """Prints the run's overview, the records of a stage, or every record that belongs to an id (or its beginning)."""
    run = RunFolder(run_path)
    if what is None:
        console.print(_overview(run))
        return
    if what in STAGES:
        unanswered = _panels(run, f"{what}/failures.jsonl", FailedAnswer, _failed_answer, None) if failed else []
        blocks = list(islice(chain(unanswered, _stage(run, what, failed=failed)), n))
        tables = [] if failed else _tables(run, what)
        if not blocks and not tables:
            raise StageError(
                f"{what} has {'no failed record' if failed else 'written nothing to show'}", where=str(run.root)
            )
    else:
        tables, blocks = [], list(_by_id(run, what))
        if not blocks:
            raise DataError(
                f"no stage and no record is called {what!r}{near(what, STAGES)}",
                where=str(run.root),
                remedy=f"give one of {', '.join(STAGES)}, or an id that `rlaif show {run.root} STAGE` prints",
            )
    for block in (*blocks, *tables):
        console.print(block)


def _overview(run: RunFolder) -> RenderableType:
    table = Table(title=Text(visible(str(run.root))), title_justify="left")
    for heading in ("stage", "state", "seconds", "counts"):
        table.add_column(heading)
    for stage in abouts_of(run):
        record = run.record(stage)
        if record is None:
            shards = shards_of(run, stage)
            state = "begun" if holds_work(run, stage) else "-"
            if shards:
                done = sum(folder.record(stage) is not None for folder in shards.values())
                state = f"in shards, {done} of {max(shards).of} finished"
            table.add_row(stage, state, "", "")
            continue
        known = [f"{name.replace('_', ' ')} {number(value)}" for name, value in record.counts.items() if value]
        table.add_row(stage, "finished", number(record.seconds), Text(visible(", ".join(known))))
    parts: list[RenderableType] = [table]
    if run.file("evaluate", "summary.json").exists():
        parts.append(result(run))
    if run.report_path.exists():
        parts.append(Text(visible(f"report: {run.report_path}")))
    return Group(*parts)


def _stage(run: RunFolder, stage: str, *, failed: bool) -> Iterable[RenderableType]:
    """The stage's records as panels, only those with a failure if asked."""
    if stage == "revise":
        return _panels(run, "revise/traces.jsonl", RevisionTrace, _trace, _trace_failures if failed else None)
    if stage == "sft":
        return [] if failed else _panels(run, "sft/examples.jsonl", SftExample, _example, None)
    if stage in ("label", "evaluate"):
        return _panels(run, f"{stage}/labels.jsonl", PreferenceLabel, _label, _label_failures if failed else None)
    if stage == "ppo" and not failed:
        return [_rollout(rollout) for rollout in reversed(run.rollouts().read())]
    return []


def _tables(run: RunFolder, stage: str) -> list[RenderableType]:
    """The stage's numbers: last metrics, held-out figures, the evaluation's summary."""
    tables: list[RenderableType] = []
    card = card_of_run(run) if stage == "card" else None
    if card is not None:
        said = [
            *card.verdict,
            *(f"note: {note}" for note in card.notes),
            f"the whole card: {run.root}/card/card.html",
        ]
        tables.append(_panel(f"judge card {card.id}", [Text(visible(line)) for line in said]))
    rows = _rows(run, f"{stage}/metrics.jsonl")[-LATEST:]
    if rows:
        tables.append(_metrics(rows))
    validations = [row for row in _rows(run, f"{stage}/validation.jsonl") if row.get("slice") is None][-LATEST:]
    if validations:
        tables.append(_metrics(validations, "validations"))
    held_out = read_held_out(run) if stage == "reward" else None
    if held_out is not None:
        figures = held_out.as_json().items()
        lines = [f"{name}: {number(value)}" for name, value in figures if type(value) in (int, float)]
        if held_out.verdict:
            lines.append(held_out.verdict)
        tables.append(_panel("held out", [Text(visible("\n".join(lines)))]))
    if stage == "evaluate" and run.file(stage, "summary.json").exists():
        tables.append(summary_table(run))
    return tables


def _rows(run: RunFolder, name: str) -> list[dict[str, Any]]:
    return MetricsLog(run.root / name).read()


def _panels(
    run: RunFolder,
    name: str,
    kind: type[R],
    render: Callable[[R], RenderableType],
    failures: Callable[[R], Sequence[Failure]] | None,
) -> Iterable[RenderableType]:
    """Each record of the file rendered; with `failures`, only those that have one."""
    for record in JsonlFile(run.root / name, kind):
        if failures is None or failures(record):
            yield render(record)


def _by_id(run: RunFolder, wanted: str) -> Iterable[RenderableType]:
    """All that has this id, or the beginning of it: prompts, traces, labels, responses - also by their prompt."""

    def hit(*ids: str) -> bool:
        return any(identity.startswith(wanted) for identity in ids)

    for name in ("train", "held_out"):
        for prompt in JsonlFile(run.file("prompts", f"{name}.jsonl"), Prompt).read():
            if hit(prompt.id):
                yield _panel(f"prompt {prompt.id} ({name}, {prompt.slice})", _conversation(prompt))
    for trace in JsonlFile(run.file("revise", "traces.jsonl"), RevisionTrace).read():
        if hit(trace.id, trace.prompt.id, trace.response.id, trace.final.id):
            yield _trace(trace)
    for stage in ("label", "evaluate"):
        for response in JsonlFile(run.file(stage, "responses.jsonl"), Response).read():
            if hit(response.id, response.prompt_id):
                yield _panel(f"{stage}: response {response.id} ({response.model})", [_response(response)])
        for label in JsonlFile(run.file(stage, "labels.jsonl"), PreferenceLabel).read():
            pair = label.comparison
            if hit(label.id, pair.id, pair.prompt.id, pair.a.id, pair.b.id):
                yield _label(label)


# --- one record -------------------------------------------------------------------------------------------------------


def _panel(title: str, parts: Iterable[RenderableType]) -> Panel:
    return Panel(Group(*parts), title=Text(visible(title)), title_align="left")


def _line(name: str, text: str, style: str = "bold") -> Text:
    """`name: text`, the name in `style`, both literally."""
    return Text.assemble((f"{visible(name)}: ", style), visible(text))


def _failure(failure: Failure) -> Text:
    return _line(f"failed ({failure.kind})", failure.reason, "bold red")


def _conversation(prompt: Prompt) -> list[Text]:
    turns = [_line(message.role, message.content) for message in prompt.messages]
    return turns + [_line(name, str(value), "dim bold") for name, value in prompt.own_columns.items()]


def _response(response: Response) -> Text:
    ending = "" if response.finish == "stop" else " [cut off]"
    return Text.assemble(visible(response.text), (ending, "dim"))


def _trace(trace: RevisionTrace) -> RenderableType:
    parts: list[RenderableType] = [*_conversation(trace.prompt), _line("answer", trace.response.text)]
    for turn in trace.rounds:
        parts.append(_line(f"round {turn.round}, principle", turn.principle_id, "bold cyan"))
        if turn.critique is not None:
            ending = " [no change needed]" if turn.critique.no_change else ""
            parts.append(_line("critique", turn.critique.text + ending))
            if turn.critique.failure is not None:
                parts.append(_failure(turn.critique.failure))
        for revision in turn.revisions:
            state = "accepted" if revision.accepted else "rejected"
            text = "-" if revision.response is None else revision.response.text
            style = "bold green" if revision.accepted else "bold yellow"
            parts.append(_line(f"revision, {state}, P(better) {number(revision.prob_better)}", text, style))
            if revision.failure is not None:
                parts.append(_failure(revision.failure))
    return _panel(f"trace {trace.id}  prompt {trace.prompt.id}  {trace.prompt.slice}", parts)


def _trace_failures(trace: RevisionTrace) -> list[Failure]:
    found = [turn.critique.failure for turn in trace.rounds if turn.critique is not None]
    found += [revision.failure for turn in trace.rounds for revision in turn.revisions]
    return [failure for failure in found if failure is not None]


def _failed_answer(answer: FailedAnswer) -> RenderableType:
    return _panel(f"no answer to prompt {answer.prompt_id}  {answer.model}", [_failure(answer.failure)])


def _example(example: SftExample) -> RenderableType:
    parts = [*_conversation(example.prompt), _line(example.kind, example.response)]
    return _panel(f"example {example.id}  prompt {example.prompt.id}", parts)


def _label(label: PreferenceLabel) -> RenderableType:
    pair = label.comparison
    parts: list[RenderableType] = [*_conversation(pair.prompt)]
    parts += [_line(f"A ({pair.a.model})", pair.a.text), _line(f"B ({pair.b.model})", pair.b.text)]
    parts.append(_line("P(A is better)", number(label.prob_a), "bold green"))
    if label.answers == "contrast":
        parts.append(_line("answers by contrast, principle", label.principle_id, "bold cyan"))
    if label.consistency is not None:
        parts.append(_line("consistency of the two orders", number(label.consistency)))
    if label.failure is not None:
        parts.append(_failure(label.failure))
    if label.verdicts:
        parts.append(_verdicts(label.verdicts))
        parts += _said(label.verdicts)
    return _panel(f"label {label.id}  prompt {pair.prompt.id}  {pair.prompt.slice}", parts)


def _label_failures(label: PreferenceLabel) -> list[Failure]:
    found = [label.failure, *(verdict.failure for verdict in label.verdicts)]
    return [failure for failure in found if failure is not None]


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("principle", "method", "order", "P(A)", "margin", "failure"):
        table.add_column(heading)
    for verdict in verdicts:
        failure = "" if verdict.failure is None else f"{verdict.failure.kind}: {verdict.failure.reason}"
        cells = (verdict.principle_id, " by ".join(filter(None, (verdict.method, verdict.member))), verdict.order)
        numbers = (number(verdict.prob_a), number(verdict.margin))
        table.add_row(*(Text(visible(cell)) for cell in (*cells, *numbers, failure)))
    return table


def _said(verdicts: Sequence[Verdict]) -> list[RenderableType]:
    """What the judge wrote for each verdict, where it wrote anything."""
    return [
        _line(", ".join(filter(None, (verdict.principle_id, verdict.member, verdict.order))), text)
        for verdict in verdicts
        for text in (verdict.rationale, verdict.raw)
        if text
    ]


def _rollout(rollout: Rollout) -> RenderableType:
    parts = [_line("user", rollout.prompt), _line("policy", rollout.response)]
    parts.append(_line("score", number(rollout.score), "bold green"))
    return _panel(f"step {rollout.step}  prompt {rollout.prompt_id}", parts)


def _metrics(rows: Sequence[dict[str, Any]], what: str = "metrics") -> Table:
    """The rows turned on their side: a line per metric, a column per step, which fits a terminal."""
    table = Table(title=f"{what}, last {len(rows)} rows", title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row))
    table.add_column("step")
    for row in rows:
        table.add_column(Text(visible(str(row.get("step", "")))), justify="right")
    for name in names:
        if name != "step" and any(row.get(name) is not None for row in rows):
            values = (row.get(name) for row in rows)
            cells = (number(value) if isinstance(value, int | float) else str(value or "") for value in values)
            table.add_row(*(Text(visible(cell)) for cell in (name, *cells)))
    return table
