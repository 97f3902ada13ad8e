"""The rules that keep the code small: layers, rooms for libraries, light imports, no dead config, no drawers."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from rlaif.config import RunConfig, Table

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rlaif"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400
DRAWERS = {"utils.py", "util.py", "common.py", "base.py", "helpers.py", "misc.py"}

LAYERS = {
    "errors": 0,
    "records": 1,
    "intervals": 1,
    "text_metrics": 1,
    "gold": 1,
    "store": 2,
    "config": 2,
    "yaml_io": 2,
    "progress": 2,
    "launch": 2,
    "constitution": 3,
    "templates": 3,
    "prompt_sets": 3,
    "comparison_files": 3,
    "conversations": 3,
    "resources": 3,
    "provenance": 3,
    "lm": 4,
    "models": 4,
    "judge": 5,
    "stage": 5,
    "shortages": 5,
    "feedback": 6,
    "training": 6,
    "evaluation": 6,
    "report": 7,
    "stages": 7,
    "ledger": 7,
    "pipeline": 7,
    "conformance": 7,
    "dry_run": 7,
    "environment": 7,
    "init_project": 7,
    "check": 8,
    "show": 8,
    "impact": 8,
    "attribution": 8,
    "recover": 8,
    "card": 8,
    "judged_run": 8,
    "judge_batch": 8,
    "cli": 9,
    "__main__": 9,
}
"""Room (module or package directly under rlaif) -> layer. A module imports its own layer or lower ones."""

STAGE_ROOMS = {"feedback", "training", "evaluation"}
"""They meet in files and never import each other, nor does the report import them."""

ROOMS = {
    "trl": {"training"},
    "openai": {"lm"},
    "matplotlib": {"report"},
    "torch": {"lm", "models", "training", "conformance", "gold"},
    "transformers": {"lm", "models", "training", "conformance", "gold"},
    "peft": {"lm", "models", "training"},
    "datasets": {"training"},
    "accelerate": {"lm", "models", "training"},
    "sklearn": {"gold"},
    "profanity_check": {"gold"},
    "vaderSentiment": {"gold"},
    "jinja2": {"templates", "report"},
    "ruamel": {"yaml_io"},
    "typer": {"cli"},
    "gguf": {"models"},
}
LIGHT = [
    "cli", "feedback", "report", "judge", "constitution", "config", "records", "store", "pipeline", "show", "impact",
    "attribution", "recover", "card",
]  # fmt: skip
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "sklearn"}


def room(path: Path) -> str:
    """The name directly under rlaif/ that the file belongs to; "" for rlaif/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts[0] == "__init__" else parts[0]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted module, line) of every import in the file, also of those inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            module = node.module or ""
            yield module, node.lineno
            if module == "rlaif":
                yield from ((f"rlaif.{alias.name}", node.lineno) for alias in node.names)


def test_every_module_has_a_layer() -> None:
    assert {room(path) for path in FILES} - {""} <= LAYERS.keys()


def test_imports_go_downwards() -> None:
    wrong = []
    for path in FILES:
        here = room(path)
        for module, line in imports(path):
            parts = module.split(".")
            if parts[0] != "rlaif" or len(parts) == 1 or parts[1] not in LAYERS or not here:
                continue
            up = LAYERS[parts[1]] > LAYERS[here]
            across = parts[1] in STAGE_ROOMS and here in {*STAGE_ROOMS, "report"} and parts[1] != here
            if up or across:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_libraries_stay_in_their_rooms() -> None:
    wrong = []
    for path in FILES:
        for module, line in imports(path):
            rooms = ROOMS.get(module.split(".")[0])
            if rooms is not None and room(path) not in rooms:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_light_modules_import_without_torch() -> None:
    modules = []
    for name in LIGHT:
        folder = PACKAGE / name
        inside = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{name}.py"]
        modules += [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in inside]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {HEAVY!r} & sys.modules.keys()\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from rlaif.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        f"print(*({HEAVY | {'pydantic', 'numpy', 'scipy', 'jinja2', 'openai'}!r} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []


def fields(table: type[Table]) -> Iterator[str]:
    """Every field name of the config, those of its tables too."""
    for name, info in table.model_fields.items():
        yield name
        if isinstance(info.annotation, type) and issubclass(info.annotation, Table):
            yield from fields(info.annotation)


def test_every_config_field_is_read_somewhere() -> None:
    from rlaif.config import PromptSlice

    read = {
        node.attr
        for path in FILES
        if room(path) != "config"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
    }
    assert sorted((set(fields(RunConfig)) | set(fields(PromptSlice))) - read) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small_and_have_a_subject(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    assert path.name not in DRAWERS
    assert ast.get_docstring(tree(path)) or path.name == "__init__.py"
