"""The result of a run in about ten lines of a terminal: the headline, a small table, one typical prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlaif.core.errors import StageError
from rlaif.core.evaluation import REFERENCE, Summary, read_held_out, read_summary
from rlaif.core.files import RunFolder
from rlaif.core.terminal import visible
from rlaif.report import overview, verdict
from rlaif.report.first_screen import Case, chosen_prompts, controls_of
from rlaif.report.summary import name_of
from rlaif.view.text import MISSING, brackets, is_known, number, plain_decimals

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

COLUMNS = ("words", "finished", "relevance")


def result(run: RunFolder) -> RenderableType:
    """Headline, table of the models and controls, what to know beside it and one typical prompt; StageError before
    `evaluate`."""
    from rich.console import Group
    from rich.text import Text

    summary = read_summary(run)
    if summary is None:
        raise StageError("evaluate has not written a summary", where=str(run.root), remedy="run: rlaif evaluate")
    config, _ = overview.read_config(run)
    part = overview.main_slice(config, summary.slices)
    controls, problem = controls_of(run)
    parts: list[RenderableType] = [Text(visible(verdict.headline(summary, part)), style="bold")]
    if part is not None:
        parts.append(_table(summary, [(c.name, c.summary) for c in controls], part))
    lines = verdict.on_other_slices(summary, part)
    lines += [verdict.reward_sentence(read_held_out(run)), f"The controls are not shown: {problem}" if problem else ""]
    parts += [Text(visible(line)) for line in lines if line]
    typical = next(iter(chosen_prompts(run, summary, part).cases), None)
    if typical is not None:
        parts += _example(typical)
    return Group(*parts)


def _table(summary: Summary, controls: list[tuple[str, Summary]], part: str) -> Table:
    """A row per model and control on slice `part`: first gold, KL, and what else the answers are."""
    from rich.table import Table
    from rich.text import Text

    gold = next(iter(summary.golds()), None)
    measured = summary.measured()
    keys = [key for key in COLUMNS if key in measured and key != gold]
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(Text(visible(f"{part} prompts")), no_wrap=True, overflow="ellipsis", max_width=24)
    for head in [*([] if gold is None else [measured[gold].name if gold in measured else gold]), "KL"]:
        table.add_column(Text(visible(head)), justify="right", no_wrap=True)
    for key in keys:
        table.add_column(Text(visible(measured[key].name)), justify="right", no_wrap=True)
    rows = [(name_of(model), summary, model) for model in summary.models]
    rows += [(name, other, "ppo") for name, other in controls]
    cells = [] if gold is None else [cell for _, other, model in rows if (cell := other.cell(model, part, gold))]
    places = plain_decimals(*(cell.mean for cell in cells))
    for name, other, model in rows:
        values = [] if gold is None else [_gold(other, model, part, gold, places)]
        values += [_kl(other, model, part), *(_mean(other, model, part, key) for key in keys)]
        style = (
            "bold" if other is summary and model == verdict.compared(summary) else "dim" if other is not summary else ""
        )
        table.add_row(*(Text(visible(value)) for value in (name, *values)), style=style)
    return table


def _gold(summary: Summary, model: str, part: str, key: str, places: int) -> str:
    cell = summary.cell(model, part, key)
    if cell is None or not is_known(cell.mean):
        return MISSING
    return f"{number(cell.mean, places)} {brackets(cell.low, cell.high, places)}"


def _kl(summary: Summary, model: str, part: str) -> str:
    found = summary.divergence(model, part)
    return "0" if model == REFERENCE else "-" if found is None or not is_known(found.mean) else f"{found.mean:.1f}"


def _mean(summary: Summary, model: str, part: str, key: str) -> str:
    cell = summary.cell(model, part, key)
    if cell is None or not is_known(cell.mean):
        return MISSING
    return f"{cell.mean:.1f}" if key == "words" else f"{cell.mean:.0%}".replace("%", " %")


def _example(case: Case) -> list[RenderableType]:
    """The prompt and what SFT and PPO answer, each on one line that is cut at the terminal's width."""
    from rich.text import Text

    lines = [(f"{case.kind.capitalize()} ({case.figures})", case.prompt.text)]
    lines += [(name_of(a.model), a.response.text) for a in case.answers if a.model != "base" or len(case.answers) == 2]
    return [
        Text.assemble(
            (f"{visible(name)}: ", "bold"), visible(" ".join(text.split())), no_wrap=True, overflow="ellipsis"
        )
        for name, text in lines
    ]
