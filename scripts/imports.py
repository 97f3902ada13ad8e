"""Which room of rlaif/ imports which: the rule of the layout, counted, checked and drawn.

    python scripts/imports.py                    counts, and what breaks the rule (exit status 1 if anything does)
    python scripts/imports.py --picture FILE     draws the imports between the rooms as well (SVG or PNG)
    python scripts/imports.py --table            prints the table of CONTRIBUTING.md
    python scripts/imports.py --root DIR         another checkout

A room is a name directly under rlaif/, a package or a single file. What counts as an import: every import statement,
those inside functions and under TYPE_CHECKING too, and every string that names a module of the package, alone or as
"module:Name". tests/test_architecture.py holds the rule with the functions of this file.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent

LINES: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("config", "view"),
    ("constitution", "inputs", "lm"),
    ("gold",),
    ("judge",),
    ("training", "report"),
    ("export",),
    ("stages",),
    ("run",),
    ("analysis", "check"),
    ("studio", "cli"),
)
"""The rooms from the lowest line to the highest. A room imports rooms of lower lines only, no neighbour on its own."""

ABOUT: Mapping[str, str] = {
    "core": "errors, records, files, YAML, statistics, progress, terminal; knows no model and no config",
    "config": "every field, declared once",
    "view": "one way to the terminal, one to a page",
    "constitution": "the format: load, compose, edit, lint, compare, import and export",
    "inputs": "prompt sets, comparisons, conversations, templates",
    "lm": "language models: `local/` (transformers), `server/` (OpenAI-compatible), the cache, the budget",
    "gold": "scores and pairs that never saw an AI label",
    "judge": "one way to judge; `methods/` (a file each), `card/`, `compare/`",
    "training": "`ppo/`, `rewards/`, and what the stages share of transformers' Trainer",
    "report": "the page of a run",
    "export": "what leaves a run: policies, rewards and data that load elsewhere, each with its card",
    "stages": "the pipeline, a file for each stage",
    "run": "runs, resumes, shows and plans stages",
    "analysis": "`impact/`, `principles/`, `recover/`, `sources/`: questions about a run's labels",
    "check": "`config` before a run, `ppo/` on your own model",
    "studio": "the web workbench",
    "cli": "what a user types",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One module that names another, by their dotted names, and the line where it does."""

    source: str
    target: str
    line: int


def modules(root: Path = HERE) -> dict[str, Path]:
    """Dotted name -> file of every module of the package; a package's own file goes by the package's name."""
    files = sorted((root / "rlaif").rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def room(module: str) -> str:
    """The name directly under rlaif/ that the module belongs to; "" for rlaif itself."""
    return module.split(".")[1] if "." in module else ""


@cache
def imports(root: Path = HERE) -> tuple[Import, ...]:
    """Every import of one of the package's modules by another, each once a line."""
    known = modules(root)
    found: dict[Import, None] = {}
    for source, path in known.items():
        for name, line in _named(path):
            target = _module(name, known)
            if target is not None and target != source:
                found[Import(source, target, line)] = None
    return tuple(found)


def _named(path: Path) -> Iterable[tuple[str, int]]:
    """(dotted name, line) of what a file imports or names in a string."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SyntaxError(f"{path}:{node.lineno}: import by the full name")
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            name = node.value.partition(":")[0]
            if re.fullmatch(r"rlaif(\.\w+)+", name):
                yield name, node.lineno


def _module(name: str, known: Mapping[str, Path]) -> str | None:
    """The module that a dotted name is or stands in: `a.b.C` is in `a.b`. Importing from the bare `rlaif` is none."""
    while "." in name:
        if name in known:
            return name
        name = name.rpartition(".")[0]
    return None


def between_rooms(found: Iterable[Import]) -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> how many imports."""
    rooms = ((room(i.source), room(i.target)) for i in found)
    return Counter((a, b) for a, b in rooms if a and b and a != b)


def broken(found: Iterable[Import], lines: tuple[tuple[str, ...], ...] = LINES) -> list[str]:
    """One phrase for each import that goes upwards or to a neighbour, and for each room that is on no line."""
    level = {name: number for number, names in enumerate(lines) for name in names}
    wrong = []
    for one in found:
        a, b = room(one.source), room(one.target)
        if a in ("", "__main__") or a == b:
            continue
        missing = [name for name in (a, b) if name not in level]
        if missing:
            wrong.append(f"{one.source}:{one.line}: the room {missing[0]} is not on the list")
        elif level[b] >= level[a]:
            wrong.append(f"{one.source}:{one.line} imports {one.target}, which is not below {a}")
    return sorted(wrong)


def circles(found: Iterable[Import]) -> list[tuple[str, ...]]:
    """The groups of modules that import each other in a circle, each sorted."""
    graph = _graph(found)
    return sorted(tuple(sorted(part)) for part in _components(graph) if len(part) > 1)


def longest_chain(found: Iterable[Import]) -> list[str]:
    """The longest chain of modules in which each imports the next; what stands in a circle counts as one."""
    graph = _graph(found)
    parts = _components(graph)
    place = {module: index for index, part in enumerate(parts) for module in part}
    best: dict[int, list[str]] = {}
    for index, part in enumerate(parts):  # imported ones come first
        below = [best[place[t]] for module in part for t in graph[module] if place[t] != index]
        best[index] = [sorted(part)[0], *max(below, key=len, default=[])]
    return max(best.values(), key=len, default=[])


def _graph(found: Iterable[Import]) -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for one in found:
        graph.setdefault(one.source, set()).add(one.target)
        graph.setdefault(one.target, set())
    return graph


def _components(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Tarjan's strongly connected components, imported ones first."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    done: list[set[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            part = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            done.append(part)

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 10 * len(graph) + 1000))
    for node in sorted(graph):
        if node not in number:
            visit(node)
    return done


def table(root: Path = HERE) -> str:
    """The rooms that are there, lowest line first, as the rows of CONTRIBUTING.md's table."""
    there = {room(name) for name in modules(root)}
    rows = [
        f"| {number} | `{name}/` | {ABOUT[name]} |"
        for number, names in enumerate(LINES)
        for name in names
        if name in there
    ]
    return "\n".join(["| line | room | what it holds |", "|---|---|---|", *rows])


def draw(found: Iterable[Import], path: Path, root: Path = HERE) -> None:
    """The matrix of the rooms, lowest line first: how many imports of the room of a column stand in the room of a row.
    Where the rule holds, nothing stands above the diagonal, and the blocks of neighbours on it are empty."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    counts = between_rooms(found)
    files = Counter(room(name) for name in modules(root))
    lines = [[name for name in names if files[name]] for names in LINES]
    rooms = [name for names in lines for name in names]
    most = max(counts.values())
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["svg.hashsalt"] = "rlaif"
    figure, axes = pyplot.subplots(figsize=(8.5, 5.6))
    for y, a in enumerate(rooms):
        for x, b in enumerate(rooms):
            if count := counts[a, b]:
                shade = 0.12 + 0.75 * (count / most) ** 0.5
                axes.add_patch(Rectangle((x, y), 1, 1, facecolor="#2f6f9f" if x < y else "#b03030", alpha=shade))
                ink = "white" if shade > 0.5 else "#222222"
                axes.text(x + 0.5, y + 0.5, count, ha="center", va="center", fontsize=8, color=ink)
    start = 0
    for names in lines:
        axes.add_patch(Rectangle((start, start), len(names), len(names), fill=False, edgecolor="#777777"))
        start += len(names)
    axes.set(xlim=(0, len(rooms)), ylim=(len(rooms), 0), aspect=0.62)
    axes.set_xticks([x + 0.5 for x in range(len(rooms))], rooms, rotation=45, ha="left", fontsize=9)
    axes.set_yticks([y + 0.5 for y in range(len(rooms))], [f"{n} ({files[n]} files)" for n in rooms], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xlabel("a row's room imports a column's room so many times", fontsize=9)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(path, bbox_inches="tight", dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def main() -> int:
    asked = argparse.ArgumentParser(description="Counts, checks and draws the imports between the rooms of rlaif/.")
    asked.add_argument("--root", type=Path, default=HERE, help="the checkout (default: this one)")
    asked.add_argument("--picture", type=Path, help="an .svg or .png file to draw")
    asked.add_argument("--table", action="store_true", help="print the table of CONTRIBUTING.md and nothing else")
    given = asked.parse_args()
    if given.table:
        print(table(given.root))
        return 0
    found = imports(given.root.resolve())
    known = modules(given.root)
    rooms = sorted({room(name) for name in known} - {"", "__main__"})
    pairs, chain = between_rooms(found), longest_chain(found)
    print(f"entries at the top   {len(rooms)}")
    print(f"  packages           {sum((given.root / 'rlaif' / name).is_dir() for name in rooms)}")
    print(f"modules              {len(known)}")
    print(f"imports between rooms {sum(pairs.values())}, in {len(pairs)} pairs of rooms")
    print(f"longest chain        {len(chain)} modules: {' > '.join(name.removeprefix('rlaif.') for name in chain)}")
    wrong, rings = broken(found), circles(found)
    for ring in rings:
        print(f"circle: {', '.join(ring)}")
    listed = any(name in names for names in LINES for name in rooms if name != "config")
    for phrase in wrong if listed else []:
        print(phrase)
    if given.picture is not None:
        draw(found, given.picture, given.root)
    return 1 if wrong or rings else 0


if __name__ == "__main__":
    sys.exit(main())
