"""The figures of a run are printed as they are: in the page and in the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np
from rich.console import Console

from rlaif.run.show import show
from tests.recomputed.plain import MODELS, Evaluation, Row, printed_as, read, records, side


class Tables(HTMLParser):
    """The tables of one section of a page, as rows of cell texts."""

    def __init__(self, section: str) -> None:
        super().__init__()
        self.section, self.inside = section, False
        self.tables: list[list[list[str]]] = []
        self.cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.inside = dict(attrs).get("id") == self.section
        elif self.inside and tag == "table":
            self.tables.append([])
        elif self.inside and tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif self.inside and tag in ("td", "th") and self.tables and self.tables[-1]:
            self.cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self.cell is not None:
            self.tables[-1][-1].append(" ".join("".join(self.cell).split()))
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data + " ")


def tables(run: Path, section: str) -> list[list[list[str]]]:
    reader = Tables(section)
    reader.feed((run / "report.html").read_text(encoding="utf-8"))
    return reader.tables


def percents(row: Row, *keys: str) -> list[float | None]:
    return [None if row[key] is None else 100 * row[key] for key in keys]


NAMES = {"base": "base", "sft": "SFT", "ppo": "PPO", "best-of-2": "best-of-2"}


def test_the_page_prints_these_figures(run: Path) -> None:
    of, summary = Evaluation(run), read(run / "evaluate" / "summary.json")
    main, *rest = tables(run, "evaluate")
    measures = [key for key in summary["measures"] if any(cell["measure"] == key for cell in summary["cells"])]
    cells = {(cell["model"], cell["slice"], cell["measure"]): cell for cell in summary["cells"]}
    rates = {(row["model"], row["against"], row["slice"]): row for row in summary["win_rates"]}
    kl = {(row["model"], row["slice"]): row for row in summary["kl"]}
    rows = iter(main[1:])
    keys = ("mean", "low", "high", "difference", "difference_low", "difference_high")
    for part in of.slices:
        assert next(rows)[0] == f"{part} prompts"
        for model in MODELS:
            name, *shown = next(rows)
            assert name == NAMES[model]
            for key, text in zip(measures, shown, strict=False):
                cell = cells.get((model, part, key))
                assert "not measured" in text if cell is None else printed_as(text, [cell[k] for k in keys])
            won = rates.get((model, "sft", part))
            if won:
                printed_as(shown[-2], [*percents(won, "rate", "low", "high"), won["scored"], won["unscored"]])
            turned = rates.get(("sft", model, part))
            if turned:  # SFT's rate, from the other side
                printed_as(shown[-2], [100 - 100 * turned[k] for k in ("rate", "high", "low")])
            if (model, part) in kl:
                printed_as(shown[-1], [kl[model, part][k] for k in ("mean", "low", "high")])
    by_name = {table[0][0]: table[1:] for table in rest}
    for row, text in zip(summary["length_controlled"], by_name["Gold, difference v SFT"], strict=True):
        cell = cells[row["model"], row["slice"], row["measure"]]
        printed_as(text[3], [cell["difference"], cell["difference_low"], cell["difference_high"]])
        printed_as(text[4], [row["effect"], row["effect_low"], row["effect_high"]])
        printed_as(text[5], [row["difference"], row["difference_low"], row["difference_high"]])
    every = zip(summary["win_rates"], summary["win_rates_length_matched"], by_name["Judge win rate"], strict=True)
    for row, like, text in every:
        printed_as(" ; ".join(text[2:5]), [*percents(row, "rate", "low", "high"), row["scored"], row["unscored"]])
        printed_as(" ; ".join(text[5:]), [*percents(like, "rate", "low", "high"), like["scored"]])
    for row, text in zip(summary["set_distinct_2"], by_name["Word pairs over the whole slice"], strict=True):
        printed_as(" ; ".join(text[2:]), [*percents(row, "value"), row["pairs"]])


def test_the_page_prints_the_figures_of_reward_and_labels(run: Path) -> None:
    held_out, labels = read(run / "reward" / "held_out.json"), records(run / "label" / "labels.jsonl")
    told = {row[0]: row[1:] for table in tables(run, "reward") for row in table if len(row) == 6}
    wanted = {f"reward model, {kind} {row['name']}": row for kind, rows in held_out["parts"].items() for row in rows}
    wanted |= {row["name"]: row for row in held_out["predictors"]}
    shown = {name: text for name, text in told.items() if name in wanted}
    assert len(shown) == len(held_out["predictors"]) + sum(
        len(rows) for rows in held_out["parts"].values() if len(rows) > 1
    )
    for name, text in shown.items():
        row = wanted[name]
        figures = [*percents(row, "accuracy", "low", "high"), row["pairs"]]
        printed_as(" ; ".join(text), [*figures, *percents(row, "lead", "lead_low", "lead_high")])
    printed_as(" ; ".join(told["reward model"]), percents(held_out, "accuracy", "accuracy_low", "accuracy_high"))
    agreement = read(run / "evaluate" / "label_agreement.json")["rows"]
    by_head = {tuple(table[0][:3]): table[1:] for table in tables(run, "label")}
    for row, text in zip(agreement, by_head["Answers", "slice", "gold"], strict=True):
        printed_as(" ; ".join(text[3:]), [*percents(row["share"], "mean", "low", "high"), row["share"]["n"]])
    sources = {text[0]: text for text in by_head["Answers", "pairs", "labelled"]}
    assert len(sources) == 2
    for kind, text in zip(("policy", "contrast"), sources.values(), strict=True):
        own = [n for n in labels if n["answers"] == kind]
        known = [n for n in own if n["prob_a"] is not None]
        disagreed = sum(n["failure"] is not None and n["failure"]["kind"] == "disagreed" for n in own)
        agreed = [100 * (1 - disagreed / len(own))] if kind == "contrast" else []
        longer = [len(n["comparison"]["a"]["text"]) - len(n["comparison"]["b"]["text"]) for n in known]
        won = [side(n) * np.sign(gap) > 0 for n, gap in zip(known, longer, strict=True) if gap and side(n)]
        printed_as(" ; ".join(text[1:]), [len(own), len(known), *agreed, 100 * fmean(won)])


def on_terminal(run: Path, stage: str) -> str:
    out = io.StringIO()
    show(run, stage, n=1, failed=False, console=Console(file=out, width=200))
    return out.getvalue()


def test_the_terminal_prints_these_figures(run: Path) -> None:
    summary, held_out = read(run / "evaluate" / "summary.json"), read(run / "reward" / "held_out.json")
    shown = on_terminal(run, "reward")
    for name, value in held_out.items():
        if type(value) in (int, float):
            (line,) = [line for line in shown.splitlines() if f" {name}: " in line]
            printed_as(line.partition(": ")[2], [value])
    shown = on_terminal(run, "evaluate")
    lines = [line for line in shown.partition("Held-out prompts")[2].splitlines() if line.strip()]
    places = iter([(part, model) for part in summary["slices"] for model in MODELS])
    for line, below in pairwise(lines):
        name = re.sub(r"^ *(everyday|mine) ", "", line).split()[0]
        if name not in NAMES.values() or "PPO - SFT" in line:
            continue
        part, model = next(places)
        assert name == NAMES[model]
        cells = [row for row in summary["cells"] if (row["model"], row["slice"]) == (model, part)]
        golds = [row for key in ("sentiment", "words") for row in cells if row["measure"] == key]
        printed_as(line.partition(name)[2], [row["mean"] for row in golds])
        printed_as(re.sub(r"(?<=\d)[–]", " ", below), [row[end] for row in golds for end in ("low", "high")])
    assert next(places, None) is None
