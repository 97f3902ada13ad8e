"""Which small mistakes in a module its tests would not notice: each is made in a copy of the tree, and the tests run.

    python scripts/mutants.py rlaif/core/statistics.py             all of them, against tests/core/test_statistics.py
    python scripts/mutants.py MODULE --limit 40                    40 of them, spread over the module
    python scripts/mutants.py MODULE --lines 80-120                those that begin in these lines
    python scripts/mutants.py MODULE --tests tests/x/test_y.py     further tests, where some of it is tested elsewhere
    python scripts/mutants.py MODULE --list                        what would be tried

A mistake is another comparison, + for - or * for /, another number, True for False, `and` for `or`, a `not` or a minus
left out, min for max (also as an argument's name). Prints the survivors; the exit status is 1 if there are any. Some of
them change nothing that can be seen (a boundary that no number hits): read each before you write a test for it.

The libraries are imported once; each mutant runs pytest in a fork of this process.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
LIBRARIES = ("pytest", "hypothesis", "numpy", "torch", "scipy.stats", "transformers", "peft")
"""What most tests import, and what takes longest."""
PATIENCE, LEAST = 10, 60
"""A mutant that takes so many times the processor time of the tests as they are, and so many seconds, is found."""

SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
NAMES = {"min": "max", "minimum": "maximum", "amin": "amax", "argmin": "argmax", "floor": "ceil"}
NAMES |= {other: name for name, other in NAMES.items()}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake: in which line, what stood there, what stands there now, and the whole module with it."""

    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.before}  ->  {self.after}"


def mutants(source: str) -> list[Mutant]:
    """All mistakes that can be made in a module, in the order of its lines. Annotations and decorators are left alone:
    most of them decide nothing."""
    tree = ast.parse(source)
    beside = {id(inner) for part in _annotations(tree) for inner in ast.walk(part)}
    found = []
    for place, node in enumerate(ast.walk(tree)):
        if not isinstance(node, (ast.expr, ast.AugAssign, ast.keyword)) or id(node) in beside:
            continue
        for number in range(len(_changed(node))):
            other = copy.deepcopy(tree)
            changed = list(ast.walk(other))[place]
            after = _changed(changed)[number]
            _replace(other, changed, after)
            found.append(Mutant(node.lineno, _short(node), _short(after), ast.unparse(other)))
    return sorted(found, key=lambda mutant: mutant.line)


def _changed(node: ast.AST) -> list[ast.AST]:
    """What may stand in the place of a node."""
    match node:
        case ast.Compare(left, ops, comparators):
            return [
                ast.Compare(left, [*ops[:i], swap(), *ops[i + 1 :]], comparators)
                for i, op in enumerate(ops)
                for swap in SWAPS[type(op)]
            ]
        case ast.BinOp(left, op, right):
            return [ast.BinOp(left, swap(), right) for swap in SWAPS.get(type(op), ())]
        case ast.AugAssign(target, op, value):
            return [ast.AugAssign(target, swap(), value) for swap in SWAPS.get(type(op), ())]
        case ast.BoolOp(op, values):
            return [ast.BoolOp(swap(), values) for swap in SWAPS[type(op)]]
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            return [operand]
        case ast.Constant(bool() as value):
            return [ast.Constant(not value)]
        case ast.Constant(int() | float() as value):
            return [ast.Constant(value + 1)]
        case ast.Name(name, context) if name in NAMES:
            return [ast.Name(NAMES[name], context)]
        case ast.Attribute(value, name, context) if name in NAMES:
            return [ast.Attribute(value, NAMES[name], context)]
        case ast.keyword(str() as name, value) if name in NAMES:
            return [ast.keyword(NAMES[name], value)]
    return []


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is old for item in value):
                value[next(i for i, item in enumerate(value) if item is old)] = new
    ast.fix_missing_locations(tree)


def _annotations(tree: ast.AST) -> Iterator[ast.AST]:
    for parent in ast.walk(tree):
        yield from getattr(parent, "decorator_list", ())
        yield from (part for name in ("annotation", "returns") if (part := getattr(parent, name, None)) is not None)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 70 else f"{text[:67]}..."


def spread(found: Sequence[Mutant], limit: int | None) -> list[Mutant]:
    """`limit` of the mutants at even distances, or all."""
    if limit is None or limit >= len(found):
        return list(found)
    return [found[i * len(found) // limit] for i in range(limit)]


class Copy:
    """A copy of the tree's files, tracked or new, in which tests run."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        listed = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0"):
            if name and (root / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, folder / name)

    def passes(self, tests: Sequence[str], seconds: float) -> bool:
        """Whether the tests pass within so many seconds of processor time."""
        child = os.fork()
        if child == 0:
            os._exit(self._run(tests, seconds))
        return os.waitpid(child, 0)[1] == 0

    def _run(self, tests: Sequence[str], seconds: float) -> int:
        """In the fork: the exit status of pytest."""
        import pytest

        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 5))
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        # A file that changes within a second and keeps its size would be taken from __pycache__ as it was.
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.path[0] = str(self.folder)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def survivors(root: Path, module: Path, tried: Sequence[Mutant], tests: Sequence[str]) -> Iterator[Mutant]:
    """Those whose tests pass, each as soon as it is known; SystemExit where the tests fail as they are."""
    assert not any(name == "rlaif" or name.startswith("rlaif.") for name in sys.modules)
    with tempfile.TemporaryDirectory() as folder:
        tree = Copy(root, Path(folder))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        if not tree.passes(tests, 3600):
            raise SystemExit(f"the tests fail as they are: {' '.join(tests)}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = LEAST + PATIENCE * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        for number, mutant in enumerate(tried, start=1):
            (tree.folder / module).write_text(mutant.source, encoding="utf-8")
            if tree.passes(tests, seconds):
                yield mutant
            if sys.stderr.isatty():
                print(f"\r{number} of {len(tried)} ", end="", file=sys.stderr, flush=True)


def mirror(module: Path) -> Path:
    """The test file of a module."""
    return Path("tests", *module.parts[1:-1], f"test_{module.name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", type=Path, help="a file below rlaif/")
    parser.add_argument("--limit", type=int, help="how many mutants to try")
    parser.add_argument("--lines", help="FIRST-LAST: mutants of these lines alone")
    parser.add_argument("--tests", nargs="*", default=[], help="tests beside the module's own")
    parser.add_argument("--list", action="store_true", help="print the mutants and try none")
    given = parser.parse_args()
    module = given.module.resolve().relative_to(HERE)
    found = mutants((HERE / module).read_text(encoding="utf-8"))
    if given.lines:
        first, last = (int(part) for part in given.lines.split("-"))
        found = [mutant for mutant in found if first <= mutant.line <= last]
    tried = spread(found, given.limit)
    if given.list:
        print(*tried, sep="\n")
        return 0
    for library in LIBRARIES:
        import_module(library)
    left = 0
    for mutant in survivors(HERE, module, tried, [str(mirror(module)), *given.tests]):
        left += 1
        print(mutant, flush=True)
    print(f"{len(tried) - left} of {len(tried)} mutants of {module} noticed, of {len(found)} that there are")
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())
