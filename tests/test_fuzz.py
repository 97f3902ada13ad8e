"""Whatever stands in a config, a constitution, a file of rows, a server's reply or a run's own files: the command that
reads it works or says what is wrong; never a traceback.

A case is made from its number: a good file, in which something is put in the place of something else, then perhaps some
bytes in the place of others. 2,000 cases by default; RLAIF_FUZZ=100000 makes more, and RLAIF_FUZZ_FROM=N begins at the
case N, as a failure names it.
"""

from __future__ import annotations

import copy
import io
import json
import os
import random
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlaif.config import STAGES
from rlaif.constitution.lint import lint
from rlaif.constitution.load import constitution_text, load_constitution
from rlaif.core.errors import RlaifError
from rlaif.core.files import RunFolder
from rlaif.inputs.comparisons import read_comparisons
from rlaif.inputs.prompt_sets import load_prompts
from rlaif.judge.load import load
from rlaif.lm.server.replies import BrokenReply, parse_reply, read_choices, read_scores, refusal, spell
from rlaif.report.build import build_report
from rlaif.run.show import show
from rlaif.stages.label_given import read_given
from rlaif.stages.table import abouts
from tests.fault_server import chat
from tests.report.fake_run import write_run

CASES, FIRST = int(os.environ.get("RLAIF_FUZZ", "2000")), int(os.environ.get("RLAIF_FUZZ_FROM", "0"))
REPORTS = 100
"""One case of a run's files in so many also writes the report, which takes longer than all else."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2.5, 1e308, -1e-320, 1e999, -1e999, float("nan"), 10**30, 10**400, 2**63),
    *(
        "",
        " ",
        "\n",
        "\x00",
        "\ud800",
        "\u202e",
        "\ufeff",
        "[/]",
        "[bold]",
        "{{ x }}",
        "\x1b[31m",
        "a" * 3000,
        "é" * 50,
    ),
    *(
        "nan",
        "1e999",
        "true",
        "null",
        "../..",
        "/",
        "~",
        ".",
        "http://[::1/v1",
        "http://h:99999/v1",
        "json:nothing",
        "a:b:c",
    ),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": [1, {"c": None}]}}, ["x"] * 50, [[[[[[[[]]]]]]]]),
    *(
        "<|im_end|>",
        "sft",
        "ppo",
        "model",
        "judge",
        "on_topic",
        "contrast",
        "2026-01-01",
        "1_000",
        "0x10",
        "*",
        "&a",
        "!!x",
    ),
)
JUNK = (
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"{",
    b"}",
    b"]",
    b'"',
    b":",
    b",",
    b"\n",
    b"\r",
    b"\xe2\x80\xa8",
    b"\\u0000",
    b"-",
)
CONFIG: dict[str, Any] = {
    "seed": 7,
    "model": {"source": "embedded", "dtype": "auto", "device": "cpu", "batch_size": 8},
    "judge": {"method": "contrast", "scale": 0.1, "clamp": [0.4, 0.6], "panel": [{"name": "a", "weight": 1.0}]},
    "constitution": "harmless-and-kind",
    "card": {"gold": "pyrit", "pairs": 8, "min_accuracy": 0.6},
    "prompts": {
        "hard": {"source": "do-not-answer", "train": 6, "held_out": 2, "principles": ["harm"]},
        "easy": {"source": "everyday", "train": 4, "revise": False},
    },
    "revise": {"rounds": 1, "gate": 0.5, "max_new_tokens": 6},
    "label": {"answers": "both", "samples": 2, "temperature": 1.0, "source": None},
    "reward": {"epochs": 1.0, "pooling": "auto", "members": 2, "held_out": 0.2},
    "ppo": {
        "reward": ["model", {"source": "judge", "weight": 0.5, "name": "j"}],
        "kl_target": 4.0,
        "gold": ["toxicity"],
    },
    "evaluate": {"gold": ["sentiment"], "best_of": 2, "samples": 1},
    "report": {"examples": 2},
}
CONSTITUTION: dict[str, Any] = {
    "name": "mine",
    "version": "1",
    "include": [],
    "principles": [
        {
            "id": "kind",
            "statement": "Be kind.",
            "weight": 1.5,
            "priority": 1,
            "tags": ["tone"],
            "contrast": {"followed": "You are kind.", "violated": "You are cruel.", "examples": []},
            "tests": [{"prompt": "Hi", "better": "Hello, how are you?", "worse": "Go away, will you?"}],
        },
        {"id": "brief", "statement": "Be brief.", "critique": "Is it long?", "revision": "Make it shorter."},
    ],
}
TURNS = [{"role": "user", "content": "Hello"}]
ROWS: tuple[dict[str, Any], ...] = (
    {"prompt": "Hello", "chosen": "Hi, there", "rejected": "Go", "id": 3, "topic": "x"},
    {"prompt": TURNS, "chosen": [{"role": "assistant", "content": "Hi"}], "rejected": "Go", "score_chosen": 0.9},
    {"prompt": "Hello", "a": "Hi", "b": "Go", "prob_a": 0.75},
    {"messages": [*TURNS, {"role": "assistant", "content": "Hi"}], "tags": ["x"]},
    {"chosen": "\n\nHuman: Hello\n\nAssistant: Hi", "rejected": "\n\nHuman: Hello\n\nAssistant: Go"},
    {"prompt": "Hello", "completion": "Hi", "label": True},
    {"prompt": "Hello", "responses": ["Hi", "Go"], "scores": [1, 0]},
)
TOP = [("A", -0.5), ("B", -1.2), (" A", -3.0)]
REPLIES: tuple[Any, ...] = (
    chat("A", positions=[("A", -0.5, TOP)]).body,
    chat("The answer is (A)").body,
    {
        "choices": [
            {
                "text": "Hi A",
                "logprobs": {
                    "tokens": ["Hi", " A"],
                    "token_logprobs": [None, -1.0],
                    "top_logprobs": [None, {" A": -1.0, " B": -2.0}],
                    "text_offset": [0, 2],
                },
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    },
    {"error": {"message": "no", "code": 400}},
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything within."""
    found: list[tuple[Any, Any]] = []
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found += [(value, key), *places(value[key])]
    return found


def changed(draw: random.Random, good: Any) -> Any:
    """The data with one to three things in it replaced, taken away, doubled, renamed or wrapped."""
    data = copy.deepcopy(good)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        there = places(data)
        if not there:
            return data
        where, key = draw.choice(there)
        how = draw.random()
        if how < 0.55:
            where[key] = copy.deepcopy(draw.choice(ODD))
        elif how < 0.7:
            del where[key]
        elif how < 0.8:
            where[key] = [where[key]] if draw.random() < 0.5 else {"x": where[key]}
        elif isinstance(where, dict):
            where[draw.choice((f"{key}s", str(key)[:-1], "x", "", str(key).upper()))] = where[key]
        else:
            where.append(copy.deepcopy(where[key]))
    return data


def written(draw: random.Random, good: Any, *, lines: bool = False) -> bytes:
    """The changed data as JSON, which is YAML too, or a row a line; in one of four cases with bytes exchanged."""
    data = changed(draw, good)
    texts = [json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in (data if lines else [data])]
    found = "\n".join(texts).encode("utf-8", errors="surrogatepass") + b"\n"
    for _ in range(draw.choice((0, 0, 0, 1)) * draw.randint(1, 3)):
        at, more = draw.randrange(len(found) + 1), draw.choice((0, 0, 1, 20))
        found = found[:at] + draw.choice(JUNK) + found[at + more :]
    return found[: draw.randrange(len(found))] if draw.random() < 0.03 else found


class Cases:
    """What is tried, a method a kind of file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = write_run(folder / "run")
        files = (path for path in sorted(self.run.root.rglob("*")) if path.suffix in (".json", ".jsonl"))
        self.files = {path: path.read_bytes() for path in files}

    def config(self, draw: random.Random) -> None:
        path = self.folder / "rlaif.yaml"
        few = {"prompts", *draw.sample(sorted(CONFIG), 3)}
        path.write_bytes(written(draw, {name: table for name, table in CONFIG.items() if name in few}))
        table = draw.choice([*CONFIG, "x", ""])
        known = CONFIG.get(table)
        field = draw.choice([*(known if isinstance(known, dict) else ("x",)), "y", ""])
        override = f"{table}.{field}={json.dumps(draw.choice(ODD))}"
        load(path, [override] if draw.random() < 0.4 else [])

    def constitution(self, draw: random.Random) -> None:
        path = self.folder / "mine.yaml"
        path.write_bytes(written(draw, CONSTITUTION))
        broken = any(finding.severity == "error" for finding in lint(path))
        try:
            load_constitution(path)
            constitution_text(path)
            assert not broken, "the linter finds an error in a file that loads"
        except RlaifError:
            assert broken, "the linter finds no error in a file that does not load"
            raise

    def rows(self, draw: random.Random) -> None:
        path = self.folder / f"rows.{draw.choice(('jsonl', 'jsonl', 'json', 'csv', 'txt'))}"
        path.write_bytes(
            written(draw, [draw.choice(ROWS) for _ in range(draw.randint(1, 3))], lines=path.suffix != ".json")
        )
        reader: Callable[[], object] = draw.choice(
            (lambda: read_comparisons(path), lambda: load_prompts(str(path), "x"), lambda: read_given(str(path), []))
        )
        reader()

    def reply(self, draw: random.Random) -> None:
        text = written(draw, draw.choice(REPLIES)).decode(errors="replace")
        try:
            found = parse_reply(text)
        except BrokenReply:
            return
        refusal(found)
        if found.positions:
            chosen = read_choices(found.positions, ("A", "B"), draw.choice(("", "The answer (")))
            assert chosen.logprobs is None or all(value <= 0 for value in chosen.logprobs)
            read_scores(found, draw.randint(0, 3), draw.randint(0, 9))
            spell([position.token for position in found.positions], found.text)

    def files_of_a_run(self, draw: random.Random) -> None:
        path = draw.choice(list(self.files))
        good = self.files[path].decode()
        lines = path.suffix == ".jsonl"
        kept = good.split("\n")[: draw.randint(1, 3)]
        path.write_bytes(written(draw, [json.loads(x) for x in kept if x] if lines else json.loads(good), lines=lines))
        console = Console(file=io.StringIO(), width=80)
        stage = path.parent.name if path.parent.name in STAGES else None
        try:
            show(self.run.root, draw.choice((None, stage)), n=3, failed=draw.random() < 0.2, console=console)
            if draw.randrange(REPORTS) == 0:
                build_report(RunFolder(self.run.root), 2, abouts(given=False))
        finally:
            path.write_bytes(self.files[path])


def test_nothing_that_a_file_holds_ends_in_a_traceback(tmp_path: Path) -> None:
    cases = Cases(tmp_path)
    kinds = (cases.config, cases.constitution, cases.rows, cases.rows, cases.reply, cases.files_of_a_run)
    found = []
    for number in range(FIRST, FIRST + CASES):
        draw = random.Random(number)
        kind = draw.choice(kinds)
        try:
            kind(draw)
        except RlaifError as problem:
            if not problem.what.strip():
                found.append(f"case {number} ({kind.__name__}): an error without a word")
        except OSError as problem:  # of a path: the command says it in words (rlaif.cli.options.friendly)
            if problem.filename is None or problem.strerror is None:
                found.append(f"case {number} ({kind.__name__}): {problem!r}")
        except Exception:
            told = traceback.format_exc().splitlines()
            found.append(f"case {number} ({kind.__name__}): " + " | ".join(line.strip() for line in told[-5:]))
    if found:
        pytest.fail("\n".join([f"{len(found)} of {CASES} cases:", *found[:20]]), pytrace=False)
