"""The rules that keep the code small: the order of the rooms, rooms for libraries, light imports, no dead config."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from rlaif.config import ConfigTable, RunConfig
from tests.scripts import loaded

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rlaif"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 600
MOST_AT_THE_TOP = 17
TESTS = ROOT / "tests"
SMALL = 100
"""Lines up to which a module may be tested through its users."""
DRAWERS = {"utils.py", "util.py", "common.py", "base.py", "helpers.py", "misc.py"}


def layout() -> ModuleType:
    """scripts/imports.py, which has the list of the rooms and reads the imports."""
    return loaded(ROOT / "scripts" / "imports.py")


LAYOUT = layout()

LIBRARIES = {
    "trl": {"training"},
    "openai": {"lm"},
    "matplotlib": {"view"},
    "torch": {"lm", "training", "export", "stages", "check", "gold"},
    "transformers": {"lm", "training", "export", "stages", "check", "gold"},
    "peft": {"lm", "training"},
    "datasets": {"training"},
    "pyarrow": {"inputs", "export"},
    "datasketch": {"export"},
    "accelerate": {"lm", "training"},
    "sklearn": {"gold", "training", "analysis"},
    "profanity_check": {"gold"},
    "vaderSentiment": {"gold"},
    "jinja2": {"inputs", "view", "report"},
    "ruamel": {"core"},
    "markdown_it": {"constitution"},
    "typer": {"cli"},
    "gguf": {"lm"},
}
"""Library -> the rooms that may import it."""

OF_THE_WHOLE = {
    "check/ppo/test_mutations.py": "every check of the suite against planted defects",
    "constitution/test_fuzz.py": "any text through load, lint, edit and diff",
    "gold/test_own_scorer.py": "a user's scorer from the config to the report",
    "lm/server/test_faults.py": "a judge behind a server of which a fifth goes wrong, and kills",
    "recomputed/test_figures.py": "the figures of evaluate, from its records",
    "recomputed/test_held_out.py": "those of the reward model",
    "recomputed/test_printed.py": "those that are printed",
    "stages/test_ppo_kills.py": "kills at any moment",
    "stages/test_real_stages.py": "all stages with real models",
    "test_architecture.py": "the layout",
    "test_docs.py": "what the documentation shows",
    "test_embedded.py": "the embedded model",
    "test_fuzz.py": "whatever a file or a reply holds",
    "test_mutants.py": "scripts/mutants.py",
    "test_packaging.py": "the wheel",
    "test_parts_of_the_chain.py": "a run of some stages",
    "test_public_surface.py": "the names that users import",
    "test_vllm.py": "vLLM itself: judging, rollouts, batch files, serving, rewards",
    "training/ppo/test_against_trl.py": "GRPO and RLOO against TRL's",
    "training/ppo/test_whole_step.py": "a PPO step against one in float64",
}
"""Test file that mirrors no module -> what whole it tests."""

TESTED_IN = {
    "analysis.impact.relabel": "analysis/impact/test_impact.py",
    "check.ppo.batches": "check/ppo/test_mutations.py",
    "check.ppo.rewards": "check/ppo/test_of_config.py",
    "check.ppo.start": "check/ppo/test_of_config.py",
    "check.ppo.subject": "check/ppo/test_suite.py",
    "check.ppo.updates": "check/ppo/test_mutations.py",
    "constitution.problems": "constitution/test_compose.py",
    "constitution.render": "constitution/test_diff.py",
    "constitution.starter": "cli/test_constitution.py",
    "core.errors": "cli/test_options.py",
    "export.data_card": "export/test_data.py",
    "judge.card.verdict": "judge/card/test_card.py",
    "judge.compare.records": "judge/compare/test_measure.py",
    "judge.methods.method": "judge/methods/test_table.py",
    "lm.protocol": "lm/test_scripted.py",
    "lm.server.batch_files": "run/test_judge_batch.py",
    "run.open": "test_public_surface.py",
}
"""Module of more than SMALL lines -> the file that tests it, where that is not its own."""

LIGHT_ROOMS = ("core", "config", "view", "constitution", "inputs", "judge", "report", "run", "analysis", "cli")
LIGHT_MODULES = ("rlaif", "rlaif.stages.table", "rlaif.stages.context", "rlaif.stages.label", "rlaif.stages.revise")
"""What imports without torch."""
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "sklearn"}


def room(path: Path) -> str:
    """The name directly under rlaif/ that the file belongs to; "" for rlaif/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts[0] == "__init__" else parts[0]


def test_the_rooms_are_those_of_the_list_and_few() -> None:
    there = {path.name for path in PACKAGE.iterdir() if path.suffix in ("", ".py") and path.name[0] not in "_."}
    assert there <= {name for names in LAYOUT.LINES for name in names}
    assert len(there) <= MOST_AT_THE_TOP


def test_imports_go_down_the_list_and_never_to_a_neighbour() -> None:
    assert LAYOUT.broken(LAYOUT.imports(ROOT)) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert LAYOUT.circles(LAYOUT.imports(ROOT)) == []


def test_the_table_for_contributors_is_the_list() -> None:
    assert LAYOUT.table(ROOT) in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_rule_sees_strings_and_imports_for_types_only(tmp_path: Path) -> None:
    files = {
        "core/low.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rlaif.judge import high\n",
        "core/named.py": 'HERE = "rlaif.judge.high:Thing"\n',
        "config/side.py": "def later():\n    import rlaif.view.text\n",
        "view/text.py": '"""rlaif.judge.high is only mentioned here."""\n',
        "judge/high.py": "from rlaif.core import low\n",
        "odd/new.py": "from rlaif.core import low\n",
    }
    for name, text in files.items():
        path = tmp_path / "rlaif" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = LAYOUT.imports(tmp_path)
    assert LAYOUT.broken(found) == [
        "rlaif.config.side:2 imports rlaif.view.text, which is not below config",
        "rlaif.core.low:3 imports rlaif.judge.high, which is not below core",
        "rlaif.core.named:1 imports rlaif.judge.high, which is not below core",
        "rlaif.odd.new:1: the room odd is not on the list",
    ]
    assert LAYOUT.circles(found) == [("rlaif.core.low", "rlaif.judge.high")]


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


def test_what_tests_share_stands_in_no_test_file() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in TESTS.rglob("*.py")
        for module, line in imports(path)
        if module.startswith("tests.") and any(part.startswith("test_") for part in module.split("."))
    ]
    assert wrong == []


def test_every_test_file_mirrors_a_module_or_tests_a_whole() -> None:
    alone = set()
    for path in TESTS.rglob("test_*.py"):
        module = path.relative_to(TESTS).with_name(path.name.removeprefix("test_"))
        if not any((home / module).exists() for home in (PACKAGE, ROOT)):  # in rlaif/, or an example
            alone.add(path.relative_to(TESTS).as_posix())
    assert sorted(alone) == sorted(OF_THE_WHOLE)


def test_every_module_of_some_size_has_its_test_file() -> None:
    without = set()
    for path in FILES:
        module = path.relative_to(PACKAGE)
        large = len(path.read_text(encoding="utf-8").splitlines()) > SMALL and path.name[0] != "_"
        if large and not (TESTS / module.with_name(f"test_{path.name}")).exists():
            without.add(".".join(module.with_suffix("").parts))
    assert sorted(without) == sorted(TESTED_IN)
    assert [file for file in TESTED_IN.values() if not (TESTS / file).exists()] == []


def test_libraries_stay_in_their_rooms() -> None:
    wrong = []
    for path in FILES:
        for module, line in imports(path):
            rooms = LIBRARIES.get(module.split(".")[0])
            if rooms is not None and room(path) not in rooms:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


def test_transformers_is_told_not_to_run_code_of_models() -> None:
    """Unset, `trust_remote_code` lets it ask on the terminal."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.fullmatch(r"Auto\w+\.from_pretrained", ast.unparse(node.func)):
                said = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert said.get("trust_remote_code") == "False", f"{path}:{node.lineno}"


def test_there_is_one_way_to_the_terminal() -> None:
    """Past it, a name in a file could steer the terminal."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and path != ROOT / "rlaif" / "core" / "terminal.py":
                assert ast.unparse(node.func) not in ("print", "Console", "typer.echo"), f"{path}:{node.lineno}"


def test_light_modules_import_without_torch() -> None:
    modules = [name for name in LAYOUT.modules(ROOT) if LAYOUT.room(name) in LIGHT_ROOMS]
    modules += LIGHT_MODULES
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


def fields(table: type[ConfigTable]) -> Iterator[str]:
    """Every field name of the config, those of its tables too."""
    for name, info in table.model_fields.items():
        yield name
        if isinstance(info.annotation, type) and issubclass(info.annotation, ConfigTable):
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


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: found for name, found in places.items() if len(found) > 1}
