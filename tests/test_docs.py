"""The documents say what the code does: commands, config, records, links and examples are compared with it."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import runpy
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from rlaif.cli import app
from rlaif.config import ConfigTable, RunConfig
from rlaif.constitution.load import load_constitution
from rlaif.core import records
from rlaif.core.errors import ConfigError
from rlaif.core.yaml import read_yaml
from rlaif.judge.load import parse
from rlaif.stages.summary import ANSWER_MEASURES, LogprobRow
from rlaif.training.preference_metrics import held_out_report
from tests.lm.server.hostile import FAULTS
from tests.output import rlaif

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
DOCS += sorted((ROOT / "docs").rglob("*.md"))
RUN_FOLDER = ROOT / "docs" / "reference" / "run-folder.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
RECORDS = [
    records.Prompt, records.Response, records.FailedAnswer, records.Failure, records.RevisionTrace,
    records.RevisionRound, records.Critique, records.Revision, records.SftExample, records.PreferenceLabel,
    records.Comparison, records.Verdict, records.StageRecord, LogprobRow,
]  # fmt: skip

each_document = pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(path.read_text(encoding="utf-8")) if kind == language]


def commands(path: Path) -> Iterator[list[str]]:
    """The words of every `rlaif ...` in shell blocks and between backquotes, up to a comment, pipe or next command."""
    prose = FENCE.sub("", path.read_text(encoding="utf-8"))
    inline = re.findall(r"`(rlaif(?: [^`]+)?)`", prose)
    lines = [line for block in blocks(path, "bash") for line in block.replace("\\\n", " ").splitlines()]
    for found in inline + [line for line in lines if re.match(r"rlaif( |$)", line)]:
        yield list(takewhile(lambda word: word not in {"|", "&&", ";", ">"}, shlex.split(found, comments=True)))


def section(path: Path, heading: str) -> set[str]:
    """The names in backquotes in the first column of the table under `heading`."""
    text = path.read_text(encoding="utf-8")
    body = re.split(r"^#", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}


CONSTITUTIONS = [ROOT / "docs" / name for name in ("write-a-constitution.md", "reference/constitution-format.md")]
BEFORE_SET = """\
name: ours
version: "1"
include: [harmless-and-kind]
principles:
  # Asked for by the press office.
  - id: cite
    statement: Name the source of each number.   # not the link
    weight: 2
"""


@pytest.mark.parametrize("verb", ["check", "diff", "set", "export"])
def test_what_a_verb_prints_in_the_page_is_what_it_prints(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, after = [text for text in blocks(CONSTITUTIONS[0], "yaml") if text.startswith("name: ours")]
    (tmp_path / "ours.yaml").write_text(BEFORE_SET if verb == "set" else built, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    printed_in = [text for page in CONSTITUTIONS for text in blocks(page, "")]
    shown = [text for text in printed_in if text.startswith(f"$ rlaif constitution {verb} ")]
    assert len(shown) == 1
    command, _, printed = shown[0].replace("\\\n", " ").partition("\n")
    assert rlaif(*shlex.split(command)[2:]).stdout == printed
    if verb == "set":
        assert (tmp_path / "ours.yaml").read_text(encoding="utf-8") == after


def test_the_configuration_page_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "config_docs.py"))
    assert script["PATH"].read_text(encoding="utf-8") == script["document"](), "run: python scripts/config_docs.py"


def anchors(path: Path) -> set[str]:
    """What a link to the page may name behind "#": its headings, as the site spells them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    wrong = []
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            wrong.append(link)
    assert wrong == []


def test_every_page_stands_in_the_contents_of_the_site() -> None:
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}


def test_pages_that_the_code_names_exist() -> None:
    files = [
        path for folder in ("rlaif", "scripts", "benchmarks", "constitutions") for path in (ROOT / folder).rglob("*")
    ]
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".yaml", ".sh", ".jinja")]
    named = {name for text in texts for name in re.findall(r"\bdocs/[\w/-]+\.md", text)}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@each_document
def test_scripts_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"\bscripts/[\w.]+\w", path.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_promise_of_security_names_a_test_that_is_there() -> None:
    rows = [row for row in (ROOT / "SECURITY.md").read_text().splitlines() if row.startswith("| ") and "`" in row]
    for row in rows:
        held = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert held, row
        assert [name for name in held if not (ROOT / name).is_file()] == []
    assert len(rows) >= 10
    assert any(f"{len(FAULTS)} kinds of faults" in row for row in rows)


@each_document
def test_commands_exist_with_their_options(path: Path) -> None:
    group: Any = typer.main.get_command(app)
    wrong = []
    for words in commands(path):
        command, rest = group, [word for word in words[1:] if not word.startswith("-")]
        while rest and rest[0] in getattr(command, "commands", {}):  # `rlaif constitution check` has two verbs
            command = command.commands[rest.pop(0)]
        if rest and hasattr(command, "commands"):
            wrong.append(" ".join(words))
            continue
        known = {name for part in command.params for name in (*part.opts, *part.secondary_opts)} | {"--help"}
        wrong += [f"{' '.join(words)}: {word}" for word in words if word.startswith("-") and word not in known]
        fields = [words[place + 1] for place, word in enumerate(words[:-1]) if word == "--set"]
        wrong += [f"{' '.join(words)}: {item}" for item in fields if not known_field(item.partition("=")[0])]
    assert wrong == []


def known_field(name: str) -> bool:
    table, _, field = name.partition(".")
    if table not in RunConfig.model_fields:
        return False
    kind: Any = RunConfig.model_fields[table].annotation
    return field in kind.model_fields if isinstance(kind, type) and issubclass(kind, ConfigTable) else True


@each_document
def test_yaml_examples_are_valid(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that begins with the name of a file, as a comment, is that file, so the YAML may name what is in it."""
    for text in blocks(path, "python") + blocks(path, ""):
        if named := re.match(r"(?:#|\{#) ([\w-]+\.(?:py|jinja))\b", text):
            (tmp_path / named[1]).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for text in blocks(path, "yaml"):
        file = tmp_path / "example.yaml"
        file.write_text(text, encoding="utf-8")
        data = read_yaml(file, ConfigError)[0]
        if "principles" in data:
            load_constitution(str(file))
        else:
            parse({"prompts": {"some": {"source": "everyday"}}, **data}, where=f"{path.name}: {text}")


@each_document
def test_python_examples_compile_and_import_what_exists(path: Path) -> None:
    for text in blocks(path, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "rlaif":
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_the_run_folder_page_has_every_field_of_a_record(kind: Any) -> None:
    assert section(RUN_FOLDER, f"### `{kind.__name__}`") == {field.name for field in dataclasses.fields(kind)}


def test_the_run_folder_page_has_every_kind_of_failure_and_every_measure() -> None:
    text = RUN_FOLDER.read_text(encoding="utf-8")
    assert [kind for kind in get_args(records.FailureKind) if f'"{kind}"' not in text] == []
    assert section(RUN_FOLDER, "### `evaluate/scores.jsonl`") == ANSWER_MEASURES.keys()
    report = held_out_report([1.0, -1.0], [0.9, 0.2], [3, 4], [5, 6]).as_json()
    assert section(RUN_FOLDER, "### `reward/held_out.json`") == {*report, "prompts"}
